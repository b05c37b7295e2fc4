"""Restore: put the stock parts of the public base back, at no cost; nothing is trained and no picture is needed.

    budget i         the i-th separable part of the edit is the base's again
    budget k + 1     all k of them, and beyond

An edit of a text encoder, an adapter beside the weights, or a filter on prompts is undone by whoever downloads the base. What the
denoiser's own weights forgot stays forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.views import Wrapped
from vestige.edits import Edit, Hook
from vestige.errors import BadInput
from vestige.methods import Attack, Budget, Candidate, Paper
from vestige.methods.contract import Access, Select
from vestige.methods.stock import Part, Stock


@final
@dataclass(frozen=True, kw_only=True)
class Restore(Attack):
    """The original's parts instead of the edited ones (ours; no paper).

    Its budget counts parts, and no effort: every one costs nothing. It has no settings. A model on which no edit lies, such as a twin,
    has nothing to put back and stays as it is.
    """

    paper: ClassVar[Paper] = Paper("Stock components of the public base, put back", "the Vestige authors", 2026)
    access: ClassVar[Access] = "weights"
    needs: ClassVar[frozenset[str]] = frozenset({"original"})
    restores: ClassVar[bool] = True

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
            raise BadInput(
                "restore needs the original model, the public base whose parts it puts back; without one there is nothing to put"
            )
        began, parts = time.monotonic(), stock.parts
        for spent in budget.points:
            chosen = parts[spent - 1 : spent] if spent <= len(parts) else parts
            edit = restored(model, stock, chosen, concept.name) if spent and chosen else None
            notes = {"restored": [part.name for part in chosen] if spent else []}
            yield Candidate(spent, edit, cost={"calls": 0, "seconds": time.monotonic() - began}, notes=notes)

    @staticmethod
    def hook(model: Model) -> Model:
        """`model` without anything that acts at inference time."""
        while isinstance(model, Wrapped):
            model = model.without()
        return model


def restored(model: Model, stock: Stock, parts: Sequence[Part], concept: str) -> Edit:
    """The edit on top of the attacked model that gives some parts their stock again.

    A weight that is replaced and has factors too keeps its new value and loses the factors alone.
    """
    held = stock.edit.tensors if stock.edit is not None else {}
    adapters = {name for part in parts if part.name == "adapter" for name in part.weights}
    names = [name for part in parts for name in part.weights]
    tensors = {n: held[n] if n in adapters and n in held else stock.original.tensor(n) for n in names}
    hooks = (Hook("attacks", "restore", {}),) if any(part.hooks for part in parts) else ()
    notes = {"concept": concept, "parts": [part.name for part in parts]}
    return Edit(model.fingerprint, "restore", {}, "all", tensors, hooks=hooks, notes=notes)
