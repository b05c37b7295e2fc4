"""DUGE: make the concept's cross-attention maps those of a reference, and hold the rest still; for one request after another.

    L     = lambda_U L_U + lambda_pr L_pr + lambda_reg L_reg
    L_U   = mean over layers, heads and pixels of sum over tokens (A_theta(x_t, c) - A_phi(x_t, reference))^2
    L_pr  = mean |eps - eps_theta(x_t, c_m)|^2 over a memory of pictures of other concepts
    L_reg = sum over weights k of Omega_k (theta_k - phi_k)^2

theta starts from the model that enters the step; phi is that model, frozen, or the original. The attention is re-routed, what
it attends to is not destroyed: the last layer's values and outputs get no gradient from L_U at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, final

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from vestige import registry
from vestige.concepts import Concept
from vestige.concepts.concept import Prompt
from vestige.concepts.images import PictureSet
from vestige.diffusion import Condition, Model
from vestige.diffusion.attention import Layers, Maps, columns, map_distance, network, recording
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit
from vestige.errors import BadInput
from vestige.methods import Data, Paper, Training, Unlearner, fit
from vestige.methods.contract import TRAINED
from vestige.methods.objectives import denoising, dropped, importance, noisy
from vestige.methods.ranges import above, at_least, below_one
from vestige.methods.training import Pull
from vestige.methods.training_data import Pairs, paired, renamed
from vestige.seeds import derive, generator

CALIBRATION = 8  # batches over which the gradients at step 0 are averaged
Term = Callable[[Generator], Tensor]


@final
@dataclass(frozen=True, kw_only=True)
class DUGE(Unlearner):
    """Drives cross-attention maps to a reference's, beside a memory of pictures and a pull on the weights (Thakral et al., 2025).

    The three losses and their purposes are the paper's, from its opening. The forms of L_U and L_pr, the frozen phi and the
    unconditional maps as the goal are from a third party's summary of it. All else is our choice: the reductions, L_reg's form, what
    phi is, every number; where nothing else decided, as the public Forget-Me-Not code. Neither the paper's body nor its code was
    available to us. The weights' pull is a sum, so `pull_weight` means the same whatever the number of weights.

    Arguments:
        reference_condition: What phi sees. "null": the same x_t and the empty prompt. "text": the same x_t, and the prompt with the
            anchor in the concept's place. "picture": that prompt on a picture of the anchor, drawn from the same noise where the
            concept's picture is drawn too; pixels do not correspond, so both maps are averaged over them first. "start": phi is not
            asked; all attention goes to the start token, which in a causal text encoder knows nothing of the prompt. On Stable
            Diffusion that is nearly what "null" asks for. Where padding takes the mass instead, "null" moves attention onto tokens
            that carry the concept too, and nothing is forgotten (docs/negative.md). Ours.
        reference: phi. "previous": the model that enters the step. "original": `Data.original`, the same model where none is given.
        tokens: "all" compares every column of the maps, "concept" those of the concept's words alone.
        layers: "all", or parts of layers' names and resolutions, e.g. "mid_block,8x8".
        scope: "cross-attention" trains queries, keys, values and outputs; "cross-attention-kv" keys and values.
        attention_weight: lambda_U; 0 drops the loss.
        calibrate: lambda_U is `attention_weight` times what makes the gradients of L_U and L_pr equally long at step 0, on the
            tensors that L_U reaches. Without a memory, the same loss on the concept's own pictures stands in for L_pr.
        retain_weight: lambda_pr of the unrelated memory; 0 drops the loss.
        related_weight: lambda_pr of the related memory, the neighbours; 0 drops the loss.
        pull_weight: lambda_reg; 0 drops the loss.
        importance: Omega. "uniform": 1. "mas": mean over the unrelated memory of |d |eps_phi|^2 / d theta_k|, scaled to mean 1.
        target_pictures: Pictures of the concept, drawn by the original where none are given.
        retain_pictures: Size of the unrelated memory, drawn by the original where none is given. Pictures of the concept never enter;
            a concept that names no unrelated concepts has its neighbours there.
        related_pictures: Size of the related memory.
        dropout: Share of the memory's prompts replaced by the empty one.
        steps: AdamW steps.
        batch: Pictures a step, for each loss.
    """

    paper: ClassVar[Paper] = Paper(
        "Continual Unlearning for Foundational Text-to-Image Models without Generalization Erosion",
        "Thakral et al.",
        2025,
        arxiv="2503.13769",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"target", "retain"})
    joint: ClassVar[bool] = True

    reference_condition: Literal["null", "text", "picture", "start"] = "null"
    reference: Literal["previous", "original"] = "previous"
    tokens: Literal["all", "concept"] = "all"
    layers: Layers = "all"
    scope: Literal["cross-attention", "cross-attention-kv"] = "cross-attention"
    attention_weight: float = 1.0
    calibrate: bool = True
    retain_weight: float = 1.0
    related_weight: float = 1.0
    pull_weight: float = 1e-3
    importance: Literal["uniform", "mas"] = "uniform"
    target_pictures: int = 20
    retain_pictures: int = 200
    related_pictures: int = 0
    dropout: float = 0.0
    steps: int = 100
    lr: float = 1e-5
    batch: int = 4

    @property
    def apart(self) -> str:
        return "tokens=concept" if self.tokens == "concept" else ""

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "batch", "target_pictures")
        at_least(0, self, "retain_pictures", "related_pictures", "attention_weight", "retain_weight", "related_weight", "pull_weight")
        above(0, self, "lr")
        below_one(self, "dropout")
        if not (self.attention_weight or self.retain_weight * self.retain_pictures):
            raise ValueError("L_U or the unrelated memory has to remain: give attention_weight, or retain_weight and retain_pictures")
        if self.importance == "mas" and self.retain_pictures == 0:
            raise ValueError("importance 'mas' is measured on the memory: give retain_pictures, or take 'uniform'")

    def calls(self, picture: int, retained: int) -> int:
        attention = (TRAINED + (self.reference_condition != "start")) * (self.attention_weight > 0)
        memories = ((self.retain_pictures, self.retain_weight), (self.related_pictures, self.related_weight))
        rehearsed = TRAINED * sum(count > 0 and weight > 0 for count, weight in memories)
        calls = self.steps * self.batch * (attention + rehearsed)
        if self.calibrate:
            calls += CALIBRATION * self.batch * (attention + TRAINED * (attention > 0))
        if self.importance == "mas":
            calls += TRAINED * self.retain_pictures
        targets = self.target_pictures * (2 if self.reference_condition == "picture" else 1)
        return calls + targets * picture + (self.retain_pictures + self.related_pictures) * retained

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        network(model)
        data = data or Data()
        phi = data.original or model if self.reference == "original" else model
        student, leaves = model.trainable(model.scope(self.scope))
        sides = self._sides(model, phi, concept, data, seed, watch)
        memories = {kind: paired(model, held) for kind, held in self._memories(model, concept, data, seed, watch).items()}
        null = model.condition([""])
        terms: dict[str, Term] = {"attention": partial(self._attention, student, phi, sides)}
        terms |= {kind: partial(self._rehearsal, student, null, pairs) for kind, pairs in memories.items()}
        weights = {"attention": self.attention_weight, "unrelated": self.retain_weight, "related": self.related_weight}
        notes: dict[str, Any] = {"concept": concept.name, "seed": seed}
        if self.calibrate and self.attention_weight > 0:
            measure = terms.get("unrelated") or partial(self._rehearsal, student, null, sides.pairs)
            notes["gradient_norms"] = norms = _norms(leaves, terms["attention"], measure, derive(seed, "calibrate"))
            weights["attention"] *= norms["memory"] / norms["attention"]
        notes["weights"] = {kind: weights[kind] for kind in terms}
        pull = self._pull(phi, leaves, memories, seed)
        first, seen = pull(leaves).item(), dict[str, list[float]]()
        loss = partial(_total, {kind: (weights[kind], term) for kind, term in terms.items() if weights[kind] > 0}, seen)
        pulls = [pull] if self.pull_weight > 0 else []
        for _ in fit(leaves, loss, Training(steps=self.steps, lr=self.lr), seed=derive(seed, "duge"), pulls=pulls, watch=watch):
            pass
        notes["losses"] = {kind: {"first": _mean(values[:10]), "last": _mean(values[-10:])} for kind, values in seen.items()}
        notes["losses"]["pull"] = {"first": first, "last": pull(leaves).item()}
        tensors = {name: leaf.detach().clone() for name, leaf in leaves.items()}
        return Edit(model.fingerprint, "duge", registry.settings(self), self.scope, tensors, notes=notes)

    def _sides(self, model: Model, phi: Model, concept: Concept, data: Data, seed: int, watch: Watch) -> Sides:
        """The concept's pictures and prompts, and what phi sees in their place."""
        source = data.original or model
        given = data.targeted(source, concept, self.target_pictures, seed=seed, watch=watch)
        own = paired(model, given)
        others = own.latents
        texts = [""] * len(given.texts)
        if self.reference_condition in ("text", "picture"):
            texts = renamed(given.texts, concept, concept.anchor)
        if self.reference_condition == "picture":
            prompts = [Prompt(text, {}) for text in renamed([row[0] for row in given.captions], concept, concept.anchor)]
            # The seed of `Data.targeted`: both pictures of a pair begin as the same noise, and share a layout.
            drawn = data.drawn(source, prompts, seed=derive(seed, "target"), watch=watch)
            others = paired(model, drawn).latents
        counted = torch.ones(own.table.text.shape[:2])
        if self.tokens == "concept":
            counted.zero_()
            for row, text in enumerate(given.texts):
                counted[row, columns(model, text, concept.target)] = 1
        return Sides(replace(own, latents=torch.stack([own.latents, others], 1)), phi.condition(texts), counted.to(own.latents))

    def _attention(self, student: Model, phi: Model, sides: Sides, rng: Generator) -> Tensor:
        """L_U on one batch."""
        latents, rows = sides.pairs.pick(self.batch, rng)
        t, _, x_t = noisy(student, latents[:, 0], rng)
        signal = student.schedule(t)[0].to(x_t).reshape(-1, 1, 1, 1)
        with recording(student, self.layers) as maps:
            student.denoise(x_t, t, sides.pairs.table[rows])
        if self.reference_condition == "start":
            goals = Maps((name, one_hot(torch.zeros_like(own[..., 0], dtype=torch.long), own.shape[-1])) for name, own in maps.items())
        else:
            with torch.no_grad(), recording(phi, self.layers) as goals:
                phi.denoise(x_t + signal * (latents[:, 1] - latents[:, 0]), t, sides.reference[rows])
        return map_distance(maps, goals, sides.counted[rows], pooled=self.reference_condition == "picture")

    def _rehearsal(self, student: Model, null: Condition, pairs: Pairs, rng: Generator) -> Tensor:
        """L_pr on one batch."""
        latents, rows = pairs.pick(self.batch, rng)
        own = latents if latents.dim() == 4 else latents[:, 0]
        return denoising(student, own, dropped(pairs.table[rows], null, self.dropout, rng), rng)

    def _memories(self, model: Model, concept: Concept, data: Data, seed: int, watch: Watch) -> dict[str, PictureSet]:
        """The memory's kinds that are asked for, as captioned pictures; a given set is parted by what its pictures show."""
        found = {}
        for kind, count, words in (
            ("unrelated", self.retain_pictures, concept.unrelated or concept.neighbours),
            ("related", self.related_pictures, concept.neighbours),
        ):
            if not count:
                continue
            own = replace(data, related=None)
            if kind == "related" and data.related is not None:
                own = replace(own, retain=data.related)
            elif data.retain is not None:
                rows = [i for i in range(len(data.retain)) if _kind(data.retain, i, concept) == kind]
                if not rows:
                    raise BadInput(f"{data.retain.source} holds no {kind} picture to {concept.name}; ask for none, or give some")
                own = replace(own, retain=data.retain.take(rows))
            named = replace(concept, neighbours=(), unrelated=words)
            told = partial(_staged, watch, kind)
            found[kind] = own.retained(data.original or model, named, count, seed=derive(seed, kind), watch=told)
        return found

    def _pull(self, phi: Model, leaves: Mapping[str, Tensor], memories: Mapping[str, Pairs], seed: int) -> Pull:
        """L_reg. The trainer's pull takes a mean over each tensor; times its size, that is the sum."""
        omega: dict[str, Tensor] = {}
        if self.importance == "mas":
            held = memories["unrelated"]
            omega = importance(
                phi, list(leaves), held.latents, held.table[[rows[0] for rows in held.rows]], seed=derive(seed, "importance")
            )
        scale = {name: omega.get(name, torch.ones(()).to(leaf)) * leaf.numel() for name, leaf in leaves.items()}
        return Pull(self.pull_weight, {name: phi.tensor(name) for name in leaves}, scale)


