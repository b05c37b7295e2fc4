"""The picture of the frontier: its points are the page's numbers, and it is the one that is committed."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).parents[2] / "docs/results"
PAGE = """
### Methods

| method | concept | F | neighbours | unrelated | compared |
| :-- | :-- | :-- | :-- | :-- | :-- |
| kept | sneaker | 8.2 [1.8, 37] | +1.0 | -1.5 | yes |
| gone\\_too | sneaker | at least 1.5 [0.3, 6] | -4.2 | -3.1 | yes |
| worse | sneaker | 9.0 | -5.0 | +0.0 | yes |
| shown | sneaker | 70 | +0.0 | +0.0 | plain rate 0.91 above 0.1 |

Brackets.

### Reach under each attack

| method | concept | memora | p4d | restore |
| :-- | :-- | :-- | :-- | :-- |
| kept | sneaker | 0.51\\* | -0.30 | – |
| gone\\_too | sneaker | -0.07 | 0.06 | – |
| worse | sneaker | 0.51 | 0.52\\* | 1.00\\* |
| shown | sneaker | 0.40 | 0.01 | – |
"""


def test_points_are_the_worst_attack_and_the_worse_loss(study: Callable[[str], Any]) -> None:
    kept, gone, worse, shown = study("frontier").points(PAGE)
    assert (kept.method, kept.lost, kept.reach, kept.attack, kept.compared) == ("kept", 1.5, 0.51, "memora", True)
    assert (gone.method, gone.lost, gone.reach, gone.attack) == ("gone_too", 4.2, 0.06, "p4d")
    assert (worse.lost, worse.reach, worse.attack) == (5.0, 1.0, "restore") and not shown.compared and shown.lost == 0.0


def test_the_frontier_is_of_compared_methods_that_none_beats(study: Callable[[str], Any]) -> None:
    """`shown` keeps all and comes back least but one, and does not enter."""
    frontier = study("frontier")
    drawn = frontier.drawing(frontier.points(PAGE))
    assert "4 methods; on the frontier: kept, gone_too" in drawn
    found = {p.method: p.place for p in frontier.points(PAGE)}
    (stairs,) = [e.get("d") for e in ElementTree.fromstring(drawn).iter() if e.get("class") == "stairs"]
    (x, y), (far, high) = found["kept"], found["gone_too"]
    assert stairs == f"M{x},{frontier.BOTTOM}V{y}H{far}V{high}H{frontier.LEFT}" and far < x and high < y


@pytest.mark.parametrize("count", [0, 1])
def test_few_points_are_a_picture_too(study: Callable[[str], Any], count: int) -> None:
    frontier = study("frontier")
    assert ElementTree.fromstring(frontier.drawing(frontier.points(PAGE)[:count])) is not None


def test_a_method_on_two_pages_is_drawn_of_the_last(study: Callable[[str], Any]) -> None:
    frontier = study("frontier")
    before = PAGE.replace("+1.0", "-7.0")
    assert frontier.newest([before, PAGE]) == frontier.points(PAGE) != frontier.newest([PAGE, before])


def test_the_committed_picture_is_of_the_committed_pages(study: Callable[[str], Any]) -> None:
    frontier = study("frontier")
    found = frontier.newest((RESULTS / f"methods/{name}.md").read_text("utf-8") for name in ("eight", "five"))
    assert (RESULTS / "frontier.svg").read_text("utf-8") == frontier.drawing(found)
    assert len(frontier._names(found)) == len(found), "a name has no room"
