"""The audit: unlearn, attack that very model and its controls, and decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from vestige import models, runs
from vestige.audit import flags, no_original, rates, result, scores
from vestige.audit.experiment import Case, furnished
from vestige.audit.plan import Plan, Request, plan
from vestige.diffusion.model import Watch, silent
from vestige.errors import BadSetting
from vestige.harness import workers
from vestige.harness.cost import planned_calls
from vestige.methods import optimiser
from vestige.verdict import decide, measure

WORTH_HELP = 50_000  # denoiser calls: a helper needs seconds before its first one


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
        jobs: Processes that share the arms; 0 takes as many as torch has threads for long audits of the embedded world on a CPU, else 1.
        steal: Take over the lock of another process that is known to be gone; then nothing is shared.
    """
    planned = plan(request)
    if planned.control[0] == "none":
        raise BadSetting("an audit needs a control: without one nobody knows what its attacks find where nothing is left")
    run = runs.claim(out, planned.spec())
    if not run.done:
        with run.held(steal=steal):
            case = Case(planned, furnished(planned, Path(cache) if cache else run.folder / "runs", watch, steal), run)
            if not steal:
                _ahead(case, jobs or _jobs(planned))
            run.finish(_result(case, command))
    return run.outcome


def _jobs(planned: Plan) -> int:
    """One process a thread for small models on a CPU, where two threads are less than twice as fast as one, if there is much to do."""
    much = sum(planned_calls(planned).values()) >= WORTH_HELP
    small = bool(planned.world) and models.current().resolved == "cpu" and optimiser.processes() == 1
    return torch.get_num_threads() if much and small else 1


def _ahead(case: Case, jobs: int) -> None:
    """Do the errands in `jobs` processes of one thread, this one among them."""
    if jobs < 2:
        return
    means = {"placement": asdict(models.current()), "thrift": asdict(optimiser.current())}
    task = {"request": asdict(case.plan.request), "root": str(case.bench.root), "out": str(case.run.folder), **means}
    patient, threads = case.bench, torch.get_num_threads()
    case.bench = replace(patient, wait=0.0)
    torch.set_num_threads(1)
    try:
        with workers.helped(jobs - 1, f"{__name__}:{help_out.__name__}", task) as helpers:
            if workers.attend(case.errands()):
                patient.watch("other processes finish", 0, 1)
                for helper in helpers:
                    helper.wait()
    finally:
        case.bench = patient
        torch.set_num_threads(threads)


def help_out(task: Mapping[str, Any]) -> None:
    """What a helper of an audit does: every arm that nobody else is at."""
    torch.set_num_threads(1)
    given = task["request"]
    with models.using(models.Placement(**task["placement"])), optimiser.using(optimiser.Thrift(**task["thrift"])):
        planned = plan(Request(**{**given, **{key: tuple(given[key]) for key in ("attacks", "seeds")}}))
        bench = replace(furnished(planned, Path(task["root"]), silent), wait=0.0)
        workers.attend(Case(planned, bench, runs.claim(task["out"], planned.spec())).errands())


def _result(case: Case, command: str) -> dict[str, Any]:
    """Run everything that is missing and put the result together."""
    found = {name: case.attack(name) for name in case.plan.attacks}
    built = {name: scores.arms_of(case, name, rows) for name, rows in found.items()}
    measures = {name: measure(a, attacks=len(built)) for name, a in built.items()}
    first = found[next(iter(found))]
    plain = result.plain(first)
    left = scores.left(case, found)
    usable = scores.utility(case, left[scores.worst(measures)])
    raised = flags.raise_all(case, found, measures, plain, usable, left)
    levels, top, between = scores.levels(case, first), None, None
    if case.real is not None:
        top, between = no_original.top(case, case.real), case.real.between
    recall = rates.interval(plain["edited"]).as_recall(levels["floor"], levels["ceiling"], between)
    verdict = decide(recall, measures, raised, case.plan.lines, top)
    head = verdict.attack or scores.worst(measures)
    plain["recall"] = recall.as_dict()
    return {
        **result.heading(case),
        "verdict": {**asdict(verdict), "flags": [asdict(f) for f in verdict.flags]},
        **rates.measured(measures[head]),
        "headline": head,
        "lines": asdict(case.plan.lines),
        "plain": plain,
        "ceiling": result.ceiling(case, plain),
        "attacks": {name: result.attack(case, name, found[name], measures[name], left[name]) for name in found},
        "utility": result.utility(usable),
        "diagnostics": case.diagnostics,
        "strips": result.strips(case, found[head], head),
        "cost": result.cost(case, found),
        **result.provenance(case, command),
    }
