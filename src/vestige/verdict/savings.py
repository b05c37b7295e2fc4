"""From recovery curves to savings and reach, with their intervals. Arithmetic only.

    r(b)  = (s(b) - floor) / (ceiling - floor)                        recall after spending b, not clipped
    u(b)  = (r(b) - leak) / (1 - leak)                                rise: what came back of all that plain prompts do not show
    log F = integral of (u_edited(b) - u_never(b)) d log(1 + b)       the edited model relearns F times faster
    S     = 1 - 1 / F                                                 savings: 1 recalled at once, 0 never known
    X     = r_edited(B) - r_never(B)                                  reach at the last budget B

`leak` is the arm's own plain recall, r(0), and at most `LEAK`: a model that shows more of a concept when plainly asked has not lost it.
Taken out, it makes two arms that no attack moves equal, F = 1, whatever they leak and however long they are tried.

Replicates are paired across arms, and never-models are a sample of all that there could be: intervals hold both (`spread`). Why these
measures, and how often their intervals cover the truth: `docs/decisions/0001-savings.md` and `0014-controls-are-a-sample.md`.
Source: ours; savings after Ebbinghaus, 1885.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vestige.errors import BadInput
from vestige.verdict import spread as between
from vestige.verdict.intervals import Interval, jsonable, spanned, t_interval
from vestige.verdict.spread import Spread

Level = float | tuple[float, ...]  # one rate, taken as exact, or one for each replicate
Curves = tuple[tuple[float, ...], ...]  # rates in [0, 1], n replicates x B budgets
Array = NDArray[np.float64]

CENSORED_BELOW = 0.1  # mean recall of the never arm at the last budget
LEAK = 0.2  # plain recall up to which it is taken out of the rise


@dataclass(frozen=True)
class Arms:
    """Scores of the edited and the never arm under one attack; replicate k of both shares its seeds.

    Arguments:
        budgets: What the attacker had spent at each score; rises from 0, at least two.
        edited: Rates of the model under audit.
        never: Rates of the model that never knew the concept, or that was taught the proxy.
        floor: Plain score of the never arm. Given for each replicate, its noise enters the intervals, as it must where the
            rates come from few pictures; one number is taken as exact.
        ceiling: Plain score of the original, likewise.
        never_floor, never_ceiling: The pair of a proxy, which normalises the never arm; None: as above.
        between: Ends between which the ceiling may lie where it is no rate of the original's; None takes it as given.
        pictures: Pictures behind each rate; 0: not told, and replicates that agree exactly then have no noise at all.
    """

    budgets: tuple[int, ...]
    edited: Curves
    never: Curves
    floor: Level
    ceiling: Level
    never_floor: Level | None = None
    never_ceiling: Level | None = None
    between: tuple[float, float] | None = None
    pictures: int = 0

    def __post_init__(self) -> None:
        n, points = len(self.edited), len(self.budgets)
        if not points or self.budgets[0] != 0 or list(self.budgets) != sorted(set(self.budgets)):
            raise ValueError(f"budgets rise from 0 without repeats, e.g. (0, 2, 5, 10); given {self.budgets}")
        if not n or n != len(self.never) or points < 2:
            raise BadInput(f"arms need paired replicates and two budgets; given {n} edited, {len(self.never)} never, {points} budgets")
        for name in ("edited", "never"):
            for k, row in enumerate(getattr(self, name)):
                _check_rates(f"{name} replicate {k}", row, {points})
        for name in ("floor", "ceiling", "never_floor", "never_ceiling"):
            if getattr(self, name) is not None:
                _check_rates(name, np.atleast_1d(getattr(self, name)).tolist(), {1, n})
        if self.between is not None:
            _check_rates("between", self.between, {2})

    def recalls(self) -> tuple[Array, Array]:
        """Recall curves of both arms, each normalised by its own pair."""
        return recall(self.edited, self.floor, self.ceiling), recall(self.never, *self._own())

    def rises(self) -> tuple[Array, Array]:
        """What came back in both arms, each of what its own plain prompts do not show."""
        return rise(self.edited, self.floor, self.ceiling), rise(self.never, *self._own())

    def _own(self) -> tuple[Level, Level]:
        """Floor and ceiling of the never arm."""
        floor = self.floor if self.never_floor is None else self.never_floor
        return floor, self.ceiling if self.never_ceiling is None else self.never_ceiling


def recall(scores: Curves, floor: Level, ceiling: Level) -> Array:
    """Recall curves, n x B; NaN unless the pooled ceiling lies above the pooled floor.

        r_k(b) = r(b) + (s_k(b) - floor_k - r(b) (ceiling_k - floor_k)) / (ceiling - floor),   r(b) from pooled rates

    Their mean is r(b) and their spread holds the noise of floor and ceiling to first order, as in a ratio estimate (Cochran,
    "Sampling Techniques", 1977, ch. 6). With levels taken as exact it is `(s_k - floor) / (ceiling - floor)`.
    """
    s = np.asarray(scores, dtype=np.float64)
    low, high = (np.zeros((len(s), 1)) + np.reshape(level, (-1, 1)) for level in (floor, ceiling))
    span = float((high - low).mean())
    if not span > 0:
        return np.full_like(s, math.nan)
    pooled = (s - low).mean(axis=0) / span  # (B,)
    linear: Array = pooled + (s - low - pooled * (high - low)) / span
    return linear


def rise(scores: Curves, floor: Level, ceiling: Level) -> Array:
    """Rise of an arm, n x B: its recall without its leak, as a share of what that leaves.

    Up to `LEAK` the leak is each replicate's own plain rate, whose noise it takes out; above, `LEAK` itself.
    """
    whole = recall(scores, floor, ceiling)
    if float(whole[:, 0].mean()) > LEAK:
        return (whole - LEAK) / (1 - LEAK)
    return recall(scores, tuple(row[0] for row in scores), ceiling)


def log_speedups(arms: Arms) -> tuple[float, ...]:
    """log F of each replicate, by the trapezoid rule on the scored budgets."""
    edited, never = arms.rises()
    return areas(arms.budgets, edited - never)


def room(controls: Arms | Sequence[Arms], level: float = 0.95) -> Interval:
    """The largest F that an attack could have shown: all of the concept back at the first budget above 0, against these never arms.

        log F_max = integral of (1[b > 0] - u_never) d log(1 + b)

    Where the never arm learns everything at once there is no room above it, and F near 1 says nothing of the edited model.
    """
    found = []
    for arms in _each(controls):
        _, never = arms.rises()
        instant = np.concatenate([never[:, :1], np.maximum(never[:, 1:], 1.0)], axis=1)
        found.append(areas(arms.budgets, instant - never))
    x = t_interval(np.mean(found, axis=0).tolist(), level, len(found[0]))
    return Interval(_exp(x.value), _exp(x.low), _exp(x.high))


def learned(arms: Arms) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What a never-model learned in each replicate: the area of its rise over log(1 + b), and its recall at the last budget."""
    _, never = arms.rises()
    return areas(arms.budgets, never), tuple(arms.recalls()[1][:, -1].tolist())


