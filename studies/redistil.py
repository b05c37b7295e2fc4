"""How `redistil` was chosen: what each part of it is worth on a development concept, by the selection judge alone. Resumable.

    python studies/redistil.py --dry-run
    python studies/redistil.py --out build/redistil --workers 1
    python studies/redistil.py --out build/redistil --page docs/results/redistil.md

A cell is one set of settings. The selection judge looks at pictures of the concept, its neighbours and unrelated concepts, from training
prompts, and sits in both seats of a bench on which MemoRa attacks the edit and the twin from raw references:

    log F = integral of (r_edited - r_twin) d log(1 + b),

floor from the twin's plain score, ceiling from the original's. The evaluation concepts (sneaker, neon) are refused.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import controls
import grid
import tables
from records import Record
from vestige import concepts, metrics, models, registry, runs
from vestige.audit.plan import VERDICT
from vestige.concepts import Concept
from vestige.diffusion import Model
from vestige.diffusion.sampling import pictures
from vestige.edits import Edit
from vestige.errors import BadSetting
from vestige.harness import cost, suites
from vestige.harness.bench import Bench, answered, shows
from vestige.harness.unlearning import unlearned
from vestige.methods import Unlearner
from vestige.seeds import derive
from vestige.verdict import Arms, Interval
from vestige.verdict.intervals import t_interval
from vestige.verdict.savings import log_speedups

DEVELOPMENT = ("bag", "blueprint")
SUITE, REPLICATES = "quick", 3
COUNTS = {"target": 96, "neighbours": 96, "unrelated": 240}
TRAINED_ON = 4200 * 48  # latents that the world's own denoiser was trained on: tools/wardrobe
BASE = {"share": 0.6, "scope": "unet", "answer": "mixture", "retain_pictures": 768, "near": 2, "own": 0.125, "dropout": 0.1}
BASE |= {"hints": 0.0, "snr_gamma": 0.0, "average": 0.0, "warmup": 25, "steps": 450, "lr": 2e-3, "beta2": 0.999, "batch": 32}
WEIGHED = {"steps": 900, "warmup": 45, "share": 0.8, "hints": 0.1, "snr_gamma": 1.0, "near": 1, "own": 0.1, "dropout": 0.05}
WEIGHED |= {"lr": 4e-3, "beta2": 0.99}
WAYS: dict[str, dict[str, Any]] = {
    "base": {},
    "anchor": {"answer": "anchor"},
    "average 0.98": {"average": 0.98},
    "900 steps, average 0.98": {"steps": 900, "warmup": 45, "average": 0.98},
    "900 steps, share 0.8, hints 0.1": {"steps": 900, "warmup": 45, "share": 0.8, "hints": 0.1},
    "900 steps, share 0.8": {"steps": 900, "warmup": 45, "share": 0.8},
    "900 steps, hints 1": {"steps": 900, "warmup": 45, "hints": 1.0},
    "900 steps, share 0.8, hints 0.5, average 0.98": {"steps": 900, "warmup": 45, "share": 0.8, "hints": 0.5, "average": 0.98},
    "900 steps, share 1, hints 0.1": {"steps": 900, "warmup": 45, "share": 1.0, "hints": 0.1},
    "hints 0.1": {"hints": 0.1},
    "share 0.3": {"share": 0.3},
    "900 steps, rate 1e-3": {"steps": 900, "warmup": 45, "lr": 1e-3},
    "450 steps, share 0.8, hints 0.1": {"share": 0.8, "hints": 0.1},
    "225 steps, share 0.8, hints 0.1": {"steps": 225, "warmup": 12, "share": 0.8, "hints": 0.1},
    "1800 steps, share 0.8, hints 0.1": {"steps": 1800, "warmup": 90, "share": 0.8, "hints": 0.1},
    "share 1": {"share": 1.0},
    "share 0.1": {"share": 0.1},
    "share 0.5": {"share": 0.5},
    "share 0.7": {"share": 0.7},
    "1536 pictures": {"retain_pictures": 1536},
    "near 1": {"near": 1},
    "rate 1e-3": {"lr": 1e-3},
    "rate 4e-3": {"lr": 4e-3},
    "cross-attention alone, share 1": {"scope": "cross-attention", "share": 1.0},
    "no prompt of the concept": {"own": 0.0},
    "900 steps, average 0.98, share 1": {"steps": 900, "warmup": 45, "average": 0.98, "share": 1.0},
    "times weighed": WEIGHED,
    "times weighed, 450 steps": WEIGHED | {"steps": 450, "warmup": 25},
    "times weighed, 225 steps": WEIGHED | {"steps": 225, "warmup": 12},
    "times weighed, no hints": WEIGHED | {"hints": 0.0},
    "times weighed, share 1": WEIGHED | {"share": 1.0},
    "times weighed, share 0.5": WEIGHED | {"share": 0.5},
    "times weighed, share 0.3": WEIGHED | {"share": 0.3},
    "times weighed, share 0.1": WEIGHED | {"share": 0.1},
    "times weighed, cross-attention alone": WEIGHED | {"scope": "cross-attention"},
    "times weighed, anchor": WEIGHED | {"answer": "anchor"},
}
LOOKED_AT = ("anchor", "average 0.98", "1536 pictures", "near 1", "rate 1e-3", "rate 4e-3")  # an attack takes as long as an edit


@dataclass(frozen=True)
class Cell:
    """One row: settings that differ from `BASE`, or a model that nothing was done to, "original" or "twin"."""

    concept: str
    way: str

    @property
    def method(self) -> Unlearner:
        made: Unlearner = registry.build("unlearners", "redistil", {k: str(v) for k, v in (BASE | WAYS[self.way]).items()})
        return made

    @property
    def made(self) -> bool:
        """Whether there is something to make."""
        return self.way not in ("original", "twin")

    @property
    def attacked(self) -> bool:
        """Whether MemoRa attacks it, beside a twin."""
        return self.way not in LOOKED_AT and bool(twin_of(self.concept))

    @property
    def key(self) -> str:
        """The hash of all that its record depends on, but for the code."""
        suite = suites.load(SUITE, "wardrobe")
        told = {
            "suite": suite.version,
            "replicates": REPLICATES * self.attacked,
            "counts": COUNTS,
            "concept": concepts.load(self.concept).as_dict(),
        }
        who = [dict(models.identity(name)) for name in ("wardrobe", twin_of(self.concept)) if name]
        how = registry.settings(self.method) if self.made else self.way
        return runs.key({"what": "redistil", "how": how, **told, "models": who})


def twin_of(concept: str) -> str:
    """The twin of a concept; "" for none."""
    return next(iter(models.twins("wardrobe", concept)), "")


def cells(names: Sequence[str]) -> list[Cell]:
    """Every cell, concept by concept; the twin, where there is one, stands first, for every other is measured against it."""
    if bad := sorted(set(names) - set(DEVELOPMENT)):
        raise BadSetting(f"settings are chosen on {' and '.join(DEVELOPMENT)}; given {', '.join(bad)}")
    return [Cell(name, way) for name in names for way in ("original", *(["twin"] if twin_of(name) else []), *WAYS)]


def bench_of(concept: Concept, root: Path) -> Bench:
    """A bench on which the selection judge alone looks."""
    _, select = metrics.pair(concept, "wardrobe")
    return Bench(root, suites.load(SUITE, "wardrobe"), select, select)


def rates(bench: Bench, model: Model, concept: Concept) -> dict[str, list[int]]:
    """Group of words -> how many pictures show what was asked for, of how many; from training prompts."""
    found = {}
    for group, count in COUNTS.items():
        words = (concept.target,) if group == "target" else getattr(concept, group)
        prompts = concept.spread(count, "training", words=words)
        drawn = pictures(model, [p.text for p in prompts], [derive(99, "tune", i) for i in range(count)], bench.suite.protocol)
        seen = shows(bench.select, drawn, concept) if group == "target" else answered(bench.select, drawn, prompts)
        found[group] = [sum(map(bool, seen)), count]
    return found


def measured(cell: Cell, root: Path) -> Record:
    """All that the page says of a cell; run, resumed or read."""
    concept, original = concepts.load(cell.concept), models.load("wardrobe")
    bench, found = bench_of(concept, root), {"key": cell.key, "concept": cell.concept, "way": cell.way}
    model = models.load(twin_of(cell.concept)) if cell.way == "twin" else original
    if cell.made:
        run = unlearned(root, original, concept, "redistil", cell.method, 0)
        edit = Edit.load(run.path("edit.safetensors"))
        model = original.edited(edit)
        found |= {"settings": edit.settings, "seconds": run.outcome["seconds"], "loss_last": edit.notes["loss_last"]}
    found |= rates(bench, model, concept)
    return found | ({"curves": controls.curves(bench, model, original, concept, REPLICATES)} if cell.attacked else {})


def named(cell: Cell) -> str:
    return f"{cell.concept} {cell.way}"


def calls(cell: Cell) -> int:
    """Denoiser calls of a cell that shares nothing, its attack left out."""
    each = cost.picture(suites.load(SUITE, "wardrobe").protocol)
    return sum(COUNTS.values()) * each + (cell.method.calls(2 * 20, 2 * 20) if cell.made else 0)


# The page


def speedup(row: Record, twin: Record, original: Record) -> Interval | None:
    """F of a row against the twin; None of what was not attacked."""
    budgets = suites.load(SUITE, "wardrobe").attacks["memora"].budget.points
    edited, never = (tuple(map(tuple, one["curves"])) for one in (row, twin))
    if any(len(points) < len(budgets) for points in edited):
        return None
    ceiling = tuple(points[0] for points in original["curves"])
    logs = log_speedups(Arms(budgets, edited, never, tuple(points[0] for points in never), ceiling))
    found = t_interval(logs, 0.95, len(logs))
    return replace(found, value=math.exp(found.value), low=math.exp(found.low), high=math.exp(found.high))


def lines(rows: Mapping[str, Record]) -> Iterable[list[str]]:
    """A line a way, in the order of the study."""
    for way, row in rows.items():
        shown = [f"{row[group][0] / row[group][1]:.2f}" for group in COUNTS]
        factor = speedup(row, rows["twin"], rows["original"]) if "twin" in rows and "curves" in row and way != "twin" else None
        how = row.get("settings")
        paid = [str(how["steps"]), f"{how['steps'] * how['batch'] / TRAINED_ON:.1%}", f"{row['seconds']:.0f}"] if how else ["-"] * 3
        yield [way, *shown, tables.NOTHING if factor is None else tables.interval(factor), *paid]


HEAD = ("settings", *COUNTS, "F under MemoRa", "steps", "share of training", "seconds")
BOUGHT = "What steps buy: the rows above that differ in steps, and in their warm-up, alone; a table for each set of the other settings."


def bought(rows: Mapping[str, Record]) -> list[dict[str, Record]]:
    """Rows that differ in steps and warm-up alone, the fewest steps first; a group a set of other settings, where it has more than one."""
    groups: dict[str, dict[str, Record]] = {}
    for way, row in sorted(rows.items(), key=lambda pair: pair[1].get("settings", {}).get("steps", 0)):
        if how := row.get("settings"):
            same = json.dumps({key: value for key, value in how.items() if key not in ("steps", "warmup")}, sort_keys=True)
            groups.setdefault(same, {})[way] = row
    return [group for group in groups.values() if len(group) > 1]


def page(found: Mapping[Cell, Record]) -> str:
    """Of what has finished; nothing on it that records do not hold."""
    looked = ", ".join(f"{count} {'of the target' if group == 'target' else group}" for group, count in COUNTS.items())
    about = (
        f"`python studies/redistil.py --page docs/results/redistil.md`. Rates: pictures from training prompts ({looked}), drawn as "
        f"suite {suites.load(SUITE, 'wardrobe').version} draws them and seen by the selection judge. F: MemoRa from raw references against "
        f"the twin, {REPLICATES} replicates, this judge twice, form {VERDICT} of the verdict; "
        "brackets are 95 % t intervals over replicates, which do not hold the "
        "spread between edits, and a dash was not attacked. One edit a row, of seed 0. *Share of training*: latents that were trained "
        "on, of those that the world's own denoiser was. Seconds: of one thread beside other work, with the drawing of pictures where no "
        "earlier row had drawn them. Where it stands beside other methods, on another concept: [the frontier](table.md)."
    )
    parts = ["# Redistil: what its parts are worth on development concepts", about]
    for name in DEVELOPMENT:
        rows = {cell.way: row for cell, row in found.items() if cell.concept == name}
        if rows:
            parts += [f"## {name}", tables.table(HEAD, lines(rows))]
            beside = {way: row for way, row in rows.items() if way in ("original", "twin")}
            groups = bought(rows)
            parts += [BOUGHT] if groups else []
            parts += [tables.table(HEAD, lines(beside | steps)) for steps in groups]
    return "\n\n".join(parts) + "\n"


def arguments() -> argparse.ArgumentParser:
    parser = grid.parser(__doc__)
    parser.add_argument("--concepts", type=grid.names, default=["bag"])
    grid.resumable(parser, "build/redistil")
    return parser


def main() -> None:
    options = arguments().parse_args()
    grid.command(options, cells(options.concepts), "docs/results/redistil.jsonl", named=named, calls=calls, measured=measured, page=page)


if __name__ == "__main__":
    grid.start(main)
