"""The pages on real models: every command is planned or run as it stands, with tiny models and structure-true files under their names."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from made_up_pages import PAGES, console, hub, place
from oracles import script
from vestige import cli
from vestige.checkpoints.kinds import KINDS
from vestige.models import sources

__all__ = ["place"]  # a fixture that holds here too
COMMANDS = [command for text in PAGES.values() for command in console(text)]
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGES["published_checkpoints"], re.DOTALL | re.MULTILINE))


@pytest.fixture
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    hub(place, monkeypatch)
    return place


def ran(command: str, capsys: pytest.CaptureFixture[str]) -> Any:
    """What a command says; an audit or a sequence is only planned."""
    name, *rest = shlex.split(command)[1:]
    dry = ["--dry-run"] if name in ("audit", "continual") and "--dry-run" not in rest else []
    cli.app([name, *rest, "--json", *dry], standalone_mode=False)
    sources.fetched.cache_clear()
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_works(command: str, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind = shlex.split(command)[1]
    for attack in (c for c in COMMANDS if kind == "apply" and shlex.split(c)[1] == "attack" and c.split("--out ")[1] in command):
        ran(attack, capsys)
    if kind == "unlearn":  # what it writes was stood in for
        (there / command.split("--out ")[1]).unlink()
    told = ran(command, capsys)
    if kind in ("audit", "continual"):
        assert sum(told["planned_calls"].values()) > 0
    elif kind == "inspect":
        assert bool(told["refusal"]) == (told["format"] == "F9"), told["refusal"]
    else:
        assert told
    for made in ("exported", "exported-flux"):
        shutil.rmtree(there / made, ignore_errors=True)


def test_pages_have_commands() -> None:
    kinds = {name: {shlex.split(c)[1] for c in console(text)} for name, text in PAGES.items()}
    assert kinds["models"] >= {"audit", "continual", "unlearn", "attack", "apply", "export"}
    assert kinds["flux"] >= {"audit", "inspect", "export"}
    assert kinds["published_checkpoints"] == {"audit", "inspect"}
    assert len(COMMANDS) >= 40
    assert len(COMMANDS) == len(set(COMMANDS))


@pytest.mark.parametrize("section", [name for name, text in SECTIONS.items() if "**`inspect` says:**" in text])
def test_inspect_says_what_the_section_says(section: str, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    says = re.search(r"\*\*`inspect` says:\*\* (.*?)\n\n", SECTIONS[section], re.DOTALL)
    assert says is not None
    (command,) = (c for c in console(SECTIONS[section]) if c.split()[1] == "inspect")
    found = ran(command, capsys)
    assert f"`{found['format']}`" in says[1]
    guesses = [guess.removesuffix(" (its name says so)") for guess in found["made_by"]]
    assert any(f"`{guess}`" in says[1] for guess in guesses), guesses


def test_page_names_every_format() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|$", PAGES["published_checkpoints"], re.MULTILINE))
    assert rows == KINDS


def test_costs_are_what_the_plan_counts(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One row a command, in their order; where this fails, the numbers here are the ones that the page should have."""
    rows = re.findall(r"^\| [\w, ]+ \|((?: [\d,]+ \|){7})$", PAGES["cost"], re.MULTILINE)
    told = [[int(cell.replace(",", "")) for cell in row.split("|")[:-1]] for row in rows]
    counted = []
    for command in console(PAGES["cost"]):
        calls = ran(command, capsys)["planned_calls"]
        calls["utility"] += calls.pop("floor", 0)
        parts = ("scoring", "attacks", "positives", "restoring", "utility", "unlearning")
        counted.append([calls.get(part, 0) for part in parts] + [sum(calls.values())])
    assert told == counted
    (quick,) = (row[-1] for row, command in zip(counted, console(PAGES["cost"]), strict=True) if "quick --attack memora --ref" in command)
    assert f"{quick:,} calls" in PAGES["cost"]
    assert f"that is {quick * 1.83 / 3600:.0f} hours" in PAGES["cost"]
    assert f"it is {quick / 20 / 3600:.1f} hours" in PAGES["cost"]


def test_sizes_are_those_of_the_published_configurations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of the table that `benchmarks/structure.py` prints, computed again; the others take half a minute."""
    structure = script("benchmarks/structure.py", monkeypatch)
    found = {name: structure.counted(structure.NETWORKS[name]) for name in ("SD 1.4, 256 px", "CIFAR-10 DDPM, 32 px")}
    assert found["SD 1.4, 256 px"][0] == pytest.approx(0.8595, abs=1e-4)
    for name, (weights, work) in found.items():
        assert structure.line(name, weights, work, work / found["SD 1.4, 256 px"][1]) in PAGES["cost"]
    assert structure.HEAD in PAGES["cost"]
