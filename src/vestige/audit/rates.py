"""Rates and curves of stored runs as a result shows them: plain data, null where nothing could be judged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vestige import runs
from vestige.harness import arms
from vestige.metrics import judge
from vestige.metrics.judge import Hits, share
from vestige.verdict import Interval
from vestige.verdict.savings import Measures, wilson


def hits(run: runs.Run, point: int) -> list[bool | None]:
    """What the verification judge saw at a point of the budget."""
    return list(run.outcome["points"][point]["hits"])


def replicates(rows: Sequence[runs.Run]) -> list[list[float | None]]:
    """Best so far at every budget, a row a replicate."""
    return [[defined(x) for x in arms.curve(r.outcome["points"], best_so_far=True)[0]] for r in rows]


def pooled(rows: Sequence[runs.Run]) -> float:
    """The rate at the first point of the budget, over all replicates."""
    return share([hit for run in rows for hit in hits(run, 0)])


def rate(found: Hits) -> dict[str, Any]:
    """A rate among the pictures that were judged, with its interval; null where none was."""
    seen = judge.judged(found)
    lost = {"missing": len(found) - len(seen)} if len(seen) < len(found) else {}
    if not seen:
        return {"value": None, "low": None, "high": None, "count": 0, **lost}
    return {**wilson(sum(seen), len(seen)).as_dict(), "count": len(seen), **lost}


def curve(budgets: Sequence[int], found: Sequence[Hits]) -> list[dict[str, Any]]:
    """A rate with its interval at every budget, and how many pictures are in none."""
    made = []
    for budget, row in zip(budgets, map(rate, found), strict=True):
        lost = {"missing": row["missing"]} if "missing" in row else {}
        made.append({"budget": budget, "score": row["value"], "low": row["low"], "high": row["high"], **lost})
    return made


def defined(value: float) -> float | None:
    """Null for NaN."""
    return None if math.isnan(value) else value


def interval(shown: Mapping[str, Any]) -> Interval:
    """A rate as `rate` shows it, to compute with."""
    value, low, high = (math.nan if shown[end] is None else shown[end] for end in ("value", "low", "high"))
    return Interval(value, low, high)


def measured(found: Measures) -> dict[str, Any]:
    """The three measures of an attack."""
    return {key: getattr(found, key).as_dict() for key in ("savings", "speedup", "reach")}
