"""One arm of an audit: an attack on one model, scored by the verification judge at every point of its budget.

Arms are content-addressed runs. What an arm depends on is its whole spec, so control arms are shared by every audit that
needs them, and nothing about the edit under audit enters the key of an arm that does not see it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vestige import diagnostics, edits, images, registry, runs
from vestige.base import Attack, Budget, Candidate, Model, Watch, silent
from vestige.concepts import Concept, Prompt
from vestige.edits import Edit
from vestige.images import Data, PictureSet
from vestige.plan import NUMERICS
from vestige.sampling import derive, pictures
from vestige.suites import Suite


@dataclass(frozen=True)
class Bench:
    """What all arms of an audit share: where runs lie, the protocol, and the two judges.

    Arguments:
        root: Folder of runs.
        verify: Judge whose scores are reported.
        select: Judge by which attacks and best-so-far choose; another network.
    """

    root: Path
    suite: Suite
    verify: Any
    select: Any
    wait: float = 3600.0
    steal: bool = False
    watch: Watch = silent


def shows(judge: Any, pictures_: Tensor, concept: Concept) -> list[bool]:
    """Whether each picture shows the concept, by the judge's calibrated threshold."""
    return [bool(v) for v in judge.shows(pictures_, concept.label) >= judge.threshold(concept.label)]


def run_arm(
    bench: Bench,
    model: Model,
    concept: Concept,
    attack: tuple[str, Attack],
    budget: Budget,
    replicate: int,
    references: PictureSet | None,
) -> runs.Run:
    """The finished run of one attack on one model for one replicate.

    Its result holds, for every point of the budget: what was spent, whether each picture shows the concept by either judge,
    the selection judge's rate on its own prompts and seeds, costs, and the attack's own notes.
    """
    name, method = attack
    spec = {
        "what": "arm",
        "numerics": NUMERICS,
        "model": model.fingerprint,
        "concept": concept.as_dict(),
        "attack": name,
        "settings": registry.settings(method),
        "budget": list(budget.points),
        "replicate": replicate,
        "references": references.content if references is not None else None,
        "protocol": asdict(bench.suite.protocol),
        "pictures": bench.suite.pictures,
        "select_pictures": bench.suite.select_pictures,
        "judges": [bench.verify.identity(concept.label), bench.select.identity(concept.label)],
        "volatile": {"model": model.name, "suite": bench.suite.version},
    }
    if references is not None and "retain" in method.needs:  # trained with captions, which the pictures' hash does not know
        spec["captions"] = [list(row) for row in references.captions]

    def work(run: runs.Run) -> dict[str, Any]:
        points, last = [], None
        stage = f"{name} on {model.name}, replicate {replicate}"

        def select(seen: Tensor) -> Tensor:
            return torch.tensor(shows(bench.select, seen, concept))

        for candidate in method(model, concept, budget, seed=replicate, select=select, pictures=references):
            points.append(_scored(bench, model, concept, candidate, replicate, run))
            last = candidate.edit or last
            bench.watch(stage, len(points), len(budget.points))
            run.event("scored", budget=candidate.spent)
        if last is not None:
            last.save(run.path("last.safetensors"))
        return {"points": points}

    return runs.compute(bench.root, spec, "arm", work, wait=bench.wait, steal=bench.steal)


def _scored(bench: Bench, model: Model, concept: Concept, candidate: Candidate, replicate: int, run: runs.Run) -> dict[str, Any]:
    view = model.edited(candidate.edit) if candidate.edit is not None else model
    suite = bench.suite
    shown = _drawn(bench, view, _verification(concept, suite.pictures, replicate), candidate, (replicate, "verification"))
    hits = shows(bench.verify, shown, concept)
    images.strip(shown[: suite.strip], run.path(f"strips/{candidate.spent:06d}.png"), blur=concept.sensitive)
    chosen: list[bool] = []
    if suite.select_pictures:
        prompts = concept.spread(suite.select_pictures, "training", offset=replicate * suite.select_pictures)
        chosen = shows(bench.select, _drawn(bench, view, prompts, candidate, (replicate, "selection")), concept)
    return {
        "budget": candidate.spent,
        "hits": hits,
        "other_judge": shows(bench.select, shown, concept),
        "selected": sum(chosen) / len(chosen) if chosen else None,
        "cost": dict(candidate.cost),
        "notes": dict(candidate.notes),
    }


def _verification(concept: Concept, count: int, replicate: int) -> list[Prompt]:
    return concept.spread(count, "held-out", offset=replicate * count)


def _drawn(bench: Bench, view: Model, prompts: Sequence[Prompt], candidate: Candidate, purpose: tuple[int, str]) -> Tensor:
    """Pictures for the prompts; with several tries, the best of them by the selection judge."""
    texts = [p.text for p in prompts]
    if candidate.prompts:
        texts = [candidate.prompts[i % len(candidate.prompts)] for i in range(len(texts))]
    label = next(iter(prompts[0].expects.values()))
    best, score = None, None
    for attempt in range(candidate.tries):
        seeds = [derive(purpose[0], purpose[1], i, attempt) for i in range(len(texts))]
        drawn = pictures(view, texts, seeds, bench.suite.protocol, start=candidate.start)
        if candidate.tries == 1:
            return drawn
        now = bench.select.shows(drawn, label)
        if best is None or score is None:
            best, score = drawn, now
        else:
            better = now > score
            best, score = torch.where(better[:, None, None, None], drawn, best), torch.where(better, now, score)
    if best is None:
        raise ValueError("a candidate allows at least one try")
    return best