@dataclass(frozen=True)
class Sides:
    """What both models see.

    Arguments:
        pairs: Latents (N, 2, C, h, w), the concept's picture and what phi sees instead (or itself), with the concept's prompts.
        reference: phi's condition for each row of the pairs' table.
        counted: Which columns of the maps count for each row, (R, tokens) of 0 and 1.
    """

    pairs: Pairs
    reference: Condition
    counted: Tensor


def _norms(leaves: Mapping[str, Tensor], attention: Term, memory: Term, seed: int) -> dict[str, float]:
    """Lengths of both mean gradients at step 0, on the tensors that the attention loss reaches."""
    params = list(leaves.values())
    slopes = {}
    for name, term in (("attention", attention), ("memory", memory)):
        batches = [term(generator(seed, name, i)) for i in range(CALIBRATION)]
        slopes[name] = torch.autograd.grad(torch.stack(batches).mean(), params, allow_unused=True)
    reached = [i for i, slope in enumerate(slopes["attention"]) if slope is not None]
    norms = {name: torch.stack([found[i].norm() for i in reached]).norm().item() for name, found in slopes.items()}
    if norms["attention"] == 0:
        raise BadInput("the concept's maps are the reference's already; choose another reference_condition, or another anchor")
    return norms


def _total(terms: Mapping[str, tuple[float, Term]], seen: dict[str, list[float]], rng: Generator) -> Tensor:
    # A generator each: a loss that is dropped leaves the others' draws as they were.
    seeds = dict(zip(("attention", "unrelated", "related"), torch.randint(1 << 62, (3,), generator=rng).tolist(), strict=True))
    values = {kind: term(torch.Generator().manual_seed(seeds[kind])) for kind, (_, term) in terms.items()}
    for kind, value in values.items():
        seen.setdefault(kind, []).append(value.item())
    return torch.stack([weight * values[kind] for kind, (weight, _) in terms.items()]).sum()


def _kind(given: PictureSet, row: int, concept: Concept) -> str:
    """What a picture of a given memory is to the concept: "target", "related" or "unrelated", by its label and its captions."""
    label = given.labels[row].get(concept.group) if given.labels else None
    text = " ".join(given.captions[row]) if given.captions else ""

    def shown(word: str, name: str) -> bool:
        return label == name or re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) is not None

    if shown(concept.target, concept.label):
        return "target"
    return "related" if concept.unrelated and any(shown(word, word) for word in concept.neighbours) else "unrelated"


def _staged(watch: Watch, kind: str, stage: str, done: int, total: int) -> None:
    watch(f"{stage} {kind}", done, total)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
