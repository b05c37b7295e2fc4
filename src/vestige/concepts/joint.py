"""Several requests as one concept, `Joint`, for methods whose target is a set of prompts or pictures: theirs is the union."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, final

from vestige.concepts.concept import ASKED, Bank, Concept, Prompt
from vestige.errors import BadInput

T = TypeVar("T")


@final
@dataclass(frozen=True, kw_only=True)
class Joint(Concept):
    """Several requests as one concept, for methods whose target is a set of prompts: every list is the parts' lists in turn.

    It has no words, label or anchor of its own; `others(joint.anchor)` puts each part's own anchor in its place.

    Arguments:
        parts: The requests, none of which is another's anchor, context or neighbour; see `joint`.
    """

    parts: tuple[Concept, ...]

    def __post_init__(self) -> None:
        if len(self.parts) < 2:
            raise BadInput(f"a joint concept has at least two parts; given {len(self.parts)}")

    @property
    def prompt(self) -> str:
        return self.parts[0].prompt

    def named(self, text: str) -> bool:
        return any(part.named(text) for part in self.parts)

    def prompts(self, bank: Bank = "training", word: str | None = None) -> list[Prompt]:
        if word is None or word == self.target:
            return in_turn([part.prompts(bank) for part in self.parts])
        if word == self.anchor:
            return in_turn([part.prompts(bank, part.anchor) for part in self.parts])
        return self._owner(word).prompts(bank, word)

    def plain(self) -> list[str]:
        return in_turn([part.plain() for part in self.parts])

    def spread(self, count: int, bank: Bank, words: tuple[str, ...] | None = None, offset: int = 0) -> list[Prompt]:
        turns = [(part, None) for part in self.parts] if words is None else [(self._owner(word), (word,)) for word in words]
        each = -(-count // max(1, len(turns)))
        return in_turn([owner.spread(each, bank, words=own, offset=offset) for owner, own in turns])[:count]

    def others(self, word: str | None) -> list[str]:
        if word and word != self.anchor:
            raise BadInput(f"{self.name} are several targets; one word, {word!r}, cannot stand for them")
        return in_turn([part.others(part.anchor if word else "") for part in self.parts])

    def as_dict(self) -> dict[str, Any]:
        own = {f.name: getattr(self, f.name) for f in fields(Concept) if f.name not in (*ASKED, "synonyms")}
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in own.items()}
        return {**plain, "parts": [part.as_dict() for part in self.parts]}

    def _owner(self, word: str) -> Concept:
        """The part that names a word among what must stay."""
        return next((c for c in self.parts if word in (*c.neighbours, *c.unrelated)), self.parts[0])


def joint(requests: Sequence[Concept]) -> Joint:
    """Requests that are erased together. Nothing that is to go may stand in for another, or be kept on its behalf.

    A part loses the other requests among its contexts, neighbours and unrelated concepts; an anchor that is to go gives way to the
    first neighbour that stays, or else the first unrelated concept. Parts of different kinds count as an object.
    """
    parts = []
    for concept in requests:
        away = {word for c in requests if c is not concept for word in (c.target, c.label)}
        lists: dict[str, Any] = {
            key: tuple(w for w in getattr(concept, key) if w not in away) for key in ("contexts", "neighbours", "unrelated")
        }
        stays = (concept.anchor, *lists["neighbours"], *lists["unrelated"])
        parts.append(replace(concept, **lists, anchor=next((w for w in stays if w not in away), "")))
    near = tuple(dict.fromkeys(word for c in parts for word in c.neighbours))
    rest = tuple(dict.fromkeys(word for c in parts for word in c.unrelated if word not in near))
    name, anchor = ("+".join(getattr(c, key) for c in parts) for key in ("name", "anchor"))
    kinds = {c.kind for c in parts}
    return Joint(
        name=name,
        kind=kinds.pop() if len(kinds) == 1 else "object",
        anchor=anchor,
        target=name,
        label=name,
        neighbours=near,
        unrelated=rest,
        sensitive=any(c.sensitive for c in parts),
        parts=tuple(parts),
    )


def targets(concept: Concept) -> tuple[Concept, ...]:
    """One concept a target, for methods that look for a target's words. Every word that stays is kept by the part that names it first."""
    if not isinstance(concept, Joint):
        return (concept,)
    parts, kept = [], set[str]()
    for part in concept.parts:
        words = tuple(w for w in (*part.neighbours, *part.unrelated) if w not in kept)
        kept.update(words)
        parts.append(replace(part, neighbours=words, unrelated=()))
    return tuple(parts)


def in_turn(lists: Sequence[Sequence[T]]) -> list[T]:
    """One of each list, then the next of each, until all are through."""
    absent = object()
    return [item for row in itertools.zip_longest(*lists, fillvalue=absent) for item in row if item is not absent]  # type: ignore[misc]
