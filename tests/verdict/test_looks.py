"""Looking more than once: the bound is the published one, and audits that stop where they are decided are wrong no more often than said."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import stdtrit

from vestige.harness import suites
from vestige.verdict.looks import level

LINES = np.log([1.5, 3.0])  # of F
LOOKS = (3, 5, 8, 12)
TRIES = 4000


@pytest.mark.parametrize(("count", "z"), [(2, 2.178), (3, 2.289), (4, 2.361), (5, 2.413), (10, 2.555)])
def test_equal_steps_have_pococks_constants(count: int, z: float) -> None:
    """His table for a two-sided error of 5 %."""
    looks = tuple(4 * (k + 1) for k in range(count))
    assert level(looks) == pytest.approx(math.erf(z / math.sqrt(2)), abs=2e-4)


def test_one_look_is_no_looking_again() -> None:
    assert level((5,)) == 0.95
    assert level((3, 12)) < level(LOOKS) < level((3, 4, 5, 6, 7, 8, 9, 10, 11, 12)) < 1 - 0.05 / 10


@pytest.mark.parametrize("looks", [(), (5, 3), (3, 3), (1, 3)])
def test_looks_that_are_none(looks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="rising"):
        level(looks)


def stopped(
    truth: float, sigma: float, tau: float, freedom: float, controls: int, looks: tuple[int, ...] = LOOKS
) -> tuple[float, float, float]:
    """Of simulated audits that stop where log F decides: coverage of the interval there, wrong verdicts, and replicates.

    Arguments:
        sigma: Of a replicate's log F, and `tau` of a never-model's, which `freedom` degrees tell.
    """
    rng = np.random.default_rng(round(1e3 * truth) % 1000 + round(100 * sigma))
    x, shared = rng.normal(truth, sigma, (TRIES, looks[-1])), rng.normal(0, tau / math.sqrt(controls), TRIES)
    known = tau**2 * rng.chisquare(freedom, TRIES) / freedom
    null = stdtrit(freedom, 0.95) * np.sqrt(known)
    open_, covered, wrong, used = np.ones(TRIES, bool), np.zeros(TRIES, bool), np.zeros(TRIES, bool), np.zeros(TRIES)
    for n in looks:
        own = x[:, :n].var(1, ddof=1) / n * (controls / (controls + 1) if tau else 1.0)
        total = own + known / controls
        df = total**2 / (own**2 / (n - 1) + (known / controls) ** 2 / freedom)
        half = stdtrit(df, (1 + level(looks)) / 2) * np.sqrt(total)
        low, high = (x[:, :n].mean(1) + shared + sign * half for sign in (-1, 1))
        short, erased = low > np.maximum(LINES[1], null), high <= LINES[0]
        long = (low > np.maximum(LINES[0], null)) & (high <= LINES[1]) & ~short
        now = open_ & (short | long | erased | (n == looks[-1]))
        covered[now] = (low <= truth)[now] & (truth <= high)[now]
        said = np.select([short, long, erased], [2, 1, 0], -1)
        wrong[now] = ((said >= 0) & (said != np.searchsorted(LINES, truth)))[now]
        used[now] = n
        open_ &= ~now
    return float(covered.mean()), float(wrong.mean()), float(used.mean())


# Far from a line, beside one on either side, and between two.
TRUTHS = (-0.3, 0.0, LINES[0] - 0.01, LINES[0] + 0.01, 0.7, LINES[1] - 0.01, LINES[1] + 0.01, 1.5, 2.5)


@pytest.mark.parametrize("sigma", [0.3, 0.6])
@pytest.mark.parametrize(("tau", "freedom", "controls"), [(0.0, 1, 1), (0.15, 3, 2), (0.3, 4, 2), (0.3, 3, 1)])
def test_wherever_it_stops_the_interval_covers_and_verdicts_are_right(sigma: float, tau: float, freedom: float, controls: int) -> None:
    found = [stopped(truth, sigma, tau, freedom, controls) for truth in TRUTHS]
    assert max(wrong for _, wrong, _ in found) <= 0.05
    assert min(cover for cover, _, _ in found) >= 0.925  # all that is lost is lost beside a line
    assert np.mean([cover for cover, _, _ in found]) >= 0.945
    assert all(used < LOOKS[-1] for *_, used in (found[0], found[-1]))


def test_stopping_at_plain_intervals_would_have_been_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: at 95 % a look, one audit in nine beside a line covers nothing."""
    monkeypatch.setattr("vestige.verdict.looks.level", lambda looks: 0.95)
    monkeypatch.setitem(globals(), "level", lambda looks: 0.95)
    assert stopped(LINES[0] + 0.01, 0.3, 0.0, 1, 1)[0] < 0.9


def test_shipped_suites_look_at_what_was_simulated() -> None:
    assert {suite.looks for suite in map(suites.load, suites.names())} <= {(), LOOKS}
