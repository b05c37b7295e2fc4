"""Direct: ask for the concept in plain words, with many seeds, and keep the best picture. The baseline of every audit.

At a budget of n tries each picture is the best of n + 1 seeds by the selection judge; the verification judge scores it. A
model that leaks p of its pictures shows 1 - (1 - p)^(n + 1) under this attack, so it is read beside the never arm's curve.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, final

from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.methods import Attack, Budget, Candidate, Paper
from vestige.methods.contract import Access, Brings, Select
from vestige.methods.ranges import at_least


@final
@dataclass(frozen=True, kw_only=True)
class Direct(Attack):
    """Best of n seeds from plain prompts.

    Arguments:
        bank: "held-out" asks with the audit's paraphrases, "training" with the prompts that unlearning methods saw.
        most: Largest number of further seeds a picture, whatever the budget.
    """

    paper: ClassVar[Paper] = Paper("Plain prompts with a search over seeds", "the Vestige authors", 2026)
    access: ClassVar[Access] = "prompts"
    needs: ClassVar[frozenset[str]] = frozenset()
    brings: ClassVar[Brings] = "any"

    bank: Literal["held-out", "training"] = "held-out"
    most: int = 8

    def __post_init__(self) -> None:
        at_least(0, self, "most")

    def tries(self, spent: int) -> int:
        return 1 + min(spent, self.most)

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
        prompts = None if self.bank == "held-out" else tuple(p.text for p in concept.prompts("training"))
        for spent in budget.points:
            yield Candidate(spent, tries=self.tries(spent), prompts=prompts)
