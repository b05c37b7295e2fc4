"""`--dtype float16` with what trains: one line that says what to do, before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vestige import models
from vestige.cli import app
from vestige.harness import bench
from vestige.models import Placement, placement

COMMANDS = {
    "unlearn": ("unlearn", "--method", "esd"),
    "attack": ("attack", "--method", "memora", "--suite", "smoke"),
    "audit an edit that trains": ("audit", "--unlearner", "esd", "--suite", "smoke", "--attack", "direct"),
    "audit by an attack that trains": ("audit", "--unlearner", "uce", "--suite", "smoke"),
    "continual": ("continual", "--requests", "bag,dress", "--method", "esd"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_training_in_half_precision_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(models, "load", load)
    out = tmp_path / ("edit.safetensors" if name == "unlearn" else "out")
    result = CliRunner().invoke(app, [*COMMANDS[name], "--dtype", "float16", "--out", str(out)])
    said = str(result.exception)
    assert type(result.exception).__name__ == "HalfPrecision", said
    assert "cannot train in float16" in said and "--dtype bfloat16" in said
    assert "\n" not in said
    assert "lower lr" not in said
    assert not out.exists()


def test_what_does_not_train_works_in_half_precision(tmp_path: Path) -> None:
    edit = tmp_path / "edit.safetensors"
    given = ["unlearn", "--method", "uce", "--dtype", "float16", "--out", str(edit), "--json"]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.exception
    assert json.loads(result.stdout)["changed_weights"] > 0


@pytest.mark.parametrize(("dtype", "told"), [("float32", {}), ("bfloat16", {"leaves": "float32"})])
def test_runs_in_low_precision_say_what_their_leaves_are(dtype: str, told: dict[str, str]) -> None:
    """So that none is taken for one whose leaves were as coarse as its weights; specs in single precision stay what they were."""
    from vestige.audit import Request, resolve

    with placement.using(Placement(dtype=dtype)):
        spec = resolve(Request(unlearner="esd", suite="smoke")).spec()
    assert {key: spec[key] for key in ("leaves",) if key in spec} == told == bench.held_in(dtype)
