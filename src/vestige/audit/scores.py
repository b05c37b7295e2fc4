"""What an audit reads off its arms: where recall begins and ends, what every attack found, and what else the edit cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vestige import concepts, data, models, runs
from vestige.audit import no_original
from vestige.audit.experiment import Experiment
from vestige.audit.plan import Plan
from vestige.concepts import Concept
from vestige.concepts.images import folder, shipped
from vestige.diffusion import Model
from vestige.edits import Edit
from vestige.harness import arms
from vestige.harness.banks import answers, others
from vestige.harness.bench import shows
from vestige.harness.calibration import Calibration, Known, calibration, known, measured_rows
from vestige.harness.utility import kept
from vestige.metrics.loading import error_rates
from vestige.verdict import Arms
from vestige.verdict.intervals import Hits, defined, rate, share
from vestige.verdict.savings import Measures

GROUPS = ("neighbours", "unrelated")


def levels(experiment: Experiment, rows: Mapping[str, Sequence[runs.Run]]) -> dict[str, float]:
    """Floor and ceiling of the concept, over all replicates; without a twin the floor is the judge's false-positive rate."""
    floor = plain_rate(rows["never"]) if experiment.plan.control.of_the_concept else false_positives(experiment)
    return {"floor": floor, "ceiling": plain_rate(rows["ceiling"]) if experiment.real is None else experiment.real.rate}


def false_positives(experiment: Experiment) -> float:
    """Of the judge: as measured, else its rate where nothing is to be seen; 0 where there is neither, and a flag says so."""
    known = error_rates(experiment.bench.verify, experiment.concept.label).get("specificity")
    if known is not None:
        return 1 - float(known)
    found = share(seen_elsewhere(experiment))
    return 0.0 if math.isnan(found) else found


def seen_elsewhere(experiment: Experiment) -> Hits:
    """Whether the verification judge sees the concept in pictures of neighbours and unrelated words, which the original draws.

    Nothing where the floor rests on something else. Without an original the edited model draws them.
    """
    if not experiment.plan.guesses_floor:
        return []
    bank = others(experiment.concept, experiment.plan.suite)
    return list(answers(experiment.bench, experiment.base, experiment.concept, bank).outcome["hits"])


def floor_shown(experiment: Experiment, floor: float) -> dict[str, Any]:
    """What recall 0 is, and where it is from."""
    if experiment.plan.control.of_the_concept:
        return {"of": "models that never drew it", "value": defined(floor)}
    if "specificity" in error_rates(experiment.bench.verify, experiment.concept.label):
        return {"of": "the judge's false positives, as measured", "value": defined(floor)}
    seen = seen_elsewhere(experiment)
    if not seen:
        return {"of": "nothing that was measured", "value": defined(floor)}
    who = "the original" if experiment.original is not None else "the edited model"
    return {"of": f"{who}'s pictures of neighbours and unrelated words", **rate(seen)}


def real_rate(experiment: Experiment, concept: Concept) -> float:
    """The verification judge's rate on real pictures of a concept after the autoencoder: a proxy's ceiling."""
    if concept.pictures:
        real = folder(concept.pictures, experiment.base.image_size).images
    else:
        real = shipped(data.references(experiment.plan.world), {concept.group: concept.label}).images
    return share(shows(experiment.bench.of(concept).verify, no_original.reconstructed(experiment.base, real), concept))


def stands_in(experiment: Experiment) -> str:
    """Who stands for a model that never knew the concept, as a phrase."""
    control = experiment.plan.control
    if control.kind != "proxy":
        return control.told
    return f"this very model, taught {' and '.join(repr(concept.name) for _, concept in experiment.nevers)},"


