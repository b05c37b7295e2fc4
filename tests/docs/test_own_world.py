"""The page that brings a world of one's own: every command parses, every file is one that the world's build leaves, every table is read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from vestige import cli, concepts
from vestige.harness import suites

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/own_world.md").read_text("utf-8")
COMMANDS = [line for block in re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
CONCEPT, SUITE = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    program, name, *arguments = shlex.split(command)
    assert program == "vestige"
    known = get_command(cli.app).commands[name]  # type: ignore[attr-defined]
    assert known.make_context(name, arguments).info_name == name


def test_files_are_those_that_the_build_leaves() -> None:
    world = (ROOT / "tools/worlds/letters.py").read_text("utf-8")
    named = set(re.findall(r"build/letters/world/([\w./-]+)", TEXT))
    assert len(named) > 8
    for spot in named:
        name = spot.removeprefix("concepts/").removeprefix("references/").removesuffix(".toml")
        assert f'"{name}"' in world or name in ("letters",), spot
    assert (ROOT / "tools/worlds/build.sh").is_file()


def test_tables_are_read(tmp_path: Path) -> None:
    (tmp_path / "sierra.toml").write_text(CONCEPT)
    concept = concepts.load(str(tmp_path / "sierra.toml"))
    assert (concept.name, len(concept.held_out)) == ("sierra", 2)
    (tmp_path / "base.toml").write_text(SUITE)
    found, quick = suites.load(str(tmp_path / "base.toml")), suites.load("quick", "wardrobe")
    assert (found.protocol, found.attacks["memora"].budget) == (quick.protocol, quick.attacks["memora"].budget)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", TEXT):
        assert (ROOT / "docs" / target).exists(), target
