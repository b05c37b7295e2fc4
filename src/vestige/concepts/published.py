"""Concepts as a published protocol asks for them: one prompt a word, whose article no template knows, on seeds of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from vestige.concepts.concept import Bank, Concept, Prompt
from vestige.errors import UnknownName


@final
@dataclass(frozen=True, kw_only=True)
class AskedAs(Concept):
    """A concept of a published protocol. Methods and attacks get its templates; what is measured is asked by the protocol's own prompts.

    Arguments:
        texts: Word and its prompt.
        calls: Word and what the judge calls it, where that is another word.
        firsts: Word and the seed of its first picture; the others follow it.
    """

    texts: tuple[tuple[str, str], ...] = ()
    calls: tuple[tuple[str, str], ...] = ()
    firsts: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        """Both tables are pairs; what a concept is checked for holds of the rest."""

    def prompts(self, bank: Bank = "training", word: str | None = None) -> list[Prompt]:
        if bank != "held-out":
            return super().prompts(bank, word)
        word = self.target if word is None else word
        return [Prompt(self._of(word, dict(self.texts)), {self.group: dict(self.calls).get(word, word)})]

    def as_dict(self) -> dict[str, Any]:
        tables = ("texts", "calls", "firsts")
        return {k: [list(row) for row in v] if k in tables else v for k, v in super().as_dict().items()}

    def seeds(self, word: str, count: int) -> list[int]:
        """The seeds of a word's pictures."""
        first = int(self._of(word, dict(self.firsts)))
        return list(range(first, first + count))

    def _of(self, word: str, table: dict[str, str] | dict[str, int]) -> str:
        if word not in table:
            raise UnknownName("word of the protocol", word, table)
        return str(table[word])
