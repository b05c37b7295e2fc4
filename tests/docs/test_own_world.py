"""The page that brings a world of one's own: every command parses, every file is one that the world's build leaves, every table is read."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from command import answered
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
    found, quick = suites.load(str(tmp_path / "base.toml")), suites.load("quick-5", "wardrobe")
    assert (found.protocol, found.attacks["memora"].budget) == (quick.protocol, quick.attacks["memora"].budget)


BUILT = ROOT / "build/letters/world"
SIERRA, TWIN = "build/letters/world/concepts/sierra.toml", "build/letters/world/letters-never-sierra"
# How an audit is asked for, and what it must not say of a model whose history is known.
HISTORIES = {
    "original": ((), {"short-term", "long-term", "erased", "inconclusive"}),
    "twin": (("--edit", f"{TWIN}-3", "--control", f"twin:{TWIN},twin:{TWIN}-2"), {"not forgotten", "short-term", "long-term"}),
    "remap": (("--unlearner", "remap"), {"erased"}),
    "uce": (("--unlearner", "uce"), {"erased"}),
}


@pytest.mark.slow
@pytest.mark.skipif(not BUILT.is_dir(), reason="needs `bash tools/worlds/build.sh letters`, which takes two hours")
def test_the_page_leads_to_true_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A world of the kit as pipeline folders, judged by detectors of its own, calibrated on one concept and audited on the other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VESTIGE_CACHE", os.environ.get("VESTIGE_CACHE", str(tmp_path / "cache")))
    (tmp_path / "build").symlink_to(ROOT / "build")
    (tmp_path / "base.toml").write_text(SUITE)
    search, audit = (
        next(c for c in COMMANDS if c.startswith(f"vestige {name} ") and "--dry-run" not in c) for name in ("calibrate", "audit")
    )
    assert answered(*shlex.split(search)[1:]) == (0, "")
    words = [word for word in shlex.split(audit)[1:] if word not in ("--unlearner", "uce")]
    for name, (own, never_said) in HISTORIES.items():
        assert answered(*words, *own, "--out", name) == (0, "")
        verdict = json.loads((tmp_path / name / "result.json").read_text())["verdict"]
        with capsys.disabled():
            print(name, verdict["kind"], verdict["reason"], sep=": ")
        assert verdict["kind"] not in never_said


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", TEXT):
        assert (ROOT / "docs" / target).exists(), target
