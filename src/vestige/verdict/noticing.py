"""What a comparison could have noticed: the smallest true drop that would have raised a flag. Arithmetic only.

Pictures of two states are drawn at equal seeds, and a flag rises where the lower end of the drop's 95 % interval exceeds what is allowed:

    drop - z_975 se(drop) > allowed,   se(d)^2 = (d + 2 gains - d^2) / n

with `gains` the share of pictures that were wrong and became right (McNemar's table: losses = d + gains). A drop d raises it in a share
`power` of audits where d - allowed = (z_975 + z_power) se(d).
Source: ours, the normal approximation for paired proportions (McNemar, 1947; Connor, Biometrics 1987, for its power).
"""

from __future__ import annotations

import math
from statistics import NormalDist

from vestige.verdict.intervals import Hits, paired_hits

POWER = 0.8


def noticeable(before: Hits, after: Hits, allowed: float, power: float = POWER) -> float:
    """The smallest drop, in [allowed, 1], that these pictures would have shown to exceed `allowed`; infinite where none would.

    Arguments:
        before: What was right in one state, and `after`: in the other, picture by picture; their gains are taken as noise that stays.
        allowed: Drop above which a flag rises, in [0, 1).
        power: In which share of audits it would, in (0.5, 1).
    """
    if not 0 <= allowed < 1 or not 0.5 < power < 1:
        raise ValueError(f"a drop is allowed within [0, 1) and power lies within (0.5, 1); given {allowed} and {power}")
    then, now = paired_hits(before, after)
    count = len(then)
    if count < 2:
        return math.inf
    gains, highest = float(((then == 0) & (now == 1)).mean()), float(then.mean())
    needed = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(power)

    def short(drop: float) -> float:
        """How far a drop stays below what would be noticed."""
        return allowed + needed * math.sqrt(max(0.0, drop + 2 * gains - drop**2) / count) - drop

    if highest <= allowed or short(highest) > 0:  # more than what was right cannot be lost
        return math.inf
    low, high = allowed, highest
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if short(middle) > 0 else (low, middle)
    return high
