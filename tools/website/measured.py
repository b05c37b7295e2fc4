"""What is known of a method beside what it says of itself: presets, suites, calls, families, and where it stands in the results."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vestige import data, registry
from vestige.harness import cost, suites
from vestige.harness.suites import Planned
from website import standing
from website.docstrings import cell, escaped


@functools.lru_cache
def _tables() -> dict[str, Any]:
    return data.shipped_table("presets")


def of_presets(kind: str, name: str) -> dict[str, dict[str, Any]]:
    """Preset or world -> a method's settings there."""
    return {preset: told[kind][name] for preset, told in _tables().items() if name in told.get(kind, {})}


def of_suites(name: str) -> Iterator[tuple[str, Planned, bool]]:
    """(suite, how it runs an attack on the embedded world, whether only where it is asked for) of each that does."""
    for suite in suites.names():
        made = suites.load(suite, "wardrobe")
        planned = made.attacks.get(name) or made.lent.get(name)
        if planned:
            yield suite, planned, name not in made.attacks


def costs(name: str) -> str:
    """Calls of an unlearner, by its own forecast."""
    drawn = cost.picture(suites.load("quick").protocol)
    ways = {"defaults": dict[str, Any](), **of_presets("unlearners", name)}
    rows = []
    for way, told in ways.items():
        made = registry.build("unlearners", name, told)
        rows.append(f"| {way} | {made.calls(0, 0):,} | {made.calls(drawn, drawn):,} |")
    if all(row.endswith("| 0 | 0 |") for row in rows):
        return "No call of the denoiser: nothing is drawn, and nothing trained through it."
    said = (
        f"Calls of the denoiser that an edit takes, by its own forecast; one is one picture and one condition, and one that is trained "
        f"through counts three. On the right the model draws every picture itself, at {drawn} calls each as the suite `quick` draws. "
        "What a call takes: [what it costs](../docs/cost.md)."
    )
    return f"{said}\n\n| settings | pictures given | pictures drawn |\n|---|---|---|\n" + "\n".join(rows)


def costs_of_attack(name: str) -> str:
    """Calls of one arm of an attack under the suites that run it."""
    rows = []
    for suite, planned, lent in of_suites(name):
        own = registry.build("attacks", name, planned.settings)
        calls, budget = own.calls(planned.budget.last, planned.references), ", ".join(str(point) for point in planned.budget.points)
        rows.append(f"| {suite}{' (where it is asked for)' * lent} | {budget} | {planned.references or ''} | {calls:,} |")
    said = (
        "Calls of the denoiser that one arm takes on the embedded world, by the attack's own forecast, without drawing what is scored; one "
        "is one picture and one condition, and one that is trained through counts three. An audit runs several arms: "
        "[what it costs](../docs/cost.md)."
    )
    return f"{said}\n\n| suite | budget | references | calls |\n|---|---|---|---|\n" + "\n".join(rows) if rows else "No suite runs it."


@functools.lru_cache
def matrix(root: Path) -> tuple[list[str], dict[str, list[str]], dict[str, str]]:
    """The matrix's families, its rows by method, and its reasons by number."""
    text = (root / "docs/results/matrix.md").read_text("utf-8")
    table = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    reasons = dict(re.findall(r"^(\d+)\. (.+)$", text, re.MULTILINE))
    return table[0][1:], {row[0].strip("`"): row[1:] for row in table[2:]}, reasons


def families(root: Path, name: str) -> str:
    """The method's row of the matrix, on its side, with reasons in words."""
    names, rows, reasons = matrix(root)
    if name not in rows:
        raise SystemExit(f"docs/results/matrix.md has no row of {name}; python tools/matrix.py makes it again")
    lines = []
    for family, state in zip(names, rows[name], strict=True):
        why = re.fullmatch(r"refuses \((\d+)\)", state)
        lines.append(f"| {family} | {f'refuses: {cell(reasons[why[1]])}' if why else state} |")
    said = "What has run, and on what; nothing has run on real weights of a published model. What the states mean: "
    said += "[the matrix](../docs/results/matrix.md)."
    return f"{said}\n\n| family | |\n|---|---|\n" + "\n".join(lines)


@functools.lru_cache
def results(root: Path) -> list[standing.Section]:
    """Every section of the results, and of what did not work."""
    pages = sorted((root / "docs/results").rglob("*.md"))
    apart = ("matrix.md", "tests.md", "fuzz.md")  # these name every method and measure none
    files = [*(p for p in pages if p.name not in apart), root / "docs/negative.md"]
    return [s for p in files for s in standing.sections(root, p.relative_to(root).as_posix())]


def stands(root: Path, name: str, cls: Any) -> str:
    """Links to what has been measured of it."""
    rows, named = standing.met(results(root), name, cls.__name__)
    made = [f"{head}\n\n{_links(root, found)}" for head, found in (("Rows of it:", rows), ("Named in:", named)) if found]
    return "\n\n".join(made) or "No page of results names it yet: nothing has been measured of it but that it runs."


def _links(root: Path, found: list[standing.Section]) -> str:
    """A line a page, its sections behind it."""
    pages: dict[str, list[standing.Section]] = {}
    for section in found:
        pages.setdefault(section.page, []).append(section)
    lines = []
    for where, those in pages.items():
        parts = ", ".join(f"[{escaped(s.title)}](../{where}#{s.slug})" for s in those if s.slug)
        lines.append(f"- [{escaped(page_title(root, where))}](../{where})" + (f": {parts}" if parts else ""))
    return "\n".join(lines)


@functools.cache
def _heading(file: Path) -> str:
    """The words of a page's first heading."""
    lines = file.read_text("utf-8").splitlines()
    return next(line for line in lines if line.startswith("# "))[2:].replace("`", "")


def page_title(root: Path, where: str) -> str:
    """A page's title; with the file's own name where several pages share one."""
    file = root / where
    heading = _heading(file)
    same = [other for other in file.parent.glob("*.md") if _heading(other) == heading]
    return f"{heading}: {file.stem}" if len(same) > 1 and file.stem != "README" else heading
