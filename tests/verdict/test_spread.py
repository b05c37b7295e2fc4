"""Never-models as a sample: what is known of their spread, and verdicts that hold whichever of them are the control."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from scipy import stats

from vestige.errors import BadInput
from vestige.verdict import Arms, Flag, Interval, Lines, decide, measure
from vestige.verdict.spread import Spread, fitted, moderated, sampled_interval

HIDDEN = Interval(0.0, 0.0, 0.02)


def drawn(
    rng: np.random.Generator, concepts: int, models: int, sd: float, freedom: float, noise: float, replicates: int
) -> dict[str, list]:
    """log F of never-models: concepts whose variance is scaled inverse chi-square, a row each model, noise in each replicate."""
    made = {}
    for i in range(concepts):
        own = sd * math.sqrt(1.0 if math.isinf(freedom) else freedom / rng.chisquare(freedom))
        made[f"concept {i}"] = (rng.normal(0, own, (models, 1)) + rng.normal(0, noise, (models, replicates))).tolist()
    return made


def test_many_concepts_tell_the_variance_and_how_alike_they_are():
    rng = np.random.default_rng(0)
    alike, unlike = (fitted(drawn(rng, 400, 6, 0.3, nu, 0.0, 1), 1) for nu in (math.inf, 4.0))
    assert alike.variance == pytest.approx(0.09, rel=0.1) and unlike.variance == pytest.approx(0.09, rel=0.25)
    assert unlike.freedom == pytest.approx(4.0, rel=0.35) and 50 < alike.freedom <= 400


def test_noise_is_scaled_to_the_number_of_replicates():
    rng = np.random.default_rng(1)
    groups = drawn(rng, 300, 4, 0.2, math.inf, 0.4, 5)
    for replicates, held in ((2, 2), (3, 3), (5, 5), (10, 5)):
        assert fitted(groups, replicates).variance == pytest.approx(0.2**2 + 0.4**2 / held, rel=0.15)


def test_what_is_seen_here_moderates_what_is_known_from_elsewhere():
    known = Spread(0.04, 3.0, 3)
    assert moderated(known, [0.5]) == known and moderated(None, [0.5]) is None
    own = moderated(known, [0.0, 0.6, 0.3])
    assert own is not None and own.variance == pytest.approx((3 * 0.04 + 2 * 0.09) / 5) and own.freedom == 5
    alone = moderated(None, [0.0, 0.6])
    assert alone is not None and alone.freedom == 1 and alone.variance == pytest.approx(0.18)


@pytest.mark.parametrize("groups", [{}, {"a": [[1.0, 2.0]]}, {"a": [[1.0], [math.nan]]}])
def test_what_shows_no_spread_is_refused(groups):
    with pytest.raises(BadInput, match=r"spread"):
        fitted(groups, 5)


def test_without_a_spread_it_is_the_paired_t_interval():
    values = [0.3, 0.1, 0.5, 0.2]
    theirs = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    ours = sampled_interval(values, 0.95, 4, None)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


def test_one_never_model_makes_a_wider_interval_than_three():
    values, known = [0.3, 0.1, 0.5, 0.2], Spread(0.09, 6.0)
    widths = [found.high - found.low for found in (sampled_interval(values, 0.95, 4, known, j) for j in (1, 3, math.inf))]
    assert widths[0] > 1.5 * widths[1] > 1.5 * widths[2]


def test_replicates_that_agree_exactly_are_no_certainty():
    found = measure(Arms((0, 1, 3), ((0.0, 0.0, 0.0),) * 3, ((0.0, 0.5, 1.0),) * 3, 0.0, 1.0, pictures=48))
    assert found.speedup.low < found.speedup.value < found.speedup.high
    assert found.reach.high - found.reach.value == pytest.approx(stats.t.ppf(0.975, 2) * math.sqrt(2) / 48 / 3, rel=0.05)


# Audits of never-models and of edited models of known speed, against some of many never-models

BUDGETS = (0, 2, 5, 12, 30, 80)
LOG_COST = np.log1p(BUDGETS)
REPLICATES, PICTURES = 5, 48


@dataclass(frozen=True)
class World:
    """How never-models of a concept differ, as head starts in log cost, and how well that is known from other concepts."""

    sd: float
    freedom: float = math.inf
    concepts: int = 7


WORLDS = {"alike": World(0.15), "as garments": World(0.25, 8.0), "as drawings": World(0.5, 8.0)}


def curve(rng: np.random.Generator, ahead: float, easy: np.ndarray) -> np.ndarray:
    """Rates of one model, replicates x budgets: logistic in log cost from 0, and counted in pictures."""
    x = 1.6 * (LOG_COST - 2.3 + ahead + easy + rng.normal(0, 0.12, (REPLICATES, 1)))
    rate = 1 / (1 + np.exp(-x))
    rate = (rate - rate[:, :1]) / (1 - rate[:, :1])
    return rng.binomial(PICTURES, rate) / PICTURES


def rows(values: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, values.tolist()))


@cache
def known(name: str, seed: int) -> tuple[Spread | None, Spread | None]:
    """What other concepts tell, three never-models each."""
    rng, world = np.random.default_rng([seed, *name.encode()]), WORLDS[name]
    speed, far = {}, {}
    for i in range(world.concepts):
        sd = world.sd * math.sqrt(1.0 if math.isinf(world.freedom) else world.freedom / rng.chisquare(world.freedom))
        easy = rng.normal(0, 0.3, (REPLICATES, 1))
        models = [curve(rng, ahead, easy) for ahead in rng.normal(0, sd, 3)]
        speed[f"{i}"] = [np.trapezoid(m, LOG_COST, axis=1).tolist() for m in models]
        far[f"{i}"] = [m[:, -1].tolist() for m in models]
    return fitted(speed, REPLICATES), fitted(far, REPLICATES)


def audited(name: str, controls: int, ahead: float | None, trials: int = 200) -> list[tuple]:
    """Measures and verdicts; `ahead` None audits another never-model. The truth is the mean over never-models without noise."""
    world, made = WORLDS[name], []
    rng = np.random.default_rng([controls, *name.encode(), *f"{ahead}".encode()])
    for trial in range(trials):
        sd = world.sd * math.sqrt(1.0 if math.isinf(world.freedom) else world.freedom / rng.chisquare(world.freedom))
        easy = rng.normal(0, 0.3, (REPLICATES, 1))
        own = rng.normal(0, sd) if ahead is None else ahead
        edited = rows(curve(rng, own, easy))
        nevers = [rows(curve(rng, each, easy)) for each in rng.normal(0, sd, controls)]
        each = [Arms(BUDGETS, edited, never, 0.0, 1.0, pictures=PICTURES) for never in nevers]
        found = measure(each, known=known(name, trial % 20))
        made.append((own, sd, found, decide(HIDDEN, {"memora": found}).kind))
    return made


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("controls", [1, 2, 3])
def test_a_never_model_is_hardly_ever_called_hidden(name: str, controls: int):
    kinds = [kind for *_, kind in audited(name, controls, None)]
    assert sum(kind in ("short-term", "long-term", "not forgotten") for kind in kinds) <= 0.05 * len(kinds)


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("controls", [1, 3])
def test_what_relearns_three_times_as_fast_is_hardly_ever_called_erased(name: str, controls: int):
    kinds = [kind for *_, kind in audited(name, controls, math.log(3.0))]
    assert sum(kind == "erased" for kind in kinds) <= 0.05 * len(kinds)


def true_speed(ahead: float, sd: float) -> float:
    """log F against the mean of never-models, many of them and without a picture's noise."""
    rng = np.random.default_rng(5)

    def area(aheads: np.ndarray) -> float:
        x = 1.6 * (LOG_COST - 2.3 + aheads[:, None] + rng.normal(0, 0.3, (len(aheads), 1)) + rng.normal(0, 0.12, (len(aheads), 1)))
        rate = 1 / (1 + np.exp(-x))
        return float(np.trapezoid((rate - rate[:, :1]) / (1 - rate[:, :1]), LOG_COST, axis=1).mean())

    return area(np.full(2000, ahead)) - area(rng.normal(0, sd, 2000))


