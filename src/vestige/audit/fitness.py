"""Whether a protocol can find anything: an audit's own conditions, asked of a control, the original and positive controls alone.

    seen    the judges see the concept in what the original draws, at least `GAP` above the controls', and alike
    rises   the controls' rise reaches `HALF` by the last budget, and not before the third: a faster attack leaves no room above them, a
            slower one finds nothing anywhere
    whole   the attack does not spoil what the untouched original draws (`attack-destroys`)
    found   an edit that is known to hide comes back (`no-positive-control`)
    null    each control measured against each other one: F's interval covers 1

No edit is looked at. Everything is asked of both judges: the selection judge decides, the verification judge is reported.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vestige import runs
from vestige.audit import positives, power, scores
from vestige.audit.experiment import Experiment
from vestige.audit.flags import GAP, JUDGES_DIFFER
from vestige.errors import Diverged
from vestige.harness import arms
from vestige.verdict import Arms, Interval, measure
from vestige.verdict.intervals import share

HALF = 0.5
THIRD = 2  # the third point of a budget, of which 0 is the first
ROLES = ("selection", "verification")


@dataclass(frozen=True)
class Swapped:
    """A run as the selection judge sees it: its hits stand where the verification judge's do."""

    run: runs.Run

    @property
    def outcome(self) -> dict[str, Any]:
        found = self.run.outcome
        return {**found, "points": [{**point, "hits": point["other_judge"]} for point in found["points"]]}


def seen_by(role: str, rows: Any) -> Any:
    """Arms, in whatever lists and mappings, as one of the judges sees them."""
    if role == "verification":
        return rows
    if isinstance(rows, Mapping):
        return {key: seen_by(role, value) for key, value in rows.items()}
    return [seen_by(role, value) for value in rows] if isinstance(rows, list) else Swapped(rows) if isinstance(rows, runs.Run) else rows


@dataclass(frozen=True)
class Fitness:
    """What one judge says of one protocol; None for what was not looked at, because an earlier condition failed.

    Arguments:
        learned: The controls' mean rise at every budget.
        whole: Whether the attacked original still draws the concept.
        hidden: Positive controls that hide it, name -> whether they came back.
        null: F of each pair of controls; empty with one.
        original: F of the original itself, the largest that an audit would show.
    """

    learned: tuple[float, ...]
    whole: bool | None = None
    hidden: Mapping[str, bool] | None = None
    null: tuple[Interval, ...] = ()
    original: Interval | None = None

    @property
    def half_at(self) -> int | None:
        """The first point of the budget at which the controls have learned half; None for none."""
        return next((i for i, rise in enumerate(self.learned) if rise >= HALF), None)

    @property
    def failed(self) -> str:
        """The first condition that is not met, in words; "" where all are, or are not known yet."""
        if not all(map(math.isfinite, self.learned)):
            return "unseen: no recall is defined"
        if self.half_at is None:
            return f"too slow: the control learns {self.learned[-1]:.0%}"
        if self.half_at < THIRD:
            return "too fast: the control learns half of it before the third budget"
        if self.null and any(not (f.low <= 1 <= f.high) for f in self.null):
            return "the controls differ: " + ", ".join(f"F {f.value:.2f} [{f.low:.2f}, {f.high:.2f}]" for f in self.null)
        if self.whole is False:
            return "it spoils what the original draws"
        if self.hidden is not None and not any(self.hidden.values()):
            return f"what is hidden does not come back ({', '.join(self.hidden) or 'nothing hides it'})"
        return ""

    def as_dict(self, budget: Sequence[int]) -> dict[str, Any]:
        """Plain data."""
        return {
            "learned": [None if math.isnan(rise) else rise for rise in self.learned],
            "half_at": None if self.half_at is None else budget[self.half_at],
            "original_whole": self.whole,
            "found": None if self.hidden is None else dict(self.hidden),
            "null": [one.as_dict() for one in self.null],
            "original": None if self.original is None else self.original.as_dict(),
            "failed": self.failed,
        }


