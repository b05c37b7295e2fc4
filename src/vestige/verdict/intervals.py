"""Rates, means and their intervals. Arithmetic only; a picture that could not be judged is in no rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]

Hits = Sequence["bool | None"]  # of each picture, whether it shows what was looked for or asked for; None: it could not be judged
Seen = Mapping[str, Hits]  # a row of hits by concept


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its interval, infinite where there is none."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float | None]:
        """Plain data for JSON; NaN and infinities become None."""
        return dict(jsonable(asdict(self)))

    def as_recall(self, floor: float, ceiling: float, between: tuple[float, float] | None = None) -> Interval:
        """A rate as recall, `(s - floor) / (ceiling - floor)`; NaN unless the ceiling lies above the floor.

        Arguments:
            between: Ends between which the ceiling may lie, which the recall's interval then spans; None takes it as given.
        """
        span = ceiling - floor if ceiling > floor else math.nan
        found = Interval((self.value - floor) / span, (self.low - floor) / span, (self.high - floor) / span)
        return spanned(found, [self.as_recall(floor, end) for end in between or ()])


def wilson(hits: int, count: int, level: float = 0.95) -> Interval:
    """Score interval for a rate of `hits` among `count` >= 1, coverage `level` in (0, 1) (Wilson, 1927)."""
    if count < 1 or not 0 <= hits <= count or not 0 < level < 1:
        raise ValueError(f"a rate needs 0 <= hits <= count, count >= 1, 0 < level < 1; given {hits} of {count} at {level}")
    z, rate = NormalDist().inv_cdf((1 + level) / 2), hits / count
    centre = (rate + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(rate * (1 - rate) / count + z**2 / (4 * count**2))
    return Interval(rate, max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half)))


def t_interval(values: Sequence[float], level: float, count: float) -> Interval:
    """Mean of `values` and its t interval if there were `count` of them with this spread, df = count - 1."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf)
    if math.isinf(count):
        return Interval(mean, mean, mean)
    half = float(stdtrit(count - 1, (1 + level) / 2)) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half)


def two_sided(found: Interval, level: float, freedom: float) -> float:
    """p against 0 that belongs to a t interval: 1 less the level at which 0 would be its end.

    Arguments:
        level: The interval's own, in (0, 1).
        freedom: Its degrees of freedom, of which the half-width tells the standard error.

    Returns:
        A number in [0, 1]; NaN where there is no value, no half-width, or one of 0 or without an end.
    """
    half = found.value - found.low if found.value > 0 else found.high - found.value  # the side on which 0 lies
    if not (math.isfinite(found.value) and math.isfinite(half) and half > 0):
        return math.nan
    return 2 * float(stdtr(freedom, -abs(found.value) * float(stdtrit(freedom, (1 + level) / 2)) / half))


def spanned(found: Interval, others: Sequence[Interval]) -> Interval:
    """An estimate with an interval that spans its own and others'; one of the others that is undefined bounds nothing."""
    if not others or math.isnan(found.value):
        return found
    lows = [-math.inf if math.isnan(o.low) else o.low for o in others]
    highs = [math.inf if math.isnan(o.high) else o.high for o in others]
    return Interval(found.value, min(found.low, *lows), max(found.high, *highs))


def jsonable(value: Any) -> Any:
    """Data for JSON: tuples as lists, null for what is not finite."""
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def judged(hits: Hits) -> list[bool]:
    """The hits of those pictures that could be judged."""
    return [hit for hit in hits if hit is not None]


def share(hits: Hits) -> float:
    """The rate among pictures that could be judged; NaN where none could."""
    seen = judged(hits)
    return sum(seen) / len(seen) if seen else math.nan


def rate(found: Hits, level: float = 0.95) -> dict[str, Any]:
    """A rate among the pictures that were judged, with its interval; null where none was."""
    seen = judged(found)
    lost = {"missing": len(found) - len(seen)} if len(seen) < len(found) else {}
    if not seen:
        return {"value": None, "low": None, "high": None, "count": 0, **lost}
    return {**wilson(sum(seen), len(seen), level).as_dict(), "count": len(seen), **lost}


def defined(value: float) -> float | None:
    """Null for NaN."""
    return None if math.isnan(value) else value


def interval_of(shown: Mapping[str, Any]) -> Interval:
    """A rate as `rate` shows it, to compute with."""
    value, low, high = (math.nan if shown[end] is None else shown[end] for end in ("value", "low", "high"))
    return Interval(value, low, high)


def paired_hits(one: Hits, other: Hits) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two states' hits at equal seeds, as numbers, without the pictures of which either could not be judged."""
    both = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    table = np.array(both, dtype=float).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def drop(before: Seen, after: Seen) -> dict[str, Any] | None:
    """Mean over concepts of the fall in accuracy; None without pictures.

    The interval is normal on paired differences. Their variance is pooled over concepts, differences between concepts
    included, because a few pictures a concept give no variance of their own.

    Arguments:
        before: For each concept its pictures from one state.
        after: The same concepts and seeds from another.
    """
    gaps = [then - now for then, now in (paired_hits(before[c], after[c]) for c in before) if len(then)]
    if not gaps:
        return None
    flat, value = np.concatenate(gaps), float(np.mean([g.mean() for g in gaps]))
    if len(flat) < 2:
        return {"value": value, "low": None, "high": None, "count": len(flat)}
    half = 1.96 * math.sqrt(float(flat.var(ddof=1)) * sum(1 / len(g) for g in gaps)) / len(gaps)
    return {"value": value, "low": value - half, "high": value + half, "count": len(flat)}


def fell(before: Hits, after: Hits) -> tuple[float, float]:
    """Mean drop over pictures at equal seeds, and the lower end of its 95 % interval; none without two pairs."""
    found = drop({"": before}, {"": after})
    return (0.0, -math.inf) if found is None or found["low"] is None else (found["value"], found["low"])
