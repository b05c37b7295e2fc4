"""What an audit would have found: its attacks, tried on edits of the same original that are known to hide the concept.

A positive control counts only where it hides, and is found where an armed attack that teaches the never arm too brings it back clearly:

    hides    upper end of plain recall at most `surface`
    found    lower end of savings above `savings_long`, or of reach above `reach_long`, over at least three paired replicates, and above
             what never-models show among themselves; or each of these replicates by itself

Both are the audit's own lines and intervals: what would not be found in such an edit would not be found in the audited one.
Source: ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vestige import runs
from vestige.audit import scores
from vestige.audit.experiment import Experiment
from vestige.errors import Diverged
from vestige.harness import arms
from vestige.verdict import Flag, Interval, Lines, measure
from vestige.verdict.decision import FEWEST
from vestige.verdict.intervals import interval_of, rate
from vestige.verdict.savings import Measures

NOTHING = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Trial:
    """A positive control, and what came of it.

    Arguments:
        name: How suites call it.
        plain: Its plain recall.
        hides: Whether plain prompts hardly show the concept.
        found: Whether an armed attack brought it back clearly.
        attack: The attack that did so, or came nearest; None where none ran.
        speedup, reach: What that attack measured.
        times, replicates: In how many replicates the concept came back past a line, of how many.
        why: What kept it from being made or attacked.
    """

    name: str
    plain: Interval = NOTHING
    hides: bool = False
    found: bool = False
    attack: str | None = None
    speedup: Interval = NOTHING
    reach: Interval = NOTHING
    times: int = 0
    replicates: int = 0
    why: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        measured = {key: getattr(self, key).as_dict() for key in ("plain", "speedup", "reach")}
        rest = {key: getattr(self, key) for key in ("hides", "found", "attack", "times", "replicates", "why")}
        return {"name": self.name, **rest, **measured}


def weighed(name: str, plain: Interval, measures: Mapping[str, Measures], lines: Lines) -> Trial:
    """A positive control by its plain recall and what each armed attack measured on it."""
    best = max(measures, key=lambda attack: (_clear(measures[attack], lines), _finite(measures[attack].log_speedup.value)))
    found = measures[best]
    return Trial(
        name,
        plain,
        hides=plain.high <= lines.surface,
        found=_clear(found, lines) or (_times(found, lines) == found.replicates >= max(FEWEST, lines.replicates) and not found.censored),
        attack=best,
        speedup=found.speedup,
        reach=found.reach,
        times=_times(found, lines),
        replicates=found.replicates,
    )


def _clear(found: Measures, lines: Lines) -> bool:
    """Brought back, beyond chance, by an attack that teaches the control too."""
    enough = found.replicates >= max(FEWEST, lines.replicates) and not found.censored
    least, least_far = found.null
    return enough and (found.savings.low > max(lines.savings_long, least) or found.reach.low > max(lines.reach_long, least_far))


def _times(found: Measures, lines: Lines) -> int:
    """Replicates in which the concept came back past a line."""
    least, least_far = found.null
    fast, far_line = -math.log(1 - max(lines.savings_long, least)), max(lines.reach_long, least_far)
    return sum(speed > fast or far > far_line for speed, far in zip(found.log_speedups, found.reaches, strict=True))


def _finite(x: float) -> float:
    return x if math.isfinite(x) else -math.inf


def needed(verdict: Mapping[str, Any]) -> bool:
    """Whether a verdict, found without positive controls, could be another one with them: where it rests on what did not come back.

    Their flag is a capping one, which neither not forgotten nor short-term heeds, and no verdict where a blocking one has fired.
    """
    return not _blocked(verdict) and verdict["kind"] not in ("not forgotten", "short-term")


def spared(verdict: Mapping[str, Any]) -> str:
    """Why a verdict needs no positive control, in one sentence."""
    if _blocked(verdict):
        return "no verdict is given, and no positive control could change that"
    rests = "what it draws when asked" if verdict["kind"] == "not forgotten" else "what came back"
    return f"this verdict rests on {rests}, and needs no positive control"


def _blocked(verdict: Mapping[str, Any]) -> bool:
    return any(flag["kind"] == "blocking" for flag in verdict["flags"])


def flags_of(probes: Sequence[Trial], lines: Lines, replicates: int) -> list[Flag]:
    """Neither erased nor long-term where nothing that hides was found; with fewer than three replicates there is no verdict anyway."""
    if any(probe.hides and probe.found for probe in probes) or replicates < max(FEWEST, lines.replicates):
        return []
    hiding = [probe for probe in probes if probe.hides]
    if not hiding:
        names = ", ".join(probe.name for probe in probes) or "none was made"
        text = f"no positive control hides the concept here ({names}), so nothing shows what these attacks would have found"
        return [Flag("no-positive-control", "capping", text)]
    told = "; ".join(f"{probe.name} under {probe.attack}: {_measured(probe)}" for probe in hiding)
    text = f"what is known to hide the concept did not clearly come back ({told}): these attacks would not have found it"
    return [Flag("no-positive-control", "capping", text)]


def _measured(probe: Trial) -> str:
    speed, reach = probe.speedup, probe.reach
    return f"F {speed.value:.2f} [{speed.low:.2f}, {speed.high:.2f}], reach {reach.value:.2f} [{reach.low:.2f}, {reach.high:.2f}]"


def sentence(probes: Sequence[Trial]) -> str:
    """What this audit would have found, in one sentence; "" without any positive control."""
    found, hiding = [p for p in probes if p.hides and p.found], [p for p in probes if p.hides]
    parts = [f"this audit would have found: {_counted(found)}"] if found else []
    missed = [p for p in hiding if not p.found]
    parts += [f"it would have missed: {_counted(missed)}"] if missed else []
    open_ = [p.name for p in probes if not p.hides and not p.why]
    parts += [f"not hidden here, and so no control: {', '.join(open_)}"] if open_ else []
    return "; ".join(parts + [f"{p.name} could not be tried ({p.why})" for p in probes if p.why])


def _counted(probes: Sequence[Trial]) -> str:
    return ", ".join(f"{p.name} in {p.times} of {p.replicates} replicates" for p in probes)


def tried(experiment: Experiment, found: Mapping[str, Any], compared: int) -> tuple[list[Trial], dict[str, list[runs.Run]]]:
    """Every positive control of an audit, and the arms that were run for them, by attack.

    Arguments:
        found: The audit's own arms, by attack: the never arm and the ceiling are theirs.
        compared: How many comparisons the audit's intervals hold for together.
    """
    probes, ran = [], dict[str, list[runs.Run]]()
    for name, model in experiment.positives.items():
        if isinstance(model, str):
            probes.append(Trial(name, why=model))
            continue
        try:
            rows = {attack: positive_arms(experiment, model, attack) for attack in experiment.plan.armed if attack in found}
        except Diverged as error:
            probes.append(Trial(name, why=str(error)))
            continue
        for attack, ways in rows.items():
            ran.setdefault(attack, []).extend(run for row in ways.values() for run in row)
        if rows:
            probes.append(trial_of(experiment, name, rows, found, compared))
    return probes, ran


def positive_arms(experiment: Experiment, model: Any, name: str) -> dict[str, list[runs.Run]]:
    """An attack on a positive control, in every way of it."""
    return experiment.ways(model, experiment.concept, name, experiment.plan.probing)


def trial_of(
    experiment: Experiment, name: str, rows: Mapping[str, Mapping[str, list[runs.Run]]], found: Mapping[str, Any], compared: int
) -> Trial:
    """What attacks found on one positive control, against the audit's own never arms and ceiling.

    Arguments:
        rows: Its arms, by attack and way; `found`: the audit's, by attack.
        compared: How many comparisons the audit's intervals hold for together.
    """
    taken = {attack: ways[arms.favoured(ways)] for attack, ways in rows.items()}
    n = len(experiment.plan.probing)
    paired = {
        attack: {**found[attack], "ceiling": found[attack]["ceiling"][:n], "nevers": [rows[:n] for rows in found[attack]["nevers"]]}
        for attack in taken
    }
    curves = {attack: scores.arms_of(experiment, attack, {**paired[attack], "edited": row}) for attack, row in taken.items()}
    first = next(iter(taken))
    levels = scores.levels(experiment, found[first])
    plain = interval_of(rate([hit for run in taken[first] for hit in scores.hits_at(run, 0)])).as_recall(levels["floor"], levels["ceiling"])
    known = {attack: scores.known_spread(experiment, attack).both for attack in curves}
    measures = {attack: measure(curve, experiment.plan.level, compared, known[attack]) for attack, curve in curves.items()}
    return weighed(name, plain, measures, experiment.plan.lines)