@dataclass(frozen=True)
class Pupils:
    """The arms of the controls under one protocol, and the original's plain pictures.

    Arguments:
        rows: As `Experiment.attack` gives them, as far as they are needed to measure the never arm.
    """

    experiment: Experiment
    name: str
    rows: Mapping[str, Any] = field(default_factory=dict)

    def arms(self, role: str) -> list[Arms]:
        """One a control, each its own never arm."""
        return scores.arms_of(self.experiment, self.name, seen_by(role, self.rows))


def taught_controls(experiment: Experiment, name: str) -> Pupils:
    """Run the attack on the controls alone, every way of it, in every replicate; on each the way that works best counts."""
    method, seeds = experiment.plan.attacks[name][0], experiment.plan.seeds
    taken = []
    for side in experiment.nevers:
        ways = {way: [experiment.arm(*side, name, attack, k) for k in seeds] for way, attack in method.ways().items()}
        taken.append(ways[arms.favoured(ways)])
    rows = {"edited": taken[0], "nevers": taken, "ceiling": plain_runs(experiment)}
    return Pupils(experiment, name, rows)


def plain_runs(experiment: Experiment) -> list[runs.Run]:
    """What the original draws when it is plainly asked, a run a replicate."""
    return [experiment.plain(experiment.base, experiment.concept, k) for k in experiment.plan.seeds]


def why_unseen(experiment: Experiment, floor: Sequence[runs.Run]) -> str:
    """Why no protocol can help: a concept that the judges do not see, or not alike; "" where they do.

    Arguments:
        floor: What the controls draw when plainly asked.
    """
    plain, rates = plain_runs(experiment), {}
    for role in ROLES:
        top, low = (share([hit for run in seen_by(role, list(rows)) for hit in scores.hits_at(run, 0)]) for rows in (plain, floor))
        rates[role] = top
        if not top - low >= GAP:
            told = f"the {role} judge sees it in {top:.0%} of the original's pictures and in {low:.0%} of the controls'"
            return f"{told}; {GAP:.0%} between them are needed"
    if abs(rates["selection"] - rates["verification"]) > JUDGES_DIFFER:
        told = " and ".join(f"the {role} judge in {value:.0%}" for role, value in rates.items())
        return f"of the original's pictures {told} see it; {JUDGES_DIFFER:.0%} between them are allowed"
    return ""


def rising(pupils: Pupils, role: str) -> Fitness:
    """What one judge says of the controls alone."""
    each = pupils.arms(role)
    learned = tuple(np.mean([arm.rises()[1].mean(axis=0) for arm in each], axis=0).tolist())
    pairs = itertools.combinations(each, 2)
    null = tuple(measure(replace(one, edited=one.never, never=other.never, floor=other.floor)).speedup for one, other in pairs)
    return Fitness(learned, null=null)


def finding(experiment: Experiment, name: str, found: Mapping[str, Any], probes: Mapping[str, Any], before: Fitness, role: str) -> Fitness:
    """What one judge says of the attacked original and of positive controls.

    Arguments:
        found: The attack's arms, with the original in the place of an edited model.
        probes: The arms of each positive control, by attack and way.
    """
    rows, arms_ = {name: seen_by(role, dict(found))}, {key: seen_by(role, dict(value)) for key, value in probes.items()}
    tried = {key: positives.trial_of(experiment, key, own, rows, 1) for key, own in arms_.items()}
    return replace(
        before,
        whole=not power.destroyed(rows),
        hidden={key: trial.found for key, trial in tried.items() if trial.hides},
        original=measure(scores.arms_of(experiment, name, rows[name])).speedup,
    )


def probe_rows(experiment: Experiment, name: str) -> dict[str, dict[str, Any]]:
    """The arms of every positive control that could be made and attacked."""
    made = {}
    for key, model in experiment.positives.items():
        if not isinstance(model, str):
            try:
                made[key] = {name: positives.positive_arms(experiment, model, name)}
            except Diverged:
                continue
    return made