def coverage(name: str, controls: int, ahead: float, trials: int = 200) -> float:
    made = audited(name, controls, ahead, trials)
    truths = {sd: true_speed(ahead, sd) for sd in np.quantile([sd for _, sd, *_ in made], np.linspace(0, 1, 6))}
    nearest = [truths[min(truths, key=lambda each: abs(each - sd))] for _, sd, *_ in made]
    return float(np.mean([m.log_speedup.low <= t <= m.log_speedup.high for (_, _, m, _), t in zip(made, nearest, strict=True)]))


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("controls", [1, 3])
def test_intervals_hold_whichever_never_model_is_the_control(name: str, controls: int):
    assert 0.91 <= coverage(name, controls, 0.7) <= 0.99


def test_one_never_model_taken_for_all_does_not_hold():
    """Why the spread is in the interval: without it, on a world as the drawings', most intervals miss."""
    made = audited("as drawings", 1, 0.7)
    alone = [sampled_interval(m.log_speedups, 0.95, REPLICATES, None) for _, _, m, _ in made]
    truth = true_speed(0.7, 0.5)
    assert np.mean([x.low <= truth <= x.high for x in alone]) < 0.75


def test_the_same_edit_is_never_called_opposite_things():
    """Each of several never-models in turn as the only control: erased here and short-term there would be the verdict's, not the edit's."""
    rng = np.random.default_rng(9)
    for trial in range(60):
        easy = rng.normal(0, 0.3, (REPLICATES, 1))
        edited = rows(curve(rng, rng.uniform(-0.5, 2.0), easy))
        kinds = set()
        for ahead in rng.normal(0, 0.5, 4):
            one = Arms(BUDGETS, edited, rows(curve(rng, ahead, easy)), 0.0, 1.0, pictures=PICTURES)
            kinds.add(decide(HIDDEN, {"memora": measure(one, known=known("as drawings", trial % 20))}).kind)
        assert not {"erased", "short-term"} <= kinds and not {"erased", "long-term"} <= kinds


