"""What other concepts foretell of a concept's never-models, beside what they show."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vestige.verdict.spread import LEAST, Spread


@pytest.fixture
def foretold(study: Callable[[str], Any]) -> Any:
    return study("foretold")


def test_a_concept_is_foretold_by_the_others_alone(foretold: Any) -> None:
    """One is a hundred times as wide as the rest; left in, it would foretell itself."""
    alike = {f"{i}": [[0.0], [0.1], [0.2]] for i in range(4)}
    lines = foretold.compared({**alike, "wide": [[0.0], [1.0], [2.0]]}, {"beside": [[0.0], [0.1], [0.2]]}).splitlines()[2:]
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines}
    assert list(cells) == ["0", "1", "2", "3", "wide", "beside"]
    assert float(cells["wide"][3]) == pytest.approx(100)
    assert float(cells["wide"][4]) < 0.01 and cells["wide"][5] == "1 of 3"
    assert cells["beside"][5] == "3 of 3"
    without = foretold.compared(alike, {"beside": [[0.0], [0.1], [0.2]]}).splitlines()
    assert without[-1].split("|")[5].strip() == "1.00"


def test_p_is_uniform_where_concepts_vary_alike(foretold: Any) -> None:
    rng = np.random.default_rng(3)
    drawn = [foretold.row("x", [[x] for x in rng.normal(0, 0.3, 3)], Spread(0.09, 50.0)) for _ in range(400)]
    share = np.mean([float(cells[5]) < 0.2 for cells in drawn])
    assert 0.14 < share < 0.26
    inside = np.mean([int(cells[6][0]) for cells in drawn]) / 3
    assert 0.92 < inside < 0.98


def test_of_an_audit_it_takes_what_each_never_model_said(foretold: Any, tmp_path: Path) -> None:
    told = [{"name": name, "speedup": speed, "reach": 0.1} for name, speed in (("one", 2.0), ("two", 4.0))]
    (tmp_path / "result.json").write_text(json.dumps({"attacks": {"memora": {"against": told}}}))
    rows = foretold.measured(tmp_path / "result.json", "memora")
    assert np.subtract(rows[0], rows[1])[0] == pytest.approx(np.log(2))
    assert len(foretold.known("quick-6", "memora")) >= 2
    assert LEAST < foretold.fitted({"x": rows}, 1).variance == pytest.approx(np.log(2) ** 2 / 2)
