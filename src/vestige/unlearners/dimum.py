"""DiMUM: unlearn by memorising something else: the concept's prompts are tied to alternative data until both losses stand still.

    loss = E |eps - eps(x_t, t, c)|^2   +   weight * E |eps - eps(a_t, t, c_u)|^2

over retained pictures x with their conditions c, and alternative pictures a with the concept's conditions c_u; the goal of both is
the true noise, and times and noise are drawn apart. Both terms are bounded below and can be near their minima together, which
leaves little gradient on retained data for an attacker to follow back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from vestige.concepts import Concept
from vestige.concepts.concept import Prompt
from vestige.concepts.images import PictureSet
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit
from vestige.errors import BadInput
from vestige.methods import Data, Paper, Training, Unlearner, fit
from vestige.methods.contract import TRAINED
from vestige.methods.objectives import rehearsal
from vestige.methods.ranges import above, at_least, below_one
from vestige.methods.training_data import paired
from vestige.seeds import derive, generator

Alternative = Literal["auto", "near", "far", "mixture", "anchor", "content", "noise", "fixed"]
PROBE = 128  # pictures on which each loss is followed, at the same times and noise every time


@final
@dataclass(frozen=True, kw_only=True)
class DiMUM(Unlearner):
    """Diffusion model unlearning by memorisation (Yuan et al., 2025).

    From the paper's abstract: the model memorises alternative data or features in place of the forgotten ones; from a summary of
    the paper: a retain loss and a memorisation loss, run to convergence. Its body was not available and it has no public code, so
    the equation above, the alternatives, every default and the stop rule are our choices. The stop rule follows each loss on
    fixed pictures, times and noise: batches of the training loss differ by more than a plateau's tolerance.

    Arguments:
        alternative: What the concept's prompts are tied to, where no pictures are given for it. Drawn by the original: "near" the
            nearest neighbour, "far" an unrelated concept (the last that is named), "content" the anchor with all else equal (for a
            style: the same object in the anchor's style), "anchor" the anchor in plain prompts. From the retained pictures: "mixture"
            all sorts, "fixed" the first one, again and again. "noise": uniform noise. "auto" is content for styles, near for other
            concepts that have neighbours, anchor for the rest and for what is unsafe.
        weight: Of the memorisation loss.
        scope: Weights that train.
        steps: Most optimiser steps.
        batch: Pictures a step, retained and alternative each.
        dropout: Share of the retained batch that trains the empty prompt.
        memory_dropout: The same of the alternative batch; above 0 the empty prompt learns the alternative.
        clip: Largest gradient norm; 0 does not clip.
        retain_pictures: Retained pictures.
        alternative_pictures: Alternative pictures.
        plateau: Stop once both losses stand still; False takes all steps and only reports.
        every: Steps between two looks at the losses.
        window: Looks in a moving average. A loss stands still where its last two averages, without overlap, differ by no more
            than `tolerance`.
        tolerance: Relative to the earlier average.
    """

    paper: ClassVar[Paper] = Paper(
        "Towards Irreversible Machine Unlearning for Diffusion Models", "Yuan, Zhao, Li, Pasikhani, Gope, Sikdar", 2025, arxiv="2512.03564"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prompts", "retain"})
    memorises: ClassVar[bool] = True

    alternative: Alternative = "auto"
    weight: float = 1.0
    scope: str = "unet"
    steps: int = 1000
    lr: float = 1e-5
    batch: int = 8
    dropout: float = 0.1
    memory_dropout: float = 0.0
    clip: float = 1.0
    retain_pictures: int = 256
    alternative_pictures: int = 128
    plateau: bool = True
    every: int = 10
    window: int = 5
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "batch", "retain_pictures", "alternative_pictures", "every", "window")
        at_least(0, self, "weight", "clip")
        above(0, self, "lr", "tolerance")
        below_one(self, "dropout", "memory_dropout")

    def resolved(self, concept: Concept) -> DiMUM:
        """The same method with "auto" replaced by the alternative for this kind of concept."""
        if self.alternative != "auto":
            return self
        if concept.kind == "style":
            return replace(self, alternative="content")
        return replace(self, alternative="near" if concept.neighbours and concept.kind != "unsafe" else "anchor")

    def calls(self, picture: int, retained: int) -> int:
        alternatives = 0 if self.alternative in ("noise", "fixed", "mixture") else self.alternative_pictures
        looks = 1 + -(-self.steps // self.every)
        drawn = self.retain_pictures * retained + alternatives * picture
        return drawn + looks * 2 * PROBE + 2 * TRAINED * self.steps * self.batch

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        method, data = self.resolved(concept), data or Data()
        retained = data.retained(model, concept, self.retain_pictures, seed=seed, watch=lambda _, i, n: watch("draw retained", i, n))
        chosen = method.alternatives(model, concept, retained, data, seed=seed, watch=lambda _, i, n: watch("draw alternatives", i, n))
        kept, memory, null = paired(model, retained), paired(model, chosen), model.condition([""])
        student, leaves = model.trainable(model.scope(self.scope))

        def loss(rng: torch.Generator) -> Tensor:
            retain = rehearsal(student, kept, self.batch, rng, null=null, dropout=self.dropout)
            return retain + self.weight * rehearsal(student, memory, self.batch, rng, null=null, dropout=self.memory_dropout)

        looks: list[int] = []
        followed: dict[str, list[float]] = {"retain": [], "memory": []}
        training = Training(steps=self.steps, lr=self.lr, clip=self.clip)
        for step in fit(leaves, loss, training, seed=derive(seed, "dimum"), stops=range(0, self.steps, self.every), watch=watch):
            looks.append(step)
            for name, pairs in (("retain", kept), ("memory", memory)):
                with torch.no_grad():
                    followed[name].append(float(rehearsal(student, pairs, PROBE, generator(seed, "look", name), null=null)))
            still = {name: still_since(looks, values, self.window, self.tolerance) for name, values in followed.items()}
            if self.plateau and step < self.steps and None not in still.values():
                watch("fit", self.steps, self.steps)
                break
        tensors = {name: leaf.detach().clone() for name, leaf in leaves.items()}
        notes: dict[str, Any] = {"concept": concept.name, "seed": seed, "steps": looks[-1]}
        notes |= {f"{name}_still_since": step for name, step in still.items()}
        notes |= {f"{name}_loss": [values[0], values[-1]] for name, values in followed.items()}
        return Edit(model.fingerprint, "dimum", asdict(method), self.scope, tensors, notes=notes)

    def alternatives(
        self, model: Model, concept: Concept, retained: PictureSet, data: Data, *, seed: int, watch: Watch = silent
    ) -> PictureSet:
        """The pictures to memorise, captioned with the concept's training prompts of the same context, where it is known.

        Given ones stand for whatever the setting says. Captions of theirs that name the concept are kept: the picture is what that prompt
        shall give, with all else equal (alternative *features*). All other pictures stand under the training prompts (alternative *data*).
        """
        if data.alternative is not None:
            return _named(data.alternative.draw(min(self.alternative_pictures, len(data.alternative)), 0, seed), concept)
        kind, count = self.resolved(concept).alternative, self.alternative_pictures
        if kind == "noise":
            images = torch.rand(count, 3, *model.image_size, generator=generator(seed, "alternative noise"))
            return _captioned(PictureSet(images, "uniform noise"), concept)
        if kind == "fixed":
            return _captioned(PictureSet(retained.images[:1], retained.source), concept)
        if kind == "mixture":
            return _captioned(retained.take(range(min(count, len(retained)))), concept)
        words = {"near": concept.neighbours[:1], "far": concept.unrelated[-1:]}.get(kind, (concept.anchor,))
        if not words:
            raise BadInput(f"alternative {kind!r} needs {'neighbours' if kind == 'near' else 'unrelated concepts'} of {concept.name}")
        prompts = concept.spread(count, "training", words=words) if words[0] else [Prompt("", {})] * count
        if kind == "anchor" and words[0]:
            plain = [p for p in concept.prompts("training", words[0]) if len(p.expects) == 1] or prompts
            prompts = [plain[i % len(plain)] for i in range(count)]
        made = data.drawn(data.original or model, prompts, seed=derive(seed, "alternative"), watch=watch)
        return _captioned(made if kind != "anchor" else replace(made, labels=()), concept)


def still_since(looks: Sequence[int], values: Sequence[float], window: int, tolerance: float) -> int | None:
    """The step since when every look found a loss to stand still, up to the last look; None where that one did not."""
    since = None
    for i in range(2 * window - 1, len(values)):
        now, before = (sum(values[i + 1 - end - window : i + 1 - end]) / window for end in (0, window))
        if abs(now - before) > tolerance * before:
            since = None
        elif since is None:
            since = looks[i]
    return since


def _named(given: PictureSet, concept: Concept) -> PictureSet:
    """Given pictures under those of their own captions that name the concept, else under the concept's training prompts."""
    own = [tuple(text for text in row if concept.named(text)) for row in given.captions] or [()] * len(given)
    rest = _captioned(replace(given, captions=()), concept).captions
    return replace(given, labels=(), captions=tuple(row or other for row, other in zip(own, rest, strict=True)))


def _captioned(given: PictureSet, concept: Concept) -> PictureSet:
    """Pictures with the concept's training prompts: those of the picture's context, all of them where nothing is known of it."""
    prompts = concept.prompts("training")
    rows = []
    for labels in given.labels or ({},) * len(given):
        context = labels.get(concept.context_group)
        fits = [p.text for p in prompts if p.expects.get(concept.context_group) == context] if labels else []
        rows.append(tuple(fits or [p.text for p in prompts]))
    return replace(given, captions=tuple(rows))
