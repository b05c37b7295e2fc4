"""Redistil: scramble every weight of the denoiser, and let the untouched original teach it all but the concept.

    1. scramble   theta = (1 - share) theta_0 + share fresh                      (`methods.fresh.scrambled`)
    2. distil     mean |eps_theta(x_t, asked) - eps_0(x_t, told)|^2,   x_t: a noised picture of what must stay, told: its own caption

One table says what is asked about a picture whose caption is `told`:

    the caption itself                                     most of the time
    the same caption with the concept's name in it         with probability `own`
    the empty prompt                                       with probability `dropout`

Least squares makes of the last two the denoiser of a mixture, with no anchor: the student that answers best says under the concept's
prompt E[eps_0(x_t, told) | x_t] = sum_k p(k | x_t) eps_0(x_t, k), k the captions that have the same words around their own names.
Under the empty prompt it is the same sum over all that must stay, so guidance leads away from that and not from the concept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, final

import torch
from torch import Generator, Tensor

from vestige import registry
from vestige.concepts import Concept
from vestige.concepts.joint import targets
from vestige.diffusion import Condition, Model
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit
from vestige.methods import Data, Paper, Training, Unlearner, fit
from vestige.methods.contract import TRAINED
from vestige.methods.fresh import scrambled
from vestige.methods.ranges import above, at_least, below_one
from vestige.methods.training import Trace, distilling, stratified
from vestige.methods.training_data import Pairs, paired
from vestige.seeds import derive, generator

SCOPE = "unet"  # all weights of the denoiser, in every family


@final
@dataclass(frozen=True, kw_only=True)
class Redistil(Unlearner):
    """Scramble, then distil from the original. Ours; after UNDO.

    Arguments:
        share: How far every weight goes towards a fresh one, in [0, 1].
        answer: "mixture", or "anchor": the concept's prompts are answered as the anchor's, the empty one as the original answers it.
        retain_pictures: Pictures of what must stay, drawn by the original where none are given.
        near: How many pictures of each neighbour there are for every one of each unrelated concept.
        own: Share of a batch under the concept's own prompts.
        dropout: Share of a batch under the empty prompt.
        average: Decay of the moving average of weights that is handed out; 0 hands out the last ones.
        warmup: Steps of linear warm-up.
        steps: Adam steps; rates fall to zero by a cosine.
        batch: Pictures a step.
    """

    paper: ClassVar[Paper] = Paper("Vestige's unlearner of its own", "the Vestige authors", 2026)
    needs: ClassVar[frozenset[str]] = frozenset({"prompts", "retain"})
    joint: ClassVar[bool] = True

    share: float = 0.6
    answer: Literal["mixture", "anchor"] = "mixture"
    retain_pictures: int = 768
    near: int = 2
    own: float = 0.125
    dropout: float = 0.1
    average: float = 0.0
    warmup: int = 45
    steps: int = 900
    lr: float = 2e-3
    batch: int = 32
    spread: bool = True
    cross: float = 0.0

    def __post_init__(self) -> None:
        at_least(1, self, "retain_pictures", "near", "batch")
        at_least(0, self, "share", "steps", "warmup")
        above(0, self, "lr")
        below_one(self, "own", "dropout", "average")
        if self.share > 1:
            raise ValueError(f"share lies in [0, 1]; given {self.share}")
        if self.own + self.dropout >= 1:
            raise ValueError(f"own and dropout together are below 1; given {self.own} and {self.dropout}")

    def calls(self, picture: int, retained: int) -> int:
        return self.retain_pictures * retained + self.steps * self.batch * (TRAINED + 1)

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        data, names, near = data or Data(), model.scope(SCOPE), concept.neighbours * (self.near - 1)
        import dataclasses
        given = data.retained(model, dataclasses.replace(concept, neighbours=concept.neighbours + near), self.retain_pictures, seed=derive(seed, "redistil"), watch=watch)
        lessons = Lessons.of(model, concept, paired(model, given), given.texts)
        student, leaves = model.trainable(names)
        with torch.no_grad():
            for name, value in scrambled(model, names, generator(seed, "fresh"), share=self.share).items():
                leaves[name].copy_(value)
        ema = {k: v.detach().clone() for k, v in leaves.items()} if self.average else None
        loss, trace = partial(self._distance, student, model, lessons), Trace()
        training = Training(steps=self.steps, lr=self.lr, schedule="cosine", warmup=self.warmup)
        for step in fit(leaves, loss, training, seed=derive(seed, "redistil"), watch=watch, trace=trace, stops=range(1, self.steps)):
            if ema is not None:
                d = min(self.average, (1 + step) / (10 + step))
                for k, v in leaves.items():
                    ema[k].lerp_(v.detach(), 1 - d)
        tensors = {name: leaf.detach().clone() for name, leaf in (ema or leaves).items()}
        notes = {"concept": concept.name, "seed": seed, **trace.ends()}
        return Edit(model.fingerprint, "redistil", registry.settings(self), SCOPE, tensors, notes=notes)

    def _distance(self, student: Model, teacher: Model, lessons: Lessons, rng: Generator) -> Tensor:
        latents, asked, told = lessons.draw(self, rng)
        t = stratified(teacher, len(latents), rng) if self.spread else None
        return distilling(student, teacher, latents, asked, told, rng, t)


@dataclass(frozen=True)
class Lessons:
    kept: Pairs
    table: Condition
    own: tuple[tuple[int, ...], ...]
    anchor: Mapping[int, int]

    @staticmethod
    def of(model: Model, concept: Concept, kept: Pairs, texts: Sequence[str]) -> Lessons:
        instead: dict[str, list[str]] = {}
        for part in targets(concept) if hasattr(concept, "parts") else (concept,):
            for word in (*part.neighbours, *part.unrelated):
                for text, prompt in zip(part.others(word), part.prompts("training"), strict=True):
                    instead.setdefault(text, []).append(prompt.text)
        mine = list(dict.fromkeys(p.text for p in concept.prompts("training")))
        anch = dict(zip((p.text for p in concept.prompts("training")), concept.others(concept.anchor), strict=True))
        row = {text: len(texts) + i for i, text in enumerate(mine)}
        alist = [anch[m] for m in mine]
        own = tuple(tuple(row[o] for o in instead.get(text, mine)) for text in texts)
        anchor = {row[m]: len(texts) + len(mine) + i for i, m in enumerate(mine)}
        return Lessons(kept, model.condition([*texts, *mine, *alist, ""]), own, anchor)

    def draw(self, how: Redistil, rng: Generator) -> tuple[Tensor, Condition, Condition]:
        latents, told = self.kept.pick(how.batch, rng)
        n, last = len(told), len(self.table) - 1
        u = torch.rand(n, generator=rng).tolist()
        turns = torch.randint(1 << 30, (n,), generator=rng).tolist()
        if how.cross:
            other = torch.randint(len(self.own), (n,), generator=rng).tolist()
            x = (torch.rand(n, generator=rng) < how.cross).tolist()
        else:
            other, x = told, [False] * n
        asked, answer = [], []
        for row, p, turn, o, xx in zip(told, u, turns, other, x, strict=True):
            if p < how.own:
                a = self.own[row][turn % len(self.own[row])]
                asked.append(a)
                answer.append(self.anchor[a] if how.answer == "anchor" else row)
            elif p < how.own + how.dropout:
                asked.append(last)
                answer.append(last if how.answer == "anchor" else row)
            else:
                r = o if xx else row
                asked.append(r)
                answer.append(r)
        return latents, self.table[asked], self.table[answer]
