"""MACE: words beside the concept forget it by a closed form, an adapter takes attention off its own words, a second one fuses adapters.

All sums run over embeddings of the text, W_0 are the keys and values of cross-attention, C = sum h h' over what must stay:

    1. refine    min_W  sum_j |W e_j - W_0 g_j|^2 + |(W - W_0) C^1/2|^2 + ridge |W - W_0|^2      e: beside the concept's words
    2. adapt     min_A  sum over layers of |attention of the pixels to the concept's words|_F     W' + A_i, one A_i a concept
    3. fuse      min_W  sum_i sum_e |W e - (W' + A_i) e|^2 + |(W - W_0) C^1/2|^2 + ridge |W - W'|^2

g_j is the embedding at the same place of the prompt that names the anchor instead. With G = sum e e' and D = G + C + ridge I,

    W' = W_0 (I + sum_j (g_j - e_j) e_j' D^-1)          W* = W' + (sum_i A_i G_i + (W_0 - W') C) D^-1
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import ClassVar, Literal, final

import torch
from torch import Generator, Tensor

from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.concepts.joint import targets
from vestige.diffusion import Model
from vestige.diffusion.attention import columns, endings, network, recording
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit, precision
from vestige.edits.surgery import folded
from vestige.errors import BadInput
from vestige.methods import Data, Paper, Training, Unlearner, fit
from vestige.methods.closed_form import KEYS_AND_VALUES as SCOPE
from vestige.methods.closed_form import LACK, every_row, solved, turn
from vestige.methods.contract import TRAINED
from vestige.methods.objectives import noisy
from vestige.methods.ranges import above, at_least
from vestige.methods.training_data import Pairs, paired
from vestige.seeds import derive, generator

CAPTIONS = 616_000  # of the released cache, which weighs each by `preserve` / CAPTIONS
POOL = 4096  # times from which those of a batch are chosen


@dataclass(frozen=True)
class Released:
    """Settings of the released configurations for a kind of concept."""

    ridge: float
    preserve: float
    domain: float
    times: Literal["middle", "uniform"]
    lr: float


RELEASED = {
    "object": Released(1e3, 0.0, 0.0, "middle", 1e-5),
    "style": Released(1e-3, 1e-4 * CAPTIONS, 1e-4 * 8e4, "middle", 1e-4),
    "person": Released(1e-3, 1e-4 * CAPTIONS, 1e-4 * 8e4, "middle", 1e-4),
    "unsafe": Released(1e-3, 7e-7 * CAPTIONS, 0.0, "uniform", 1e-5),
}


@final
@dataclass(frozen=True, kw_only=True)
class MACE(Unlearner):
    """Mass concept erasure: closed-form refinement, an adapter a concept, closed-form fusion (Lu et al., 2024).

    Several targets that are one concept (`concepts.joint.Joint`) are refined and fused at once, each with an adapter of its own.

    Differs from the released code: (1) no segmentation: attention counts at every pixel, as the code does it for styles; (2) what must
    stay are prompts of the concept's unrelated words (captions) and neighbours (its domain), where the code ships sums over 616,000
    captions and over names; their weights are meant so that few captions weigh as much as those many; (3) the scale of those sums
    enters once in both stages, where the code squares it in the first; (4) prompts are the concept's own, where the code has 30 of each
    kind; (5) both closed forms are solved in float64 by Cholesky with a ridge above 0, where the code allows 0, which has no solution
    without captions; (6) no weight decay, where the code has AdamW's 0.01; (7) the norm of the attention is over heads too: our reading.
    Where a concept names no anchor, only what follows its words is refined, towards the empty prompt at the same places.

    Arguments:
        ridge: Weight of staying near the weights before, > 0. "auto": 1000 for objects (released for "ship"; 100 and 10 for others),
            else 0.001 (released: 0).
        preserve: Weight of the captions' mean. "auto": 0 for objects, 61.6 for styles and people, 0.43 for unsafe concepts (the
            released 0, 1e-4 and 7e-7 a caption).
        domain: Weight of each prompt of a neighbour. "auto": 8 for styles and people (the released 1e-4 times 8e4), else 0.
        rank: Rank of the adapters.
        padding: Attention to the prompt's end token and to padding counts, too.
        times: "middle" draws times t with a density of sigmoid((t - 200) / 20) - sigmoid((t - 400) / 20), in the model's unit;
            "uniform" as the model was trained. "auto": uniform for unsafe concepts.
        target_pictures: Pictures of each concept, drawn by the original where none are given.
        steps: AdamW steps a concept; released: 50, for unsafe concepts 120.
        lr: "auto": 1e-4 for styles and people, else 1e-5.
        batch: Pictures a step.
    """

    paper: ClassVar[Paper] = Paper(
        "MACE: Mass Concept Erasure in Diffusion Models", "Lu et al.", 2024, arxiv="2403.06135", code="Shilin-LU/MACE"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prompts", "target"})
    joint: ClassVar[bool] = True
    per_target: ClassVar[bool] = True

    ridge: float | Literal["auto"] = "auto"
    preserve: float | Literal["auto"] = "auto"
    domain: float | Literal["auto"] = "auto"
    rank: int = 1
    padding: bool = True
    times: Literal["auto", "middle", "uniform"] = "auto"
    target_pictures: int = 8
    steps: int = 50
    lr: float | Literal["auto"] = "auto"
    batch: int = 1

    def __post_init__(self) -> None:
        at_least(1, self, "rank", "target_pictures", "steps", "batch")
        at_least(0, self, *(name for name in ("preserve", "domain") if getattr(self, name) != "auto"))
        above(0, self, *(name for name in ("ridge", "lr") if getattr(self, name) != "auto"))

    def resolved(self, concept: Concept) -> MACE:
        """The same method with every "auto" replaced by the released setting for this kind of concept."""
        released = asdict(RELEASED[concept.kind])
        return replace(self, **{name: value for name, value in released.items() if getattr(self, name) == "auto"})

    def calls(self, picture: int, retained: int) -> int:
        return self.target_pictures * picture + TRAINED * self.steps * self.batch

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        network(model, LACK)
        method, parts, data = self.resolved(concept), targets(concept), data or Data()
        names, kept = model.scope(SCOPE), method.kept(model, concept)
        refined = method._refined(model, parts, kept)
        base = model.edited(Edit(model.fingerprint, "mace", {}, SCOPE, refined))
        rows, changes = [], list[Mapping[str, Tensor]]()
        for part in parts:
            own = data if len(parts) == 1 or data.target is None else replace(data, target=_shown(data.target, part))
            told = watch if len(parts) == 1 else partial(_named, watch, part.name)
            changes.append(method._adapter(model, base, part, own, seed, told))
            rows.append(_gram(model, [p.text for p in part.prompts("training")]))
        fused = method._fused(model, refined, rows, changes, kept)
        tensors = {name: fused[name].to(precision.wide(model.tensor(name))) for name in names}
        return Edit(model.fingerprint, "mace", asdict(method), SCOPE, tensors, notes={"concept": concept.name, "seed": seed})

    def kept(self, model: Model, concept: Concept) -> Tensor:
        """C, weighted: (D, D) in float64."""
        captions = [p.text for word in concept.unrelated for p in concept.prompts("training", word)]
        names = [p.text for word in concept.neighbours for p in concept.prompts("training", word)]
        preserve, domain = float(self.preserve), float(self.domain)
        total = 0 * _gram(model, [""])
        if preserve and captions:
            total = total + preserve / len(captions) * _gram(model, captions)
        return total + domain * _gram(model, names) if domain and names else total

    def _refined(self, model: Model, parts: tuple[Concept, ...], kept: Tensor) -> dict[str, Tensor]:
        """W' by name, in float64."""
        beside, instead = (torch.cat(rows) for rows in zip(*(_beside(model, part) for part in parts), strict=True))
        shared, found = turn(beside, instead, kept, ridge=float(self.ridge)), {}
        for name in model.scope(SCOPE):
            wide = model.tensor(name).cpu().double()
            found[name] = wide + wide @ shared
        return found

    def _fused(
        self, model: Model, refined: Mapping[str, Tensor], grams: list[Tensor], changes: list[Mapping[str, Tensor]], kept: Tensor
    ) -> dict[str, Tensor]:
        """W* by name, in float64."""
        whole, found = torch.stack(grams).sum(0) + kept, {}
        for name, value in refined.items():
            right = (model.tensor(name).cpu().double() - value) @ kept
            for gram, change in zip(grams, changes, strict=True):
                right = right + change[name] @ gram
            found[name] = value + solved(right, whole, float(self.ridge))
        return found

    def _adapter(self, model: Model, base: Model, part: Concept, data: Data, seed: int, watch: Watch) -> dict[str, Tensor]:
        """A_i by name, in float64: of the refined model, against attention to this concept's words."""
        pairs = paired(model, given := data.targeted(data.original or model, part, self.target_pictures, seed=seed, watch=watch))
        counted = torch.zeros(pairs.table.text.shape[:2]).to(pairs.latents)
        for row, text in enumerate(given.texts):
            ends = endings(model, text, padding=True) if self.padding else []
            counted[row, [*columns(model, text, part.target), *ends]] = 1
        rng = generator(seed, "adapter", part.name)
        student, leaves = base.adapted(model.scope(SCOPE), rank=self.rank, alpha=float(self.rank), init="kaiming", rng=rng)
        flat = {f"{n}:{side}": leaf for n, pair in leaves.items() for side, leaf in zip(("down", "up"), pair, strict=True)}
        loss = partial(self._attention, student, pairs, counted)
        for _ in fit(flat, loss, Training(steps=self.steps, lr=float(self.lr)), seed=derive(seed, "mace", part.name), watch=watch):
            pass
        factors = folded(leaves, rank=self.rank, alpha=float(self.rank))
        return {name: up.cpu().double() @ down.cpu().double() for name, (down, up) in factors.items()}

    def _attention(self, student: Model, pairs: Pairs, counted: Tensor, rng: Generator) -> Tensor:
        """Sum over layers of the norm of what pixels attend to counted columns; the mean over a batch."""
        latents, rows = pairs.pick(self.batch, rng)
        t, _, x_t = noisy(student, latents, rng, middle(student, self.batch, rng) if self.times == "middle" else None)
        with recording(student) as maps:
            student.denoise(x_t, t, pairs.table[rows])
        each = [(found * counted[rows][:, None, None]).flatten(1).norm(dim=1) for found in maps.values()]
        return torch.stack(each).sum(0).mean()


