"""What must stay: each group is looked at by itself, and an audit says which loss it would not have seen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vestige import concepts
from vestige.audit import flags, usefulness

GOOD = [True] * 240


def fired(unrelated: Any, neighbours: Any, **own: Any) -> list[tuple[str, str]]:
    """Name and text of what fires on (before, after) of either group."""
    rows = {"unrelated": unrelated, "neighbours": neighbours}
    usable = {group: {"before": {"right": before}, "after": {"right": after}} for group, (before, after) in rows.items()}
    told = {
        "original": "a",
        "edited": "b",
        "concept": concepts.load("sneaker"),
        "bench": SimpleNamespace(verify=SimpleNamespace(name="judge")),
    }
    return [(flag.name, flag.text) for flag in usefulness.utility(SimpleNamespace(**{**told, **own}), usable)]  # type: ignore[arg-type]


def test_enough_pictures_that_stay_raise_nothing() -> None:
    assert fired((GOOD, GOOD), (GOOD, GOOD)) == []


def test_few_pictures_are_told_by_group() -> None:
    """48 would show 28 points where 10 are allowed, and that is more than twice; 49 where 25 are."""
    ((name, text),) = fired((GOOD[:48], GOOD[:48]), (GOOD[:48], GOOD[:48]))
    assert name == "utility-unseen" and "on unrelated concepts a drop of 28% at least would have been noticed" in text
    assert [name for name, _ in fired((GOOD, GOOD), (GOOD[:8], GOOD[:8]))] == ["utility-unseen"]


def test_a_group_of_which_the_judge_knows_no_word_is_told_although_it_knows_the_other() -> None:
    ((name, text),) = fired(([], []), (GOOD, GOOD))
    assert name == "utility-unmeasured" and "unrelated concepts" in text
    ((name, text),) = fired((GOOD, GOOD), ([None] * 240, [None] * 240))
    assert name == "utility-unmeasured" and "neighbours" in text


def test_a_concept_without_neighbours_loses_none() -> None:
    bare = SimpleNamespace(neighbours=(), unrelated=("bag",))
    assert fired((GOOD, GOOD), ([], []), concept=bare) == []
    none = SimpleNamespace(neighbours=(), unrelated=())
    assert [name for name, _ in fired(([], []), ([], []), concept=none)] == ["utility-unmeasured"] * 2


def test_a_collapse_is_told_and_not_that_it_could_not_be_seen() -> None:
    assert [name for name, _ in fired((GOOD[:48], [False] * 48), (GOOD, GOOD))] == ["utility-collapsed"]


def test_nothing_is_said_where_nothing_was_edited_or_compared() -> None:
    assert fired(([], []), ([], []), original=None) == fired(([], []), ([], []), edited="a") == []


def row(verify: float, select: float) -> Any:
    return SimpleNamespace(
        outcome={
            "points": [
                {"hits": [i < 20 * x for i in range(20)], "other_judge": [i < 20 * y for i in range(20)]}
                for x, y in ((1, 1), (verify, select))
            ]
        }
    )


@pytest.mark.parametrize(("second", "named"), [((0.5, 0.5), []), ((0.9, 0.1), ["judges-disagree"])])
def test_judges_are_compared_after_every_attack(second: tuple[float, float], named: list[str]) -> None:
    found = {name: {"ceiling": [row(1, 1)], "edited": [row(*ends)]} for name, ends in (("memora", (0.5, 0.5)), ("direct", second))}
    raised = flags._judges(SimpleNamespace(real=None), found)  # type: ignore[arg-type]
    assert [flag.name for flag in raised] == named
    assert all("after recovery by direct" in flag.text for flag in raised)
