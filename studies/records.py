"""What outlives the machine: of every finished audit the part that pages are made of, a line each, in a file beside its page.

A page says nothing that its records do not hold, so anyone can make it again, and what one machine has finished no other repeats. A
record bears the key of its audit, the hash of all that the audit depends on: one of another suite, model or setting is never taken for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vestige import files

Record = dict[str, Any]
MADE = ("vestige", "torch", "model_hash", "edited_hash", "seeds", "edit_seed")
WHOLE = ("suite", "model", "concept", "control", "diagnostics")
GROUPS, STAGES = ("neighbours", "unrelated"), ("before", "after", "after_attack")
ARMS = ("edited", "never")
HOW = ("settings", "ways", "edited_variant", "never_variant")


def record(key: str, audit: Mapping[str, Any]) -> Record:
    """The part of an audit's result, or of a record, that is kept."""
    told = audit["provenance"]
    return {
        "key": key,
        **{name: audit[name] for name in WHOLE if name in audit},
        "plain": {arm: _rate(found) for arm, found in audit["plain"].items() if arm in ("original", *ARMS)},
        "utility": {g: {s: _rate(audit["utility"][g].get(s)) for s in STAGES} for g in GROUPS},
        "attacks": {name: _attack(found) for name, found in audit["attacks"].items()},
        "provenance": {name: told[name] for name in MADE if name in told},
        "cost": {"seconds": audit["cost"]["seconds"]},
    }


def _rate(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if found is None else {name: found[name] for name in ("value", "count", "replicates") if name in found}


def _attack(found: Mapping[str, Any]) -> dict[str, Any]:
    arms = {}
    for arm in ARMS:
        one = found["arms"][arm]
        arms[arm] = {"replicates": one["replicates"], "curve": [{"budget": point["budget"]} for point in one["curve"]]}
    return {"arms": arms, **{name: found[name] for name in HOW if name in found}}


def at(value: Any, *keys: str | int) -> Any:
    """What lies below a path of keys and places in plain data; None where it ends early."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else value[key] if isinstance(key, int) and value else None
    return value


def read(place: Path) -> dict[str, Record]:
    """Key -> record, of one file or of every file in a folder; nothing where there is none."""
    places = sorted(place.glob("*.jsonl")) if place.is_dir() else [place] if place.exists() else []
    found = (json.loads(line) for file in places for line in file.read_text("utf-8").splitlines())
    return {one["key"]: one for one in found}


def write(file: Path, kept: Iterable[Mapping[str, Any]]) -> None:
    """Write records, whole or not at all."""
    lines = (json.dumps(one, sort_keys=True, separators=(",", ":")) + "\n" for one in kept)
    files.make(file.parent)
    files.write(file.parent, file.name, "".join(lines).encode())
