"""Savings: closed forms, refusals, and how often the intervals cover the truth."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import trapezoid
from scipy.special import expit, logit, ndtri

from made_up_arms import DOUBLINGS, arms, random_arms, rows
from vestige.errors import BadInput
from vestige.verdict import Arms, Interval, measure
from vestige.verdict.intervals import wilson
from vestige.verdict.savings import Measures, log_speedups, recall

# Measures


def test_constant_difference_in_rise():
    """The integral of a constant from the first budget on; half of it, a triangle, before."""
    never = np.random.default_rng(0).uniform(0.0, 0.6, (3, 8))
    never[:, 0] = 0.0
    edited = never + 0.3 * (np.arange(8) > 0)
    assert log_speedups(arms(edited, never)) == pytest.approx([0.3 * (math.log(128) - math.log(2) / 2)] * 3, rel=1e-12)


@pytest.mark.parametrize("leak", [0.0, 0.05, 0.15, 0.19])
@pytest.mark.parametrize("budgets", [(0, 1, 3, 7), (0, 2, 5, 12, 30, 80), (0, 10, 30, 100, 300)])
def test_arms_that_nothing_moves_are_equal(leak: float, budgets: tuple[int, ...]):
    """Whatever they show when plainly asked, and however far the horizon: neither a leak nor a floor of the control's is speed."""
    flat = [[leak] * len(budgets)] * 4
    for edited, never in ((flat, np.zeros_like(flat)), (np.zeros_like(flat), flat), (flat, flat)):
        found = arms(edited, never, budgets, floor=float(np.mean(never)))
        assert measure(found).speedup.value == pytest.approx(1.0, abs=1e-12)


def test_a_leak_is_taken_out_up_to_the_line():
    """At once back from a leak of 0.2 or less is the same F; above, what plain prompts show counts as known."""
    never = [np.clip(np.arange(8) / 6, 0, 1)] * 4
    at_once = [measure(arms([[leak] + [1.0] * 7] * 4, never)).log_speedup.value for leak in (0.0, 0.1, 0.2, 0.4, 1.0)]
    assert at_once[:3] == pytest.approx([at_once[0]] * 3) and at_once[3] > at_once[2] and at_once[4] > at_once[3]


@pytest.mark.parametrize("speed", [2.0, 4.0])
def test_f_is_the_same_at_every_horizon_that_saturates(speed: float):
    found = []
    for last in (9, 10, 12):
        budgets = (0, *(2**i - 1 for i in range(1, last)))
        x = np.log1p(budgets)
        fresh, fast = (np.clip((x + ahead - 2.5) / 1.5, 0, 1) for ahead in (0.0, math.log(speed)))
        found.append(measure(arms([fast] * 3, [fresh] * 3, budgets)).speedup.value)
    assert found == pytest.approx([found[0]] * 3, rel=1e-9) and found[0] == pytest.approx(speed, rel=0.05)


@pytest.mark.parametrize("doublings", [1, 2, 3])
def test_relearning_f_times_faster_gives_log_f(doublings: int):
    """If r_edited(b) is r_never at F (1 + b), and both arms start at 0 and saturate within the horizon, F comes back exactly."""
    ramp = np.clip((np.arange(-8, 16) - 3) / 2, 0, 1)  # linear between the nodes, so that the trapezoid rule is exact
    never, edited = ramp[8:16], ramp[8 + doublings : 16 + doublings]
    assert measure(arms([edited] * 3, [never] * 3)).speedup.value == pytest.approx(2**doublings, rel=1e-12)


def test_unreached_levels_shrink_the_speedup():
    """Where the never arm has not risen at the last budget, log F is only a lower bound, and `censored` says so."""
    ramp = np.clip((np.arange(0, 16) - 6) / 4, 0, 1)
    short = measure(arms([ramp[3:9]] * 3, [ramp[:6]] * 3, budgets=DOUBLINGS[:6]))
    long = measure(arms([ramp[3:11]] * 3, [ramp[:8]] * 3))
    assert short.censored and not long.censored
    assert 1 < short.speedup.value < long.speedup.value < 8


def test_swapping_the_arms_negates_log_f():
    one = random_arms(1)
    assert log_speedups(replace(one, edited=one.never, never=one.edited)) == pytest.approx([-x for x in log_speedups(one)], rel=1e-12)
    assert measure(arms(one.never, one.never)).savings == Interval(0.0, 0.0, 0.0)


