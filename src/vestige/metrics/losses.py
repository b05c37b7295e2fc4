"""How much of what must stay an edit cost, where nobody can say of a picture whether it is right: against the original's own pictures.

Three sets of pictures at equal seeds: the original's for captions (0 lost), the edited model's for the same captions, and the original's
for no prompt at all (1, everything lost: what a model draws that reads no caption any more).

    by a score of picture and caption    L = mean(b - a) / mean(b - z)
    by a distance between features       L = sqrt(KID(before, after) / KID(before, nothing))

b, a and z are the three pictures' CLIP scores for the caption. KID is a squared distance of means in its kernel's space: where a share L of
the pictures has become unprompted, it is L^2 of the whole way. Both are shares of pictures, so that what may be lost is what may be
lost of an accuracy. Source: the scale is ours; CLIP score and KID are the field's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vestige.verdict import Interval

Array = NDArray[np.float64]
SURE = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class LostShare:
    """A share lost, with its 95 % interval; NaN where it could not be measured.

    Arguments:
        error: Standard error, of the share to the power `power`.
        power: 1, or 2 for squared distances.
        count: Pictures a set.
        shown: The measure itself, by set, for people.
    """

    share: Interval
    error: float
    power: int
    count: int
    shown: dict[str, float]

    @property
    def known(self) -> bool:
        """Whether it was measured."""
        return not math.isnan(self.share.low)

    def noticeable(self, allowed: float, power: float) -> float:
        """The smallest share lost whose interval would have stayed above `allowed` in a share `power` of audits; at most 1, or infinite."""
        if not self.known:
            return math.inf
        least = (allowed**self.power + (SURE + NormalDist().inv_cdf(power)) * self.error) ** (1 / self.power)
        return float(least) if least <= 1 else math.inf


def by_score(before: Array, after: Array, nothing: Array) -> LostShare:
    """From scores of pictures for their captions, (N,) each at equal seeds; the interval is normal, a ratio estimate's."""
    count, whole = len(before), before - nothing
    shown = {"before": float(before.mean()), "after": float(after.mean()), "nothing": float(nothing.mean())} if count else {}
    if count < 3 or float(whole.mean()) - SURE * _error(whole) <= 0:  # the scores do not tell captions from nothing
        return LostShare(_UNKNOWN, math.nan, 1, count, shown)
    span = float(whole.mean())
    value = float((before - after).mean()) / span
    error = _error((before - after) - value * whole) / span
    return LostShare(Interval(value, value - SURE * error, value + SURE * error), error, 1, count, shown)


def by_kernel(before: Array, after: Array, nothing: Array) -> LostShare:
    """From features of pictures, (N, F) each at equal seeds; each distance lies in its own interval, and the share spans both."""
    count, moved, whole = len(before), paired_kid(before, after), paired_kid(before, nothing)
    if moved is None or whole is None:
        return LostShare(_UNKNOWN, math.nan, 2, count, {})
    shown = {"after": moved["value"], "nothing": whole["value"]}
    if whole["low"] <= 0:
        return LostShare(_UNKNOWN, math.nan, 2, count, shown)

    def root(far: float, span: float) -> float:
        return math.sqrt(max(0.0, far) / span)

    share = Interval(root(moved["value"], whole["value"]), root(moved["low"], whole["high"]), root(moved["high"], whole["low"]))
    return LostShare(share, (moved["high"] - moved["value"]) / SURE / whole["value"], 2, count, shown)


_UNKNOWN = Interval(math.nan, math.nan, math.nan)


def _error(values: Array) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def paired_kid(real: Array, made: Array) -> dict[str, Any] | None:
    """Kernel distance between two states' features at equal seeds, (N, F) each; None for fewer than three pictures.

        KID = mean over pairs i != j of k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i),   k(x, y) = (x.y / F + 1)^3

    Pictures of one seed are alike, so the usual estimate, which compares them too, would lie below zero for a model against
    itself. Leaving them out is unbiased, and exactly zero there. The interval is a jackknife over pairs.
    Source: the kernel is KID's (Binkowski et al., 2018), the mean over i != j MMD's for pairs (Gretton et al., 2012, eq. 4).
    """
    n, width = real.shape
    if n < 3:
        return None
    # Each product from two buffers: numpy rounds a matrix times itself otherwise, and equal states would lie 1e-16 apart.
    xx, yy, xy, yx = ((a @ b.copy().T / width + 1) ** 3 for a, b in ((real, real), (made, made), (real, made), (made, real)))
    h = (xx - xy) + (yy - yx)
    np.fill_diagonal(h, 0.0)
    total, rows = float(h.sum()), h.sum(1)
    value, without = total / (n * (n - 1)), (total - 2 * rows) / ((n - 1) * (n - 2))
    half = 1.96 * math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))
    return {"value": value, "low": value - half, "high": value + half, "count": n}
