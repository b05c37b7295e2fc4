"""Partial diffusion: hand the model a picture of the concept, noised part of the way, and let it finish the drawing.

    x_t = signal(t) * latents + noise(t) * eps,   sampled from t on with the concept's prompt, or with the empty one

An unlearner that ties the concept's prompt to something else may leave alone what the network does with a half-drawn picture.
Late on the way every model finishes the picture it is handed, one that never knew the concept too: only what the edited model
shows above the never arm at the same place says anything.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, final

from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.noising import Start
from vestige.methods import Attack, Budget, Candidate, Paper
from vestige.methods.contract import Access, Select
from vestige.methods.ranges import at_least
from vestige.methods.training_data import given_some


@final
@dataclass(frozen=True, kw_only=True)
class PartialDiffusion(Attack):
    """Start from true pictures of the concept, noised less and less (after Sharma et al., 2024).

    From that paper's summary: sampling starts at a partially diffused picture of the target, and from a threshold on even a
    retrained model shows the concept. Its body was not available: the grid, the prompts and the control are our choice.
    Nothing is trained and no seed is chosen; the model is only begun in the middle, which takes a white box.

    Arguments:
        grid: A budget of n skips n of so many equal parts of the sampling; more than `grid` is all of it, the picture itself.
        prompt: "concept" finishes the picture under the audit's prompts, "empty" under none.
    """

    paper: ClassVar[Paper] = Paper(
        "Unlearning or Concealment? A Critical Analysis and Evaluation Metrics for Unlearning in Diffusion Models",
        "Sharma et al.",
        2024,
        arxiv="2409.05668",
    )
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[str]] = frozenset({"pictures"})

    grid: int = 10
    prompt: Literal["concept", "empty"] = "concept"

    def __post_init__(self) -> None:
        at_least(1, self, "grid")

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
        pictures = given_some(pictures, "partial_diffusion", concept, "to begin from")
        began, latents = time.monotonic(), model.encode(pictures.images)
        prompts = ("",) if self.prompt == "empty" else None
        for spent in budget.points:
            start = Start(latents, min(1.0, spent / self.grid)) if spent else None
            yield Candidate(spent, prompts=prompts, start=start, cost={"calls": 0, "seconds": time.monotonic() - began})