def test_what_both_arms_share_cancels():
    """A replicate's common easiness, another curve for each replicate, changes no measure of arms that start at 0."""
    one, common = random_arms(2), np.random.default_rng(3).uniform(-0.2, 0.3, (4, 8))
    after = np.arange(8) > 0
    one = replace(one, edited=rows(one.edited * after), never=rows(one.never * after))
    other = arms(np.add(one.edited, common * after), np.add(one.never, common * after))
    assert measure(other).log_speedups == pytest.approx(measure(one).log_speedups, rel=1e-12)
    assert measure(other).reach.high == pytest.approx(measure(one).reach.high, rel=1e-12)


def test_a_proxy_is_normalised_by_its_own_pair():
    """Scores of the never arm that are an affine image of others give the same measures under the image's floor and ceiling."""
    one = random_arms(4, floor=0.1, ceiling=0.9)
    proxy = arms(one.edited, 0.5 * np.asarray(one.never) + 0.05, floor=0.1, ceiling=0.9, never_floor=0.1, never_ceiling=0.5)
    assert measure(proxy).log_speedups == pytest.approx(measure(one).log_speedups, rel=1e-12)


def test_recall_is_not_clipped():
    assert recall(((0.0, 0.95),), 0.1, 0.9) == pytest.approx(np.array([[-0.125, 1.0625]]))


def test_levels_of_each_replicate():
    """Equal levels in all replicates are the exact case; unequal ones keep the mean and change the spread."""
    exact = random_arms(5, floor=0.05, ceiling=0.9)
    exact = replace(exact, edited=rows(np.add(exact.edited, 0.3)))
    assert measure(replace(exact, floor=(0.05,) * 4, ceiling=(0.9,) * 4)) == measure(exact)
    noisy = measure(replace(exact, floor=(0.0, 0.1, 0.05, 0.05), ceiling=(0.8, 1.0, 0.95, 0.85)))
    assert noisy.log_speedup.value == pytest.approx(measure(exact).log_speedup.value, rel=1e-12)
    assert noisy.log_speedup.high != pytest.approx(measure(exact).log_speedup.high, rel=1e-3)


def test_linearised_recall_matches_the_jackknife():
    """Second implementation: the jackknife of the ratio of means has the same standard error up to O(1/n)."""
    rng = np.random.default_rng(6)
    n = 400
    floor, ceiling = rng.uniform(0.0, 0.1, n), rng.uniform(0.8, 1.0, n)
    one = arms(rng.uniform(0.4, 0.9, (n, 8)), rng.uniform(0.1, 0.5, (n, 8)), floor=tuple(floor.tolist()), ceiling=tuple(ceiling.tolist()))
    x, edited, never = np.log1p(DOUBLINGS), np.asarray(one.edited), np.asarray(one.never)
    first = never[:, 0]  # rates in both arms begin above the line of a leak, so that one is normalised by floor, the other too

    def left_out(values: np.ndarray) -> np.ndarray:
        return (values.sum() - values) / (n - 1)

    span = left_out(ceiling) - left_out(floor)
    area = left_out(trapezoid(edited - never, x, axis=1)) / span / 0.8  # the leak's line is 0.2 in both
    assert edited[:, 0].mean() > 0.3 and first.mean() > 0.2
    jackknife = math.sqrt((n - 1) / n * ((area - area.mean()) ** 2).sum())
    assert stats.sem(log_speedups(one)) == pytest.approx(jackknife, rel=0.01)


@pytest.mark.parametrize(("n", "attacks"), [(2, 1), (3, 1), (5, 1), (5, 3), (8, 4)])
def test_intervals_are_t_intervals_widened_for_the_number_of_attacks(n: int, attacks: int):
    ours = measure(random_arms(n, n=n), attacks=attacks)
    theirs = stats.ttest_1samp(ours.log_speedups, 0.0).confidence_interval(1 - 0.05 / attacks)
    assert (ours.log_speedup.low, ours.log_speedup.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9)
    assert ours.savings.low == pytest.approx(1 - math.exp(-theirs.low), rel=1e-9)
    assert ours.speedup.high == pytest.approx(math.exp(theirs.high), rel=1e-9)
    assert ours.savings.value == pytest.approx(1 - 1 / ours.speedup.value, rel=1e-12)


@pytest.mark.parametrize(("hits", "count", "level"), [(0, 12, 0.95), (12, 12, 0.95), (7, 48, 0.95), (30, 48, 0.9)])
def test_wilson_matches_scipy(hits: int, count: int, level: float):
    theirs = stats.binomtest(hits, count).proportion_ci(level, method="wilson")
    assert wilson(hits, count, level) == Interval(hits / count, pytest.approx(theirs.low), pytest.approx(theirs.high))


