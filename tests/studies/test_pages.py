"""Pages of results: each is made again by its own command, of the records beside it alone, and names scripts that are there."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vestige.continual import plan as sequences
from vestige.harness import suites

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs/results"
KEPT = sorted(RESULTS.rglob("*.jsonl"))
COMMAND = re.compile(r"`python (studies/(\w+)\.py) (.*?)`")  # the first in a page is its own
PAGES = {p: found for p in sorted(RESULTS.rglob("*.md")) if (found := COMMAND.search("\n".join(p.read_text("utf-8").split("\n")[:3])))}


def as_it_was(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Suites by the versions that a page and its records name: a table stays when the next one comes."""
    text = kept.with_suffix(".md").read_text("utf-8") + kept.read_text("utf-8")
    named = {name: f"{name}-{number}" for name, number in re.findall(r"suite\W{1,3}([a-z]+)-(\d+)", text)}
    real = suites.load

    def load(name: str, world: str = "") -> suites.Suite:
        made = real(name, world)
        if named.get(name, made.version) == made.version:
            return made
        steps = replace(made.protocol, steps=10)  # of every version before the sixth
        return replace(made, version=named[name], positives=(), looks=(), protocol=steps, sparing=False)

    monkeypatch.setattr(suites, "load", load)
    if any(real(name).version != version for name, version in named.items()):
        asked = sequences.SequencePlan.asked
        monkeypatch.setattr(
            sequences.SequencePlan, "asked", lambda own: {key: value for key, value in asked(own).items() if key != "remembered"}
        )


@pytest.mark.parametrize("kept", KEPT, ids=lambda p: p.stem)
def test_committed_pages_say_what_their_records_say(
    kept: Path, study: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's own command where there is nothing but records: page and records come out letter by letter."""
    page = kept.with_suffix(".md")
    as_it_was(kept, monkeypatch)
    _, name, asked = PAGES[page].groups()
    for file in KEPT:
        place = tmp_path / file.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
    to = [] if re.search("--(table|page) ", asked) else ["--table", str(page.relative_to(ROOT))]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *shlex.split(asked), *to])
    study(name).main()
    for file in (page, kept):
        assert (tmp_path / file.relative_to(ROOT)).read_text("utf-8") == file.read_text("utf-8")


def test_records_are_found() -> None:
    assert {file.stem for file in KEPT} >= {"tables", "continual", "continual_duge"}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: "-".join(p.relative_to(RESULTS).with_suffix("").parts))
def test_the_command_of_a_committed_page_is_one(page: Path, study: Callable[[str], Any]) -> None:
    """Its study is there and knows all that the command asks for."""
    path, name, asked = PAGES[page].groups()
    assert (ROOT / path).exists()
    study(name).arguments().parse_args(shlex.split(asked))


def test_every_script_that_a_page_names_is_there() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "studies").glob("*.py")]
    found = {
        name
        for p in pages
        if p.name != "CHANGELOG.md"
        for name in re.findall(r"\b(?:studies|tools|benchmarks)/[\w/]+\.py", p.read_text("utf-8"))
    }
    assert found >= {"studies/diagnoses.py", "tools/calibrate.py"}
    assert sorted(name for name in found if not (ROOT / name).exists()) == []