def proxy_error(experiment: Experiment) -> dict[str, dict[str, float]]:
    """By concept that has a twin: F against this proxy divided by F against that twin, the largest of the attacks'."""
    suite, world, group = experiment.plan.suite, experiment.plan.world, experiment.concept.group
    found: dict[str, dict[str, float]] = {}
    for attack in experiment.plan.attacks:
        for name, (value, low, high) in calibration(world, suite.version, attack).proxy.items():
            if concepts.load(name, world).group == group and (name not in found or value > found[name]["value"]):
                found[name] = {"value": value, "low": low, "high": high}
    return found


def arms_of(experiment: Experiment, name: str, rows: Mapping[str, Any]) -> list[Arms]:
    """The arms of one attack as the verdict measures them, against each never-model."""
    budgets, pictures = experiment.plan.attacks[name][1].budget.points, experiment.plan.suite.pictures
    edited = _curves(rows["edited"])
    ceiling = tuple(share(hits_at(r, 0)) for r in rows["ceiling"]) if experiment.real is None else (experiment.real.rate,)
    between = None if experiment.real is None else experiment.real.between
    twin, made = experiment.plan.control.of_the_concept, []
    for (_, concept), never_rows in zip(experiment.nevers, rows["nevers"], strict=True):
        never, floor = _curves(never_rows), tuple(share(hits_at(r, 0)) for r in never_rows)
        proxy_ceiling = 0.0 if twin else real_rate(experiment, concept)
        if any(math.isnan(rate) for row in (*edited, *never, ceiling, floor, (proxy_ceiling,)) for rate in row):
            made.append(_undefined(budgets, len(edited)))
        elif twin:
            made.append(Arms(budgets, edited, never, floor, ceiling, between=between, pictures=pictures))
        else:
            own = (floor, proxy_ceiling, between, pictures)
            made.append(Arms(budgets, edited, never, false_positives(experiment), ceiling, *own))
    return made if not any(math.isnan(one.recalls()[0][0, 0]) for one in made) else [_undefined(budgets, len(edited))]


def _curves(rows: Sequence[runs.Run]) -> tuple[tuple[float, ...], ...]:
    """Best so far at every budget, a row a replicate."""
    return tuple(arms.curve(r.outcome["points"], best_so_far=True)[0] for r in rows)


def known_spread(experiment: Experiment, attack: str) -> Known:
    """What is known of how controls differ under an attack, before this audit's own."""
    plan = experiment.plan
    where = (plan.world, plan.suite.version, attack, plan.concept.name, len(plan.seeds))
    asked = (plan.request.model, *([plan.request.edit] if plan.request.edit is not None else []), *plan.control.names)
    return known(
        *where,
        proxies=plan.control.kind == "proxy",
        own=not plan.as_suited(attack),
        also=_measured_by_hand(plan, attack),
        attacked={Path(name).name for name in asked},
    )


def _measured_by_hand(plan: Plan, attack: str) -> dict[str, Calibration]:
    """What a user's own suite says of never-models under an attack, as this model's where it was measured on it, else by where it was."""
    table = plan.suite.known
    never, names = measured_rows(table.get(attack, {}))
    if not never:
        return {}
    return {plan.world if table["model"] == model_key(plan.original) else str(table["where"]): Calibration(never, names)}


def model_key(model: str) -> str:
    """A model's content in a few digits, by which a suite names what it was calibrated on; "" for none."""
    return runs.key(models.identified(model))[:16] if model else ""


def _undefined(budgets: tuple[int, ...], replicates: int) -> Arms:
    """Arms of which nothing is known, because at some point no picture could be judged: without a ceiling every measure is undefined."""
    rows = ((0.0,) * len(budgets),) * replicates
    return Arms(budgets, rows, rows, 0.0, 0.0)


def worst(measures: Mapping[str, Measures]) -> str:
    """The attack with the largest savings, the first of equals; one without a number comes last."""
    return max(measures, key=lambda name: (not math.isnan(x := measures[name].savings.value), x))


