"""Methods side by side, each over several edits: replicate k is edit k and the attack on it. Arithmetic only.

    pooled     replicates of several audits as one set of arms: the interval is over edits and attacks together
    agreement  Spearman's rank correlation over methods, percentile interval of a bootstrap over methods

Sources: Spearman (1904) with mean ranks for ties; bootstrap after Efron (1979).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr  # type: ignore[import-untyped]

from vestige.errors import BadInput
from vestige.verdict.intervals import Interval
from vestige.verdict.savings import Arms

RESAMPLES = 2000


def pooled(audits: Sequence[Mapping[str, Any]], attack: str) -> Arms:
    """Replicates of several audits of one concept under one suite against twins, in the order given.

    Raises:
        BadInput: Audits that differ in what must agree, or share an attack's seed.
    """
    for key in ("suite", "concept", "control", "model"):
        if len({str(a[key]) for a in audits}) != 1:
            raise BadInput(f"audits are pooled where they agree; these differ in {key}: {sorted({str(a[key]) for a in audits})}")
    if audits[0]["control"]["kind"] not in ("twin", "distilled"):
        raise BadInput("audits are pooled against never-models; a proxy's levels are another concept's")
    seeds = [s for a in audits for s in a["provenance"]["seeds"]]
    if len(set(seeds)) != len(seeds):  # one never arm would stand for several
        raise BadInput(f"audits are pooled where every replicate is an attack of its own; these share attack seeds: {seeds}")
    rows = {arm: [tuple(row) for a in audits for row in a["attacks"][attack]["arms"][arm]["replicates"]] for arm in ("edited", "never")}
    ceiling = tuple(rate for a in audits for rate in _ceilings(a))
    budgets = {tuple(point["budget"] for point in a["attacks"][attack]["arms"]["edited"]["curve"]) for a in audits}
    settings = {json.dumps(a["attacks"][attack].get("settings"), sort_keys=True) for a in audits}
    for what, found in (("budgets", budgets), ("settings", settings)):
        if len(found) != 1:
            raise BadInput(f"audits are pooled where they agree; these differ in the {what} of {attack}")
    return Arms(next(iter(budgets)), tuple(rows["edited"]), tuple(rows["never"]), tuple(row[0] for row in rows["never"]), ceiling)


def _ceilings(audit: Mapping[str, Any]) -> Sequence[float]:
    """The original's rate in each replicate: pooled and repeated, its noise would be in no interval."""
    told, count = audit["plain"]["original"], len(audit["provenance"]["seeds"])
    rates: Sequence[float] = told.get("replicates", [told["value"]])
    if len(rates) != count:
        said = f"an audit of {count} replicates has to say the original's rate in each; this one says {len(rates)}"
        raise BadInput(f"{said}: delete its result.json and repeat it")
    if None in rates:
        raise BadInput("audits are pooled where somebody saw the original's pictures; in a replicate of this one none could be judged")
    return rates


def agreement(surface: Sequence[float], hidden: Sequence[float], groups: Sequence[str], *, level: float = 0.95, seed: int = 0) -> Interval:
    """Rank correlation of two numbers over cells; whole groups (methods) are drawn with replacement for the interval.

    NaN where one side has no spread; resamples without spread are left out.
    """
    if not len(surface) == len(hidden) == len(groups) or len(surface) < 3:
        raise BadInput(
            f"a rank correlation needs at least 3 pairs, each with its group; given {len(surface)}, {len(hidden)}, {len(groups)}"
        )
    x, y = np.asarray(surface, float), np.asarray(hidden, float)
    members = [np.flatnonzero(np.array(groups) == g) for g in dict.fromkeys(groups)]
    rng = np.random.default_rng(seed)
    drawn = [_rank(x, y, np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])) for _ in range(RESAMPLES)]
    known = [v for v in drawn if not math.isnan(v)]
    if not known:
        return Interval(_rank(x, y, np.arange(len(x))), math.nan, math.nan)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(_rank(x, y, np.arange(len(x))), float(low), float(high))


def _rank(x: Any, y: Any, rows: Any) -> float:
    if np.ptp(x[rows]) == 0 or np.ptp(y[rows]) == 0:
        return math.nan
    return float(spearmanr(x[rows], y[rows]).statistic)
