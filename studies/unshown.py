"""Memory of what was not shown: real pictures of a concept that no attacker had, and how many of them a recovered model draws again.

    python studies/unshown.py --concepts sneaker --methods esd --out build/unshown

For every model of an audit (the edit, the positive controls, the never-models; the untouched original is not attacked) the pictures drawn
at the attack's last budget are laid beside all real pictures that ship of the concept, those of the replicate's references apart
(`metrics.recollection`). Every row draws as many pictures, and counts as many recognised ones. What the references cover by
themselves is the zero; the never-models show what teaching adds to it.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import grid
import tables
from vestige import concepts, files, runs
from vestige.audit import Request, no_original, resolve
from vestige.audit.experiment import Experiment, furnished, prepared
from vestige.audit.unshown import had_by_attack, of_its_contexts
from vestige.diffusion import Model
from vestige.diffusion.model import silent
from vestige.diffusion.sampling import pictures
from vestige.edits import Edit
from vestige.harness import arms
from vestige.harness.bench import shows
from vestige.metrics import recollection
from vestige.seeds import derive
from vestige.verdict.intervals import t_interval

DRAWN, COUNTED = 128, 32
ATTACK = "memora"
Row = dict[str, Any]


def covered(experiment: Experiment, features: Tensor, model: Model, replicate: int) -> tuple[int, list[bool]]:
    """How many of a model's pictures are recognised, and which real pictures they cover."""
    bench, concept = experiment.bench, experiment.concept
    prompts = concept.spread(DRAWN, "held-out")
    drawn = pictures(model, [p.text for p in prompts], [derive(replicate, "unshown", i) for i in range(DRAWN)], bench.suite.protocol)
    hits = shows(bench.verify, drawn, concept)
    seen = recollection.of_the_concept(bench.verify.features(drawn), hits, COUNTED)
    return sum(map(bool, hits)), recollection.covered(features, seen)


def attacked(experiment: Experiment) -> Iterator[tuple[str, list[Model]]]:
    """Every model of the audit as the attack left it, a replicate each, by the way that works better on it."""
    method, seeds = experiment.plan.attacks[ATTACK][0], experiment.plan.probing
    known = {"edited": experiment.edited, **{k: m for k, m in experiment.positives.items() if isinstance(m, Model)}}
    known |= dict(zip(experiment.plan.control.names, (model for model, _ in experiment.nevers), strict=True))
    for name, model in known.items():
        ways = method.ways()
        rows = {way: [experiment.arm(model, experiment.concept, ATTACK, one, k) for k in seeds] for way, one in ways.items()}
        yield name, [model.edited(Edit.load(run.path("last.safetensors"))) for run in rows[arms.favoured(rows)]]


def measured(experiment: Experiment) -> list[Row]:
    """A row for every model: the share of unshown real pictures that it covers, in each replicate."""
    whole, seeds = of_its_contexts(experiment), experiment.plan.probing
    features = experiment.bench.verify.features(no_original.reconstructed(experiment.base, whole.images))
    count = experiment.plan.attacks[ATTACK][1].references
    had = [had_by_attack(whole, experiment.attacker.shown(experiment.concept, count, k)) for k in seeds]
    own = [recollection.unshown(recollection.covered(features, features[torch.tensor(mask)]), mask) for mask in had]
    rows: list[Row] = [{"model": "the references alone", "recognised": [], "unshown": own}]
    original = [covered(experiment, features, experiment.base, k) for k in seeds]
    for name, found in (("original, not attacked", original), *_left(experiment, features)):
        shares = [recollection.unshown(seen, mask) for (_, seen), mask in zip(found, had, strict=True)]
        rows.append({"model": name, "recognised": [hits for hits, _ in found], "unshown": shares})
    return rows


def _left(experiment: Experiment, features: Tensor) -> Iterator[tuple[str, list[tuple[int, list[bool]]]]]:
    for name, models in attacked(experiment):
        yield name, [covered(experiment, features, model, k) for model, k in zip(models, experiment.plan.probing, strict=True)]


def run(options: argparse.Namespace, concept: str, method: str) -> list[Row]:
    """The rows of one edit, kept where they were measured."""
    place = options.out / f"{concept}-{method}.json"
    if place.exists():
        return list(json.loads(place.read_text("utf-8")))
    plan = resolve(Request(concept=concept, unlearner=method, suite=options.suite, attacks=(ATTACK,)))
    bench = furnished(plan, options.cache or options.out / "runs", silent)
    rows = measured(prepared(plan, bench, runs.claim(options.out / f"{concept}-{method}", plan.spec())))
    files.make(options.out)
    files.write(options.out, place.name, (json.dumps(rows, indent=1) + "\n").encode())
    return rows


def page(found: dict[tuple[str, str], list[Row]]) -> str:
    """The table of every edit that was measured."""
    made = []
    for (concept, method), rows in found.items():
        for row in rows:
            x = t_interval(row["unshown"], 0.95, len(row["unshown"]))
            name = f"{method}, the edit" if row["model"] == "edited" else row["model"]
            hits = f"{statistics.fmean(row['recognised']) / DRAWN:.2f}" if row["recognised"] else ""
            made.append([concept, name, hits, f"{x.value:.2f} [{x.low:.2f}, {x.high:.2f}]", " ".join(f"{v:.2f}" for v in row["unshown"])])
    return tables.table(["concept", "model, after the attack", "recognised", "unshown covered", "each replicate"], made)


def arguments() -> argparse.ArgumentParser:
    parser = grid.parser(__doc__)
    parser.add_argument("--concepts", type=grid.names, default=["sneaker"])
    parser.add_argument("--methods", type=grid.names, default=["esd"])
    parser.add_argument("--suite", default="quick")
    parser.add_argument("--out", type=Path, default=Path("build/unshown"))
    parser.add_argument("--cache", type=Path, help="folder of runs to share with audits; default OUT/runs")
    return parser


def main() -> None:
    options = arguments().parse_args()
    for concept in options.concepts:
        concepts.load(concept, "wardrobe")
    found = {(c, m): run(options, c, m) for c in options.concepts for m in options.methods}
    print(page(found))


if __name__ == "__main__":
    grid.start(main)
