"""SubAttack: how many words, none like another, still call the concept up?

    v = sum over the vocabulary of alpha_i v_i,   alpha_i = relu(MLP(v_i)) >= 0
    min over the MLP   E |eps - eps_theta(x_t, t, c(prompt with v for the concept's own word))|^2

One v after the other, each from embeddings v_i of which every earlier v has been taken out: they stand at right angles.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion import Condition, Model
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.sampling import Drawing, predictions
from vestige.diffusion.sampling import pictures as draw
from vestige.edits import Edit
from vestige.methods import Attack, Budget, Candidate, Paper, Training, fit
from vestige.methods.contract import TRAINED, Access, Select
from vestige.methods.objectives import denoising
from vestige.methods.ranges import above, at_least
from vestige.methods.training import Trace
from vestige.methods.training_data import Pairs, captioned, given_some
from vestige.methods.wording import row_factors, words
from vestige.seeds import derive, generator

SCOPE = "text-encoder"
Net = dict[str, Tensor]  # leaves of the MLPs, by table and layer


@final
@dataclass(frozen=True, kw_only=True)
class SubAttack(Attack):
    """Orthogonal embeddings, one after another (SubAttack, 2025).

    The paper was known second-hand alone: the two equations and the orthogonality are its; the network's size, the prompts, the steps
    and what follows are our choice. v is scaled to the mean norm of the vocabulary's rows, so that its length says nothing. It stands in
    the rows of the concept's own tokens, all of them, as in `textual_inversion`; models with several tables have a network for each. A
    hook that reads other words in their place, such as `remap`, never looks at those rows, and hides from this attack.

    Every `each` steps an embedding is done, its pictures are looked at by the selection judge, and the next one begins: `working` of
    `embeddings` in the notes says of how many more than half of the pictures showed the concept. The candidate is the embedding in work; an
    audit takes the best so far. A free embedding can teach what a model never knew, and the never arm says how much of that there is.

    Arguments:
        each: Steps an embedding.
        width: Of the MLP's hidden layer.
        lr: Adam's rate.
        batch: Pictures a step.
        draws: Pictures by which a finished embedding is judged.
        sampling_steps: Steps in which they are drawn.
        guidance: Their guidance.
    """

    paper: ClassVar[Paper] = Paper(
        "A subspace of token embeddings as an attack on concept erasure", "the authors of SubAttack", 2025, arxiv="2504.21307"
    )
    access: ClassVar[Access] = "weights"
    needs: ClassVar[frozenset[str]] = frozenset({"pictures"})

    each: int = 500
    width: int = 64
    lr: float = 1e-3
    batch: int = 4
    draws: int = 16
    sampling_steps: int = 50
    guidance: float = 7.5

    def __post_init__(self) -> None:
        at_least(1, self, "each", "width", "batch", "draws", "sampling_steps")
        above(0, self, "lr")

    @property
    def reads_captions(self) -> bool:
        return True

    def calls(self, last: int, pictures: int) -> int:
        return TRAINED * last * self.batch + last // self.each * self._look

    @property
    def _look(self) -> int:
        return self.draws * self.sampling_steps * predictions(self.guidance)

    def __call__(
        self,
        model: Model,
        concept: Concept,
        budget: Budget,
        *,
        seed: int,
        select: Select,
        pictures: PictureSet | None = None,
        watch: Watch = silent,
    ) -> Iterator[Candidate]:
        pictures = given_some(pictures, "sub_attack", concept)
        began, own = time.monotonic(), words(model, concept)
        pairs = self._pairs(model, concept, pictures)
        tables = {name: model.tensor(name).detach().float() for name in own}
        found: list[dict[str, Tensor]] = []
        working, looks = 0, 0
        yield Candidate(0, cost={"calls": 0, "seconds": time.monotonic() - began}, notes={"embeddings": 0, "working": 0})
        for first in range(0, budget.last, self.each):
            steps, number = min(self.each, budget.last - first), first // self.each
            stops = sorted({p - first for p in budget.points if first < p <= first + steps} | {steps})
            rest = {name: without(table, [v[name] for v in found]) for name, table in tables.items()}
            trace, net = Trace(), mixer(rest, self.width, generator(seed, "network", number))
            for done in self._learn(model, pairs, own, rest, net, steps, stops, derive(seed, "batches", number), watch, trace):
                now = {name: combination(rest[name], net, name).detach() for name in rest}
                edit = self._edit(model, concept, own, tables, now, first + done)
                if done == self.each:
                    found.append(now)
                    working += int(select(self._drawn(model.edited(edit), concept, seed)).float().mean().item() > 0.5)
                    looks += 1
                if first + done in budget.points:
                    cost = {"calls": (first + done) * self.batch + looks * self._look, "seconds": time.monotonic() - began}
                    notes = {"embeddings": len(found), "working": working, **trace.ends()}
                    yield Candidate(first + done, edit, cost=cost, notes=notes)

    def _pairs(self, model: Model, concept: Concept, pictures: PictureSet) -> Pairs:
        """Latents with the token ids of prompts that name the concept; what they are encoded to moves with v."""
        rows = captioned(pictures, concept).captions or (tuple(p.text for p in concept.prompts("training")),) * len(pictures)
        named = [tuple(text for text in row if concept.target.lower() in text.lower()) or (concept.prompt,) for row in rows]
        texts = list(dict.fromkeys(text for row in named for text in row))
        latents = model.encode(pictures.images)
        return Pairs(latents, Condition(model.tokens(texts).to(latents.device)), tuple(tuple(map(texts.index, row)) for row in named))

    def _learn(
        self,
        model: Model,
        pairs: Pairs,
        own: Mapping[str, list[int]],
        rest: Mapping[str, Tensor],
        net: Net,
        steps: int,
        stops: list[int],
        seed: int,
        watch: Watch,
        trace: Trace,
    ) -> Iterator[int]:
        """Fit the networks of one embedding; yields at the stops."""
        student, leaves = model.trainable(list(own))

        def loss(rng: torch.Generator) -> Tensor:
            made = {name: combination(rest[name], net, name) for name in rest}
            with torch.no_grad():
                for name, rows in own.items():
                    leaves[name][rows] = made[name].to(leaves[name])
            latents, ids = pairs.draw(self.batch, rng)
            error = denoising(student, latents, student.embed(ids.text), rng)
            slopes = torch.autograd.grad(error, list(leaves.values()))
            # The chain rule by hand: the tables are leaves of the model's, and v is what stands in their rows.
            way = sum(
                (slope[own[n]].sum(0).to(made[n]) * (made[n] - made[n].detach())).sum() for n, slope in zip(leaves, slopes, strict=True)
            )
            return error.detach() + way

        training = Training(steps=steps, lr=self.lr, clip=0.0)
        yield from fit(net, loss, training, seed=seed, stops=stops, watch=watch, trace=trace)

    def _edit(
        self,
        model: Model,
        concept: Concept,
        own: Mapping[str, list[int]],
        tables: Mapping[str, Tensor],
        now: Mapping[str, Tensor],
        spent: int,
    ) -> Edit:
        factors = {}
        for name, rows in own.items():
            changed = tables[name].clone()
            changed[rows] = now[name]
            factors[name] = row_factors(changed, tables[name], rows)
        about = {"concept": concept.name, "steps": spent}
        return Edit(model.fingerprint, "sub_attack", asdict(self), SCOPE, factors=factors, notes=about)

    def _drawn(self, model: Model, concept: Concept, seed: int) -> Tensor:
        texts = [p.text for p in concept.spread(self.draws, "training")]
        protocol = Drawing(steps=self.sampling_steps, guidance=self.guidance)
        return draw(model, texts, [derive(seed, "embedding picture", i) for i in range(self.draws)], protocol)


def without(table: Tensor, found: list[Tensor]) -> Tensor:
    """A table (V, D) with every row's part along the vectors (D,) taken out, in double precision."""
    if not found:
        return table
    q, _ = torch.linalg.qr(torch.stack(found, 1).cpu().double())
    wide = table.cpu().double()
    rest: Tensor = wide - wide @ q @ q.T
    return rest.to(table)