def middle(model: Model, count: int, rng: Generator) -> Tensor:
    """Training times (count,) by the density of "middle", drawn from among many that come as the model was trained."""
    pool = model.draw_times(POOL, rng)
    weight = torch.sigmoid((pool - 200) / 20) - torch.sigmoid((pool - 400) / 20)
    return pool[torch.multinomial(weight.clamp_min(1e-12), count, replacement=True, generator=rng)]


def _beside(model: Model, part: Concept) -> tuple[Tensor, Tensor]:
    """Embeddings beside the concept's words, and those at the same places beside the anchor's, each (rows, D) in float64."""
    texts, others = [p.text for p in part.prompts("training")], part.others(part.anchor)
    own, goal = (model.condition(prompts).text.cpu().double() for prompts in (texts, others))
    beside, instead = [], []
    for text, other, e, g in zip(texts, others, own, goal, strict=True):
        words, anchors = columns(model, text, part.target), columns(model, other, part.anchor) if part.anchor else []
        left = [k for k in range(len(e)) if (k not in words if anchors else k > max(words))]
        right = [k for k in range(len(g)) if k not in anchors] if anchors else left
        length = min(len(left), len(right))
        beside.append(e[left[:length]])
        instead.append(g[right[:length]])
    return torch.cat(beside), torch.cat(instead)


def _gram(model: Model, texts: list[str]) -> Tensor:
    """Sum over all tokens of all prompts of e e', (D, D) in float64."""
    rows = every_row(model, texts)
    return rows.T @ rows


def _shown(given: PictureSet, part: Concept) -> PictureSet:
    """Of given pictures of several targets, those of one, by their labels or captions."""
    labels, captions = given.labels or ({},) * len(given), given.captions or ((),) * len(given)
    shown = [label.get(part.group) == part.label or any(map(part.named, texts)) for label, texts in zip(labels, captions, strict=True)]
    if not any(shown):
        raise BadInput(f"no picture in {given.source} is labelled or captioned as {part.name}; say which shows what, or give none")
    return given.take([i for i, own in enumerate(shown) if own])


def _named(watch: Watch, part: str, stage: str, done: int, total: int) -> None:
    watch(f"{part}: {stage}", done, total)
