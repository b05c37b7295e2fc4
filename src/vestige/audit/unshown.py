"""Memory of what was not shown, in an audit that asks for it: real pictures that no attack had, and how many a model draws again.

In each replicate the pictures drawn at an armed attack's last budget are laid beside all real pictures of the concept, those of the
replicate's references apart. Every arm counts as many recognised pictures as the arm that draws fewest: more pictures cover more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from vestige import runs
from vestige.audit import no_original, scores
from vestige.audit.experiment import Experiment
from vestige.concepts.images import PictureSet
from vestige.diffusion import Model
from vestige.diffusion.sampling import pictures
from vestige.edits import Edit
from vestige.harness.bench import NUMERICS, held_in, shows
from vestige.metrics.recollection import NEAREST, covered, unshown
from vestige.seeds import derive
from vestige.verdict.memory import Recollection, remembered

SHARE = 4  # one drawn picture in so many counts, where all arms draw enough that are recognised
FEWEST = 8  # recognised pictures of the arm that draws fewest, more where the judge errs, and real pictures that are not shown
FILE = "features.safetensors"


def memory(experiment: Experiment, found: Mapping[str, Any]) -> Recollection | str | None:
    """Of the first armed attack that ran; why it could not be measured; None where nobody asked."""
    plan = experiment.plan
    if not plan.request.unshown:
        return None
    attack = next((name for name in plan.armed if name in found), None)
    if attack is None:
        return "no attack with weights and pictures of the concept ran"
    whole, seeds = of_its_contexts(experiment), plan.seeds
    given = [had_by_attack(whole, experiment.attacker.shown(experiment.concept, plan.attacks[attack][1].references, k)) for k in seeds]
    left = [shown.count(False) for shown in given]
    if min(left) < FEWEST or len(whole) <= NEAREST:
        return f"of {len(whole)} real pictures of {experiment.concept.name} an attack leaves {min(left)} unshown, and {FEWEST} are needed"
    real = experiment.bench.verify.features(no_original.reconstructed(experiment.base, whole.images))
    left_behind = _left(experiment, found[attack])
    drawn = [[_recognised(experiment, model, k) for model, k in zip(row, seeds, strict=True)] for _, row in left_behind]
    fewest = [min(len(rows[i]) for rows in drawn) for i in range(len(seeds))]
    if min(fewest) < (least := _least(experiment)):
        name = left_behind[min(range(len(drawn)), key=lambda arm: min(map(len, drawn[arm])))][0]
        return (
            f"after {attack} {min(fewest)} of {plan.request.unshown} pictures of {name} show {experiment.concept.name}; {least} are needed"
        )
    counted = [min(n, plan.request.unshown // SHARE) for n in fewest]
    shares = []
    for rows in drawn:
        each = zip(rows, counted, given, strict=True)
        shares.append([unshown(covered(real, features[:n]), shown) for features, n, shown in each])
    alone = [unshown(covered(real, real[torch.tensor(shown)]), shown) for shown in given]
    arms = {"shown": alone, "original": shares[0], "edited": shares[1]}
    nevers = dict(zip(plan.control.names, shares[2:], strict=True))
    level, twins = 1 - (1 - plan.level) / (len(found) + 1), plan.control.kind == "twin"
    return remembered(attack, arms, nevers, left, counted, level=level, distinct=len(whole), sampled=twins)


def _least(experiment: Experiment) -> int:
    """Recognised pictures of which most cannot be the judge's mistakes."""
    wrong = experiment.plan.request.unshown * scores.false_positives(experiment)
    return max(FEWEST, math.ceil(wrong + 2 * math.sqrt(wrong)))


def of_its_contexts(experiment: Experiment) -> PictureSet:
    """Every real picture of the concept in a context that it is asked for in; all of them where nothing says so."""
    whole, concept = experiment.attacker.real(experiment.concept), experiment.concept
    asked = set(concept.contexts)
    rows = [i for i, labels in enumerate(whole.labels) if not asked or labels.get(concept.context_group, "") in {"", *asked}]
    return whole.take(rows) if whole.labels else whole


def had_by_attack(whole: PictureSet, shown: PictureSet | None) -> list[bool]:
    """Which of the real pictures an attack had."""
    had = set() if shown is None else {one.numpy().tobytes() for one in shown.images}
    return [one.numpy().tobytes() in had for one in whole.images]


def _left(experiment: Experiment, rows: Mapping[str, Any]) -> list[tuple[str, list[Model]]]:
    """Every arm's model as the attack left it, a replicate each; the original is not attacked."""
    left = [("the edited model", experiment.edited, rows["edited"])]
    left += [(name, m, runs) for name, (m, _), runs in zip(experiment.plan.control.names, experiment.nevers, rows["nevers"], strict=True)]
    attacked = [(name, [model.edited(Edit.load(run.path("last.safetensors"))) for run in row]) for name, model, row in left]
    return [("the original", [experiment.base] * len(experiment.plan.seeds)), *attacked]


def _recognised(experiment: Experiment, model: Model, replicate: int) -> Tensor:
    """Features (<= `unshown`, F) of the pictures that show the concept; drawn once for all audits that share them."""
    from safetensors.torch import load_file, save_file

    bench, concept, count = experiment.bench, experiment.concept, experiment.plan.request.unshown
    spec = {
        "what": "unshown",
        "numerics": NUMERICS,
        "model": model.fingerprint,
        "concept": concept.as_dict(),
        "count": count,
        "replicate": replicate,
        "protocol": asdict(bench.suite.protocol),
        "judge": bench.verify.identity(concept.label),
        **held_in(model.precision),
        "volatile": {"model": model.name},
    }

    def work(run: runs.Run) -> dict[str, Any]:
        prompts = concept.spread(count, "held-out")
        seeds = [derive(replicate, "unshown", i) for i in range(count)]
        images = pictures(model, [p.text for p in prompts], seeds, bench.suite.protocol, watch=bench.watch)
        kept = [i for i, hit in enumerate(shows(bench.verify, images, concept)) if hit]
        save_file({"features": bench.verify.features(images)[kept].contiguous()}, run.path(FILE))
        return {"recognised": len(kept)}

    run = runs.compute(bench.root, spec, "unshown", work, wait=bench.wait, steal=bench.steal)
    return load_file(run.path(FILE))["features"]


def told(found: Recollection | str | None) -> dict[str, Any] | None:
    """What the result holds of it."""
    return {"why": found} if isinstance(found, str) else None if found is None else found.as_dict()
