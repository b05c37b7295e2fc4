"""Are there two kinds of forgetting, or one that varies? A mixture of two normals against one normal. Arithmetic only.

    one    x ~ N(m, s2)
    two    x ~ w N(m1, s2) + (1 - w) N(m2, s2)                one variance: with two, the likelihood has no upper bound
    LR     twice the difference of the greatest log likelihoods; its null distribution is no chi-square (the mixture is not identified
           there), so it is drawn: samples of one normal, fitted the same way. LR does not change with scale and place, so any normal serves

How many it takes, by simulation (halves of equal size, error of the first kind 5 %): of two kinds whose centres lie 5 standard deviations
apart, 12 values show 71 %, 16 show 86 % and 20 show 93 %; 4 apart, 24 show 76 %. With fewer than `FEWEST_VALUES` nothing is said.

Sources: EM (Dempster, Laird and Rubin, 1977); parametric bootstrap of the likelihood ratio (McLachlan, 1987).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vestige.errors import BadInput

Array = NDArray[np.float64]

FEWEST_VALUES = 16
DRAWS = 999
STEPS = 60  # of EM, from each start
LEAST_SHARE = 1e-4  # of the whole variance that a kind keeps: values that agree to all digits are no kind with certainty


@dataclass(frozen=True)
class Kinds:
    """What the data say of two kinds.

    Arguments:
        count: How many values.
        ratio: LR.
        chance: Share of samples of one kind that look at least as much like two.
        centres: m1 <= m2.
        share: w, of the lower one.
    """

    count: int
    ratio: float
    chance: float
    centres: tuple[float, float]
    share: float


def two_kinds(values: Sequence[float], *, draws: int = DRAWS, seed: int = 0) -> Kinds | None:
    """The test, or None where there are too few values to tell.

    Raises:
        BadInput: A value that is not finite.
    """
    x = np.asarray(values, dtype=np.float64)
    if not np.isfinite(x).all():
        raise BadInput(f"kinds are told apart by finite numbers; given {list(values)}")
    if len(x) < FEWEST_VALUES or not x.std() > 0:
        return None
    ratio, low, high, share = (float(part[0]) for part in _fitted(x[None]))
    null = _fitted(np.random.default_rng(seed).standard_normal((draws, len(x))))[0]
    return Kinds(len(x), ratio, (1 + int((null >= ratio).sum())) / (1 + draws), (low, high), share)


def _fitted(x: Array) -> tuple[Array, Array, Array, Array]:
    """LR, centres and share for each row of N x n values; the best of several starts."""
    n, whole = x.shape[1], x.var(axis=1)
    best = (np.full(len(x), -math.inf), *(np.zeros(len(x)) for _ in range(3)))
    for k in sorted({1, n // 4, n // 2, n - n // 4, n - 1}):
        found = _climbed(x, k, LEAST_SHARE * whole)
        better = found[0] > best[0]
        best = tuple(np.where(better, new, old) for new, old in zip(found, best, strict=True))
    one = -n / 2 * (np.log(whole) + 1)
    swap = best[1] > best[2]
    low, high = np.where(swap, best[2], best[1]), np.where(swap, best[1], best[2])
    return np.maximum(0.0, 2 * (best[0] - one)), low, high, np.where(swap, 1 - best[3], best[3])


def _climbed(x: Array, k: int, least: Array) -> tuple[Array, Array, Array, Array]:
    """Log likelihood less its constant, centres and share after EM, begun with the k smallest values as the one kind."""
    n, s = x.shape[1], np.sort(x, axis=1)
    one, two, w = s[:, :k].mean(axis=1), s[:, k:].mean(axis=1), np.full(len(x), k / n)
    v = np.maximum(least, (((s[:, :k].T - one) ** 2).sum(axis=0) + ((s[:, k:].T - two) ** 2).sum(axis=0)) / n)
    for _ in range(STEPS):
        a, b = _log_densities(x, one, two, w, v)
        r = np.exp(a - np.logaddexp(a, b))  # N x n
        w = np.clip(r.mean(axis=1), 1 / (2 * n), 1 - 1 / (2 * n))
        one = (r * x).sum(axis=1) / np.maximum(r.sum(axis=1), 1e-12)
        two = ((1 - r) * x).sum(axis=1) / np.maximum((1 - r).sum(axis=1), 1e-12)
        v = np.maximum(least, (r * (x.T - one).T ** 2 + (1 - r) * (x.T - two).T ** 2).mean(axis=1))
    a, b = _log_densities(x, one, two, w, v)
    return np.logaddexp(a, b).sum(axis=1), one, two, w


def _log_densities(x: Array, one: Array, two: Array, w: Array, v: Array) -> tuple[Array, Array]:
    """Weighted log densities of both kinds, N x n, without log(2 pi) / 2."""
    each = [np.log(share) - (x.T - centre) ** 2 / (2 * v) - np.log(v) / 2 for share, centre in ((w, one), (1 - w, two))]
    return each[0].T, each[1].T
