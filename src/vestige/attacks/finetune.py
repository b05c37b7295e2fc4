"""Full fine-tuning: teach the concept back by moving the weights themselves, on MemoRa's pictures. A control of that attack.

    loss = |eps - eps_theta(x_t, t, c)|^2   over every weight of a scope, on regenerated or raw references

It answers whether MemoRa's speed is the adapter's doing: same pictures, same captions, same loss; only what is trained differs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit
from vestige.methods import Budget, Candidate, Paper, Training
from vestige.methods.contract import Select
from vestige.methods.objectives import denoising
from vestige.methods.ranges import above, at_least
from vestige.methods.regeneration import Regenerating, proposals, training_set
from vestige.methods.training_data import Pairs


@final
@dataclass(frozen=True, kw_only=True)
class FineTune(Regenerating):
    """Trains a scope of weights of the edited model with the plain denoising loss. Ours, as a control; no paper.

    The text encoder stays frozen. With `regenerate` off it is naive fine-tuning on the raw pictures.

    Arguments, beside those of every attack that regenerates:
        scope: Weights that are trained. "biases-and-gains" are vectors alone, as BitFit trains them (Ben Zaken et al., 2022), which want a
            higher rate than all weights do. "class-embedding", of a class-conditional model, looks for the condition that still calls the
            concept up, as textual inversion does where there is a text encoder.
        lr: AdamW's rate.
        weight_decay: AdamW's; it pulls towards zero, not towards the edited model.
        clip: Largest gradient norm; 0 does not clip.
    """

    paper: ClassVar[Paper] = Paper("Full fine-tuning on a few pictures", "the Vestige authors", 2026)

    scope: Literal["unet", "attention", "cross-attention", "cross-attention-kv", "biases-and-gains", "class-embedding"] = "unet"
    lr: float = 1e-5
    weight_decay: float = 0.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, self, "clip", "weight_decay")
        above(0, self, "lr")

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
        began = time.monotonic()
        given = training_set(model, concept, pictures, self, select, "finetune", watch)
        pairs = Pairs(given.latents, model.condition(given.texts), given.rows)
        student, leaves = model.trainable(model.scope(self.scope))

        def loss(rng: torch.Generator) -> Tensor:
            return denoising(student, *pairs.draw(self.batch, rng), rng)

        def edit(spent: int) -> Edit:
            values = {name: leaf.detach().clone() for name, leaf in leaves.items()}
            return Edit(model.fingerprint, "finetune", asdict(self), self.scope, values, notes={"concept": concept.name, "steps": spent})

        yield from proposals(self, given, leaves, loss, self._training(budget), edit, budget, seed=seed, began=began, watch=watch)

    def _training(self, budget: Budget) -> Training:
        return Training(
            steps=budget.last,
            lr=self.lr,
            accumulation=self.accumulation,
            schedule=self.schedule,
            clip=self.clip,
            weight_decay=self.weight_decay,
        )
