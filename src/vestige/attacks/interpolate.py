"""Interpolate: walk the straight line from the original's weights to the edited ones, short of them and beyond. Nothing is trained.

    theta(lambda) = theta_0 + lambda (theta - theta_0)

Whoever has the original needs no attack; what the walk tells is how far the edit went: what shows the concept half way was moved
a little, and one step back brings it home. A model that never drew the concept lies elsewhere, and its line tells how far that is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from vestige import registry
from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit
from vestige.edits.precision import wide
from vestige.errors import BadInput
from vestige.methods import Attack, Budget, Candidate, Paper
from vestige.methods.contract import Access, Select
from vestige.methods.stock import Stock


@final
@dataclass(frozen=True, kw_only=True)
class Interpolate(Attack):
    """Points of the line through the original and the attacked model (ours; no paper).

    A budget of n is the n-th place, and no effort; the last stands for all beyond. Hooks stay where they are: a model whose weights are
    the original's, or the original itself, has nothing to walk along and is proposed as it is. `lambda` 0, the original, is not among
    the places by default, as it says nothing of an edit.

    Arguments:
        places: Values of lambda in the order of the budget; 1 is the attacked model.
    """

    paper: ClassVar[Paper] = Paper("The line from the original to the edited weights", "the Vestige authors", 2026)
    access: ClassVar[Access] = "weights"
    needs: ClassVar[frozenset[str]] = frozenset({"original"})

    places: tuple[float, ...] = (1.1, 0.9, 1.25, 0.75, 1.5, 0.5)

    def __post_init__(self) -> None:
        if not self.places or 1 in self.places:
            raise ValueError(f"places are values of lambda other than 1, at least one; given {list(self.places)}")

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
        stock: Stock | None = None,
    ) -> Iterator[Candidate]:
        if stock is None:
            raise BadInput("interpolate needs the original model, the public base from which the line begins; without one there is none")
        began, moved = time.monotonic(), differing(stock.original, model)
        for spent in budget.points:
            place = self.places[min(spent, len(self.places)) - 1] if spent else 1.0
            edit = self._edit(model, stock.original, moved, place, concept.name) if spent and moved else None
            cost = {"calls": 0, "seconds": time.monotonic() - began}
            yield Candidate(spent, edit, cost=cost, notes={"lambda": place, "moved": len(moved)})

    def _edit(self, model: Model, original: Model, moved: list[str], place: float, concept: str) -> Edit:
        tensors = {n: torch.lerp(wide(original.tensor(n)), wide(model.tensor(n)), place) for n in moved}
        return Edit(model.fingerprint, "interpolate", registry.settings(self), "all", tensors, notes={"concept": concept, "lambda": place})


def differing(original: Model, model: Model) -> list[str]:
    """Weights of the denoiser and of text encoders in which two models differ."""
    return [name for name in original.scope("all") if not torch.equal(original.tensor(name), model.tensor(name))]
