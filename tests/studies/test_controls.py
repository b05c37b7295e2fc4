"""Distilled never-models beside twins: the page says what its records hold, and models that learn alike differ by nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from vestige.harness.calibration import calibration
from vestige.harness.never import Distillation

BUDGETS = [0, 2, 30]


def row(controls: Any, kind: str, curve: list[float], seed: int = 0, twin: str = "") -> tuple[Any, dict[str, Any]]:
    """A cell of the sneaker, and a record whose three replicates are the same."""
    cell = controls.Cell("sneaker", kind, twin, seed)
    told = {"kind": kind, "suite": "quick-0", "how": {"steps": 7, "own": 0.5}, "anchor": "boot", "budgets": BUDGETS}
    return cell, {"key": cell.name, **told, "curves": [curve] * 3, "neighbours": [9, 12], "unrelated": [6, 12]}


def test_one_that_is_ahead_by_a_tenth_is_ahead_by_its_area(study: Callable[[str], Any]) -> None:
    controls = study("controls")
    _, slow = row(controls, "twin", [0.0, 0.2, 0.6], twin="wardrobe-never-sneaker")
    _, fast = row(controls, "distilled", [0.0, 0.3, 0.7])
    area = 0.1 * (math.log(3) / 2 + math.log(31 / 3))
    assert controls.log_f(fast, slow, [0.8] * 3) == pytest.approx([area / 0.8] * 3)
    assert controls.log_f(slow, slow, [0.8] * 3) == pytest.approx([0.0] * 3)
    assert controls.log_f(fast, controls.mean_of([fast, slow]), [0.8] * 3) == pytest.approx([area / 1.6] * 3)
    assert controls.area(fast) - controls.area(slow) == pytest.approx(area)


def test_a_page_has_a_section_for_what_has_twins_distilled_models_and_an_original(study: Callable[[str], Any]) -> None:
    controls = study("controls")
    twin = row(controls, "twin", [0.1, 0.2, 0.6], twin="wardrobe-never-sneaker")
    known = dict([twin, row(controls, "distilled", [0.0, 0.3, 0.7]), row(controls, "distilled", [0.0, 0.3, 0.5], 1)])
    assert "## sneaker" not in controls.page(known)  # nobody knows the ceiling
    text = controls.page({**known, **dict([row(controls, "original", [0.9])])})
    assert "quick-0" in text and "steps 7, own 0.5" in text and "3 replicates" in text
    assert "| never-sneaker | - | 0.10 | 0.75 | 0.50 | 0.20 | 0.60 |" in text
    assert "| distilled 1 | boot | 0.00 | 0.75 | 0.50 | 0.30 | 0.50 |" in text
    assert "| original | - | 0.90 | 0.75 | 0.50 | - | - | - |" in text


def test_a_record_is_of_its_settings(study: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another kind, seed or setting is another cell; and all of a distillation's settings are looked at."""
    controls = study("controls")
    found = controls.cells(list(controls.TWINS))
    keys = {cell.key for cell in found}
    assert len(keys) == len(found)
    assert {f.name for f in fields(Distillation)} == set(controls.asdict(found[2].how))
    monkeypatch.setattr(controls, "REPLICATES", 4)
    assert not keys & {cell.key for cell in found}


def test_the_other_anchor_is_no_neighbour(study: Callable[[str], Any]) -> None:
    controls = study("controls")
    cell = controls.Cell("sneaker", "other anchor")
    assert cell.told.anchor == "dress" and cell.told.anchor not in cell.told.neighbours
    assert controls.Cell("sneaker", "distilled").told.anchor == "boot"
    assert controls.Cell("sneaker", "no prompt").how.own == 0


def test_the_committed_page_is_made_of_its_records(study: Callable[[str], Any]) -> None:
    controls = study("controls")
    place = Path(__file__).parents[2] / "docs/results/controls"
    kept = study("records").read(place / "tables.jsonl").values()
    cells = [(controls.Cell(*(row[name] for name in ("concept", "kind", "twin", "seed"))), row) for row in kept]
    assert controls.page(dict(cells)) == (place / "tables.md").read_text("utf-8")


def test_what_audits_say_of_distilled_controls_is_what_the_records_say(study: Callable[[str], Any]) -> None:
    """F against one over F against a twin is exp of the twin's log F against it."""
    controls = study("controls")
    lines = Path(__file__).parents[2].joinpath("docs/results/controls/tables.jsonl").read_text("utf-8").splitlines()
    of = {row["kind"]: row for row in map(json.loads, lines) if row["concept"] == "bag"}
    logs = controls.log_f(of["twin"], of["distilled"], [curve[0] for curve in of["original"]["curves"]])
    found = controls.t_interval(logs, 0.95, len(logs))
    told = calibration("wardrobe", "quick-3", "memora").distilled["bag"]
    assert told == pytest.approx([math.exp(x) for x in (found.value, found.low, found.high)], rel=1e-3)
