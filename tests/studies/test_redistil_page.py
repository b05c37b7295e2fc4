"""How redistil was chosen: on development concepts alone, and the page says what its records hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from vestige import registry
from vestige.errors import BadSetting
from vestige.harness import suites
from vestige.unlearners.redistil import Redistil

PAGE = Path(__file__).parents[2] / "docs/results/redistil.md"


def row(way: str, curve: list[float], **more: Any) -> dict[str, Any]:
    """A record whose three replicates are the same."""
    rates = {"target": [0, 96], "neighbours": [90, 96], "unrelated": [180, 240]}
    return {"key": way, "concept": "bag", "way": way, "curves": [curve] * 3, **rates, **more}


def test_evaluation_concepts_are_refused(study: Callable[[str], Any]) -> None:
    with pytest.raises(BadSetting, match="chosen on bag and blueprint; given sneaker"):
        study("redistil").cells(["bag", "sneaker"])


def test_ways_say_every_setting_and_no_two_are_the_same(study: Callable[[str], Any]) -> None:
    """So that a default that changes later makes no record another's."""
    redistil = study("redistil")
    assert set(redistil.BASE) == {f.name for f in fields(Redistil)}
    keys = [cell.key for cell in redistil.cells(list(redistil.DEVELOPMENT))]
    assert len(set(keys)) == len(keys)


def test_a_page_says_rates_factor_and_price(study: Callable[[str], Any]) -> None:
    redistil, count = study("redistil"), len(suites.load("quick", "wardrobe").attacks["memora"].budget.points)
    twin, made = [k / 10 for k in range(count)], {"steps": 420, "batch": 48}
    rows = [row("original", [1.0]), row("twin", twin), row("base", twin, settings=made, seconds=61.4)]
    looked_at = row("anchor", [], settings=made, seconds=60.0)
    del looked_at["curves"]
    text = redistil.page({redistil.Cell("bag", one["way"]): one for one in (*rows, looked_at)})
    assert "| original | 0.00 | 0.94 | 0.75 | - | - | - | - |" in text
    assert "| base | 0.00 | 0.94 | 0.75 | 1.00 [1.00, 1.00] | 420 | 10.0% | 61 |" in text
    assert "| anchor | 0.00 | 0.94 | 0.75 | - | 420 | 10.0% | 60 |" in text


def test_what_steps_buy_is_told_of_rows_that_differ_in_nothing_else(study: Callable[[str], Any]) -> None:
    redistil, count = study("redistil"), len(suites.load("quick", "wardrobe").attacks["memora"].budget.points)
    twin, preset = [k / 10 for k in range(count)], registry.settings(Redistil())
    at = {
        way: {**preset, **more}
        for way, more in (("long", {"steps": 1800, "warmup": 90}), ("short", {"steps": 225}), ("far", {"share": 1.0}))
    }
    rows = [row("original", [1.0]), row("twin", twin), *(row(way, twin, settings=how, seconds=9.0) for way, how in at.items())]
    found = {redistil.Cell("bag", one["way"]): one for one in rows}
    table = redistil.page(found).split(redistil.BOUGHT)[1].strip().split("\n")
    assert [line.split(" | ")[5] for line in table[2:]] == ["-", "-", "225", "1800"]
    assert redistil.BOUGHT not in redistil.page({cell: one for cell, one in found.items() if cell.way != "long"})


def test_the_committed_page_is_made_of_its_records(study: Callable[[str], Any]) -> None:
    redistil = study("redistil")
    kept = study("records").read(PAGE.with_suffix(".jsonl")).values()
    cells = {redistil.Cell(one["concept"], one["way"]): one for one in kept}
    assert all(cell.key == one["key"] for cell, one in cells.items())
    assert redistil.page(cells) == PAGE.read_text("utf-8")
