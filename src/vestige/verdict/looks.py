"""Looking at replicates more than once, and stopping when they decide: what every look's interval has to cover. Arithmetic only.

Whoever looks again and again at growing data, and stops when an interval falls clear of a line, is wrong more often than each interval
says. So every interval of such an audit has the coverage at which all looks hold together (Pocock's constant bound):

    P(|S_n| <= z sqrt(n) at every look n) = 0.95,   S_n the sum of n standard normal replicates

by recursion over the density of S_n (Armitage, McPherson and Rowe). The same nominal level is used with t. What holds at all looks holds
wherever one stops, and for whatever reason; at any one look it covers more.

Source: Pocock, "Group sequential methods in the design and analysis of clinical trials", 1977; Armitage et al., 1969; t at the nominal
level as in Jennison and Turnbull, 2000. How it does with three replicates and never-models that differ: `tests/verdict/test_looks.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq  # type: ignore[import-untyped]

GRID = 301  # points of a density between the bounds


@lru_cache(maxsize=64)
def level(looks: tuple[int, ...], overall: float = 0.95) -> float:
    """Coverage of the interval at every look, so that all hold together in a share `overall`.

    Arguments:
        looks: Replicates at each look, rising; one look needs `overall` itself.
    """
    if not looks or list(looks) != sorted(set(looks)) or looks[0] < 2 or not 0 < overall < 1:
        raise ValueError(f"looks are rising numbers of replicates, 2 or more, and 0 < overall < 1; given {looks} and {overall}")
    if len(looks) == 1:
        return overall
    normal = NormalDist()
    z = brentq(
        lambda bound: _within(looks, bound) - overall, normal.inv_cdf((1 + overall) / 2), normal.inv_cdf(1 - (1 - overall) / 2 / len(looks))
    )
    return 2 * normal.cdf(z) - 1


def _within(looks: Sequence[int], z: float) -> float:
    """Probability that no look leaves its bounds."""
    before, s = looks[0], _grid(looks[0], z)
    density: NDArray[Any] = np.exp(-(s**2) / (2 * before)) / math.sqrt(2 * math.pi * before)
    for n in looks[1:]:
        step, t = n - before, _grid(n, z)
        spread = np.exp(-((t[:, None] - s[None, :]) ** 2) / (2 * step)) / math.sqrt(2 * math.pi * step)
        density, s, before = np.trapezoid(spread * density, s, axis=1), t, n
    return float(np.trapezoid(density, s))


def _grid(n: int, z: float) -> NDArray[np.float64]:
    return np.linspace(-z * math.sqrt(n), z * math.sqrt(n), GRID)
