"""Redistil: scramble every weight of the denoiser, then let the untouched original teach it all but the concept.

    1. scramble   theta = (1 - share) theta_0 + share fresh                             (`methods.fresh.scrambled`)
    2. distil     mean w(t) |eps_theta(x_t, asked) - eps_0(x_t, told)|^2  +  hints mean over h of |h_theta - h_0|^2 / |h_0|^2,
                  x_t: a noised picture of what must stay, told: its own caption (`objectives.distilling`),
                  h: what a layer hands on, the prediction last; each |h|^2 is a mean over the whole batch

What is asked about such a picture is its caption; or the same caption with the concept's name in it, with probability `own`; or the empty
prompt, with probability `dropout`. Least squares makes denoisers of mixtures of the last two. Where asked stands for the captions k,

    eps_theta(x_t, asked) -> E[eps_0(x_t, told) | x_t, asked] = sum_k p(k | x_t) eps_0(x_t, k),

so the concept's word comes to mean "one of the others", here in the style that stands beside it, and no single anchor is lent; and the
empty prompt, from which guidance leads away, means any of what must stay. In its lessons the original is never asked for the concept, nor
for the empty prompt, whose answer is a mean over all that it draws, the concept among it. Pictures of what must stay that it draws itself
are drawn with guidance, away from that answer: as far as guidance bends them, they hold it. Captions that name the concept are refused.
Weights w(t) leave out what no picture shows (`objectives.min_snr`); hints weigh all times alike.

What is left to relearn from. Exact denoisers of the world with and without the concept answer every other caption alike, for
p(x | k) is the same in both. At share 1 and without hints, on pictures that are given, the weights depend on the original through those
answers alone, so a student of either has one law, and relearns as a student of a model that never knew does. Between real models that is
an approximation, and a thing to measure, for networks answer other captions also by what they learnt of the concept. And a student is not
trained as a model is: students of never-models are what tells its memory from that (`docs/results/methods/lineage.md`). At a share below 1
the lineage is lent: the rest of every weight still is the original's. With hints the states between layers are lent too, at the same
pictures, by which the student learns the rest sooner; what an attack gains by them is measured (`docs/results/redistil.md`). And the text
encoders stay, which read the concept's word as they did; so they do in a twin.
Source: ours; after UNDO (Lee et al., "Distillation robustifies unlearning", 2025), whose teacher is an unlearned model, which was asked
for the concept and may leak what it still knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal, final

import torch
from torch import Generator, Tensor

from vestige import registry
from vestige.concepts import Concept
from vestige.concepts.joint import Joint
from vestige.diffusion import Condition, Model
from vestige.diffusion.layers import readable
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit
from vestige.errors import BadInput, BadSetting
from vestige.methods import Data, Paper, Training, Unlearner, fit
from vestige.methods.contract import TRAINED
from vestige.methods.fresh import scrambled
from vestige.methods.objectives import distilling, stratified
from vestige.methods.ranges import above, at_least, below_one
from vestige.methods.training import Trace, mean_over
from vestige.methods.training_data import Pairs, paired
from vestige.seeds import derive, generator

SCOPE = "unet"  # all weights of the denoiser, in every family


@final
@dataclass(frozen=True, kw_only=True)
class Redistil(Unlearner):
    """Scramble, then distil from the original, which is never asked for the concept. Ours; no paper.

    The student reads prompts with the original's text encoders: the concept's token is read as before, as it is by a twin.

    Arguments:
        share: How far weights go towards fresh ones, in [0, 1].
        scope: Which weights are scrambled; all of the denoiser's are taught.
        answer: "mixture", or "anchor": the concept's prompts are answered as the anchor's, the empty prompt as the original does.
        retain_pictures: Pictures of what must stay, drawn by the original where none are given.
        near: How many pictures of each neighbour there are for every one of each unrelated concept.
        own: Share of a batch under the concept's own prompts.
        dropout: Share of a batch under the empty prompt.
        hints: Weight of the states between layers, which are taught beside the prediction; 0 teaches the prediction alone.
        snr_gamma: Largest signal-to-noise ratio that counts (`objectives.min_snr`); 0 weighs the predictions of all times alike.
        average: Decay a step of the mean of weights that is handed out; 0 hands out the last ones.
        warmup: Steps of linear warm-up; after it, rates fall to zero by a cosine. Fewer steps than these never reach `lr`.
        steps: Adam steps; 0 scrambles and teaches nothing, for which no picture is drawn.
        lr: Adam's peak rate. 1e-4 is what Stable Diffusion 1 was trained with, and our choice for models that no preset knows; small
            ones take far more.
        beta2: Decay a step of the mean of squared slopes by which Adam measures its steps.
        batch: Pictures a step, at times that are spread evenly.
    """

    paper: ClassVar[Paper] = Paper("Vestige's unlearner of its own", "the Vestige authors", 2026)
    needs: ClassVar[frozenset[str]] = frozenset({"prompts", "retain"})
    joint: ClassVar[bool] = True

    share: float = 0.8
    scope: str = SCOPE
    answer: Literal["mixture", "anchor"] = "mixture"
    retain_pictures: int = 768
    near: int = 1
    own: float = 0.1
    dropout: float = 0.05
    hints: float = 0.1
    snr_gamma: float = 1.0
    average: float = 0.0
    warmup: int = 45
    steps: int = 900
    lr: float = 1e-4
    beta2: float = 0.99
    batch: int = 32

    def __post_init__(self) -> None:
        at_least(1, self, "retain_pictures", "near", "batch")
        at_least(0, self, "share", "steps", "warmup", "hints", "snr_gamma")
        above(0, self, "lr")
        below_one(self, "own", "dropout", "average", "beta2")
        if self.answer not in ("mixture", "anchor"):
            raise ValueError(f"answer is mixture or anchor; given {self.answer}")
        if self.share > 1:
            raise ValueError(f"share lies in [0, 1]; given {self.share}")
        if self.own + self.dropout >= 1:
            raise ValueError(f"own and dropout leave something of a batch to what must stay; given {self.own} and {self.dropout}")

    def calls(self, picture: int, retained: int) -> int:
        return (self.retain_pictures * retained + self.steps * self.batch * (TRAINED + 1)) if self.steps else 0

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        names, changed = model.scope(SCOPE), model.scope(self.scope)
        if not set(changed) <= set(names):
            raise BadSetting(f"scope holds weights of the denoiser, which alone are taught; {self.scope} of {model.name} holds others")
        if self.hints and self.steps:
            readable(model)
        student, leaves = model.trainable(names)
        with torch.no_grad():
            for name, value in scrambled(model, changed, generator(seed, "fresh"), share=self.share).items():
                leaves[name].copy_(value)
        trace = Trace()
        steps: Iterator[int] = iter(())
        if self.steps:
            loss = partial(self._distance, student, model, self._lessons(model, concept, seed, data or Data(), watch))
            training = Training(steps=self.steps, lr=self.lr, schedule="cosine", warmup=self.warmup, betas=(0.9, self.beta2))
            steps = fit(leaves, loss, training, seed=derive(seed, "redistil"), stops=range(1, self.steps), watch=watch, trace=trace)
        tensors = mean_over(leaves, steps, self.average)
        notes = {"concept": concept.name, "seed": seed, **trace.ends()}
        return Edit(model.fingerprint, "redistil", registry.settings(self), SCOPE, tensors, notes=notes)

    def _lessons(self, model: Model, concept: Concept, seed: int, data: Data, watch: Watch) -> Lessons:
        """Of pictures of what must stay, which are drawn where none are given."""
        near = replace(concept, neighbours=concept.neighbours * self.near)
        given = data.retained(model, near, self.retain_pictures, seed=derive(seed, "redistil"), watch=watch)
        if named := [text for text in given.texts if concept.named(text)]:
            raise BadInput(
                f"what must stay is captioned {named[0]!r} among others, which names {concept.name}: "
                f"redistil learns from what the original answers there; name it otherwise, or leave it out"
            )
        return Lessons.of(model, concept, paired(model, given), given.texts)

    def _distance(self, student: Model, teacher: Model, lessons: Lessons, rng: Generator) -> Tensor:
        latents, rows = lessons.kept.pick(self.batch, rng)
        asked, told = lessons.asked(rows, self.own, self.dropout, rng, mixture=self.answer == "mixture")
        times = stratified(teacher, self.batch, rng)
        conditions = lessons.table[asked], lessons.table[told]
        return distilling(student, teacher, latents, *conditions, rng, times, hints=self.hints, snr_gamma=self.snr_gamma or None)


@dataclass(frozen=True)
class Lessons:
    """What the student may be asked, and what the original is told then.

    Arguments:
        kept: Pictures of what must stay; their captions are the first rows of the table.
        table: The captions, the concept's own prompts, the anchor's in the same order, and last the empty one.
        others: For each caption, rows of the concept's prompts that have the same words around its name; all where there is none.
    """

    kept: Pairs
    table: Condition
    others: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(model: Model, concept: Concept, kept: Pairs, captions: list[str]) -> Lessons:
        anchors = dict(zip((p.text for p in concept.prompts("training")), concept.others(concept.anchor), strict=True))
        row = {text: len(captions) + i for i, text in enumerate(anchors)}
        named: dict[str, list[int]] = {}
        for part in concept.parts if isinstance(concept, Joint) else (concept,):
            for word in (*part.neighbours, *part.unrelated):
                for text, own in zip(part.others(word), part.prompts("training"), strict=True):
                    named.setdefault(text, []).append(row[own.text])
        others = tuple(tuple(named.get(text, row.values())) for text in captions)
        return Lessons(kept, model.condition([*captions, *anchors, *anchors.values(), ""]), others)

    def asked(self, rows: list[int], own: float, dropout: float, rng: Generator, *, mixture: bool) -> tuple[list[int], list[int]]:
        """For pictures with captions of these rows: the rows of what the student is asked, and of what the original is told."""
        count, last = len(rows), len(self.table) - 1
        anchors = (last - len(self.others)) // 2  # from a prompt of the concept to the anchor's
        chance, turns = torch.rand(count, generator=rng).tolist(), torch.randint(1 << 30, (count,), generator=rng).tolist()
        asked, told = [], []
        for row, u, turn in zip(rows, chance, turns, strict=True):
            choice = self.others[row][turn % len(self.others[row])]
            ask, instead = (choice, choice + anchors) if u < own else (last, last) if u < own + dropout else (row, row)
            asked.append(ask)
            told.append(row if mixture else instead)
        return asked, told
