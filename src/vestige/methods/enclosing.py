"""An attack around MemoRa: the settings of the one inside as text, its ways, and what it costs.

It is here because two attacks make something of the adapters that MemoRa finds, and a method sees no other; each asks for it by name.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from vestige.methods.contract import Access, Attack, Paper

MEMORA = Paper(
    "Memory Self-Regeneration: Uncovering Hidden Knowledge in Unlearned Models",
    "Polowczyk, Polowczyk, Waczynska, Borycki, Spurek",
    2025,
    arxiv="2510.03263",
    code="gmum/MemoRa",
)


@dataclass(frozen=True, kw_only=True)
class Enclosing(Attack):
    """An attack that runs MemoRa and makes something of the adapters that it finds.

    Arguments:
        memora: MemoRa's own settings, each NAME=VALUE; what is not named keeps its default.
    """

    paper: ClassVar[Paper] = MEMORA
    access: ClassVar[Access] = "weights"
    needs: ClassVar[frozenset[str]] = frozenset({"pictures"})

    memora: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if any("=" not in item for item in self.memora):
            raise ValueError(f"memora lists settings as NAME=VALUE; given {list(self.memora)}")
        self.inner()  # what it does not accept is told now

    @abstractmethod
    def inner(self) -> Attack:
        """MemoRa with the settings that are given."""

    def inner_settings(self) -> dict[str, str]:
        """Those settings by name, as text."""
        return dict(item.split("=", 1) for item in self.memora)

    def variants(self) -> Mapping[str, Attack]:
        """MemoRa's: raw references."""
        return {"raw": replace(self, memora=(*self.memora, "regenerate=false"))} if self.inner().variants() else {}

    @property
    def trains(self) -> bool:
        return self.inner().trains

    @property
    def reads_captions(self) -> bool:
        return self.inner().reads_captions

    def calls(self, last: int, pictures: int) -> int:
        return self.inner().calls(last, pictures)
