"""The audit: unlearn, attack that very model and its controls, and decide."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from vestige import runs
from vestige.audit import asking, flags, no_original, positives, power, result, scores, tasks, unshown, usefulness
from vestige.audit.experiment import Experiment, furnished, prepared
from vestige.audit.plan import Plan
from vestige.audit.request import Request
from vestige.audit.resolving import resolve
from vestige.diffusion.model import Watch, silent
from vestige.engine import WHOLE, Graph, HerePool, LocalPool, Pool, Progress, execute
from vestige.errors import BadSetting, Diverged
from vestige.methods import optimiser
from vestige.models import placement
from vestige.verdict import decide, measure
from vestige.verdict.decision import Top
from vestige.verdict.intervals import interval_of, rate
from vestige.verdict.memory import Recollection
from vestige.verdict.savings import room

PATIENCE = 2  # times the replicates that are left: the estimate of how many are needed is a rough one
WORTH_HELP = 50_000  # denoiser calls: a process needs seconds before its first one
PARTNER = 60.0  # seconds to wait for a process that is about to leave the audit's folder


def audit(
    request: Request,
    out: Path | str,
    *,
    cache: Path | str | None = None,
    jobs: int = 0,
    steal: bool = False,
    watch: Watch = silent,
    command: str = "",
) -> dict[str, Any]:
    """Run an audit in the folder `out`, or resume it; returns its result, which is also `out/result.json`.

    Arguments:
        command: The command line that asked for it, for the report.
        cache: Folder of runs that other audits may share (control arms); default `out/runs`.
        jobs: Processes that do the arms; 0 takes as many as torch has threads for long audits of the embedded world on a CPU, else 1.
        steal: Take over the lock of another process that is known to be gone; then nothing is shared.
    """
    planned = resolve(request)
    if planned.control.kind == "none":
        raise BadSetting("an audit needs a control: without one nobody knows what its attacks find where nothing is left")
    run = runs.claim(out, planned.spec())
    if not run.done:
        with run.held(steal=steal):
            experiment = prepared(planned, furnished(planned, Path(cache) if cache else run.folder / "runs", watch, steal), run)
            count = 1 if steal else jobs or processes_for(planned.most)
            with LocalPool(count) if count > 1 else nullcontext() as pool:
                run.finish(_looked(experiment, command, pool) or {})
    return run.outcome


def audited_to(request: Request, out: Path | str, cache: Path, count: int, command: str = "") -> dict[str, Any] | None:
    """The result of an audit if one of its looks at `count` replicates or fewer decides; None where that takes more.

    Arguments:
        cache: As for `audit`, and so are the rest.
    """
    planned = resolve(request)
    run = runs.claim(out, planned.spec())
    if not run.done:
        with run.held(wait=PARTNER):
            found = _looked(prepared(planned, furnished(planned, cache, silent), run), command, None, count)
            if found is None:
                return None
            run.finish(found)
    return run.outcome


def _looked(experiment: Experiment, command: str, pool: Pool | None, most: int = 0) -> dict[str, Any] | None:
    """The result of the look that decides, or of the last; earlier ones beside it.

    Arguments:
        most: Replicates after which nothing is looked at, and the result is None; 0: all are.
    """
    found, seen, spared = dict[str, Any](), list[dict[str, Any]](), experiment.plan.sparing_positives
    for count in experiment.plan.looks or (len(experiment.plan.seeds),):
        if most and count > most:
            return None
        look = replace(experiment, plan=experiment.plan.at(count), probes=not spared)
        found = _seen(look, command, pool)
        if spared and positives.needed(found["verdict"]):
            spared = False  # of later looks too: what was attacked is told
            experiment.bench.watch("this rests on what did not come back: positive controls next", 0, 1)
            found = _seen(replace(look, probes=True), command, pool)
        seen.append({"replicates": count, "verdict": found["verdict"]["kind"], "speedup": found["speedup"], "reach": found["reach"]})
        if not experiment.plan.looks or _settled(found["verdict"], experiment.plan.looks[-1] - count):
            break
    return {**found, **({"looks": seen} if experiment.plan.looks else {})}


def _seen(look: Experiment, command: str, pool: Pool | None) -> dict[str, Any]:
    """The result of one look."""
    _ahead(look, pool)
    return _result(look, command)


def _settled(verdict: Mapping[str, Any], left: int) -> bool:
    """Whether another look would be vain: it is decided, or so many replicates more would not decide it."""
    if verdict["kind"] != "inconclusive" or any(flag["kind"] == "blocking" for flag in verdict["flags"]):
        return True
    if verdict["attack"] is None:
        return False  # plainly asked, near the line: every replicate asks again
    return verdict["more_replicates"] is None or verdict["more_replicates"] > PATIENCE * left


def processes_for(planned: Plan) -> int:
    """One process a thread for small models on a CPU, where two threads are less than twice as fast as one, if there is much to do."""
    much = sum(planned.planned_calls().values()) >= WORTH_HELP
    small = bool(planned.world) and placement.current().resolved == "cpu" and optimiser.processes() == 1
    return torch.get_num_threads() if much and small else 1


def _ahead(experiment: Experiment, pool: Pool | None) -> None:
    """Let a pool do the pieces of a look, this process if there is none, and tell how far all is.

    What fails in a pool is met again by who needs it, and is told: as a remark, and as an event of the audit's run.
    """
    graph, watch = Graph(), experiment.bench.watch
    planned = experiment.plan if experiment.probes else replace(experiment.plan, positives={})
    graph.add(tasks.look_tasks(planned, str(experiment.bench.root)))

    def tell(now: Progress) -> None:
        if pool is not None and now.trouble:
            experiment.run.event(f"piece {now.event}", task=now.task, why=now.why)
            watch(now.trouble, 1, 1)
        watch(f"{WHOLE}: {now}", round(1000 * now.share), 1000)

    execute(graph, pool or HerePool(lambda task: tasks.done_here(experiment, task)), watch=tell)


def _attacked(experiment: Experiment) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Every attack's arms, and why others have none: one that diverges does not cost the audit what the rest found."""
    found, failed = {}, {}
    for name in experiment.plan.attacks:
        try:
            found[name] = experiment.attack(name)
        except Diverged as error:
            failed[name] = str(error)
    if not found:
        raise Diverged(f"{'; '.join(failed.values())}; no other attack was asked for, and without one there is no verdict")
    return found, failed


