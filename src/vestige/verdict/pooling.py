"""What several edits of a method say together, and two methods against each other. Arithmetic only.

    y[e, k]   log F, or reach, of edit e under attack replicate k, the mean over J never-models
    m_k       its mean over edits in replicate k; of two methods compared, the difference of theirs
    value     the mean of m_k over K replicates
    var       s2(m_k) / K  +  s2(means of edits) / E, for each side whose edits met the same replicates  +  v~ / J
    df        var^2 / (sum of squares of each part over its own df)                    Satterthwaite, 1946

Where every edit met a replicate of its own, m_k holds what edits differ by, and the first part is all. Where they met the same ones, that
part holds the replicates alone, and the second counts what edit and replicate do together once more: the interval is rather too wide than
too narrow. v~ is what is known of never-models (`spread`); two methods that were measured against the same ones share it, and it drops out.

Sources: paired t; crossed random effects as in any analysis of variance; Holm, "A simple sequentially rejective multiple test procedure",
1979; Kendall's tau-b, 1945. Which of them a comparison needs, and that two equal edits are one, is ours.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]
from scipy.stats import kendalltau  # type: ignore[import-untyped]

from vestige.errors import BadInput
from vestige.verdict.intervals import Interval
from vestige.verdict.savings import Arms
from vestige.verdict.spread import Spread

Values = Mapping[tuple[str, int], float]  # (edit's fingerprint, attack's seed) -> a number
Part = tuple[float, float]  # a variance and its degrees of freedom


@dataclass(frozen=True)
class Estimate:
    """A mean, and what it may be off by.

    Arguments:
        value: The mean; NaN where a number behind it is.
        parts: Variances of the mean, each with its degrees of freedom; none where nothing was repeated.
    """

    value: float
    parts: tuple[Part, ...] = ()

    @property
    def variance(self) -> float:
        """Of the mean; infinite where nothing was repeated."""
        return math.fsum(v for v, _ in self.parts) if self.parts else math.inf

    @property
    def freedom(self) -> float:
        """Satterthwaite's degrees of freedom."""
        below = math.fsum(v**2 / df for v, df in self.parts)
        return min(1e9, self.variance**2 / below) if below > 0 else 1e9

    def interval(self, level: float = 0.95) -> Interval:
        """t interval of coverage `level`, infinite where nothing was repeated."""
        if math.isnan(self.value):
            return Interval(math.nan, math.nan, math.nan)
        if not self.parts:
            return Interval(self.value, -math.inf, math.inf)
        half = float(stdtrit(self.freedom, (1 + level) / 2)) * math.sqrt(self.variance)
        return Interval(self.value, self.value - half, self.value + half)

    def two_sided(self) -> float:
        """p against a mean of 0; NaN where nothing was repeated or nothing varies."""
        if not self.parts or not self.variance > 0 or math.isnan(self.value):
            return math.nan
        return 2 * float(stdtr(self.freedom, -abs(self.value) / math.sqrt(self.variance)))


def across(estimates: Sequence[Estimate]) -> Estimate:
    """Mean of independent estimates, as of one method on several concepts: it speaks of these concepts, not of others."""
    if not estimates:
        raise BadInput("a mean over concepts needs an estimate of at least one")
    value, share = float(np.mean([e.value for e in estimates])), 1 / len(estimates) ** 2
    if not all(e.parts for e in estimates):
        return Estimate(value)
    return Estimate(value, tuple((v * share, df) for e in estimates for v, df in e.parts))


def averaged(values: Values, known: tuple[Spread | None, int] = (None, 1), least: float = 0.0) -> Estimate:
    """Mean of one method's edits.

    Arguments:
        known: Never-models' spread, and how many stand behind each value; None: it holds for these alone.
        least: Variance of one value below which rates of so few pictures cannot be known.
    """
    mean, parts = _repeated([values], least)
    spread, count = known
    if spread is None or not parts:
        return Estimate(mean, tuple(parts))
    own = [(v * count / (count + 1), df) for v, df in parts]  # the rest is never-models' own noise, which their spread holds
    return Estimate(mean, (*own, (spread.variance / count, spread.freedom)))


def paired_difference(one: Values, other: Values, least: float = 0.0) -> Estimate:
    """Mean of one method less another's, over the attack replicates that both met.

    Raises:
        BadInput: They have none in common.
    """
    both = {seed for _, seed in one} & {seed for _, seed in other}
    if not both:
        raise BadInput("a contrast is paired: both methods need edits that met the same attack replicates")
    sides = [{key: y for key, y in side.items() if key[1] in both} for side in (one, other)]
    mean, parts = _repeated(sides, 2 * least)
    return Estimate(mean, tuple(parts))


