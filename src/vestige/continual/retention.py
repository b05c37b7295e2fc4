"""What a sequence of edits kept and lost: rates, paired drops and reversal, each with a 95 % interval. Arithmetic only.

    unlearning accuracy   UA(n)  = 1 - rate over the requests so far
    drop                  D(n)   = mean over words of (accuracy of the original - accuracy after step n)
    reversal              R(n)   = mean over j < n of max(0, rate_n(c_j) - rate_j(c_j))

The drop over the requests' neighbours is the *ripple*, over concepts that lie near no request and are never requested the
*erosion* of generalization. Every state draws from the same seeds, so everything but a rate is paired picture by picture. A picture
that could not be judged is in no rate, and in no pair.
Sources: rates and drops as continual unlearning papers report them; reversal paired by request is our choice. KID between states is
`metrics.losses.paired_kid`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vestige.verdict.intervals import Hits, Seen, drop, paired_hits, rate

RESAMPLES = 2000


def rate_of(hits: Hits) -> dict[str, Any] | None:
    """As `rate`; None for no pictures."""
    return rate(hits) if hits else None


def unlearning_accuracy(shown: Seen) -> dict[str, Any] | None:
    """Unlearning accuracy, one minus the rate over all pictures of all requests; None without requests."""
    return rate_of([None if hit is None else not hit for hits in shown.values() for hit in hits])


def reversal(then: Seen, now: Seen) -> dict[str, Any] | None:
    """Mean rise of the requests' rates since each was forgotten, falls counted as none; None without earlier requests.

    The interval is a percentile bootstrap over paired pictures within each request. Clipping at zero lets noise alone look
    like reversal: `net`, the same mean unclipped with a paired normal interval, tells the two apart.

    Arguments:
        then: For each earlier request its pictures right after its own step.
        now: The same requests and seeds in the current state.
    """
    rows = {c: pair for c in then if len((pair := paired_hits(then[c], now[c]))[0])}
    if not rows:
        return None
    single = {c: max(0.0, float(after.mean() - before.mean())) for c, (before, after) in rows.items()}
    value, rng = float(np.mean(list(single.values()))), np.random.default_rng(0)
    drawn = np.zeros(RESAMPLES)
    for before, after in rows.values():
        picked = rng.integers(0, len(before), (RESAMPLES, len(before)))
        drawn += np.maximum(0.0, (after - before)[picked].mean(1)) / len(rows)
    low, high = (float(x) for x in np.quantile(drawn, (0.025, 0.975)))
    # Resampling adds noise, and clipped noise is positive: the bootstrap may lie above the estimate altogether.
    return {"value": value, "low": min(low, value), "high": max(high, value), "net": drop(now, then), "by_request": single}
