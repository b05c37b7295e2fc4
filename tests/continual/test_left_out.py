"""An attack whose numbers stop being finite costs a sequence that attack alone, and is told by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chains import go, small_world
from oracles import SMALL
from vestige import errors
from vestige.continual import result
from vestige.report import ledgers

__all__ = ["small_world"]  # a fixture that holds here too
WORSE = {**{f"finetune.{key}": SMALL["attacks"][key] for key in ("sampling_steps", "start", "points", "batch")}, "finetune.lr": 1e30}


def test_the_sequence_and_its_other_attack_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two attacks of two steps: the one that diverges has no numbers, and everything else is what it is without it."""
    real = result.recovered

    def recovered(*given: Any) -> dict[str, Any]:
        if given[-1] == "finetune":
            raise errors.Diverged(f"finetune on {given[3].name}, replicate 0: the loss is nan at step 2")
        return real(*given)

    alone = go(tmp_path / "alone", attacks=("direct",))
    monkeypatch.setattr(result, "recovered", recovered)
    both = go(tmp_path / "both", attacks=("direct", "finetune"))
    for one, other in zip(alone["steps"], both["steps"], strict=True):
        assert {**other, "attacks": {"direct": other["attacks"]["direct"]}} == one
    failed = both["steps"][2]["attacks"]["finetune"]
    assert set(failed) == {"bag", "dress"}
    assert failed["bag"]["curve"] == [None] * len(failed["bag"]["budgets"])
    assert failed["bag"]["failed"].endswith("the loss is nan at step 2")
    lines = ledgers.left_out(both, "finetune")
    assert [line.partition(":")[0] for line in lines] == ["1 bag, against bag", "2 dress, against bag", "2 dress, against dress"]
    assert ledgers.left_out(both, "direct") == []
    page = ledgers.render(both, tmp_path)
    assert all(f"Left out after {line}" in page for line in lines)
    assert "Left out" not in ledgers.render(alone, tmp_path)


def test_numbers_that_diverge_are_caught(tmp_path: Path) -> None:
    made = go(tmp_path, "bag", attacks=("finetune",), settings=WORSE)
    told = made["steps"][1]["attacks"]["finetune"]["bag"]["failed"]
    assert told.startswith("finetune on ") and "the loss is" in told
    assert made["steps"][0]["attacks"]["finetune"] == {}