def _repeated(sides: Sequence[Values], least: float) -> tuple[float, list[Part]]:
    """Mean of the first side, or of the first less the second, and its variances over replicates and over edits."""
    seeds = sorted({seed for _, seed in sides[0]})
    rows = [_by([(seed, y) for (_, seed), y in side.items()]) for side in sides]
    gaps = [rows[0][seed] - (rows[1][seed] if len(rows) > 1 else 0.0) for seed in seeds]
    mean = float(np.mean(gaps))
    if len(gaps) < 2:
        return mean, []
    parts = [(max(float(np.var(gaps, ddof=1)), least) / len(gaps), len(gaps) - 1.0)]
    for side in sides:
        edits = _by([(edit, y) for (edit, _), y in side.items()])
        if len(edits) > 1 and not _own_replicates(side):
            parts.append((float(np.var([*edits.values()], ddof=1)) / len(edits), len(edits) - 1.0))
    return mean, parts


def _by(pairs: Iterable[tuple[Any, float]]) -> dict[Any, float]:
    """Means of numbers by what they are of."""
    groups: dict[Any, list[float]] = {}
    for key, y in pairs:
        groups.setdefault(key, []).append(y)
    return {key: float(np.mean(ys)) for key, ys in groups.items()}


def _own_replicates(values: Values) -> bool:
    """Whether no two edits met the same replicate, so that a mean over replicates is one over edits."""
    return len({seed for _, seed in values}) == len(values)


def holm(chances: Sequence[float]) -> list[float]:
    """p-values adjusted for their number; NaN stays NaN and does not count."""
    known = sorted((p, i) for i, p in enumerate(chances) if not math.isnan(p))
    adjusted, last = [math.nan] * len(chances), 0.0
    for rank, (p, i) in enumerate(known):
        last = adjusted[i] = max(last, min(1.0, p * (len(known) - rank)))
    return adjusted


def concordance(surface: Sequence[float], hidden: Sequence[float]) -> tuple[float, float]:
    """Kendall's tau-b and its two-sided p; NaN where one side has no spread or there are fewer than 3 pairs."""
    if len(surface) < 3 or np.ptp(surface) == 0 or np.ptp(hidden) == 0:
        return math.nan, math.nan
    found = kendalltau(surface, hidden)
    return float(found.statistic), float(found.pvalue)


def against_each(
    audits: Sequence[tuple[str, Mapping[str, Any]]], attack: str, only: Collection[int] = ()
) -> tuple[list[tuple[str, int]], list[Arms]]:
    """Audits of one concept stacked as the replicates of one: whose they are, and the arms against each never-model.

    Rates are normalised by floors and ceilings of all replicates together. An edit under one attack replicate counts once.

    Arguments:
        audits: The edit's fingerprint and the result of its audit.
        only: Seeds of the attack replicates that are taken; (): all.

    Raises:
        BadInput: Results that do not hold what this takes: never-models' curves one by one, the original's rate in each replicate.
    """
    rows: dict[tuple[str, int], tuple[Any, ...]] = {}
    budgets: set[tuple[int, ...]] = set()
    for edit, audit in audits:
        told, control, plain, origin = (audit.get(key) or {} for key in ("attacks", "control", "plain", "provenance"))
        arms = told[attack].get("arms") or {}
        seeds, ceiling = origin.get("seeds") or [], (plain.get("original") or {}).get("replicates") or []
        edited, never = ((arms.get(arm) or {}).get("replicates") or [] for arm in ("edited", "never"))
        points = [point.get("budget") for point in (arms.get("edited") or {}).get("curve") or []]
        models = max(1, len(control.get("names") or []))
        if control.get("kind") not in ("twin", "distilled"):
            raise BadInput("audits are pooled against never-models; a proxy's levels are another concept's")
        whole = len(edited) == len(ceiling) == len(seeds) and len(never) == models * len(seeds)
        if not whole or None in points or {len(row) for row in (*edited, *never)} != {len(points)}:
            raise BadInput("an audit that is pooled tells each replicate's rates at every budget, of the original too")
        budgets.add(tuple(points))
        for k, seed in enumerate(seeds):
            if only and seed not in only:
                continue
            nevers = [never[j * len(seeds) + k] for j in range(models)]
            rows.setdefault((edit, int(seed)), (tuple(edited[k]), nevers, ceiling[k]))
    if not rows or len(budgets) != 1 or len({len(row[1]) for row in rows.values()}) != 1:
        raise BadInput(f"audits are pooled where they agree; these differ in never-models or in the budgets of {attack}")
    if any(rate is None for row, nevers, top in rows.values() for rate in (*row, *(x for one in nevers for x in one), top)):
        raise BadInput("audits are pooled where pictures could be judged at every budget")
    every, top = [row[0] for row in rows.values()], tuple(row[2] for row in rows.values())
    pictures = int((audits[0][1].get("protocol") or {}).get("pictures") or 0)
    made = []
    for j in range(len(next(iter(rows.values()))[1])):
        curves = tuple(tuple(row[1][j]) for row in rows.values())
        made.append(Arms(next(iter(budgets)), tuple(every), curves, tuple(c[0] for c in curves), top, pictures=pictures))
    return list(rows), made
