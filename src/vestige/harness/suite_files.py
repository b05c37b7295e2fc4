"""A suite of a user's own: a TOML file of what `data/suites/*.toml` hold, in which every mistake is told at once.

Its content is what it is, not where it lies: results name it by its version and the first digits of a hash of all that it says. Order,
comments and white space make no difference.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from vestige import data, files, registry
from vestige.diffusion.sampling import Drawing
from vestige.errors import BadInput, BadSetting, shortened
from vestige.methods import Budget

WHOLE = {"pictures": 1, "select_pictures": 0, "utility_pictures": 1, "replicates": 1, "strip": 1}  # and the least of each
OPTIONAL = ("others", "lent", "positives", "looks", "sparing", "known")
REQUIRED = ("version", "about", *WHOLE, "plasticity", "protocol", "attacks")
PLAN = ("budget", "references", "settings", "worlds")
POSITIVES = ("remap", "uce", "negation")
DIGITS = 12


def is_file(name: str) -> bool:
    """Whether a suite's name is that of a file."""
    return name.lower().endswith(".toml")


def _looks(value: Any) -> bool:
    return isinstance(value, list) and all(_count(n, 3) for n in value) and all(a < b for a, b in itertools.pairwise(value))


def content_of(raw: Mapping[str, Any]) -> str:
    """Hash of all that a suite says, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(raw, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()


def read(path: Path) -> dict[str, Any]:
    """What a suite's file says.

    Errors:
        BadInput, with every mistake in one line: unknown or missing keys, attacks and settings, budgets that do not rise, wrong types.
    """
    if path.is_dir():
        raise BadInput(f"{path} is a folder; a suite is a name or a file, NAME.toml")
    if not path.is_file():
        raise BadInput(f"no suite file at {path}; `vestige list suites --template {path}` writes one to fill in")
    try:
        raw = data.toml(path.read_text(files.UTF8))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not valid TOML: {error}") from error
    if mistakes := list(_mistakes(raw)):
        raise BadInput(f"{path} is no suite: {'; '.join(mistakes)}")
    return raw


def _mistakes(raw: Mapping[str, Any]) -> Iterable[str]:
    yield from _unknown("", raw, (*REQUIRED, *OPTIONAL))
    if missing := [key for key in REQUIRED if key not in raw]:
        yield f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
    for key in ("version", "about"):
        yield from _wrong(key, raw, lambda v: isinstance(v, str) and v.strip() == v != "" and "\n" not in v, "a text on one line")
    for key, least in WHOLE.items():
        yield from _wrong(key, raw, lambda v, least=least: _count(v, least), f"a whole number from {least} on")  # type: ignore[misc]
    for key in ("plasticity", "sparing"):
        yield from _wrong(key, raw, lambda v: isinstance(v, bool), "true or false")
    yield from _wrong("positives", raw, lambda v: isinstance(v, list) and set(v) <= set(POSITIVES), f"a list of {', '.join(POSITIVES)}")
    yield from _wrong("looks", raw, _looks, "numbers of replicates that rise, 3 or more")
    if "others" in raw:
        yield from _budget("others", raw["others"])
    yield from _protocol(raw.get("protocol", {}))
    for part in ("attacks", "lent"):
        table = raw.get(part, {})
        if not isinstance(table, dict) or not all(isinstance(plan, dict) for plan in table.values()):
            yield f"{part} holds a table an attack, [{part}.memora]"
            continue
        for name, plan in table.items():
            yield from _attack(f"{part}.{name}", name, plan)
    yield from _known(raw)
    if raw.get("attacks") == {}:
        yield "attacks names none"


def _protocol(table: Any) -> Iterable[str]:
    if not isinstance(table, dict):
        yield "protocol is a table, [protocol]"
        return
    yield from _unknown("protocol.", table, [f.name for f in fields(Drawing)])
    for key in ("steps", "batch"):
        yield from _wrong(key, table, lambda v: _count(v, 1), "a whole number from 1 on", "protocol.")
    yield from _wrong("guidance", table, lambda v: isinstance(v, int | float) and not isinstance(v, bool), "a number", "protocol.")
    if missing := [f.name for f in fields(Drawing) if f.name not in table and f.name != "batch"]:
        yield f"protocol lacks {' and '.join(missing)}"


def _attack(where: str, name: str, plan: Mapping[str, Any]) -> Iterable[str]:
    known = registry.names("attacks")
    if name not in known:
        yield f"unknown attack {name!r} in {where.partition('.')[0]}{_meant(name, known)}"
        return
    yield from _unknown(f"{where}.", plan, PLAN)
    yield from _budget(f"{where}.budget", plan.get("budget"))
    yield from _wrong("references", plan, lambda v: _count(v, 0), "a whole number from 0 on", f"{where}.")
    if "pictures" in registry.find("attacks", name).needs and not plan.get("references"):
        yield f"{where}.references is missing: {name} needs pictures of the concept"
    worlds = plan.get("worlds", {})
    for spot, settings in (("settings", plan.get("settings", {})), *((f"worlds.{w}", s) for w, s in dict(worlds).items())):
        if isinstance(settings, dict):
            yield from (f"{where}.{spot}: {mistake}" for mistake in _settings(name, settings))
        else:
            yield f"{where}.{spot} is a table of settings"


def conditions_of(raw: Mapping[str, Any]) -> str:
    """Hash of what numbers that are measured under a suite depend on: all but its name, its purpose and what is known under it."""
    return content_of({key: value for key, value in raw.items() if key not in ("version", "about", "known")})[:DIGITS]


def _known(raw: Mapping[str, Any]) -> Iterable[str]:
    """What is wrong with what is known of controls, which `vestige calibrate` writes and nobody else."""
    table, again = raw.get("known", {}), "run `vestige calibrate` again, or take [known] out"
    told = ("of", "model", "where")
    if not isinstance(table, dict) or (table and not all(isinstance(table.get(key), str) for key in told)):
        yield f"known is a table with {', '.join(told)}; {again}"
        return
    for name, found in ((key, value) for key, value in table.items() if key not in told):
        never = found.get("never") if isinstance(found, dict) else None
        if not isinstance(never, dict) or not all(isinstance(rows, dict) and _rows(rows) for rows in never.values()):
            yield f"known.{name} holds models, areas and ends by concept, rows of equal length; {again}"
    if table and table["of"] != conditions_of(raw):
        yield f"known was measured under other settings than those that stand here now; {again}"


def _rows(rows: Mapping[str, Any]) -> bool:
    """Whether models, areas and ends fit together: a row a model, a number a replicate."""
    tables = [rows.get("areas"), rows.get("ends")]
    if not all(isinstance(t, list) and t and all(isinstance(row, list) and row for row in t) for t in tables):
        return False
    sizes = {(len(t), *map(len, t)) for t in tables if t is not None}
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for t in tables for row in t or () for x in row)
    return len(sizes) == 1 and len(set(next(iter(sizes))[1:])) == 1 and isinstance(rows.get("models"), list) and numbers


def text_of(raw: Mapping[str, Any], place: str = "") -> str:
    """A suite as TOML: what is plain first, then tables."""
    lines = [f"{key} = {_value(value)}" for key, value in raw.items() if not isinstance(value, Mapping) and value is not None]
    parts = ["\n".join(lines)] if lines else []
    for key, value in raw.items():
        if isinstance(value, Mapping):
            where = f"{place}{_bare(key)}"
            head = f"[{where}]\n" if any(not isinstance(v, Mapping) for v in value.values()) else ""
            parts.append(f"{head}{text_of(value, f'{where}.')}")
    return "\n\n".join(part for part in parts if part).strip("\n") + ("\n" if not place else "")


def _value(value: Any) -> str:
    return "[" + ", ".join(map(_value, value)) + "]" if isinstance(value, list | tuple) else json.dumps(value, ensure_ascii=False)


def _bare(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)


def _settings(name: str, settings: Mapping[str, Any]) -> Iterable[str]:
    """What is wrong with an attack's settings, one by one, else together."""
    known = [f.name for f in fields(registry.find("attacks", name))]
    wrong = [f"unknown setting {key!r}{_meant(registry.ELSEWHERE.get(key, key), known)}" for key in settings if key not in known]
    for key in (key for key in settings if key in known):
        value = settings[key]
        try:
            registry.checked("attacks", name, key, value)
        except BadSetting as error:
            wrong.append(str(error))
    if not wrong:
        try:
            registry.build("attacks", name, settings)
        except BadSetting as error:
            wrong.append(str(error))
    return wrong


def _budget(where: str, points: Any) -> Iterable[str]:
    if not isinstance(points, list) or not all(_count(p, 0) for p in points):
        yield f"{where} is a list of whole numbers, e.g. [0, 2, 5, 12]; given {shortened(str(points), 40)}"
        return
    try:
        Budget(tuple(points))
    except ValueError:
        yield f"{where} rises from 0 without repeats; given {points}"


def _count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _wrong(key: str, table: Mapping[str, Any], right: Callable[[Any], bool], wants: str, where: str = "") -> Iterable[str]:
    if key in table and not right(table[key]):
        yield f"{where}{key} is {wants}; given {shortened(str(table[key]), 40)}"


def _unknown(where: str, table: Mapping[str, Any], known: Iterable[str]) -> Iterable[str]:
    names = list(known)
    for key in table:
        if key not in names:
            yield f"unknown key {where}{key}{_meant(key, names)}"


def _meant(given: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f", did you mean {close[0]}?" if close else ""
