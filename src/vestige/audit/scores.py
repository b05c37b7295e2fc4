"""What an audit reads off its arms: where recall begins and ends, what every attack found, and what else the edit cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vestige import concepts, models, runs
from vestige.audit import no_original, rates
from vestige.audit.experiment import Case
from vestige.concepts import Concept
from vestige.concepts.images import folder, shipped
from vestige.diffusion import Model
from vestige.edits import Edit
from vestige.harness import arms, suites
from vestige.harness.bench import shows
from vestige.harness.utility import kept
from vestige.metrics import judge
from vestige.metrics.judge import share
from vestige.verdict import Arms
from vestige.verdict.savings import Measures

GROUPS = ("neighbours", "unrelated")


def levels(case: Case, rows: Mapping[str, Sequence[runs.Run]]) -> dict[str, float]:
    """Floor and ceiling of the concept, over all replicates; without a twin the floor is the judge's false-positive rate."""
    floor = rates.pooled(rows["never"]) if case.plan.control[0] == "twin" else false_positives(case)
    return {"floor": floor, "ceiling": rates.pooled(rows["ceiling"]) if case.real is None else case.real.rate}


def false_positives(case: Case) -> float:
    """Of the judge; 0 where nobody measured it, and a flag says so."""
    return 1 - float(case.bench.verify.identity(case.concept.label).get("specificity", 1.0))


def real_rate(case: Case, concept: Concept) -> float:
    """The verification judge's rate on real pictures of a concept after the autoencoder: a proxy's ceiling."""
    if concept.pictures:
        real = folder(concept.pictures, case.base.image_size).images
    else:
        sheet = models.data_folder() / (case.plan.world or "wardrobe") / "pictures/references"
        real = shipped(sheet, {concept.group: concept.label}).images
    return judge.share(shows(case.bench.of(concept).verify, no_original.reconstructed(case.base, real), concept))


def proxy_error(case: Case) -> dict[str, dict[str, float]]:
    """By concept that has a twin: F against this proxy divided by F against that twin, the largest of the attacks'."""
    suite, world, group = case.plan.suite, case.plan.world, case.concept.group
    found: dict[str, dict[str, float]] = {}
    for attack in case.plan.attacks:
        for name, (value, low, high) in suites.calibration(world, suite.version, attack).proxy.items():
            if concepts.load(name, world).group == group and (name not in found or value > found[name]["value"]):
                found[name] = {"value": value, "low": low, "high": high}
    return found


def arms_of(case: Case, name: str, rows: Mapping[str, Any]) -> Arms:
    """The arms of one attack as the verdict measures them."""
    budgets = case.plan.attacks[name][1].budget.points
    edited, never = (tuple(arms.curve(r.outcome["points"], best_so_far=True)[0] for r in rows[a]) for a in ("edited", "never"))
    ceiling = tuple(share(rates.hits(r, 0)) for r in rows["ceiling"]) if case.real is None else (case.real.rate,)
    between = None if case.real is None else case.real.between
    floor = tuple(share(rates.hits(r, 0)) for r in rows["never"])
    twin = case.plan.control[0] == "twin"
    proxy_ceiling = 0.0 if twin else real_rate(case, case.never_concept)
    if any(math.isnan(rate) for row in (*edited, *never, ceiling, floor, (proxy_ceiling,)) for rate in row):
        return _undefined(budgets, len(edited))
    if twin:
        return Arms(budgets, edited, never, floor=floor, ceiling=ceiling, between=between)
    return Arms(budgets, edited, never, false_positives(case), ceiling, floor, proxy_ceiling, between)


def _undefined(budgets: tuple[int, ...], replicates: int) -> Arms:
    """Arms of which nothing is known, because at some point no picture could be judged: without a ceiling every measure is undefined."""
    rows = ((0.0,) * len(budgets),) * replicates
    return Arms(budgets, rows, rows, 0.0, 0.0)


def worst(measures: Mapping[str, Measures]) -> str:
    """The attack with the largest savings, the first of equals; one without a number comes last."""
    return max(measures, key=lambda name: (not math.isnan(x := measures[name].savings.value), x))


def utility(case: Case, after: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What must stay, in three stages; None for the first of them where there is no original.

    Arguments:
        after: What the worst attack left of it, by group.
    """
    stages = {"before": case.original, "after": case.edited}
    seen = {g: {k: None if m is None else kept(case.bench, m, case.concept, g) for k, m in stages.items()} for g in GROUPS}
    return {g: {**rows, "after_attack": after[g]} for g, rows in seen.items()}


def left(case: Case, found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What must stay, after every attack: an attack that wrecks the model brings its concept back in a wreck."""
    models_ = {name: attacked(case, rows["edited"]) for name, rows in found.items()}
    return {name: {g: kept(case.bench, model, case.concept, g) for g in GROUPS} for name, model in models_.items()}


def attacked(case: Case, rows: Sequence[runs.Run]) -> Model:
    """The edited model as an attack left it at its last budget, in the first replicate; as it was after one that changes no weights."""
    last = rows[0].path("last.safetensors")
    return case.edited.edited(Edit.load(last)) if last.exists() else case.edited
