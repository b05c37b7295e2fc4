"""Textual inversion: keep every weight of the denoiser and look for the word that still calls the concept up.

    v* = argmin_v  E |eps - eps_theta(x_t, t, c(prompt with v for the concept's own word))|^2

A concept that only lost its name is found again by another one; a concept that is gone leaves nothing to be called.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion import Condition, Model
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit
from vestige.methods import Budget, Candidate, Paper, Training
from vestige.methods.contract import Select
from vestige.methods.objectives import denoising
from vestige.methods.ranges import above
from vestige.methods.regeneration import Regenerating, proposals, training_set
from vestige.methods.training_data import Pairs
from vestige.methods.wording import row_factors, rows_alone, words

SCOPE = "text-encoder"


@final
@dataclass(frozen=True, kw_only=True)
class TextualInversion(Regenerating):
    """Trains the embedding of the concept's own word (Gal et al., 2022; as an audit: Pham et al., 2024).

    Differs from the released code: that learns one pseudo-word, which starts as a related word and is asked for in templates of
    its own; here the rows of the concept's own tokens move, from where they are, so that the audit's held-out prompts speak of
    what was learned, and a target of several tokens learns as many vectors. No weight decay (there 1e-2), which would pull the row
    to zero. References are regenerated as MemoRa's are, unless `regenerate` is off (there: pictures from the original model).
    The rate is that of the code before it is multiplied by the effective batch (there 5e-3 x 16).

    The result is a low-rank edit of the token table, or of each table where a model reads with several encoders (there: one). A
    twin shares its text encoder, so as a control it is the same protocol; a free embedding can also teach what a model never
    knew, which is why it is needed.

    Arguments, beside those of every attack that regenerates:
        lr: Adam's rate.
    """

    paper: ClassVar[Paper] = Paper(
        "Circumventing Concept Erasure Methods For Text-to-Image Generative Models",
        "Pham et al.",
        2024,
        arxiv="2308.01508",
        code="NYU-DICE-Lab/circumventing-concept-erasure",
    )

    lr: float = 5e-3

    def __post_init__(self) -> None:
        super().__post_init__()
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
        given = training_set(model, concept, pictures, self, select, "textual_inversion", watch)
        # The table holds token ids: what they are encoded to moves with the row, so the loss encodes them anew in every step.
        pairs = Pairs(given.latents, Condition(model.tokens(given.texts).to(given.latents.device)), given.rows)
        own = words(model, concept)
        student, leaves = model.trainable(list(own))
        base = {name: model.tensor(name) for name in own}

        def loss(rng: torch.Generator) -> Tensor:
            latents, ids = pairs.draw(self.batch, rng)
            return denoising(student, latents, student.embed(ids.text), rng)

        training = Training(steps=budget.last, lr=self.lr, accumulation=self.accumulation, schedule=self.schedule, clip=0.0)

        def edit(spent: int) -> Edit:
            factors = {name: row_factors(leaves[name].detach(), base[name], rows) for name, rows in own.items()}
            about = {"concept": concept.name, "steps": spent}
            return Edit(model.fingerprint, "textual_inversion", asdict(self), SCOPE, factors=factors, notes=about)

        held = [rows_alone(own)]
        yield from proposals(self, given, leaves, loss, training, edit, budget, seed=seed, began=began, projections=held, watch=watch)
