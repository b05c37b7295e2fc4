"""A grid's file, in which every mistake is told at once, before anything runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vestige import audit, continual, data, files
from vestige.audit import Request
from vestige.audit.plan import Plan
from vestige.continual import Order
from vestige.continual.plan import SequencePlan
from vestige.errors import BadInput, VestigeError, shortened
from vestige.grid.cells import GridCell, expanded, matches
from vestige.grid.values import sound

AXES = ("models", "concepts", "seeds", "suites", "attacks")
PARTS = ("about", "axes", "attacks", "unlearners", "sequences", "common", "only", "without")
UNLEARNER = ("method", "edit", "name", "settings", "preset", "alternative")
FILTER = ("model", "concept", "requests", "unlearner", "suite", "attacks", "swept", "seed", "mode")
ON_AXES = frozenset({"model", "concept", "suite", "edit_seed", "unlearner", "edit", "attacks", "preset", "alternative"})
OF_SEQUENCES = frozenset({"model", "method", "mode", "suite", "seed", "preset", "guards", "withdrawn", "accept"})
MOST = 100_000  # cells
KINDS: Mapping[type, str] = {str: "a text", int: "a whole number", bool: "true or false", dict: "a table"}


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
    if mistakes := list(_form(raw)):  # without its form nothing can be said of its cells
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


# The form


def _form(raw: Mapping[str, Any]) -> Iterable[str]:
    yield from _unknown("", raw, PARTS)
    axes = raw.get("axes", {})
    if not isinstance(axes, dict):
        yield "axes is a table, [axes]"
        return
    yield from _unknown("axes.", axes, AXES)
    for axis in AXES:
        if axis in axes:
            yield from _axis(axis, axes[axis])
    yield from _tables("unlearners", raw, UNLEARNER, _unlearner)
    yield from _tables("sequences", raw, ["modes", *(f.name for f in fields(Order) if f.name not in OF_SEQUENCES)], _sequence)
    for part in ("only", "without"):
        yield from _tables(part, raw, FILTER, _filter)
    yield from _common(raw.get("common", {}))
    yield from _attacks(raw)
    if not raw.get("unlearners"):
        yield 'unlearners names none, e.g. [[unlearners]] with method = "esd"; "none" audits a model as it is'
    if not axes.get("concepts") and not raw.get("sequences"):
        yield "axes.concepts names no concept, and there are no sequences"
    if (count := _count(raw)) > MOST:
        yield f"it may have {count:,} cells, and {MOST:,} are the most"


def _axis(axis: str, value: Any) -> Iterable[str]:
    whole = axis == "seeds"
    right = (lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 0) if whole else (lambda v: isinstance(v, str) and v)
    if wrong := _misfits(value, right):
        yield f"axes.{axis} is a list of {'whole numbers from 0 on' if whole else 'texts'}; given {wrong}"
    if axis == "attacks":
        yield from _attacks_twice(value)
    if isinstance(value, list) and (twice := list(dict.fromkeys(repr(v) for i, v in enumerate(value) if v in value[:i]))):
        yield f"axes.{axis} names something twice: {', '.join(twice)}"


def _attacks_twice(points: Any) -> Iterable[str]:
    """Points that are one by what they run, or run an attack twice."""
    seen = dict[tuple[str, ...], str]()
    for point in (p for p in points if isinstance(p, str)) if isinstance(points, list) else ():
        names = tuple(sorted(point.split("+")))
        if len(set(names)) < len(names):
            yield f"axes.attacks: {shortened(point, 40)} names an attack twice"
        elif seen.setdefault(names, point) != point:
            yield f"axes.attacks: {shortened(point, 40)} is {shortened(seen[names], 40)} in another order; leave one of them out"


def _misfits(value: Any, right: Callable[[Any], object], *, empty: bool = False) -> str:
    """Every value of a list that is not right, or what stands in its place; "" where all are.

    Arguments:
        empty: A list of nothing is right.
    """
    if not isinstance(value, list) or not (value or empty):
        return shortened(str(value), 40)
    return ", ".join(shortened(str(v), 40) if isinstance(v, str) else str(v) for v in value if not right(v))


def _tables(
    part: str, raw: Mapping[str, Any], known: Iterable[str], more: Callable[[str, Mapping[str, Any]], Iterable[str]]
) -> Iterable[str]:
    tables = raw.get(part, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        yield f"{part} is a list of tables, [[{part}]]"
        return
    for number, table in enumerate(tables, 1):
        where = f"{part}[{number}]."
        yield from _unknown(where, table, known)
        yield from more(where, table)


def _unlearner(where: str, table: Mapping[str, Any]) -> Iterable[str]:
    if ("method" in table) == ("edit" in table):
        yield f"{where[:-1]} names a method or an edit, one of them"
    for key in ("method", "edit", "name", "preset", "alternative"):
        if key in table and not (isinstance(table[key], str) and table[key]):
            yield f"{where}{key} is a text"
    settings = table.get("settings", {})
    if not isinstance(settings, dict) or any(v == [] for v in settings.values()):
        yield f"{where}settings is a table; a list there is an axis, and none is empty"
        return
    if settings and ("edit" in table or table.get("method") == "none"):
        yield f"{where}settings are of a method that makes an edit, and here none does; leave them out"
    for key, value in settings.items():
        if isinstance(value, dict):
            yield f"{where}settings.{key} is a table; settings are called there without their method, e.g. settings = {{ steps = 100 }}"
        if isinstance(value, list) and len({str(point) for point in value}) < len(value):
            yield f"{where}settings.{key} names something twice; given {shortened(str(value), 40)}"
        yield from _endless(f"{where}settings.{key}", value)


def _filter(where: str, table: Mapping[str, Any]) -> Iterable[str]:
    if not table:
        yield f'{where[:-1]} names no axis, e.g. concept = "bag"'


def _endless(where: str, value: Any) -> Iterable[str]:
    """Numbers that are none, or without an end."""
    if any(isinstance(v, float) and not math.isfinite(v) for v in (value if isinstance(value, list) else [value])):
        yield f"{where} is a finite number; given {shortened(str(value), 40)}"


def _shared(where: str, settings: Any) -> Iterable[str]:
    """Settings that are called by their method and name."""
    for key, value in settings.items() if isinstance(settings, dict) else ():
        if isinstance(value, dict):
            yield f'{where}settings.{key} is a table; put the whole name in quotes, "{".".join([key, *list(value)[:1]])}" = ...'
        yield from _endless(f"{where}settings.{key}", value)


def _of_kind(where: str, table: Mapping[str, Any], usual: Mapping[str, Any]) -> Iterable[str]:
    """Values of another kind than what is usual."""
    for key, value in table.items():
        kind = type(usual.get(key))
        if kind in KINDS and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            yield f"{where}{key} is {KINDS[kind]}; given {shortened(str(value), 40)}"


def _attacks(raw: Mapping[str, Any]) -> Iterable[str]:
    """Settings of attacks, where they stand."""
    attacks = raw.get("attacks", {})
    if not isinstance(attacks, dict) or not all(isinstance(table, dict) for table in attacks.values()):
        yield "attacks is a table of attacks' settings, e.g. [attacks] with memora.rank = [1, 4, 16]; which attacks run says axes.attacks"
        return
    for name, table in attacks.items():
        for key, value in table.items():
            points = value if isinstance(value, list) else [value]
            if not points or len({str(point) for point in points}) < len(points):
                yield f"attacks.{name}.{key} is a value or a list of different ones; given {shortened(str(value), 40)}"
            yield from _endless(f"attacks.{name}.{key}", value)
            for place in _set_elsewhere(raw, f"{name}.{key}"):
                yield f"attacks.{name}.{key} is set in {place} too; leave one of them out"


def _set_elsewhere(raw: Mapping[str, Any], key: str) -> Iterable[str]:
    chains = raw.get("sequences")
    numbered = enumerate(chains if isinstance(chains, list) else (), 1)
    for place, table in (("common", raw.get("common")), *((f"sequences[{i}]", t) for i, t in numbered)):
        if isinstance(table, dict) and isinstance(table.get("settings"), dict) and key in table["settings"]:
            yield f"{place}.settings"


def _sequence(where: str, table: Mapping[str, Any]) -> Iterable[str]:
    for key in ("requests", "modes", "attacks"):
        value = table.get(key, [] if key == "requests" else ["-"])
        if wrong := _misfits(value, lambda v: isinstance(v, str) and v, empty=key == "attacks"):
            yield f"{where}{key} is a list of names; given {wrong}"
    if (modes := table.get("modes")) and isinstance(modes, list) and len({str(mode) for mode in modes}) < len(modes):
        yield f"{where}modes names something twice; given {shortened(str(modes), 40)}"
    yield from _of_kind(where, table, {f.name: getattr(Order(), f.name) for f in fields(Order) if f.name not in OF_SEQUENCES})
    yield from _shared(where, table.get("settings"))


def _common(common: Any) -> Iterable[str]:
    if not isinstance(common, dict):
        yield "common is a table, [common]"
        return
    yield from _unknown("common.", common, [f.name for f in fields(Request) if f.name not in ON_AXES])
    if wrong := _misfits(common.get("seeds", []), lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 0, empty=True):
        yield f"common.seeds is a list of whole numbers from 0 on, the attacks' replicates; given {wrong}"
    yield from _of_kind("common.", common, {f.name: getattr(Request(), f.name) for f in fields(Request) if f.name not in ON_AXES})
    yield from _shared("common.", common.get("settings"))


def _count(raw: Mapping[str, Any]) -> int:
    """Cells before any filter, at most, without making them."""
    ways, axes = 0, raw.get("axes", {})
    for entry in raw.get("unlearners", ()) if isinstance(raw.get("unlearners"), list) else ():
        one = 1
        for value in entry.get("settings", {}).values() if isinstance(entry, dict) and isinstance(entry.get("settings", {}), dict) else ():
            one *= len(value) if isinstance(value, list) else 1
        ways += one
    for axis in AXES:
        ways *= max(1, len(axes[axis])) if isinstance(axes.get(axis), list) else 1
    for table in raw["attacks"].values() if isinstance(raw.get("attacks"), dict) else ():
        for value in table.values() if isinstance(table, dict) else ():
            ways *= len(value) if isinstance(value, list) else 1
    return ways


def _unknown(where: str, table: Mapping[str, Any], known: Iterable[str]) -> Iterable[str]:
    import difflib

    names = list(known)
    for key in table:
        if key not in names:
            close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
            yield f"unknown key {where}{key}{f', did you mean {close[0]}?' if close else ''}"