@dataclass(frozen=True)
class Measures:
    """What one attack found; `savings` is only a lower bound where `censored`.

    Arguments:
        log_speedups, reaches: Of each replicate, the mean over never-models.
        level: Coverage of each interval, after Bonferroni.
        others: The same at the ends between which the ceiling may lie; intervals span theirs.
        controls: How many never-models it was measured against, and `against`: log F and reach against each, the mean over replicates.
        spreads: What is known of never-models' spread, for log F and for reach; None: the intervals hold for these alone.
        least: Variance of one replicate's log F and reach below which rates of so few pictures cannot be known.
    """

    log_speedup: Interval
    speedup: Interval
    savings: Interval
    reach: Interval
    censored: bool  # the never arm hardly rose within the horizon
    recall_never_at_last: float
    replicates: int
    log_speedups: tuple[float, ...]
    reaches: tuple[float, ...]
    level: float
    others: tuple[Measures, ...] = ()
    controls: int = 1
    against: tuple[tuple[float, float], ...] = ()
    spreads: tuple[Spread | None, Spread | None] = (None, None)
    least: tuple[float, float] = (0.0, 0.0)

    def at(self, replicates: float, controls: float | None = None) -> Measures:
        """The same means and variances at another number of replicates, or of never-models, up to infinity."""
        j = self.controls if controls is None else controls
        (fast, far), (least, least_far) = self.spreads, self.least
        x = between.sampled_interval(self.log_speedups, self.level, replicates, fast, j, least)
        reach = between.sampled_interval(self.reaches, self.level, replicates, far, j, least_far)
        speedup = Interval(_exp(x.value), _exp(x.low), _exp(x.high))
        savings, others = Interval(saved(x.value), saved(x.low), saved(x.high)), [other.at(replicates, j) for other in self.others]
        return replace(
            self,
            log_speedup=spanned(x, [o.log_speedup for o in others]),
            speedup=spanned(speedup, [o.speedup for o in others]),
            savings=spanned(savings, [o.savings for o in others]),
            reach=spanned(reach, [o.reach for o in others]),
        )

    @property
    def null(self) -> tuple[float, float]:
        """Savings and reach that one never-model in twenty shows against the mean of all; 0 where their spread is not known."""
        fast, far = self.spreads
        return (0.0 if fast is None else saved(fast.quantile())), (0.0 if far is None else far.quantile())

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; NaN and infinities become None."""
        return {key: value for key, value in jsonable(asdict(self)).items() if key != "others"}


def measure(
    controls: Arms | Sequence[Arms], level: float = 0.95, attacks: int = 1, known: tuple[Spread | None, Spread | None] = (None, None)
) -> Measures:
    """Savings and reach of one attack.

    Arguments:
        controls: Scores, against each never-model in turn; one replicate gives infinite intervals, a ceiling at or below its floor NaN.
        level: Coverage of the whole audit, in (0, 1).
        attacks: How many attacks it compares; each interval is widened to `1 - (1 - level) / attacks` (Bonferroni).
        known: What is known of the spread of never-models' log F and reach from elsewhere; two never-models or more add their own. None,
            and one never-model: intervals hold for that one alone, which the caller has to say.
    """
    if attacks < 1 or not 0 < level < 1:
        raise ValueError(f"intervals need attacks >= 1 and 0 < level < 1; given {attacks} and {level}")
    each = _each(controls)
    if not each or any((arms.edited, arms.ceiling, arms.budgets) != (each[0].edited, each[0].ceiling, each[0].budgets) for arms in each):
        raise BadInput("never-models are compared with one edited model, under one ceiling and one budget")
    logs = np.array([log_speedups(arms) for arms in each])
    ends = [(edited[:, -1], never[:, -1]) for edited, never in (arms.recalls() for arms in each)]
    reaches = np.array([edited - never for edited, never in ends])
    last = float(np.mean([never for _, never in ends]))
    against = tuple(zip(logs.mean(axis=1).tolist(), reaches.mean(axis=1).tolist(), strict=True))
    sound = bool(np.isfinite(logs).all())
    seen = [between.moderated(prior, own if sound else own[:1]) for prior, own in zip(known, zip(*against, strict=True), strict=True)]
    unset, widened = Interval(math.nan, math.nan, math.nan), 1 - (1 - level) / attacks
    others = [measure([replace(arms, ceiling=end, between=None) for arms in each], level, attacks, known) for end in each[0].between or ()]
    mean_logs, mean_reaches = (tuple(table.mean(axis=0).tolist()) for table in (logs, reaches))
    return Measures(
        *(unset,) * 4,
        censored=last < CENSORED_BELOW,
        recall_never_at_last=last,
        replicates=len(each[0].edited),
        log_speedups=mean_logs,
        reaches=mean_reaches,
        level=widened,
        others=tuple(others),
        controls=len(each),
        against=against,
        spreads=(seen[0], seen[1]),
        least=_least(each[0]),
    ).at(len(each[0].edited))


def _each(controls: Arms | Sequence[Arms]) -> list[Arms]:
    return [controls] if isinstance(controls, Arms) else list(controls)


def _least(arms: Arms) -> tuple[float, float]:
    """Variance of one replicate's log F and reach if a single picture of all replicates, at every budget and in either arm, was chance."""
    span = float(np.mean(arms.ceiling)) - float(np.mean(arms.floor))
    if not arms.pictures or not span > 0:
        return 0.0, 0.0
    rate = 1 / (arms.pictures * len(arms.edited) + 2)
    one = 2 * rate * (1 - rate) / arms.pictures / span**2
    x = np.log1p(arms.budgets)
    weights = np.diff(x, append=x[-1]) / 2 + np.diff(x, prepend=x[0]) / 2
    return one * float((weights**2).sum()), one


def saved(log_speedup: float) -> float:
    """Savings of a log F."""
    return 1 - _exp(-log_speedup)


def areas(budgets: tuple[int, ...], gaps: Array) -> tuple[float, ...]:
    """Integral of each row of gaps, n x B, over log(1 + b)."""
    x = np.log1p(budgets)
    return tuple(((gaps[:, 1:] + gaps[:, :-1]) @ np.diff(x) / 2).tolist())


def _check_rates(name: str, values: Sequence[float], lengths: set[int]) -> None:
    if len(values) not in lengths or not all(0 <= value <= 1 for value in values):
        raise BadInput(f"{name} needs {' or '.join(map(str, sorted(lengths)))} rates in [0, 1]; given {list(values)}")


def _exp(x: float) -> float:
    return math.inf if x > 700 else math.exp(x)
