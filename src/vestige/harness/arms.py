"""One arm of an audit: an attack on one model, scored by the verification judge at every point of its budget; and what is read off it.

Arms are content-addressed runs. What an arm depends on is its whole spec, so control arms are shared by every audit that
needs them, and nothing about the edit under audit enters the key of an arm that does not see it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vestige import edits, registry, runs
from vestige.concepts import Concept
from vestige.concepts.concept import Prompt
from vestige.concepts.images import PictureSet
from vestige.diffusion import Model
from vestige.edits import Edit
from vestige.harness import cost, diagnostics
from vestige.harness.bench import NUMERICS, Bench, held_in, shows, telling
from vestige.harness.processes import computed_by
from vestige.harness.tries import Tries, pictures_for
from vestige.methods import Attack, Budget, Candidate, optimiser
from vestige.methods.stock import Stock
from vestige.metrics import Judge
from vestige.metrics.score import crossed
from vestige.verdict.intervals import share

PATIENCE = 3600.0  # seconds to wait for another process's plain state, which takes a small part of an arm


def run_arm(
    bench: Bench,
    model: Model,
    concept: Concept,
    attack: tuple[str, Attack],
    budget: Budget,
    replicate: int,
    references: PictureSet | None,
    stock: Stock | None = None,
) -> runs.Run:
    """The finished run of one attack on one model for one replicate.

    Its result holds, for every point of the budget: what was spent, whether each picture shows the concept by either judge,
    the selection judge's rate on its own prompts and seeds, costs, and the attack's own notes. A picture that could not be judged
    is null, and in no rate. "by" says what computed it; arms that were stored before that was noted have none.

    Arguments:
        stock: The public base and the edit on it, for an attack that needs the original.
    """
    arm = _Arm(bench, model, concept, *attack, budget, replicate, references, stock)
    return runs.compute(bench.root, arm.spec, "arm", arm.points, wait=bench.wait, steal=bench.steal)


@dataclass(frozen=True)
class _Arm:
    """One attack on one model for one replicate."""

    bench: Bench
    model: Model
    concept: Concept
    name: str
    method: Attack
    budget: Budget
    replicate: int
    references: PictureSet | None
    stock: Stock | None = None

    @property
    def spec(self) -> dict[str, Any]:
        """Everything that an arm depends on."""
        bench, label, references = self.bench, self.concept.label, self.references
        spec = {
            "what": "arm",
            "numerics": NUMERICS,
            "model": self.model.fingerprint,
            "concept": self.concept.as_dict(),
            "attack": self.name,
            "settings": registry.settings(self.method),
            "budget": list(self.budget.points),
            "replicate": self.replicate,
            "references": references.content if references is not None else None,
            "protocol": asdict(bench.suite.protocol),
            "pictures": bench.suite.pictures,
            "select_pictures": bench.suite.select_pictures,
            "judges": [bench.verify.identity(label), bench.select.identity(label)],
            **optimiser.current().as_dict(),
            **(held_in(self.model.precision) if self.method.trains else {}),
            **({"stock": self.stock.as_dict()} if self.stock is not None else {}),
            **bench.kept,
            "volatile": {"model": self.model.name, "suite": bench.suite.version},
        }
        # What pictures are trained with, which their hash does not know; labelled ones get the concept's own prompts.
        if references is not None and self.method.reads_captions and (references.captions or not references.labels):
            spec["captions"] = [list(row) for row in references.captions]
        if references is not None and self.method.reads_captions:
            spec |= references.told
        return spec

    def points(self, run: runs.Run) -> dict[str, Any]:
        """Attack, and score every candidate."""
        points, last, tries = [], None, Tries(label=self.concept.label)
        replicate, stage = self.replicate, f"{self.name} on {self.model.name}, replicate {self.replicate}"
        held: dict[str, Any] = {"pictures": self.references, **({"stock": self.stock} if "original" in self.method.needs else {})}
        tried = self.method(self.model, self.concept, self.budget, seed=replicate, select=self._select, **held)
        with telling(stage):
            for candidate in tried:
                shared = cost.shares_plain(self.method, self.budget) and plain(candidate)
                points.append(self._shared(candidate, run) if shared else self._scored(candidate, run, tries))
                last = candidate.edit or last
                self.bench.watch(stage, len(points), len(self.budget.points))
                run.event("scored", budget=candidate.spent)
        if last is not None:
            last.save(run.path("last.safetensors"))
        return {"points": points, "by": computed_by()}

    def _select(self, seen: Tensor) -> Tensor:
        return torch.tensor([0.5 if hit is None else float(hit) for hit in shows(self.bench.select, seen, self.concept)])

    def _shared(self, candidate: Candidate, run: runs.Run) -> dict[str, Any]:
        """The point of a candidate that changed nothing: one state, drawn and judged once for all attacks, ways and budgets."""
        whole = plain_arm(replace(self.bench, wait=PATIENCE), self.model, self.concept, self.replicate)
        (point,) = whole.outcome["points"]
        album = self.bench.album(self.concept)
        apart = Path() if album.keep == "none" else album.place(run.folder).relative_to(run.folder)
        for name in dict.fromkeys((Path("strips/{}.png"), Path("scores/{}.json"), apart / "strips/{}.png")):
            source, copy = (str(name).format(f"{spent:06d}") for spent in (0, candidate.spent))
            if (whole.folder / source).exists():
                run.write_bytes(copy, (whole.folder / source).read_bytes())
        return {**point, "budget": candidate.spent, "cost": dict(candidate.cost), "notes": dict(candidate.notes), "shared": True}

    def _scored(self, candidate: Candidate, run: runs.Run, tries: Tries) -> dict[str, Any]:
        bench, concept, suite, replicate = self.bench, self.concept, self.bench.suite, self.replicate
        view = self.model.edited(candidate.edit) if candidate.edit is not None else self.model
        wanted = [(verification(concept, suite.pictures, replicate), (replicate, "verification"))]
        if suite.select_pictures:
            prompts = concept.spread(suite.select_pictures, "training", offset=replicate * suite.select_pictures)
            wanted.append((prompts, (replicate, "selection")))
        shown, *others = tries.pictures(bench, view, wanted, candidate)
        scores = _looked(bench.verify, shown, concept.label, run, f"scores/{candidate.spent:06d}.json")
        hits = crossed(scores, bench.verify.threshold(concept.label))
        bench.album(concept).strip(shown[: suite.strip], run.folder, f"strips/{candidate.spent:06d}.png")
        chosen = [hit for drawn in others for hit in shows(bench.select, drawn, concept)]
        return {
            "budget": candidate.spent,
            "hits": hits,
            "other_judge": shows(bench.select, shown, concept),
            "scores": [None if math.isnan(score) else round(score, 6) for score in scores.tolist()],
            "selected": None if math.isnan(share(chosen)) else share(chosen),
            "cost": dict(candidate.cost),
            "notes": {**candidate.notes, **({"cut": len(cut)} if (cut := view.unread(candidate.prompts or ())) else {})},
        }


def _looked(judge: Judge, shown: Tensor, label: str, run: runs.Run, name: str) -> Tensor:
    """A judge's scores of a label, (B,); raw scores of every label are stored where it says so."""
    raw = judge.raw(shown, label)
    if judge.stores:
        rows = [[None if math.isnan(x) else round(x, 6) for x in row] for row in raw.tolist()]
        run.write_bytes(name, json.dumps({**judge.identity(label), "columns": judge.heads(label), "scores": rows}).encode())
    return judge.read(raw, label)


