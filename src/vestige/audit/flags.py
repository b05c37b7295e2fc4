"""Reliability flags of an audit: what makes its number unsafe to rely on, each with the numbers that raised it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vestige import edits, runs
from vestige.audit import control_flags, no_original, positives, power, scores
from vestige.audit.experiment import Experiment
from vestige.audit.machines import computed_differently
from vestige.audit.usefulness import ALLOWED, GROUPS, utility
from vestige.edits import Edit
from vestige.errors import VestigeError
from vestige.harness import arms
from vestige.harness.calibration import Known
from vestige.harness.settings import one_prompt
from vestige.metrics import loading
from vestige.metrics.losses import LostShare
from vestige.verdict import Flag, Interval, intervals
from vestige.verdict.intervals import Hits
from vestige.verdict.savings import Measures, areas, recall

GAP = 0.5  # ceiling - floor below which a concept cannot be audited
JUDGES_DIFFER = 0.15
PLASTICITY = 0.7
MISSING = 0.05  # share of pictures that may stay unjudged: it bounds by how much any rate can be off
ROLES = {"hits": "verification", "other_judge": "selection"}


def raise_all(
    experiment: Experiment,
    found: Mapping[str, Any],
    measures: Mapping[str, Measures],
    plain: Mapping[str, Any],
    usable: Mapping[str, Any],
    left: Mapping[str, Any],
    taught: Mapping[str, Sequence[runs.Run]],
    rooms: Mapping[str, Interval],
    known: Mapping[str, Known],
    failed: Mapping[str, str] | None = None,
    probes: Sequence[positives.Trial] = (),
    left_open: Sequence[Flag] = (),
    losses: Mapping[str, Mapping[str, LostShare]] | None = None,
) -> list[Flag]:
    """Every flag that fires, blocking ones first.

    Arguments:
        usable: What must stay, by group and stage, and `left`: by attack and group.
        taught: The arms by which plasticity is measured.
        rooms: By attack, the largest F that it could have shown, and `known`, what tells how never-models differ under it.
        failed: Attacks, or the lesson, whose numbers were finite no longer, and what was said of them.
        probes: The positive controls.
        left_open: What banks of prompts raised.
        losses: What pictures say that the rest lost, by group and stage.
    """
    raised = [
        *failures(failed or {}),
        *_missing(experiment, found),
        *_auditable(experiment, found),
        *_judges(experiment, found),
        *([no_original.flag(experiment.real)] if experiment.real is not None else []),
        *_detectors(experiment),
        *_unread(experiment, found),
        *_edit(experiment),
        *utility(experiment, usable, losses),
        *_plasticity(experiment, taught),
        *control_flags.mismatched(experiment),
        *control_flags.drawing(experiment, found),
        *(control_flags.made_of_the_original(experiment, measures) if experiment.plan.control.kind == "distilled" else []),
        *control_flags.few(experiment, known),
        *power.power(measures, rooms, experiment.plan.lines),
        *(positives.flags_of(probes, experiment.plan.lines, len(experiment.plan.seeds)) if _probed(experiment, found) else []),
        *power.hindered(measures, bool(taught)),
        *power.destroyed(found),
        *power.order(found, measures),
        *power.conduct(found, plain, experiment.plan.lines.surface),
        *_wrecked(usable, left),
        *computed_differently(found),
        *left_open,
    ]
    rank = {"blocking": 0, "capping": 1, "informing": 2}
    return sorted(raised, key=lambda f: rank[f.kind])


def failures(failed: Mapping[str, str]) -> list[Flag]:
    """Attacks that found nothing because they broke: what they would have found is not known."""
    return [Flag("attack-failed", "capping", f"{text}; {name} is in no number here") for name, text in failed.items()]


def _probed(experiment: Experiment, found: Mapping[str, Any]) -> bool:
    """Whether positive controls could be asked for, and were: without an original, or an armed attack, another flag fires."""
    return experiment.probes and experiment.original is not None and any(name in found for name in experiment.plan.armed)


def _auditable(experiment: Experiment, found: Mapping[str, Any]) -> list[Flag]:
    levels = scores.levels(experiment, next(iter(found.values())))
    gap = levels["ceiling"] - levels["floor"]
    if gap >= GAP or math.isnan(gap):  # what could not be judged at all has a flag of its own
        return []
    text = f"the original shows {experiment.concept.name} in {levels['ceiling']:.0%} of pictures, the control in {levels['floor']:.0%}"
    if experiment.real is not None:
        text = (
            f"{experiment.concept.name} is seen in {levels['ceiling']:.0%} of its real pictures, in {levels['floor']:.0%} of the control's"
        )
    return [Flag("not-auditable", "blocking", f"{text}; at least {GAP:.0%} between them are needed")]


def _judges(experiment: Experiment, found: Mapping[str, Any]) -> list[Flag]:
    """On the original's plain pictures, on real ones where there are any, and after every attack: an attack may fit one judge alone."""
    rows = next(iter(found.values()))["ceiling"]
    pictures = {"on the original model on plain prompts": {k: [h for r in rows for h in r.outcome["points"][0][k]] for k in ROLES}}
    for name, arms_ in found.items():
        recovered = {k: [h for r in arms_["edited"] for h in r.outcome["points"][-1][k]] for k in ROLES}
        pictures[f"on the edited model after recovery by {name}"] = recovered
    if experiment.real is not None:
        pictures["on real pictures"] = {k: list(getattr(experiment.real, k)) for k in ROLES}
    flags = []
    for where, hits in pictures.items():
        a, b = (intervals.share(hits[key]) for key in ROLES)
        if abs(a - b) > JUDGES_DIFFER:
            flags.append(Flag("judges-disagree", "blocking", f"{where} one judge sees {a:.0%}, the other {b:.0%}"))
    return flags