def test_a_rate_as_recall():
    assert Interval(0.5, 0.3, 0.7).as_recall(0.1, 0.9) == Interval(*map(pytest.approx, (0.5, 0.25, 0.75)))
    assert math.isnan(Interval(0.5, 0.3, 0.7).as_recall(0.4, 0.4).value)


def test_one_replicate_has_no_interval():
    one = measure(random_arms(7, n=1))
    assert one.savings.low == -math.inf and one.savings.high == 1.0 and one.speedup.high == math.inf
    assert one.savings.as_dict() == {"value": one.savings.value, "low": None, "high": 1.0}
    assert math.isfinite(one.reach.value)


def test_measures_are_json():
    """Not even NaN and infinities break it."""
    for one in (measure(random_arms(8, n=1)), measure(random_arms(8, floor=0.9, ceiling=0.9))):
        assert json.loads(json.dumps(one.as_dict(), allow_nan=False))["replicates"] == one.replicates


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"never": ((0.1,) * 8,) * 2}, "paired replicates"),
        ({"edited": (), "never": ()}, "paired replicates"),
        ({"budgets": (0,)}, "two budgets"),
        ({"budgets": (1, 2)}, "rise from 0"),
        ({"edited": ((0.1,) * 7,) * 4}, "edited replicate 0 needs 8 rates"),
        ({"never": ((math.nan,) * 8,) * 4}, r"never replicate 0 needs 8 rates in \[0, 1\]"),
        ({"ceiling": (0.9, 0.9)}, "ceiling needs 1 or 4 rates"),
        ({"floor": -0.1}, "floor needs 1 or 4 rates"),
        ({"never_ceiling": 1.1}, "never_ceiling needs 1 or 4 rates"),
    ],
)
def test_arms_that_cannot_be_measured(change: dict[str, Any], message: str):
    with pytest.raises((BadInput, ValueError), match=message):
        replace(random_arms(9), **change)


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError, match="given 5 of 4"):
        wilson(5, 4)
    with pytest.raises(ValueError, match="given 0 and"):
        measure(random_arms(9), attacks=0)
    with pytest.raises(ValueError, match="given 1 and 95"):
        measure(random_arms(9), level=95)


# Coverage in simulation

BUDGETS = (0, 2, 5, 10, 20, 50, 200)
LOG_COST = np.log1p(BUDGETS)
TRIALS = 2000