def mixer(tables: Mapping[str, Tensor], width: int, rng: torch.Generator) -> Net:
    """Leaves of an MLP with one hidden layer for each table: weights uniform within 1 / sqrt(inputs), as usual, and biases zero.

    The last layer's weights are drawn positive: with all shares at zero there would be no way down.
    """
    made = {}
    for name, table in tables.items():
        for layer, shape in (("in", (width, table.shape[1])), ("out", (width,))):
            drawn = (2 * torch.rand(shape, generator=rng) - 1) * shape[-1] ** -0.5
            made[f"{name}:{layer}"] = (drawn.abs() if layer == "out" else drawn).to(table).requires_grad_(True)
        for layer, size in (("in bias", width), ("out bias", 1)):
            made[f"{name}:{layer}"] = torch.zeros(size).to(table).requires_grad_(True)
    return made


def shares(table: Tensor, net: Net, name: str) -> Tensor:
    """alpha of every row of a table, (V,), >= 0; rows are read at unit mean norm."""
    read = table / table.norm(dim=1).mean()
    hidden = F.relu(read @ net[f"{name}:in"].T + net[f"{name}:in bias"])
    return F.relu(hidden @ net[f"{name}:out"] + net[f"{name}:out bias"])


def combination(table: Tensor, net: Net, name: str) -> Tensor:
    """v, (D,): the rows by their shares, at the rows' mean norm."""
    mixed = shares(table, net, name) @ table
    made: Tensor = mixed / mixed.norm().clamp_min(1e-12) * table.norm(dim=1).mean()
    return made