def _missing(experiment: Experiment, found: Mapping[str, Any]) -> list[Flag]:
    """Pictures that a judge could not judge are in no rate; were they like the rest, it would not matter."""
    seen: list[tuple[str, Mapping[str, Hits]]] = []
    for name, rows in found.items():
        for arm in ("edited", "never", "original"):
            for points in zip(*(r.outcome["points"] for r in rows[arm]), strict=True):
                seen.append((f"pictures of the {arm} arm under {name}", {key: [h for p in points for h in p[key]] for key in ROLES}))
    if experiment.real is not None:
        seen.append(("real pictures", {key: getattr(experiment.real, key) for key in ROLES}))
    worst: tuple[float, str] = (0.0, "")
    for what, both in seen:
        for key, hits in both.items():
            lost = len(hits) - len(intervals.judged(hits))
            text = f"the {ROLES[key]} judge could not judge {lost} of {len(hits)} {what}"
            worst = max(worst, (lost / len(hits), text))
    share, text = worst
    if not share:
        return []
    return [Flag("missing-detections", "blocking" if share > MISSING else "informing", f"{text}; they are in no rate")]


def _detectors(experiment: Experiment) -> list[Flag]:
    """What a concept's own detectors leave unsaid."""
    verify, select = experiment.bench.verify, experiment.bench.select
    seen = {judge.name: getattr(judge, "unseen", "") for judge in (verify, select)}  # of a user's own function alone
    flags = [_uncovered(name, where) for name, where in seen.items() if where]
    if loading.same(verify, select, experiment.base.image_size):
        text = f"{verify.name} both chooses and is reported: no second judge checked what it sees; name a selector in the concept file"
        flags.append(Flag("one-judge", "capping", text))
    if words := loading.unknown_words(verify, experiment.concept):
        text = f"{verify.name} has no label for {', '.join(words)}: what became of that is in no number"
        flags.append(Flag("unknown-words", "informing", text))
    if "specificity" not in loading.error_rates(verify, experiment.concept.label):
        text = f"how often {verify.name} is right on such pictures was not measured"
        floor = "" if experiment.plan.control.of_the_concept else _floor(experiment)
        flags.append(Flag("unmeasured-judge", "informing", text + floor))
    return flags


def _floor(experiment: Experiment) -> str:
    """What the false positives of a detector that nobody measured are taken for."""
    seen = scores.floor_shown(experiment, 0.0)
    if not seen.get("count"):
        return "; its false positives are taken as none"
    return f"; recall begins at its rate on {seen['count']} of {seen['of']}, {seen['value']:.0%}"


