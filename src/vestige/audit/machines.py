"""Whether the arms that an audit compares were computed alike: by one kind of machine, in as many threads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vestige.verdict import Flag


def computed_differently(found: Mapping[str, Any]) -> list[Flag]:
    """A flag for every attack whose arms are told to differ in what computed them; of arms that say nothing, nothing is told.

    Arguments:
        found: By attack, its arms' runs.
    """
    flags = []
    for name, rows in found.items():
        runs = [run for arm in ("edited", "never", "original") for run in rows[arm]]
        by = dict.fromkeys(_words(run.outcome["by"]) for run in runs if "by" in run.outcome)
        if len(by) > 1:
            text = f"{name}: its arms were computed by {' and by '.join(by)}; equal versions differ in rounding, others in anything"
            flags.append(Flag("computed-differently", "informing", text))
    return flags


def _words(by: Mapping[str, Any]) -> str:
    threads = f" in {by['threads']} thread{'s' if by['threads'] != 1 else ''}" if "threads" in by else ""
    return f"{by['device']} {by['which']}{threads} with torch {by['torch']}"