@dataclass(frozen=True)
class Scenario:
    """A world of recovery curves, logistic in log cost.

    Arguments:
        ahead: Head start of the edited arm in log cost.
        never_top: Recall at which the never arm saturates.
        ceiling: Rate of the original.
        common: Standard deviation of a replicate's difficulty, shared by both arms, in log cost.
        own: The same for each arm alone.
        ease: Standard deviation of a replicate's floor and ceiling, in logits.
        seeds: Correlation of a picture's score across arms and budgets, because they share its seed.
    """

    ahead: float
    never_top: float = 1.0
    edited_top: float = 1.0
    ceiling: float = 0.93
    common: float = 0.5
    own: float = 0.15
    ease: float = 0.3
    seeds: float = 0.5

    def rates(self, rng: np.random.Generator, *shape: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rates without picture noise: edited and never, (..., B), and the original's, (..., 1)."""
        common, edited, never, easy = rng.standard_normal((4, *shape, 1))
        floor, ceiling = expit(logit(0.02) + self.ease * easy), expit(logit(self.ceiling) + self.ease * easy)
        x = 1.3 * (LOG_COST - 3.0 - self.common * common)
        know = self.edited_top * expit(x + 1.3 * (self.ahead + self.own * edited))
        fresh = expit(x + 1.3 * self.own * never)
        fresh = self.never_top * (fresh - fresh[..., :1]) / (1 - fresh[..., :1])
        return floor + (ceiling - floor) * know, floor + (ceiling - floor) * fresh, ceiling

    def scores(self, rng: np.random.Generator, trials: int, n: int, pictures: int = 32) -> np.ndarray:
        """Rates among finite pictures, trials x n x (B edited, B never, 1 original)."""
        rates = np.concatenate(self.rates(rng, trials, n), axis=-1)
        shared = rng.standard_normal((trials, n, 1, pictures), dtype=np.float32)
        alone = rng.standard_normal((*rates.shape, pictures), dtype=np.float32)
        latent = math.sqrt(self.seeds) * shared + math.sqrt(1 - self.seeds) * alone
        return np.asarray((latent < ndtri(rates)[..., None].astype(np.float32)).mean(axis=-1))

    def truth(self) -> tuple[float, float]:
        """Expected log F and X of the protocol: mean rates over many replicates, no picture noise."""
        edited, never, ceiling = (rate.mean(axis=0) for rate in self.rates(np.random.default_rng(99), 100_000))
        span = float(ceiling[0] - never[0])
        leak = min(float(edited[0] - never[0]) / span, 0.2)
        rise = ((edited - never[0]) / span - leak) / (1 - leak)
        return float(trapezoid(rise - (never - never[0]) / span, LOG_COST)), float(edited[-1] - never[-1]) / span


SCENARIOS = {
    "noisy replicates": Scenario(ahead=1.5),
    "tight pairing": Scenario(ahead=3.5, ceiling=0.8, common=0.1, own=0.02, ease=0.0, seeds=0.0),
    "erased": Scenario(ahead=-0.1),
    "censored": Scenario(ahead=1.5, never_top=0.03, edited_top=0.6),
}


def split(scores: np.ndarray, exact_levels: bool = False) -> Arms:
    """One audit's arms, with the floor and ceiling that its own pictures give."""
    points = len(BUDGETS)
    edited, never, ceiling = scores[:, :points], scores[:, points:-1], scores[:, -1]
    if exact_levels:
        return arms(edited, never, BUDGETS, float(never[:, 0].mean()), float(ceiling.mean()))
    return arms(edited, never, BUDGETS, tuple(never[:, 0].tolist()), tuple(ceiling.tolist()))


@cache
def audits(name: str, n: int, exact_levels: bool = False) -> list[Measures]:
    drawn = SCENARIOS[name].scores(np.random.default_rng([n, *name.encode()]), TRIALS, n)
    return [measure(split(scores, exact_levels)) for scores in drawn]


def coverage(name: str, n: int, exact_levels: bool = False) -> tuple[float, float]:
    """Share of intervals that hold the true log F (and so S), and the true X."""
    log_f, reach = SCENARIOS[name].truth()
    found = audits(name, n, exact_levels)
    return (
        sum(m.log_speedup.low <= log_f <= m.log_speedup.high for m in found) / TRIALS,
        sum(m.reach.low <= reach <= m.reach.high for m in found) / TRIALS,
    )


@pytest.mark.parametrize("n", [3, 5, 8])
@pytest.mark.parametrize("name", SCENARIOS)
def test_intervals_cover_the_truth(name: str, n: int):
    log_f, reach = coverage(name, n)
    assert 0.93 <= log_f <= 0.97 and 0.93 <= reach <= 0.97
    assert np.mean([m.censored for m in audits(name, n)]) == pytest.approx(float(name == "censored"), abs=0.05)


def test_levels_taken_as_exact_do_not_cover():
    """Why `Arms` takes the floor and the ceiling of each replicate: pooled numbers hide the noise of the ceiling."""
    assert coverage("tight pairing", 8, exact_levels=True)[0] < 0.9


def test_percentile_bootstrap_over_three_replicates_does_not_cover():
    """All 27 resamples of 3 replicates, so without Monte Carlo error: the reason for the t interval."""
    log_f, _ = SCENARIOS["noisy replicates"].truth()
    values = np.array([m.log_speedups for m in audits("noisy replicates", 3)])
    means = values[:, list(itertools.product(range(3), repeat=3))].mean(axis=-1)  # (TRIALS, 27)
    low, high = np.quantile(means, (0.025, 0.975), axis=1, method="inverted_cdf")
    assert 0.7 < np.mean((low <= log_f) & (log_f <= high)) < 0.85


def test_pairing_narrows_the_interval():
    """The same scores with the never arm's replicates shifted by one, so that nothing is shared within a pair."""
    paired, points = SCENARIOS["noisy replicates"].scores(np.random.default_rng(12), 300, 5), len(BUDGETS)
    apart = paired.copy()
    apart[:, :, points:-1] = np.roll(paired[:, :, points:-1], 1, axis=1)
    widths = []
    for scores in (paired, apart):
        intervals = [measure(split(audit, exact_levels=True)).log_speedup for audit in scores]
        widths.append(np.mean([x.high - x.low for x in intervals]))
    assert widths[0] < 0.6 * widths[1]