def _taught(experiment: Experiment, failed: dict[str, str]) -> dict[str, list[runs.Run]]:
    """The arms of the lesson; none where it diverges, which is noted in `failed`."""
    try:
        return experiment.taught()
    except Diverged as error:
        failed["the lesson"] = str(error)
        return {}


def _result(experiment: Experiment, command: str) -> dict[str, Any]:
    """Run everything that is missing and put the result together."""
    lines, real = experiment.plan.lines, experiment.real
    found, failed = _attacked(experiment)
    taught = _taught(experiment, failed)
    curves = {name: scores.arms_of(experiment, name, rows) for name, rows in found.items()}
    known = {name: scores.known_spread(experiment, name) for name in curves}
    recalled = unshown.memory(experiment, found)
    compared = len(curves) + (recalled is not None)
    measures = {name: measure(arms, experiment.plan.level, compared, known[name].both) for name, arms in curves.items()}
    rooms = {name: room(arms) for name, arms in curves.items()}
    probes, probing = positives.tried(experiment, found, compared)
    first = found[next(iter(found))]
    plain = result.plain_rates(first)
    left = scores.left(experiment, found)
    usable = scores.utility_stages(experiment, left[scores.worst(measures)])
    losses = usefulness.lost_by_pictures(experiment, scores.after_attack(experiment, found[scores.worst(measures)]["edited"]))
    levels = scores.levels(experiment, first)
    plainly = rate([hit for run in first["edited"] for hit in scores.hits_at(run, 0)], experiment.plan.level)
    answers = asking.asked(experiment, levels["floor"])
    top = Top() if real is None else no_original.top(real, scores.stands_in(experiment))
    left_open = asking.bank_flags(answers, lines.surface, top.rate)
    raised = flags.raise_all(experiment, found, measures, plain, usable, left, taught, rooms, known, failed, probes, left_open, losses)
    recall = interval_of(plainly).as_recall(levels["floor"], levels["ceiling"], None if real is None else real.between)
    top = replace(top, untrained=power.untrained(experiment.plan.attacks))
    verdict = decide(recall, measures, raised, lines, top, recalled if isinstance(recalled, Recollection) else None)
    verdict = asking.overruled(verdict, answers, lines.surface, top.rate)
    head = verdict.attack or scores.worst(measures)
    plain["recall"] = recall.as_dict()
    return {
        **result.heading(experiment),
        "verdict": {**asdict(verdict), "flags": [asdict(f) for f in verdict.flags]},
        **scores.measures_shown(measures[head]),
        "headline": head,
        "lines": asdict(lines),
        "plain": plain,
        "banks": [answer.as_dict(lines.surface) for answer in answers],
        "ceiling": result.ceiling_shown(experiment, plain),
        "floor": scores.floor_shown(experiment, levels["floor"]),
        "attacks": {name: result.attack_shown(experiment, name, found[name], measures[name], rooms[name], left[name]) for name in found},
        "positive_controls": [probe.as_dict() for probe in probes],
        "would_have_found": positives.sentence(probes) if experiment.probes else positives.spared(asdict(verdict)),
        **({} if experiment.probes else {"positives_spared": True}),
        **({"unshown": told} if (told := unshown.told(recalled)) else {}),
        "utility": result.utility_rates(usable),
        "utility_power": usefulness.judging(usable, losses),
        "fidelity": usefulness.fidelity_shown(experiment, losses),
        "diagnostics": experiment.diagnostics,
        "strips": result.strips(experiment, found[head], head),
        "cost": result.cost(experiment, found, taught, probing, experiment.plan.beside if isinstance(recalled, Recollection) else 0),
        **result.provenance(experiment, command),
    }
