"""Rates among judged pictures with their intervals and who measured them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vestige.verdict.intervals import Hits, judged, share, wilson


@dataclass(frozen=True)
class Score:
    """A rate among the pictures that could be judged, with its 95 % interval, and who measured it; NaN where none could be.

    Arguments:
        count: Pictures that were judged.
        detector: Whose scores were counted, and by `version`, `weights_hash` and `threshold`, which of its states.
        missing: Pictures that could not be judged; they are in no rate.
    """

    value: float
    low: float
    high: float
    count: int
    detector: str
    version: str = ""
    weights_hash: str = ""
    threshold: float | None = None
    missing: int = 0

    def __str__(self) -> str:
        told = f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]" if self.count else "undefined"
        lost = f", {self.missing} missing" if self.missing else ""
        level = "" if self.threshold is None else f" from {self.threshold:g}"
        return f"{told} of {self.count}{lost} by {self.detector} {self.version}{level}"


def crossed(scores: Tensor, threshold: float) -> list[bool | None]:
    """Scores (B,) as hits; NaN is missing."""
    return [None if math.isnan(score) else score >= threshold for score in scores.tolist()]


def score(
    hits: Hits, *, detector: str = "", version: str = "", weights_hash: str = "", threshold: float | None = None, units: Sequence[Any] = ()
) -> Score:
    """A rate with its 95 % interval: Wilson's over pictures, or a bootstrap over the units that pictures belong to.

    Arguments:
        units: Of each picture its prompt, say: pictures of one prompt are no independent evidence. () takes every picture for itself.
    """
    seen, low, high = judged(hits), math.nan, math.nan
    if seen:
        low, high = _bootstrap(hits, units) if units else _wilson_ends(sum(seen), len(seen))
    return Score(share(seen), low, high, len(seen), detector, version, weights_hash, threshold, len(hits) - len(seen))


def _wilson_ends(count: int, total: int) -> tuple[float, float]:
    found = wilson(count, total)
    return found.low, found.high


def _bootstrap(hits: Hits, units: Sequence[Any], resamples: int = 2000) -> tuple[float, float]:
    """Percentiles over resampled units, never narrower than Wilson's interval over pictures: of few units a bootstrap knows too little.

    Where all pictures agree, and a bootstrap sees no spread, Wilson's over units. One unit is all there is to say something about:
    then its pictures are the evidence.
    """
    import numpy as np

    if len(units) != len(hits):
        raise ValueError(f"one unit a picture: {len(hits)} pictures, {len(units)} units")
    rows: dict[Any, list[bool]] = {}
    for unit, hit in zip(units, hits, strict=True):
        if hit is not None:
            rows.setdefault(unit, []).append(hit)
    counts = np.array([(sum(row), len(row)) for row in rows.values()], dtype=float)
    whole = _wilson_ends(int(counts[:, 0].sum()), int(counts[:, 1].sum()))
    if len(rows) == 1:
        return whole
    if counts[:, 0].sum() in (0, counts[:, 1].sum()):
        return _wilson_ends(len(rows) if counts[0, 0] else 0, len(rows))
    picked = np.random.default_rng(0).integers(0, len(rows), (resamples, len(rows)))
    drawn = counts[picked].sum(1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], (0.025, 0.975))
    return min(float(low), whole[0]), max(float(high), whole[1])
