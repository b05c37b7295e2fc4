"""The cheapest protocol of an attack that could find something on a model of a user's own, looked for on a development concept.

Learning rates times budgets, the shortest budget first and in it the lowest rate: the first that fulfils `fitness` is taken, so that no
more is spent than is needed, and the gentlest of equals. From a rate on that was too fast, all are left out, there and at longer budgets.
Every arm is a run that audits of the same concept share, so a search that was stopped goes on.
Source: ours. Why a concept of its own: `docs/decisions/0019-calibration.md`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vestige import registry, runs
from vestige.audit import fitness, scores
from vestige.audit.experiment import Experiment, furnished, prepared
from vestige.audit.plan import Plan
from vestige.diffusion.model import Watch, silent
from vestige.errors import BadSetting, Diverged
from vestige.harness import cost, suite_files, suites
from vestige.methods import Budget
from vestige.verdict.decision import FEWEST
from vestige.verdict.savings import learned

SCHEMA = "vestige-calibration-1"
FACTORS = (0.3, 1.0, 3.0, 10.0, 30.0)  # of the rate that the attack would run by
LONGER = (1, 2, 4)  # times the suite's own last budget
KEPT = 4  # decimals of what is known of controls, as in `data/calibration.toml`


@dataclass(frozen=True)
class Cell:
    """A protocol that may be tried: a learning rate, and a budget."""

    rate: float
    budget: tuple[int, ...]


def grid_of(plan: Plan, rates: Sequence[float] = (), lasts: Sequence[int] = ()) -> list[Cell]:
    """The protocols to try, cheapest first.

    Arguments:
        rates: Learning rates; () takes the attack's own times `FACTORS`.
        lasts: Last budgets; () takes the suite's own times `LONGER`. Before it stand the suite's points, and twice the last of them again
            and again while there is room.
    """
    ((_, (method, planned)),) = plan.attacks.items()
    own = float(registry.settings(method)["lr"])
    chosen = sorted(set(rates or (float(f"{own * factor:.2g}") for factor in FACTORS)))
    ends = sorted(set(lasts or (planned.budget.last * times for times in LONGER)))
    if not all(rate > 0 and math.isfinite(rate) for rate in chosen) or ends[0] < 3:
        raise BadSetting(f"rates lie above 0, and a budget has at least 3 steps; given {chosen} and {ends}")
    return [Cell(rate, _points(planned.budget.points, last)) for last in ends for rate in chosen]


def _points(own: tuple[int, ...], last: int) -> tuple[int, ...]:
    """A budget that ends at `last`, by the points of another as far as they go."""
    made = [point for point in own if point < last]
    while made[-1] * 2 < last and made[-1] >= own[-1]:
        made.append(made[-1] * 2)
    return (*made, last)


def check_calibration(plan: Plan) -> None:
    """Refuse what no search can be made of, before anything is computed."""
    if plan.control.kind != "twin":
        raise BadSetting("calibration needs a model that never drew the concept: --control twin:A, or twin:A,twin:B")
    if plan.unlearner is not None or plan.request.edit is not None or not plan.original:
        raise BadSetting("calibration looks at no edit: give the original alone")
    ((name, (method, _)),) = plan.attacks.items()
    if name not in plan.armed or not hasattr(method, "lr"):
        raise BadSetting(f"calibration chooses the rate of an attack with weights and pictures, e.g. memora; given {name}")
    if not plan.positives:
        raise BadSetting(f"calibration asks what comes back of positive controls, and {plan.suite.version} names none")
    if len(plan.seeds) < FEWEST:
        raise BadSetting(f"calibration needs at least {FEWEST} replicates, below which there is no interval; give --seeds 0,1,2")


def calibrated(
    plan: Plan, root: Path, cells: Sequence[Cell], *, steal: bool = False, watch: Watch = silent
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Try protocols until one fits.

    Arguments:
        plan: Of an audit of the untouched original by one attack.
        root: Folder of runs, which audits share.
    Returns:
        What was tried, plain data; and the suite of the first that fits, as its file says it, or None.
    """
    check_calibration(plan)
    spec = {**plan.spec(), "what": "calibrate", "grid": [asdict(cell) for cell in cells]}
    run = runs.claim(root / f"calibrate-{runs.key(spec)[:12]}", spec)
    with run.held(steal=steal):
        whole = prepared(plan, furnished(plan, root, watch, steal), run)
        ((name, _),) = plan.attacks.items()
        why = fitness.why_unseen(whole, [whole.plain(*side, k) for side in whole.nevers for k in plan.seeds])
        tried: list[dict[str, Any]] = []
        fit = None
        for cell in [] if why else _in_turn(cells, tried):
            experiment = _under(whole, name, cell)
            tried.append(found := _tried(experiment, name, cell))
            if found["fits"]:
                fit = experiment
                break
        suite = None if fit is None else _suite(fit, name)
        told = _told(plan, name, tried, why)
        run.write_json("tried.json", told)
    return told, suite


def _in_turn(cells: Sequence[Cell], tried: Sequence[Mapping[str, Any]]) -> Iterator[Cell]:
    """The protocols that are still worth trying, given what was found so far."""
    for cell in cells:
        if not any(row["failed"].startswith("too fast") and cell.rate >= row["rate"] for row in tried):
            yield cell


def _under(whole: Experiment, name: str, cell: Cell) -> Experiment:
    """The same experiment under another protocol of its attack."""
    method, planned = whole.plan.attacks[name]
    changed = (replace(method, lr=cell.rate), replace(planned, budget=Budget(cell.budget)))  # type: ignore[type-var]
    return replace(whole, plan=replace(whole.plan, attacks={name: changed}))


