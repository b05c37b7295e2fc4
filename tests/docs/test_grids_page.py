"""The page on grids: its commands for one machine run as they stand, and a cluster of one machine finds what processes find."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from vestige import cli
from worlds_small import furnish

PAGE = (Path(__file__).parents[2] / "docs/grids.md").read_text("utf-8")
COMMANDS = [line for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def run(command: str, *more: str) -> None:
    cli.app([*shlex.split(command)[1:], *more], standalone_mode=False)


def test_its_first_commands_write_a_grid_and_say_what_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(COMMANDS[0])
    run(COMMANDS[1])
    said = capsys.readouterr().out
    assert "10 cells" in said and "times one is shared" in said and "hours of one thread" in said and "if only the last look" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_cluster_of_one_machine_finds_what_processes_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    furnish(tmp_path)
    (tmp_path / "grid.toml").write_text(
        f'[axes]\nmodels = ["{tmp_path}/model"]\nconcepts = ["{tmp_path}/bag.toml"]\nsuites = ["{tmp_path}/suite.toml"]\n'
        f'attacks = ["direct"]\n[[unlearners]]\nmethod = "uce"\n[common]\ncontrol = "twin:{tmp_path}/twin"\nseeds = [0]\n'
    )
    found = []
    for command, folder in ((COMMANDS[2], "here"), (COMMANDS[3], "there")):
        run(command.replace("runs/grid", folder), "--json")
        (file,) = (tmp_path / folder / "cells").glob("*/result.json")
        found.append({k: v for k, v in json.loads(file.read_text()).items() if k not in ("cost", "provenance", "run", "report")})
    assert found[0] == found[1]
