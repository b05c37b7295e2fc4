"""The page on sequences: its commands run as they stand, one after another, and what it says of modes is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import get_args

import pytest

from chains import small_world  # noqa: F401
from vestige import cli, models, registry
from vestige.continual import rebuilt
from vestige.continual.ledger import Mode

PAGE = (Path(__file__).parents[2] / "docs/sequences.md").read_text("utf-8")
COMMANDS = [line for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def test_its_commands_continue_a_ledger_and_export_a_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    assert [shlex.split(command)[1] for command in COMMANDS] == ["continual", "continual", "export"]
    for command in COMMANDS:
        cli.app(shlex.split(command)[1:], standalone_mode=False)
    original, first = models.load("wardrobe"), rebuilt("runs/ledger", 1)
    assert list(tmp_path.glob("runs/after-bag/*.safetensors"))
    assert original.edited(first).fingerprint != original.edited(rebuilt("runs/ledger")).fingerprint


def test_its_table_of_modes_is_complete() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| `")]
    methods = {mode.strip("`"): found for mode, _, _, found in rows if mode != "`--mode`"}
    names = list(registry.names("unlearners"))
    assert set(methods) == set(get_args(Mode))
    assert re.findall(r"`(\w+)`", methods["cumulative"]) == [n for n in names if registry.find("unlearners", n).joint] != names
