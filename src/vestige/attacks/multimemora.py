"""Multi-MemoRa: bring back several concepts that were erased together, by an adapter each, and all adapters at once.

    1. MemoRa on each concept by itself, with its own references: an adapter (down_k, up_k);
    2. both active, each at its weight:

           W' = W + sum_k w_k up_k down_k

       or merged: the sum's nearest adapter of a single one's rank ("rank"), or the elected mean of trimmed changes ("ties").

The idea is the project page's, where single adapters bring back one person each and a pair brings back both. No code of it is
public, and neither weights nor the way of combining are known: what stands here is our reading of that figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, final

from vestige import registry
from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.concepts.joint import Joint
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit, combine, scale
from vestige.edits.arithmetic import truncated
from vestige.edits.merging import ties
from vestige.errors import BadInput, BadSetting
from vestige.methods import Attack, Budget, Candidate
from vestige.methods.contract import Brings, Select
from vestige.methods.enclosing import Enclosing


@final
@dataclass(frozen=True, kw_only=True)
class MultiMemoRa(Enclosing):
    """MemoRa for several concepts, an adapter each, combined (Polowczyk et al., 2025).

    Differs from the released code, which has nothing of it: weights are 1, what loading adapters side by side does; merging is ours. Every
    adapter starts from the replicate's seed, as the released code starts every run from one, so each is what MemoRa alone would find. The
    budget counts steps of each adapter, of which there is one a concept: `calls` among the costs counts all.

    Arguments, beside MemoRa's settings:
        weights: Of the adapters, in the order of the concepts; () is 1 for each. One of 0 leaves an adapter out.
        merge: "sum" keeps every adapter whole; "rank" merges them to one of a single adapter's rank, the nearest such; "ties" trims each
            change and averages those that agree in sign (TIES).
        share: Share of each change that TIES keeps.
    """

    brings: ClassVar[Brings] = "several"
    counterpart: ClassVar[str] = "memora"

    weights: tuple[float, ...] = ()
    merge: Literal["sum", "rank", "ties"] = "sum"
    share: float = 0.2

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.weights)) or (self.weights and not any(self.weights)):
            raise ValueError(f"weights are finite numbers, one at least not 0; given {list(self.weights)}")
        if not 0 < self.share <= 1:
            raise ValueError(f"share is above 0 and at most 1; given {self.share}")
        super().__post_init__()

    def inner(self) -> Attack:
        """The attack that makes each adapter."""
        made: Attack = registry.build("attacks", "memora", self.inner_settings())
        return made

    def check(self, concept: Concept) -> None:
        super().check(concept)
        if isinstance(concept, Joint) and self.weights and len(self.weights) != len(concept.parts):
            names = ", ".join(part.name for part in concept.parts)
            raise BadSetting(f"multimemora.weights is one a concept, of {names}; given {len(self.weights)}")

    @property
    def lesson(self) -> Attack | None:
        return self.inner().lesson

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
        self.check(concept)
        parts = concept.parts if isinstance(concept, Joint) else ()
        dealt = zip(parts, dealt_to(concept, parts, pictures), strict=True)
        found = [self.inner()(model, part, budget, seed=seed, select=select, pictures=own, watch=watch) for part, own in dealt]
        settings, notes = asdict(self), {"concept": concept.name}
        for each in zip(*found, strict=True):
            edits = [candidate.edit for candidate in each if candidate.edit is not None]
            made = self.combined(model, edits) if edits else None
            edit = None if made is None else replace(made, method="multimemora", settings=settings, notes={**notes, "steps": each[0].spent})
            yield Candidate(each[0].spent, edit, cost=_spent(each), notes=_noted(parts, each))

    def combined(self, model: Model, edits: Sequence[Edit]) -> Edit:
        """Adapters, one a concept, as one edit."""
        weighted = [(edit, w) for edit, w in zip(edits, self.weights or (1.0,) * len(edits), strict=True) if w]
        if self.merge == "ties":
            return ties(model, [edit if w == 1 else scale(model, edit, w) for edit, w in weighted], share=self.share)
        whole = combine(model, weighted)
        rank = max(len(down) for edit, _ in weighted for down, _ in edit.factors.values())
        return truncated(whole, rank) if self.merge == "rank" and len(weighted) > 1 else whole


def dealt_to(concept: Concept, parts: Sequence[Concept], pictures: PictureSet | None) -> list[PictureSet]:
    """The pictures of each concept, of a set that holds as many of each, concept after concept."""
    if pictures is None or not len(pictures) or len(pictures) % len(parts):
        given = 0 if pictures is None else len(pictures)
        raise BadInput(
            f"multimemora needs reference pictures of {concept.name}, as many of each and one concept after another; given {given}"
        )
    count = len(pictures) // len(parts)
    dealt = [pictures.take(range(i * count, (i + 1) * count)) for i in range(len(parts))]
    for part, own in zip(parts, dealt, strict=True):
        if strange := [shown for labels in own.labels if (shown := labels.get(part.group, part.label)) != part.label]:
            raise BadInput(f"among the reference pictures of {part.name} is one of {strange[0]}; they stand in the order of the concepts")
    return dealt


def _spent(each: Sequence[Candidate]) -> dict[str, float]:
    """What all adapters cost; they are made in turns, so seconds are those of the last."""
    calls = sum(candidate.cost.get("calls", 0) for candidate in each)
    return {"calls": calls, "seconds": max(candidate.cost.get("seconds", 0.0) for candidate in each)}


def _noted(parts: Sequence[Concept], each: Sequence[Candidate]) -> dict[str, Any]:
    """What each adapter's training noted, and the mean share of references that show a concept."""
    own = {f"{part.name}: {key}": value for part, candidate in zip(parts, each, strict=True) for key, value in candidate.notes.items()}
    shown = [float(candidate.notes["references_show"]) for candidate in each if "references_show" in candidate.notes]
    return {**own, **({"references_show": sum(shown) / len(shown)} if shown else {})}
