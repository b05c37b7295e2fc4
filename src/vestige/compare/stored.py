"""What an audit's file says, as the verdict's own terms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.special import stdtrit  # type: ignore[import-untyped]

from vestige.compare.gathering import Audited
from vestige.verdict import Interval
from vestige.verdict.pooling import Values
from vestige.verdict.savings import Measures
from vestige.verdict.spread import Spread


def as_told(result: Mapping[str, Any], attack: str, level: float) -> Measures:
    """An audit's own numbers.

    Arguments:
        level: Of its intervals, where an older file does not say.
    """
    told = result["attacks"][attack]
    speedup, savings, reach = (read_interval(told.get(key) or {}) for key in ("speedup", "savings", "reach"))
    logs = Interval(*(-math.inf if x <= 0 else math.log(x) for x in (speedup.value, speedup.low, speedup.high)))
    spreads, models = spreads_of(result, attack)
    rows = tuple(read_number(x) for x in told.get("log_speedups") or ())
    censored = bool(told.get("censored"))
    level, (fast, far) = float(told.get("level") or level), told.get("least") or (0.0, 0.0)
    least, own = (float(fast), float(far)), (speedup, savings, reach, censored, math.nan, len(rows), rows)
    return Measures(logs, *own, (), level, controls=models, spreads=spreads, least=least)


def logs_of(audits: Sequence[Audited], attack: str) -> Values:
    """log F of every edit in every replicate; not a number where a file says none."""
    rows = ((one, one.result["attacks"][attack].get("log_speedups") or ()) for one in audits)
    return {(one.edit, seed): read_number(x) for one, row in rows for seed, x in zip(one.seeds, row, strict=False)}


def spreads_of(result: Mapping[str, Any], attack: str) -> tuple[tuple[Spread | None, Spread | None], int]:
    """What an audit knew of never-models' spread in log F and in reach, and how many never-models it has.

    A result tells the reach that one in twenty exceeds, not the variance: it is had back with log F's degrees of freedom.
    """
    models = max(1, len((result.get("control") or {}).get("names") or []))
    told = result["attacks"][attack].get("spread")
    if not told:
        return (None, None), models
    freedom = float(told["freedom"])
    own = (int(told.get("concepts", 0)), int(told.get("own", 0)), str(told.get("source", "")))
    far = read_number(told.get("reach"))
    reach = None if math.isnan(far) else Spread((far / float(stdtrit(freedom, 0.95))) ** 2, freedom, *own)
    return (Spread(float(told["sd"]) ** 2, freedom, *own), reach), models


def at(value: Any, *keys: str) -> Any:
    """What lies under these keys, one inside the other; None where one is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def read_interval(told: Mapping[str, Any]) -> Interval:
    """An interval, open where an end is missing, of which nothing is known where its value is."""
    value, low, high = (told.get(end) for end in ("value", "low", "high"))
    if value is None:
        return Interval(math.nan, math.nan, math.nan)
    return Interval(float(value), -math.inf if low is None else float(low), math.inf if high is None else float(high))


def read_number(value: Any) -> float:
    """A number; not one where it is missing."""
    return math.nan if value is None else float(value)