def verification(concept: Concept, count: int, replicate: int) -> list[Prompt]:
    """The prompts by which a replicate is scored."""
    return concept.spread(count, "held-out", offset=replicate * count)


def plain(candidate: Candidate) -> bool:
    """Whether a candidate changes nothing: the model as it is, on the audit's own prompts and from pure noise."""
    changed = (candidate.edit, candidate.prompts, candidate.start, candidate.churn, candidate.kept)
    return candidate.tries == 1 and all(one is None for one in changed)


def plain_arm(bench: Bench, model: Model, concept: Concept, replicate: int) -> runs.Run:
    """A model as it is, plainly asked on the seeds of a replicate: the zero point of every attack on it."""
    return run_arm(bench, model, concept, ("direct", registry.build("attacks", "direct")), Budget((0,)), replicate, None)


def line(bench: Bench, model: Model, edit: Edit, concept: Concept) -> list[float | None]:
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
        rates, prompts = [], verification(concept, bench.suite.pictures, 0)
        for i, way in enumerate(diagnostics.LINE):
            view = model.edited(edits.scale(model, edit, way))
            hits = shows(bench.verify, pictures_for(bench, view, prompts, Candidate(0), (0, "verification")), concept)
            rates.append(None if math.isnan(share(hits)) else share(hits))
            bench.watch("line", i + 1, len(diagnostics.LINE))
        return {"rates": rates}

    return list(runs.compute(bench.root, spec, "line", work, wait=bench.wait, steal=bench.steal).outcome["rates"])


def curve(points: Sequence[Mapping[str, Any]], *, best_so_far: bool) -> tuple[tuple[float, ...], list[int]]:
    """Scores at every budget, and which point each came from.

    With `best_so_far` the candidate with the highest selection rate among those paid for counts (the latest of equals), so
    the choice never sees the verification judge. A score is NaN where no picture could be judged.
    """
    scores, taken, best = [], [], 0
    for i, point in enumerate(points):
        known = point["selected"] is not None and points[best]["selected"] is not None
        if not best_so_far or not known or point["selected"] >= points[best]["selected"]:
            best = i
        scores.append(share(points[best]["hits"]))
        taken.append(best)
    return tuple(scores), taken


def favoured(ways: Mapping[str, Sequence[runs.Run]]) -> str:
    """The way of attacking by which the concept rises further, over all replicates: an attacker does what works.

    Of several ways those count that were run in most replicates; others were given up (`harness.ways`).
    """
    most = max(map(len, ways.values()))
    return max((way for way in ways if len(ways[way]) == most), key=lambda way: sum(map(selected_rise, ways[way])))


def selected_rise(run: runs.Run) -> float:
    """How high the selection judge sees an arm rise, best so far and summed over the budget; what it looked at none of, by the other."""
    points = run.outcome["points"]
    seen = [p["selected"] for p in points]
    return math.fsum(accumulate(seen if None not in seen else [share(p["hits"]) for p in points], max))
