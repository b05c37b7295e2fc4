"""Estimates over edits and replicates, Holm's p, and two kinds of forgetting: against closed forms, simulation and the definition."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from vestige.errors import BadInput
from vestige.verdict.kinds import FEWEST_VALUES, two_kinds
from vestige.verdict.pooling import Estimate, across, averaged, concordance, holm, paired_difference
from vestige.verdict.spread import Spread, sampled_interval


def test_edits_with_replicates_of_their_own_give_the_t_interval() -> None:
    y = [0.1, 0.5, 0.3, 0.9]
    found = averaged({(str(k), k): x for k, x in enumerate(y)}).interval(0.95)
    low, high = stats.t.interval(0.95, 3, np.mean(y), stats.sem(y))
    assert (found.value, found.low, found.high) == pytest.approx((np.mean(y), low, high))


def test_one_edit_is_judged_as_its_audit_judges_it() -> None:
    y, spread = [0.1, 0.5, 0.3, 0.9], Spread(0.04, 3.0)
    found = averaged({("one", k): x for k, x in enumerate(y)}, (spread, 2)).interval(0.95)
    assert astuple(found) == pytest.approx(astuple(sampled_interval(y, 0.95, 4, spread, 2)))


def test_crossed_edits_and_replicates_are_covered() -> None:
    """Of 2000 simulated comparisons of 4 edits under the same 3 replicates, the 95 % interval holds the truth in at least 94 %."""
    rng, held, naive = np.random.default_rng(0), 0, 0
    for _ in range(2000):
        y = rng.normal(0, 0.3, (4, 1)) + rng.normal(0, 0.3, (1, 3)) + rng.normal(0, 0.1, (4, 3))
        found = averaged({(str(e), k): float(y[e, k]) for e in range(4) for k in range(3)}).interval(0.95)
        held += found.low <= 0 <= found.high
        naive += abs(y.mean()) <= stats.t.ppf(0.975, 11) * y.std(ddof=1) / np.sqrt(12)
    assert held >= 1880 and naive < 1800  # twelve values are no twelve replicates


def test_a_contrast_of_the_same_replicates_drops_what_they_share() -> None:
    hard = np.array([0.0, 1.0, -2.0])
    one = {("a", k): 0.7 + h for k, h in enumerate(hard)}
    other = {("b", k): 0.2 + h for k, h in enumerate(hard)} | {("b", 7): 9.0}  # a replicate that the first did not meet
    found = paired_difference(one, other)
    assert found.value == pytest.approx(0.5) and found.variance == pytest.approx(0, abs=1e-12)
    with pytest.raises(BadInput, match="same attack replicates"):
        paired_difference(one, {("b", 9): 0.0})


def test_over_concepts_variances_add() -> None:
    found = across([Estimate(1.0, ((0.04, 3.0),)), Estimate(3.0, ((0.12, 5.0),))])
    assert found.value == 2.0 and found.variance == pytest.approx(0.04)
    assert math.isinf(across([Estimate(1.0, ((0.04, 3.0),)), Estimate(1.0)]).interval().high)


def test_two_sided_p_is_the_t_test() -> None:
    y = [0.1, 0.5, 0.3, 0.9]
    assert averaged({("e", k): x for k, x in enumerate(y)}).two_sided() == pytest.approx(stats.ttest_1samp(y, 0).pvalue)
    assert math.isnan(Estimate(1.0).two_sided())


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, math.nan])[:3] == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and math.isnan(holm([math.nan])[0])


def test_concordance() -> None:
    assert concordance([1, 2, 3, 4], [10, 20, 30, 40])[0] == 1 and math.isnan(concordance([1, 1, 1], [1, 2, 3])[0])


def test_two_kinds_are_seen_and_one_is_not() -> None:
    rng = np.random.default_rng(1)
    found = two_kinds([*rng.normal(0, 0.3, 10), *rng.normal(2, 0.3, 10)], draws=99)
    assert (
        found is not None and found.chance < 0.05 and found.centres == pytest.approx((0, 2), abs=0.3) and found.share == pytest.approx(0.5)
    )
    assert two_kinds([0.0, 1.0] * ((FEWEST_VALUES - 1) // 2)) is None
    chances = [k.chance for seed in range(12) if (k := two_kinds([*np.random.default_rng(seed).normal(5, 2, 16)], draws=49)) is not None]
    assert sum(p < 0.05 for p in chances) <= 3  # of 12 samples of one kind; more than 3 in one of 450


def test_kinds_do_not_change_with_the_scale() -> None:
    x = np.random.default_rng(3).normal(size=18)
    one, other = two_kinds([*x], draws=9), two_kinds([*(40 * x - 7)], draws=9)
    assert one is not None and other is not None and one.ratio == pytest.approx(other.ratio)
