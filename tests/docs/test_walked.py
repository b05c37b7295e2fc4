"""The pages on real models, walked: every command of a section as it stands, one after another, run to its end on tiny pipelines."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from command import answered
from hurry import sketches
from made_up_pages import PAGES, console, hub, place
from oracles import SMALL
from vestige import registry
from vestige.harness import settings, suites
from vestige.harness.suites import Planned
from vestige.methods import Budget

__all__ = ["place", "sketches"]  # fixtures that hold here too
WALKED = ("models", "flux", "published_checkpoints")
QUICK = ("models", "flux")  # the other page's audits with the slow tests


def sections() -> Iterator[Any]:
    """(page, what follows one of its headings) that holds commands."""
    for page in WALKED:
        for part in re.split(r"^## ", PAGES[page], flags=re.MULTILINE):
            if console(part):
                name = f"{page}-{part.splitlines()[0].strip('# ')}"
                yield pytest.param(part, id=name, marks=() if page in QUICK else pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def short(sketches: None) -> Iterator[None]:
    """Suites of two pictures in two steps, and methods at their smallest where the page does not say otherwise."""
    real = suites.load

    def load(name: str, world: str = "") -> suites.Suite:
        suite = real(name, world)
        few = {"pictures": 2, "select_pictures": 2, "utility_pictures": 4, "replicates": 2, "strip": 1}
        attacks = {name: Planned({}, Budget((0, 2)), 2) for name in suite.attacks}
        return replace(suite, **few, attacks=attacks, protocol=replace(suite.protocol, steps=2))  # type: ignore[arg-type]

    def small(_: str, kind: Any, name: str) -> dict[str, Any]:
        known = {f.name for f in fields(registry.find(kind, name))}
        return {key: value for key, value in SMALL[kind].items() if key in known}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suites, "load", load)
        patch.setattr(settings, "_preset", small)
        yield


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])  # planned in float32 elsewhere
@pytest.mark.parametrize("section", list(sections()))
def test_a_section_is_walked(section: str, dtype: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(place, tmp_path / "here", ignore=shutil.ignore_patterns("hub"))
    hub(place, monkeypatch)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("VESTIGE_CACHE", str(tmp_path / "cache"))
    for command in console(section):
        words = shlex.split(command)[1:]
        words += [] if "--dtype" in words else ["--dtype", dtype]
        out = Path(words[words.index("--out") + 1]) if "--out" in words else None
        if out is not None and words[0] == "unlearn":
            out.unlink(missing_ok=True)  # what it writes was stood in for
        assert answered(*words) == (0, ""), command
        assert out is None or out.exists()


def test_every_command_of_the_pages_is_in_a_section() -> None:
    walked = [command for part in sections() for command in console(part.values[0])]
    assert walked == [command for page in WALKED for command in console(PAGES[page])]
    assert {shlex.split(command)[1] for command in walked} >= {"audit", "continual", "unlearn", "export", "inspect"}
