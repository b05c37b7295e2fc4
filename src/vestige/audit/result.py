"""What an audit's result says beside its verdict: what was audited and how, what was seen, at what cost; laid out, not computed."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

from vestige import registry, runs
from vestige.audit import no_original, scores
from vestige.audit.experiment import Experiment
from vestige.audit.power import untrained
from vestige.concepts.joint import targets
from vestige.edits import arithmetic
from vestige.harness import arms
from vestige.harness import cost as counting
from vestige.harness.never import Distillation
from vestige.verdict import Interval
from vestige.verdict.intervals import defined, rate, share
from vestige.verdict.savings import Measures

SCHEMA = "vestige-audit-1"


def heading(experiment: Experiment) -> dict[str, Any]:
    """What was audited, by whose eyes, and under which protocol."""
    plan, request = experiment.plan, experiment.plan.request
    judges = {"verification": experiment.bench.verify, "selection": experiment.bench.select}
    return {
        "schema": SCHEMA,
        "suite": plan.suite.version,
        **plan.suite.told,
        "model": request.model,
        "original": plan.original or None,
        "absent": no_original.absent() if experiment.original is None else {},
        "concept": experiment.concept.name,
        "concept_kind": experiment.concept.kind,
        "sensitive": experiment.concept.sensitive,
        "edit": None if experiment.edit is None else arithmetic.describe(experiment.subject, experiment.edit),
        "control": _control(experiment),
        "detector": {role: {**judge.identity(experiment.concept.label), **getattr(judge, "stated", {})} for role, judge in judges.items()},
        "protocol": {
            **asdict(plan.suite.protocol),
            "pictures": plan.suite.pictures,
            "replicates": len(plan.seeds),
            "budgets": list(next(iter(plan.attacks.values()))[1].budget.points),
            "held_out_prompts": [text for part in targets(experiment.concept) for text in part.held_out],
            "references": request.references,
        },
    }


def _control(experiment: Experiment) -> dict[str, Any]:
    """What stood for a model that never knew the concept."""
    control = experiment.plan.control
    error = {"error": scores.proxy_error(experiment)} if control.kind == "proxy" else {}
    return {"kind": control.kind, "name": control.told, "names": list(control.names), **error}


def plain_rates(rows: Mapping[str, Any]) -> dict[str, Any]:
    """How often each model shows the concept in answer to plain prompts."""
    sets = {"original": rows["ceiling"], "edited": rows["edited"], "never": rows["never"]}
    return {arm: _plainly([scores.hits_at(r, 0) for r in runs]) if runs else None for arm, runs in sets.items()}


def _plainly(replicates: list[list[bool | None]]) -> dict[str, Any]:
    """A rate over all replicates, and each one's."""
    single = [defined(share(hits)) for hits in replicates]
    return {**rate([hit for hits in replicates for hit in hits]), "replicates": single}


def ceiling_shown(experiment: Experiment, shown: Mapping[str, Any]) -> dict[str, Any]:
    """What recall 1 is."""
    if experiment.real is None:
        drawn = {key: value for key, value in shown["original"].items() if key != "replicates"}
        return {"of": "the original", "source": experiment.plan.original, "held_out": None, "between": None, **drawn}
    return {**no_original.ceiling(experiment.real), **rate(experiment.real.hits)}


def attack_shown(
    experiment: Experiment, name: str, rows: Mapping[str, Any], found: Measures, most: Interval, left: Mapping[str, Any]
) -> dict[str, Any]:
    """An attack's measures, settings, ways, curves and notes, and how often what must stay was still drawn after it."""
    method, planned = experiment.plan.attacks[name]
    shown: dict[str, Any] = {"edited": None, "never": None, "original": None}
    for arm, best in (("edited", True), ("never", True), ("original", False)):
        if not rows[arm]:
            continue
        points = [r.outcome["points"] for r in rows[arm]]
        curves, taken = zip(*(arms.curve(p, best_so_far=best) for p in points), strict=True)
        hits = [[h for p, t in zip(points, taken, strict=True) for h in p[t[i]]["hits"]] for i in range(len(points[0]))]
        replicates = [[defined(x) for x in row] for row in curves]
        shown[arm] = {"curve": scores.curve_of([p["budget"] for p in points[0]], hits), "replicates": replicates}
    notes = {arm: rows[arm][0].outcome["points"][-1]["notes"] if rows[arm] else None for arm in shown}
    return {
        **scores.measures_shown(found),
        "censored": found.censored,
        "level": found.level,
        "least": list(found.least),
        "room": most.as_dict(),
        "log_speedups": found.as_dict()["log_speedups"],
        "success": scores.success([run.outcome["points"] for run in rows["edited"]]),
        "trains": not untrained({name: (method, planned)}),
        "settings": registry.settings(method),
        "references": planned.references,
        "against": [
            {"name": control, "speedup": None if math.isnan(fast) else math.exp(fast), "reach": defined(far)}
            for control, (fast, far) in zip(experiment.plan.control.names, found.against, strict=False)
        ],
        "spread": _spread(found),
        **{f"{arm}_variant": " or ".join(dict.fromkeys(way or "as given" for way in ways)) for arm, ways in rows["ways"].items()},
        "ways": {arm: {way or "as given": scores.best_so_far(r) for way, r in side.items()} for arm, side in rows["tried"].items()},
        "arms": shown,
        "utility": {group: rate(row["right"]) for group, row in left.items()},
        "notes": notes,
    }


