"""What an audit's result says beside its verdict: what was audited and how, what was seen, at what cost; laid out, not computed."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

from vestige import registry
from vestige.audit import no_original, rates, scores
from vestige.audit.experiment import Case
from vestige.checkpoints import findings
from vestige.harness import arms
from vestige.metrics.judge import share
from vestige.verdict.savings import Measures

SCHEMA = "vestige-audit-1"


def heading(case: Case) -> dict[str, Any]:
    """What was audited, by whose eyes, and under which protocol."""
    plan, request = case.plan, case.plan.request
    kind, name = plan.control
    judges = {"verification": case.bench.verify, "selection": case.bench.select}
    return {
        "schema": SCHEMA,
        "suite": plan.suite.version,
        "model": request.model,
        "original": plan.original or None,
        "absent": no_original.absent() if case.original is None else {},
        "concept": case.concept.name,
        "concept_kind": case.concept.kind,
        "sensitive": case.concept.sensitive,
        "edit": None if case.edit is None else findings.describe(case.subject, case.edit),
        "control": {"kind": kind, "name": name, **({"error": scores.proxy_error(case)} if kind == "proxy" else {})},
        "detector": {role: judge.identity(case.concept.label) for role, judge in judges.items()},
        "protocol": {
            **asdict(plan.suite.protocol),
            "pictures": plan.suite.pictures,
            "replicates": len(plan.seeds),
            "budgets": list(next(iter(plan.attacks.values()))[1].budget.points),
            "held_out_prompts": list(case.concept.held_out),
            "references": request.references,
        },
    }


def plain(rows: Mapping[str, Any]) -> dict[str, Any]:
    """How often each model shows the concept in answer to plain prompts."""
    sets = {"original": rows["ceiling"], "edited": rows["edited"], "never": rows["never"]}
    return {arm: _plainly([rates.hits(r, 0) for r in runs]) if runs else None for arm, runs in sets.items()}


def _plainly(replicates: list[list[bool | None]]) -> dict[str, Any]:
    """A rate over all replicates, and each one's."""
    single = [rates.defined(share(hits)) for hits in replicates]
    return {**rates.rate([hit for hits in replicates for hit in hits]), "replicates": single}


def ceiling(case: Case, shown: Mapping[str, Any]) -> dict[str, Any]:
    """What recall 1 is."""
    if case.real is None:
        rate = {key: value for key, value in shown["original"].items() if key != "replicates"}
        return {"of": "the original", "source": case.plan.original, "held_out": None, "between": None, **rate}
    return {**no_original.ceiling(case.real), **rates.rate(case.real.hits)}


def attack(case: Case, name: str, rows: Mapping[str, Any], found: Measures, left: Mapping[str, Any]) -> dict[str, Any]:
    """An attack's measures, settings, ways, curves and notes, and how often what must stay was still drawn after it."""
    method, planned = case.plan.attacks[name]
    shown: dict[str, Any] = {"edited": None, "never": None, "original": None}
    for arm, best in (("edited", True), ("never", True), ("original", False)):
        if not rows[arm]:
            continue
        points = [r.outcome["points"] for r in rows[arm]]
        curves, taken = zip(*(arms.curve(p, best_so_far=best) for p in points), strict=True)
        hits = [[h for p, t in zip(points, taken, strict=True) for h in p[t[i]]["hits"]] for i in range(len(points[0]))]
        replicates = [[rates.defined(x) for x in row] for row in curves]
        shown[arm] = {"curve": rates.curve(planned.budget.points, hits), "replicates": replicates}
    notes = {arm: rows[arm][0].outcome["points"][-1]["notes"] if rows[arm] else None for arm in shown}
    return {
        **rates.measured(found),
        "censored": found.censored,
        "log_speedups": found.as_dict()["log_speedups"],
        "settings": registry.settings(method),
        "references": planned.references,
        **{f"{arm}_variant": way or "as given" for arm, way in rows["ways"].items()},
        "ways": {arm: {way or "as given": rates.replicates(r) for way, r in side.items()} for arm, side in rows["tried"].items()},
        "arms": shown,
        "utility": {group: rates.rate(row["right"]) for group, row in left.items()},
        "notes": notes,
    }


def utility(usable: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How often what must stay was still drawn."""
    return {group: {stage: None if v is None else rates.rate(v["right"]) for stage, v in rows.items()} for group, rows in usable.items()}


def strips(case: Case, rows: Mapping[str, Any], head: str) -> list[dict[str, Any]]:
    """Pictures at equal seeds, copied into the audit's run."""
    suite = case.plan.suite
    caption = "; ".join(p.text for p in case.concept.spread(suite.strip, "held-out", offset=case.plan.seeds[0] * suite.pictures))
    budgets = case.plan.attacks[head][1].budget.points
    # A proxy's pictures are of another prompt: only a twin's stand beside the others at equal seeds.
    never = [("never knew", "never", 0)] if case.plan.control[0] == "twin" else []
    first = [("original", "original", 0)] if case.original is not None else []
    wanted = [*first, ("edited", "edited", 0), *(("after recovery", "edited", b) for b in budgets[1:]), *never]
    if case.edit is None and case.subject is case.original:
        wanted = [w for w in wanted if w != ("edited", "edited", 0)]
    made: list[dict[str, Any]] = []
    if case.bench.keep == "none":
        return made
    for title, arm, budget in wanted:
        data = rows[arm][0].path(f"strips/{budget:06d}.png").read_bytes()
        file = f"strips/{arm}-{budget:06d}.png"
        case.run.write_bytes(file, data)
        made.append({"title": title, "budget": budget if title == "after recovery" else None, "file": file, "caption": caption})
    return made


def cost(case: Case, found: Mapping[str, Any]) -> dict[str, Any]:
    """Time, pictures and denoiser calls."""
    suite = case.plan.suite
    ways = [rows for f in found.values() for rows in (f["original"], *(r for side in f["tried"].values() for r in side.values()))]
    each = suite.pictures + suite.select_pictures
    scored = sum(len(r.outcome["points"]) * each for rows in ways for r in rows)
    trained = sum(f["edited"][0].path("last.safetensors").exists() for f in found.values())
    scored += 2 * (1 + trained + (case.original is not None)) * suite.utility_pictures
    spent = sum(r.outcome["points"][-1]["cost"].get("calls", 0) for rows in ways for r in rows)
    return {
        "seconds": round(time.monotonic() - case.began, 1),
        "pictures": scored,
        "denoiser_calls": int(scored * 2 * suite.protocol.steps + spent),
        "stages": {"unlearn": round(case.unlearn_seconds, 1)},
    }


def provenance(case: Case, command: str) -> dict[str, Any]:
    """Versions, hashes, seeds, the command, and where everything lies."""
    versions = {name: metadata.version(name) for name in ("torch", "diffusers", "transformers", "peft")}
    base = {
        "vestige": metadata.version("vestige"),
        **versions,
        "python": platform.python_version(),
        "model_hash": case.subject.fingerprint[:16],
        "edited_hash": case.edited.fingerprint[:16],
        "seeds": list(case.plan.seeds),
        "edit_seed": case.plan.request.edit_seed,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
    }
    return {"provenance": base, "run": str(case.run.folder), "report": str(case.run.folder / "report.html")}
