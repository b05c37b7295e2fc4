"""The form of a grid's file: which keys there are and of what kind their values, told without making a cell."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

from vestige.audit import Request
from vestige.continual import Order
from vestige.errors import shortened

AXES = ("models", "concepts", "seeds", "suites", "attacks")
PARTS = ("about", "axes", "attacks", "unlearners", "sequences", "common", "only", "without")
UNLEARNER = ("method", "edit", "name", "settings", "preset", "alternative")
FILTER = ("model", "concept", "requests", "unlearner", "suite", "attacks", "swept", "seed", "mode")
ON_AXES = frozenset({"model", "concept", "suite", "edit_seed", "unlearner", "edit", "attacks", "preset", "alternative"})
OF_SEQUENCES = frozenset({"model", "method", "mode", "suite", "seed", "preset", "guards", "withdrawn", "accept"})
MOST = 100_000  # cells
KINDS: Mapping[type, str] = {str: "a text", int: "a whole number", bool: "true or false", dict: "a table"}


def mistakes_of(raw: Mapping[str, Any]) -> Iterable[str]:
    """Every mistake in the form of a grid, a line each; cells are not looked at."""
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
    names = list(known)
    for key in table:
        if key not in names:
            close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
            yield f"unknown key {where}{key}{f', did you mean {close[0]}?' if close else ''}"