def test_a_wide_spread_forbids_hidden_and_grants_no_erasure():
    """Never-models that differ as much as a short-term edit does: nothing is erased for that, and nothing proven hidden."""
    slow, fast = (0.0, 0.05, 0.1, 0.3, 0.6, 0.9), (0.0, 0.3, 0.5, 0.7, 0.9, 0.95)
    wide = (Spread(0.3, 6.0), Spread(0.001, 6.0))
    jitter = [tuple(min(1.0, x + 0.002 * k * (x > 0)) for x in row) for row in (slow, fast) for k in range(5)]
    slows, fasts = tuple(jitter[:5]), tuple(jitter[5:])
    one = measure([Arms(BUDGETS, fasts, slows, 0.0, 1.0)], known=wide)
    assert decide(HIDDEN, {"memora": one}).kind == "inconclusive"
    same = measure([Arms(BUDGETS, slows, slows, 0.0, 1.0)], known=wide)
    made = decide(HIDDEN, {"memora": same})
    assert made.kind == "inconclusive" and made.more_replicates is None and made.more_controls
    assert "never-models differ too much among themselves" in made.reason


def test_a_capping_flag_is_named_where_more_never_models_would_only_say_erased():
    flat = ((0.0, 0.05, 0.1, 0.3, 0.6, 0.9),) * 5
    found = measure([Arms(BUDGETS, flat, flat, 0.0, 1.0, pictures=48)], known=(Spread(0.2, 6.0), Spread(0.001, 6.0)))
    made = decide(HIDDEN, {"memora": found}, [Flag("no-room", "capping", "no room")], Lines())
    assert made.kind == "inconclusive" and made.more_controls is None and "no room" in made.reason