def _spread(found: Measures) -> dict[str, Any] | None:
    """How much never-models differ in log F, and what told so; None where nothing does."""
    spread, _ = found.spreads
    if spread is None:
        return None
    null, far = found.null
    known = {"freedom": spread.freedom, "concepts": spread.groups, "own": spread.own, "source": spread.source}
    return {"sd": math.sqrt(spread.variance), **known, "speedup": 1 / (1 - null), "reach": far}


def utility_rates(usable: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How often what must stay was still drawn."""
    return {group: {stage: None if v is None else rate(v["right"]) for stage, v in rows.items()} for group, rows in usable.items()}


def strips(experiment: Experiment, rows: Mapping[str, Any], head: str) -> list[dict[str, Any]]:
    """Pictures at equal seeds, copied into the audit's run."""
    suite = experiment.plan.suite
    caption = "; ".join(
        p.text for p in experiment.concept.spread(suite.strip, "held-out", offset=experiment.plan.seeds[0] * suite.pictures)
    )
    budgets = experiment.plan.attacks[head][1].budget.points
    # A proxy's pictures are of another prompt: only a twin's stand beside the others at equal seeds.
    never = [("never knew", "never", 0)] if experiment.plan.control.of_the_concept else []
    first = [("original", "original", 0)] if experiment.original is not None else []
    wanted = [*first, ("edited", "edited", 0), *(("after recovery", "edited", b) for b in budgets[1:]), *never]
    if experiment.edit is None and experiment.subject is experiment.original:
        wanted = [w for w in wanted if w != ("edited", "edited", 0)]
    made: list[dict[str, Any]] = []
    if experiment.bench.keep == "none":
        return made
    for title, arm, budget in wanted:
        data = rows[arm][0].path(f"strips/{budget:06d}.png").read_bytes()
        file = f"strips/{arm}-{budget:06d}.png"
        experiment.run.write_bytes(file, data)
        made.append({"title": title, "budget": budget if title == "after recovery" else None, "file": file, "caption": caption})
    return made


def cost(
    experiment: Experiment,
    found: Mapping[str, Any],
    taught: Mapping[str, Sequence[runs.Run]],
    probing: Mapping[str, Sequence[runs.Run]],
    beside: int = 0,
) -> dict[str, Any]:
    """Time, pictures and denoiser calls of everything that the result rests on, whether it was computed now or before.

    Arguments:
        taught: Arms of the lesson, and `probing`: of the positive controls, by attack.
        beside: Pictures that were laid beside unshown ones.
    """
    suite, plan, lesson = experiment.plan.suite, experiment.plan, experiment.lesson
    arms_, scored, states = list[runs.Run](), beside, set[str]()
    for name, rows in found.items():
        attack, planned = plan.attacks[name]
        own = [*rows["original"], *(r for side in rows["tried"].values() for row in side.values() for r in row)]
        own += [r for row in taught.values() for r in row] if lesson is not None and lesson.attack == name else []
        own += probing.get(name, [])
        arms_ += own
        several = attack.tries(planned.budget.last) > 1
        for run in own:
            points, whole = run.outcome["points"], run.spec["budget"] == [0]
            shared = [True] if whole else [] if several else [point for point in points if point.get("shared")]
            states |= {_state(run)} if shared else set()
            drawn = 0 if whole else attack.tries(planned.budget.last) if several else len(points) - len(shared)
            scored += drawn * counting.plain_pictures(suite)
    states |= {_state(run) for run in next(iter(found.values()))["ceiling"][1:]}
    scored += len(states) * counting.plain_pictures(suite)
    trained = sum(f["edited"][0].path("last.safetensors").exists() for f in found.values())
    made = len(plan.control.names) if plan.control.kind == "distilled" else 0
    scored += 2 * (1 + trained + made + (experiment.original is not None)) * suite.utility_pictures
    scored += sum(len(bank.asked) for bank in plan.banks) * sum(map(len, experiment.asks.values()))
    spent = sum(r.outcome["points"][-1]["cost"].get("calls", 0) for r in arms_)
    each = counting.picture(suite.protocol, distilled=experiment.edited.distilled)
    return {
        "seconds": round(time.monotonic() - experiment.began, 1),
        "pictures": scored,
        "denoiser_calls": int(scored * each + spent + made * Distillation().calls(suite.protocol, distilled=experiment.edited.distilled)),
        "stages": {"unlearn": round(experiment.unlearn_seconds, 1)},
    }


def _state(run: runs.Run) -> str:
    """Which plain state an arm begins with: of what model, asked for what, on whose seeds."""
    return runs.key({name: run.spec[name] for name in ("model", "concept", "replicate")})


def provenance(experiment: Experiment, command: str) -> dict[str, Any]:
    """Versions, hashes, seeds, the command, and where everything lies."""
    versions = {name: metadata.version(name) for name in ("torch", "diffusers", "transformers", "peft")}
    base = {
        "vestige": metadata.version("vestige"),
        **versions,
        "python": platform.python_version(),
        "model_hash": experiment.subject.fingerprint[:16],
        "edited_hash": experiment.edited.fingerprint[:16],
        "seeds": list(experiment.plan.seeds),
        "edit_seed": experiment.plan.request.edit_seed,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
    }
    if again := [event for event in experiment.run.events() if event["event"] in ("piece failed", "piece lost")]:
        base["done_again"] = again  # of worker processes
    return {"provenance": base, "run": str(experiment.run.folder), "report": str(experiment.run.folder / "report.html")}