def _unread(experiment: Experiment, found: Mapping[str, Any]) -> list[Flag]:
    """Prompts that are longer than what the model reads, of which those that differ behind that are one to it; and a single prompt."""
    asked = [one.text for bank in experiment.plan.banks for one in bank.asked]
    own = len(experiment.base.unread(list(dict.fromkeys([*experiment.concept.told(), *asked]))))
    points = [p for rows in found.values() for row in rows["edited"] for p in row.outcome["points"]]
    made = max((p["notes"].get("cut", 0) for p in points), default=0)
    which = [f"{count} {what}" for count, what in ((own, "of the concept's prompts"), (made, "prompts that an attack found")) if count]
    text = f"the end of {' and '.join(which)} is not read, too long for the text encoder"
    alone = one_prompt(experiment.concept)
    cut = [Flag("prompts-cut", "informing", text)] if which else []
    return [*cut, *([Flag("one-prompt", "informing", alone)] if alone else [])]


def _uncovered(name: str, where: str) -> Flag:
    """A judge may have been another one, and the stored scores do not know."""
    text = f"{where}, and what it reads is declared nowhere: scores stored before it changed count as its own"
    return Flag("uncovered-judge", "capping", f"{text}; list the files of {name}, {name}.files = [...], as docs/metrics.md says")


def _edit(experiment: Experiment) -> list[Flag]:
    if experiment.edit is None:
        return []
    remark = experiment.edit.remark(experiment.subject)
    aged = [Flag("earlier-identity", "informing", remark)] if remark else []
    return aged if experiment.edit.hooks else [*aged, *_changes(experiment, experiment.edit)]


def _changes(experiment: Experiment, edit: Edit) -> list[Flag]:
    """An edit that changes nothing, or more than it says."""
    changes = edits.measure(experiment.subject, edit)
    if not any(c.norm > 0 for c in changes):
        return [Flag("no-change", "blocking", "the edit changes no weight")]
    allowed = set[str]()
    for scope in edit.scope.split("+"):  # edits that were added up declare every part's
        try:
            allowed.update(experiment.subject.scope(scope))
        except VestigeError as error:
            text = f"the edit declares {edit.scope}, and what that allows is not known: {error}"
            return [Flag("out-of-scope", "blocking", text)]
    outside = [c.name for c in changes if c.norm > 0 and c.name not in allowed]
    return [Flag("out-of-scope", "blocking", f"the edit declares {edit.scope} and changes {outside[0]}")] if outside else []


def _wrecked(usable: Mapping[str, Any], left: Mapping[str, Any]) -> list[Flag]:
    """Attacks that cost what must stay more than an edit may."""
    flags = []
    for name, groups in left.items():
        for group, allowed in ALLOWED.items():
            drop, low = intervals.fell(usable[group]["after"]["right"], groups[group]["right"])
            if low > allowed:
                text = f"{name} took {drop:.0%} (at least {low:.0%}) off the accuracy on {GROUPS[group]}"
                flags.append(Flag("attack-wrecks", "informing", f"{text}: what it brings back, it brings back in a damaged model"))
    return flags


def _plasticity(experiment: Experiment, taught: Mapping[str, Sequence[runs.Run]]) -> list[Flag]:
    """Who learns a new concept faster, the edited or the original model?"""
    lesson = experiment.lesson
    if lesson is None or not taught:
        return []
    curves = {who: tuple(arms.curve(r.outcome["points"], best_so_far=True)[0] for r in rows) for who, rows in taught.items()}
    floor = tuple(c[0] for c in curves["original"])
    ceiling = scores.real_rate(experiment, lesson.concept)
    speed = relative_speed(curves["edited"], curves["original"], floor, ceiling, experiment.plan.attacks[lesson.attack][1].budget.points)
    if speed >= PLASTICITY:
        return []
    text = f"the edited model learns a new concept at {speed:.2f} of the original's speed; a damaged model relearns nothing quickly"
    return [Flag("plasticity", "capping", text)]


def relative_speed(edited: Any, original: Any, floor: tuple[float, ...], ceiling: float, budgets: Sequence[int]) -> float:
    """exp of the integral of the recall difference over log(1 + budget), the mean over replicates."""
    gap = recall(edited, floor, ceiling).mean(0) - recall(original, floor, ceiling).mean(0)
    return math.exp(areas(tuple(budgets), gap[None])[0])
