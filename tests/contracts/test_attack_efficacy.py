"""Whether the attacks of suite `all` find what is there and nothing where nothing is, on the development concept (attacks.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oracles import script

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(ROOT)
    return script("tools/attacks.py", monkeypatch)


def recorded() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ROOT / "docs/results/attacks.ndjson").read_text("utf-8").splitlines()]


def test_page_is_made_of_its_records(tool: Any) -> None:
    assert (ROOT / "docs/results/attacks.md").read_text("utf-8") == tool.page() + "\n"


def test_records_are_of_the_suite_as_it_is(tool: Any) -> None:
    for row in tool.measured():
        planned, method = tool.usual(row["attack"])
        assert row["budget"] == list(planned.budget.points)
        assert row["settings"] == tool.registry.settings(method)


@pytest.mark.slow
@pytest.mark.parametrize("row", recorded(), ids=lambda row: f"{row['attack']}-{row['model']}")
def test_an_attack_finds_what_it_found(row: dict[str, Any], tool: Any, tmp_path: Path) -> None:
    """Measured anew: it rises where the page says so, and nowhere else."""
    assert tool.risen(tool.Known(tmp_path).attacked(row["attack"], row["model"])) == tool.risen(row)