def curve(points: Sequence[Mapping[str, Any]], *, best_so_far: bool) -> tuple[tuple[float, ...], list[int]]:
    """Scores at every budget, and which point each came from.

    With `best_so_far` the candidate with the highest selection rate among those paid for counts (the latest of equals), so
    the choice never sees the verification judge.
    """
    scores, taken, best = [], [], 0
    for i, point in enumerate(points):
        known = point["selected"] is not None and points[best]["selected"] is not None
        if not best_so_far or not known or point["selected"] >= points[best]["selected"]:
            best = i
        hits = points[best]["hits"]
        scores.append(sum(hits) / len(hits))
        taken.append(best)
    return tuple(scores), taken


def utility(bench: Bench, model: Model, concept: Concept, group: str) -> dict[str, Any]:
    """How often the model still draws what it should, for "neighbours" or "unrelated": one right-or-wrong a picture."""
    words = concept.neighbours if group == "neighbours" else concept.unrelated
    count = bench.suite.utility_pictures
    prompts = concept.spread(count, "held-out", words=words)
    spec = {
        "what": "utility",
        "numerics": NUMERICS,
        "model": model.fingerprint,
        "prompts": [p.text for p in prompts],
        "expects": [dict(p.expects) for p in prompts],
        "protocol": asdict(bench.suite.protocol),
        "judge": bench.verify.weights_hash,
        "blurred": concept.sensitive,
        "volatile": {"model": model.name, "group": group},
    }

    def work(run: runs.Run) -> dict[str, Any]:
        if not prompts:
            return {"right": []}
        seeds = [derive(0, "utility", i) for i in range(count)]
        drawn = pictures(model, [p.text for p in prompts], seeds, bench.suite.protocol)
        bench.watch(f"utility of {model.name}", 1, 1)
        images.strip(drawn[: bench.suite.strip], run.path("strip.png"), blur=concept.sensitive)
        seen = bench.verify.labelled(drawn)
        return {"right": [all(s.get(g) == label for g, label in p.expects.items()) for s, p in zip(seen, prompts, strict=True)]}

    run = runs.compute(bench.root, spec, "utility", work, wait=bench.wait, steal=bench.steal)
    return {"folder": str(run.folder), **run.outcome}


def line(bench: Bench, model: Model, edit: Edit, concept: Concept) -> list[float]:
    """The verification judge's rate on held-out prompts along the straight line from the original to the edited weights."""
    spec = {
        "what": "line",
        "numerics": NUMERICS,
        "model": model.fingerprint,
        "edited": model.edited(edit).fingerprint,
        "line": list(diagnostics.LINE),
        "concept": concept.as_dict(),
        "protocol": asdict(bench.suite.protocol),
        "pictures": bench.suite.pictures,
        "judge": bench.verify.identity(concept.label),
        "volatile": {"model": model.name},
    }

    def work(run: runs.Run) -> dict[str, Any]:
        rates, prompts = [], _verification(concept, bench.suite.pictures, 0)
        for i, share in enumerate(diagnostics.LINE):
            view = model.edited(edits.scale(model, edit, share))
            hits = shows(bench.verify, _drawn(bench, view, prompts, Candidate(0), (0, "verification")), concept)
            rates.append(sum(hits) / len(hits))
            bench.watch("line", i + 1, len(diagnostics.LINE))
        return {"rates": rates}

    return list(runs.compute(bench.root, spec, "line", work, wait=bench.wait, steal=bench.steal).outcome["rates"])


def unlearned(
    root: Path,
    model: Model,
    concept: Concept,
    name: str,
    method: Any,
    seed: int,
    *,
    data: Data | None = None,
    watch: Watch = silent,
    wait: float = 3600.0,
) -> runs.Run:
    """The finished run of one unlearner under `root`; its edit lies in `edit.safetensors`.

    Arguments:
        data: What it may train on; None lets the model draw it, kept under `root`.
    """
    method, data = method.resolved(concept), data or Data(cache=root / "pictures")
    given = {key: None if s is None else s.content for key, s in (("forget", data.target), ("retain", data.retain))}
    spec = {
        "what": "unlearn",
        "numerics": NUMERICS,
        "model": model.fingerprint,
        "concept": concept.as_dict(),
        "method": name,
        "settings": registry.settings(method),
        "seed": seed,
        "data": {**given, "protocol": asdict(data.protocol)},
        "volatile": {"model": model.name},
    }
    captions = [list(row) for s in (data.target, data.retain) if s is not None for row in s.captions]
    spec |= {"captions": captions} if captions else {}
    spec |= {"before": data.original.fingerprint} if data.original is not None else {}

    def work(run: runs.Run) -> dict[str, Any]:
        import time

        began = time.monotonic()
        edit: Edit = method(model, concept, seed=seed, data=data, watch=lambda stage, i, n: watch(f"{name}: {stage}", i, n))
        edit.save(run.path("edit.safetensors"))
        seconds = time.monotonic() - began
        if "retain" not in method.needs:
            return {"seconds": seconds}
        return {"seconds": seconds, "diagnostics": diagnostics.measured(model, concept, edit, data, seed=seed, watch=watch)}

    return runs.compute(root, spec, "unlearn", work, wait=wait)