def _tried(experiment: Experiment, name: str, cell: Cell) -> dict[str, Any]:
    """One protocol: the controls first, and only if they rise as they should, the original and what hides in it."""
    row: dict[str, Any] = {"rate": cell.rate, "budget": list(cell.budget), "fits": False}
    try:
        pupils = fitness.taught_controls(experiment, name)
        said = {role: fitness.rising(pupils, role) for role in fitness.ROLES}
        if not said["selection"].failed:
            found, probes = experiment.attack(name), fitness.probe_rows(experiment, name)
            said = {role: fitness.finding(experiment, name, found, probes, one, role) for role, one in said.items()}
    except Diverged as error:
        return {**row, "failed": f"it broke: {error}", "selection": None, "verification": None}
    told = {role: one.as_dict(cell.budget) for role, one in said.items()}
    return {**row, **told, "failed": said["selection"].failed, "fits": not said["selection"].failed}


def _told(plan: Plan, name: str, tried: list[dict[str, Any]], why: str) -> dict[str, Any]:
    """What was found, plain data."""
    chosen = next((row for row in tried if row["fits"]), None)
    return {
        "schema": SCHEMA,
        "model": plan.request.model,
        "concept": plan.concept.name,
        "suite": plan.suite.version,
        "attack": name,
        "controls": list(plan.control.names),
        "replicates": len(plan.seeds),
        "tried": tried,
        "chosen": chosen,
        "out_of_reach": why or ("" if chosen else _out_of_reach(tried)),
    }


def _out_of_reach(tried: Sequence[Mapping[str, Any]]) -> str:
    """Why nothing fits, and where to look next."""
    reasons = [str(row["failed"]) for row in tried]
    if all(reason.startswith("too slow") for reason in reasons):
        return "every control learns too slowly: higher rates, or longer budgets (--rates, --lasts)"
    if all(reason.startswith("too fast") for reason in reasons):
        return "every control learns too fast: lower rates (--rates), or scores at smaller budgets in the suite"
    between = sum(reason.startswith(("too slow", "too fast")) for reason in reasons)
    return "rates between those that were too slow and too fast (--rates)" if between == len(reasons) else "; ".join(dict.fromkeys(reasons))


def _suite(experiment: Experiment, name: str) -> dict[str, Any]:
    """The suite that fits, as its file says it: what it was looked for in, and what is known of controls where there are several."""
    plan = experiment.plan
    base = suites.load(plan.request.suite, plan.world)
    attacks = {**base.attacks, name: plan.attacks[name][1]}
    where = f"{plan.concept.name} of {Path(plan.original).name}"
    raw: dict[str, Any] = {
        "version": f"calibrated-on-{_short(plan.concept.name)}",
        "about": f"{name}'s rate and budget chosen on {where}, from {base.version}, without looking at any edit.",
        **{key: getattr(base, key) for key in suite_files.WHOLE},
        "replicates": len(plan.seeds),
        "plasticity": base.plasticity,
        **({"positives": list(base.positives)} if base.positives else {}),
        **({"others": list(base.others)} if base.others else {}),
        "protocol": asdict(base.protocol),
        "attacks": {key: _planned(key, own, plan.attacks[name][0] if key == name else None) for key, own in attacks.items()},
    }
    if len(experiment.nevers) > 1:
        raw["known"] = {"of": suite_files.conditions_of(raw), "model": scores.model_key(plan.original), "where": where}
        raw["known"][name] = {"never": {plan.concept.name: _spread(experiment, name)}}
    return raw


def _planned(name: str, own: suites.Planned, method: Any | None) -> dict[str, Any]:
    """An attack of the file, with every setting that it was tried with."""
    made = method or registry.build("attacks", name, own.settings)
    plain, given = registry.settings(registry.build("attacks", name)), registry.settings(made)
    settings = {key: value for key, value in given.items() if value is not None and (method is not None or value != plain[key])}
    rest = {"references": own.references} if own.references else {}
    return {"budget": list(own.budget.points), **rest, **({"settings": settings} if settings else {})}


def _spread(experiment: Experiment, name: str) -> dict[str, Any]:
    """What each control learned, a row each, in the form of `data/calibration.toml`."""
    pupils = fitness.taught_controls(experiment, name)
    areas, ends = zip(*map(learned, pupils.arms("verification")), strict=True)
    rounded = {key: [[round(x, KEPT) for x in row] for row in rows] for key, rows in (("areas", areas), ("ends", ends))}
    return {"models": [Path(control).name for control in experiment.plan.control.names], **rounded}


def _short(name: str) -> str:
    return "-".join(name.lower().split())[:40]


def search_calls(plan: Plan, cells: Sequence[Cell]) -> dict[str, int]:
    """Denoiser calls of the whole grid if nothing is stored and nothing fits before the last: it stops at the first that does."""
    ((name, (method, planned)),) = plan.attacks.items()
    each, n, controls = cost.picture(plan.suite.protocol), len(plan.seeds), len(plan.control.names)
    pictures = plan.suite.pictures + plan.suite.select_pictures
    calls = {"plain": (1 + controls) * n * pictures * each, "controls": 0}
    for cell in cells:
        own, ways = replace(planned, budget=Budget(cell.budget)), [*method.ways().values()]
        for way in ways:
            calls["controls"] += (
                n * controls * (way.calls(own.budget.last, own.references) + cost.scored_pictures(way, own.budget, plan.suite) * each)
            )
    last = replace(plan, attacks={name: (method, replace(planned, budget=Budget(cells[-1].budget)))})
    whole = last.planned_calls()
    calls["original"] = (whole["attacks"] + whole["scoring"]) // (1 + max(1, controls))
    return {**calls, "positives": whole.get("positives", 0)}
