"""What outlives the machine: of everything that finished the part that pages are made of, a line each, in a file beside its page.

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
WHOLE = ("suite", "model", "concept", "control")
MADE = ("vestige", "torch", "model_hash", "edited_hash", "seeds", "edit_seed")
STAGES, ARMS = ("before", "after"), ("edited", "never")
FOUND = ("speedup", "savings", "reach", "censored", "log_speedups", "spread")


def audit(result: Mapping[str, Any]) -> Record:
    """Of an audit's result what `vestige.compare` makes a row of; of such a part itself.

    A result whose attacks have more than the two arms and their ends is not refused: the rest is left out.
    """
    plain, told = result["plain"], result["provenance"]
    return {
        **{name: result[name] for name in WHOLE},
        "plain": {arm: _rate(plain.get(arm)) for arm in ("original", *ARMS, "recall")},
        "utility": {group: {stage: _rate(rows.get(stage)) for stage in STAGES} for group, rows in result["utility"].items()},
        "attacks": {name: _attack(found) for name, found in result["attacks"].items()},
        "provenance": {name: told[name] for name in MADE if name in told},
    }


def _rate(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if found is None else {name: found[name] for name in ("value", "low", "high", "count", "replicates") if name in found}


def _attack(found: Mapping[str, Any]) -> dict[str, Any]:
    arms = {}
    for arm in ARMS:
        one = found["arms"][arm]
        arms[arm] = {"replicates": one["replicates"], "curve": [{"budget": point["budget"]} for point in one["curve"]]}
    return {"arms": arms, **{name: found.get(name) for name in FOUND}}


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
