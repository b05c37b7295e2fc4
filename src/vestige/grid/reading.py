"""A grid's file, in which every mistake is told at once, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vestige import audit, continual, data, files
from vestige.audit import Request
from vestige.audit.plan import Plan
from vestige.continual.plan import SequencePlan
from vestige.errors import BadInput, VestigeError, shortened
from vestige.grid.cells import GridCell, expanded, matches
from vestige.grid.form import mistakes_of
from vestige.grid.values import sound


@dataclass(frozen=True)
class GridPlan:
    """A grid whose cells are all in order.

    Arguments:
        file: Where it was read.
        plans: What each cell will do, by its name.
    """

    file: Path
    cells: tuple[GridCell, ...]
    plans: Mapping[str, Plan | SequencePlan]


def read(path: Path) -> GridPlan:
    """A grid, from its file.

    Errors:
        BadInput, with every mistake in one line: unknown keys, models, concepts, methods and settings, cells that cannot be, filters
        that match nothing.
    """
    if path.is_dir():
        raise BadInput(f"{path} is a folder; give the file of a grid, FILE.toml, such as a finished grid's {path / 'grid.toml'}")
    if not path.is_file():
        raise BadInput(f"no grid at {path}; `vestige list --grid {path}` writes one to fill in")
    try:
        raw = data.toml(path.read_text(files.UTF8))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not valid TOML: {error}") from error
    if mistakes := list(mistakes_of(raw)):  # without its form nothing can be said of its cells
        raise BadInput(f"{path} is no grid: {'; '.join(mistakes)}")
    standing, wrong = sound(raw)
    cells = expanded(standing)
    plans, mistakes = _planned(cells)
    if mistakes := [*wrong, *mistakes, *_filters(raw)]:
        raise BadInput(f"{path} is no grid: {'; '.join(mistakes)}")
    return GridPlan(path, tuple(cells), plans)


def _planned(cells: Iterable[GridCell]) -> tuple[dict[str, Plan | SequencePlan], list[str]]:
    """What each cell will do; and what is wrong with those that cannot be, each mistake once with the first cell that has it."""
    plans: dict[str, Plan | SequencePlan] = {}
    wrong: dict[str, list[str]] = {}
    for cell in cells:
        try:
            plans[cell.name] = audit.resolve(cell.asked) if isinstance(cell.asked, Request) else continual.resolve(cell.asked)
            if isinstance(cell.asked, Request) and cell.asked.control == "none":
                raise BadInput("an audit needs a control")
            plans[cell.name].spec()
        except (VestigeError, OSError) as error:
            wrong.setdefault(str(error), []).append(", ".join(cell.axes.values()))
    return plans, [f"{places[0]}{_others(len(places) - 1)}: {mistake}" for mistake, places in wrong.items()]


def _others(count: int) -> str:
    return f" and {count} more" if count else ""


def _filters(raw: Mapping[str, Any]) -> Iterable[str]:
    """Filters that match no cell, and settings of attacks that none runs: a misspelt one would silently change nothing."""
    every = expanded({key: value for key, value in raw.items() if key not in ("only", "without")})
    for name in raw.get("attacks", {}):
        if not any(key.partition(".")[0] == name for cell in every for key in cell.asked.settings):
            yield f"attacks.{name} has settings, and no cell runs it: name it in axes.attacks, alone or with others, as in memora+{name}"
    for part in ("only", "without"):
        for wanted in raw.get(part, ()):
            if not any(matches(cell, wanted) for cell in every):
                yield f"{part} {shortened(str(wanted))} matches no cell"
            else:
                yield from (f"{part}: no cell has the {axis} {value}" for axis, value in _nowhere(wanted, every))
    if not every:
        yield "it has no cell: sequences are of unlearners that are methods, and these are none"
    elif not expanded(raw):
        yield "its filters leave no cell"


def _nowhere(wanted: Mapping[str, Any], cells: Sequence[GridCell]) -> Iterable[tuple[str, str]]:
    """What a filter names beside what it finds."""
    for axis, value in wanted.items():
        there = {cell.axes.get(axis) for cell in cells}
        yield from ((axis, shortened(str(one))) for one in (value if isinstance(value, list) else [value]) if str(one) not in there)