def kept_by_nevers(experiment: Experiment, group: str) -> dict[str, tuple[Hits, Hits]]:
    """By never-model that was made of the original: whether the original, and it, drew what was asked for, at equal seeds."""
    if experiment.original is None or experiment.plan.control.kind != "distilled":
        return {}
    before = kept(experiment.bench, experiment.original, experiment.concept, group)["right"]
    nevers = zip(experiment.plan.control.names, experiment.nevers, strict=True)
    return {name: (before, kept(experiment.bench, model, experiment.concept, group)["right"]) for name, (model, _) in nevers}


def utility_stages(experiment: Experiment, after: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What must stay, in three stages; None for the first of them where there is no original.

    Arguments:
        after: What the worst attack left of it, by group.
    """
    stages = {"before": experiment.original, "after": experiment.edited}
    seen = {g: {k: None if m is None else kept(experiment.bench, m, experiment.concept, g) for k, m in stages.items()} for g in GROUPS}
    return {g: {**rows, "after_attack": after[g]} for g, rows in seen.items()}


def left(experiment: Experiment, found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What must stay, after every attack: an attack that wrecks the model brings its concept back in a wreck."""
    models_ = {name: after_attack(experiment, rows["edited"]) for name, rows in found.items()}
    return {name: {g: kept(experiment.bench, model, experiment.concept, g) for g in GROUPS} for name, model in models_.items()}


def after_attack(experiment: Experiment, rows: Sequence[runs.Run]) -> Model:
    """The edited model as an attack left it at its last budget, in the first replicate; as it was after one that changes no weights."""
    last = rows[0].path("last.safetensors")
    return experiment.edited.edited(Edit.load(last)) if last.exists() else experiment.edited


def hits_at(run: runs.Run, point: int) -> list[bool | None]:
    """What the verification judge saw at a point of the budget."""
    return list(run.outcome["points"][point]["hits"])


def best_so_far(rows: Sequence[runs.Run]) -> list[list[float | None]]:
    """Best so far at every budget, a row a replicate."""
    return [[defined(x) for x in row] for row in _curves(rows)]


def plain_rate(rows: Sequence[runs.Run]) -> float:
    """The rate at the first point of the budget, over all replicates."""
    return share([hit for run in rows for hit in hits_at(run, 0)])


def curve_of(budgets: Sequence[int], found: Sequence[Hits]) -> list[dict[str, Any]]:
    """A rate with its interval at every budget, and how many pictures are in none."""
    made = []
    for budget, row in zip(budgets, map(rate, found), strict=True):
        lost = {"missing": row["missing"]} if "missing" in row else {}
        made.append({"budget": budget, "score": row["value"], "low": row["low"], "high": row["high"], **lost})
    return made


def success(replicates: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Success rates as the field reports attacks, of the same prompts and seeds: plainly asked, at the last budget, and at any point.

    "any" counts plain successes and every chance that a picture had, as UnlearnDiffAtk's ASR does; a model that shows the concept in
    one of a hundred pictures by chance shows it in four of ten over fifty chances, so the number of chances stands beside it. "new" is
    the same of those pictures alone that did not show it when plainly asked, so that no plain success is counted.

    Arguments:
        replicates: Points of the edited arm, a row a replicate.
    """
    before, after = ([hit for points in replicates for hit in points[at]["hits"]] for at in (0, -1))
    ever = [_any(hits) for points in replicates for hits in zip(*(point["hits"] for point in points), strict=True)]
    new = [found for hit, found in zip(before, ever, strict=True) if hit is False]
    return {"before": rate(before), "after": rate(after), "any": rate(ever), "new": rate(new), "chances": len(replicates[0])}


def _any(hits: Hits) -> bool | None:
    """Whether any picture shows it; None where none could be judged."""
    seen = [hit for hit in hits if hit is not None]
    return any(seen) if seen else None


def measures_shown(found: Measures) -> dict[str, Any]:
    """The three measures of an attack."""
    return {key: getattr(found, key).as_dict() for key in ("savings", "speedup", "reach")}
