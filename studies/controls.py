"""Who can stand for a model that never knew a concept? Never-models distilled from the original beside twins, under MemoRa. Resumable.

    python studies/controls.py --dry-run
    python studies/controls.py --out build/controls --workers 1
    python studies/controls.py --page docs/results/controls/tables.md

Every model is attacked as a control of an audit under suite `quick` is: five replicates of MemoRa from raw references, the way that
teaches a model which cannot regenerate what it never saw. Differences are those of the verdict, `verdict.savings`:

    log F(a, b) = integral of (r_a - r_b) d log(1 + b),

a in place of the model under audit, b in place of the never arm, floor from b's plain score, ceiling from the original's. Two twins differ
as well: that is the ruler. `docs/results/controls.md` says what was found.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

import grid
import tables
from records import Record
from vestige import concepts, metrics, models, registry, runs
from vestige.concepts import Concept
from vestige.diffusion import Model
from vestige.harness import arms, cost, suites
from vestige.harness.attacker import AttackerData
from vestige.harness.bench import Bench
from vestige.harness.never import Distillation, distilled, never_model
from vestige.harness.settings import chosen
from vestige.harness.utility import kept
from vestige.methods import Budget
from vestige.verdict import Arms
from vestige.verdict.intervals import t_interval
from vestige.verdict.savings import areas, log_speedups

SUITE, REPLICATES = "quick", 5
FORM = 2  # of the verdict, since which speed counts the rise
GROUPS = ("neighbours", "unrelated")
TWINS = {
    "sneaker": ("wardrobe-never-sneaker", "wardrobe-never-sneaker-2"),
    "bag": ("wardrobe-never-bag",),
    "neon": ("wardrobe-never-neon",),
}
OTHER = {"sneaker": "dress"}  # an anchor that is no neighbour, where the concept's own is one
MORE = {"sneaker": ("other anchor", "no prompt"), "bag": ("no prompt",)}  # other ways of distilling, two models each


@dataclass(frozen=True)
class Cell:
    """One model for one concept.

    Arguments:
        kind: "original", "twin", "distilled", "other anchor" or "no prompt": distilled without any prompt that names the concept.
        twin: A twin's name.
        seed: Of a distilled model.
    """

    concept: str
    kind: str
    twin: str = ""
    seed: int = 0

    @property
    def name(self) -> str:
        """As tables call it."""
        return {"original": "original", "twin": self.twin.removeprefix("wardrobe-")}.get(self.kind, f"{self.kind} {self.seed}")

    @property
    def told(self) -> Concept:
        """The concept as a distilled model is taught it."""
        concept = concepts.load(self.concept)
        return replace(concept, anchor=OTHER[self.concept]) if self.kind == "other anchor" else concept

    @property
    def how(self) -> Distillation:
        return Distillation(own=0.0) if self.kind == "no prompt" else Distillation()

    @property
    def key(self) -> str:
        """The hash of all that its record depends on, but for the code."""
        suite = suites.load(SUITE, "wardrobe")
        told = {"suite": suite.version, "how": asdict(self.how), "told": self.told.as_dict(), "replicates": REPLICATES}
        who = [dict(models.identity(name)) for name in ("wardrobe", self.twin) if name]
        return runs.key({"what": "control", **asdict(self), **told, "models": who})


def cells(names: Sequence[str]) -> list[Cell]:
    """Every cell, concept by concept; a concept's other ways of distilling come after all that it is compared by."""
    made = []
    for name in names:
        made += [Cell(name, "twin", twin) for twin in TWINS[name]]
        made += [Cell(name, "distilled", seed=0), Cell(name, "original"), *(Cell(name, "distilled", seed=k) for k in (1, 2))]
        made += [Cell(name, kind, seed=k) for k in range(2) for kind in MORE.get(name, ())]
    return made


def bench_of(concept: Concept, root: Path) -> Bench:
    verify, select = metrics.pair(concept, "wardrobe")
    return Bench(root, suites.load(SUITE, "wardrobe"), verify, select)


def subject(cell: Cell, bench: Bench, original: Model) -> Model:
    """The model of a cell, made or loaded."""
    if cell.kind == "original":
        return original
    return models.load(cell.twin) if cell.twin else never_model(bench, original, cell.told, cell.seed, cell.how)


def curves(bench: Bench, model: Model, original: Model, concept: Concept, replicates: int = REPLICATES) -> list[list[float]]:
    """Scores at every budget, best so far, a row a replicate; of the original, plain scores alone."""
    if model is original:
        plain = ("direct", registry.build("attacks", "direct"))
        rows = [arms.run_arm(bench, model, concept, plain, Budget((0,)), k, None) for k in range(replicates)]
    else:
        method, planned = chosen(["memora"], bench.suite, models.card("wardrobe"), "", {})["memora"]
        raw = method.variants()["raw"]
        attacker = AttackerData(
            original=original, world="wardrobe", protocol=bench.suite.protocol, cache=bench.album(concept).cache(bench.root)
        )
        given = [attacker.of(concept, raw, planned.references, k) for k in range(replicates)]
        rows = [arms.run_arm(bench, model, concept, ("memora", raw), planned.budget, k, given[k]) for k in range(replicates)]
    return [list(arms.curve(row.outcome["points"], best_so_far=True)[0]) for row in rows]


def measured(cell: Cell, root: Path) -> Record:
    """All that the page says of a cell; run, resumed or read."""
    concept, original = concepts.load(cell.concept), models.load("wardrobe")
    bench = bench_of(concept, root)
    model = subject(cell, bench, original)
    told = {"suite": bench.suite.version, "how": asdict(cell.how), "anchor": cell.told.anchor, "budgets": list(budgets())}
    found: Record = {"key": cell.key, **asdict(cell), **told, "curves": curves(bench, model, original, concept)}
    for group in GROUPS:
        seen = [hit for hit in kept(bench, model, concept, group)["right"] if hit is not None]
        found[group] = [sum(seen), len(seen)]
    if not cell.twin and model is not original:
        run = distilled(bench, original, cell.told, cell.seed, cell.how)
        found["made"] = {k: run.outcome[k] for k in ("seconds", "left_out", "loss_first", "loss_last")}
    return found


def budgets() -> tuple[int, ...]:
    """Steps at which an arm is scored."""
    return suites.load(SUITE, "wardrobe").attacks["memora"].budget.points


def named(cell: Cell) -> str:
    return f"{cell.concept} {cell.name}"


def calls(cell: Cell) -> int:
    """Denoiser calls of a cell that shares nothing."""
    suite = suites.load(SUITE, "wardrobe")
    each, (method, planned) = cost.picture(suite.protocol), chosen(["memora"], suite, models.card("wardrobe"), "", {})["memora"]
    drawn = 2 * suite.utility_pictures * each
    if cell.kind == "original":
        return drawn + REPLICATES * (suite.pictures + suite.select_pictures) * each
    raw = method.variants()["raw"]
    arm = raw.calls(planned.budget.last, planned.references) + cost.scored_pictures(raw, planned.budget, suite) * each
    return drawn + REPLICATES * arm + (0 if cell.twin else cell.how.calls(suite.protocol))


# The page


def log_f(a: Record, b: Record, ceiling: Sequence[float]) -> tuple[float, ...]:
    """log F of each replicate, a in place of the model under audit and b in that of the never arm."""
    edited, never = (tuple(map(tuple, one["curves"])) for one in (a, b))
    return log_speedups(Arms(tuple(a["budgets"]), edited, never, tuple(row[0] for row in never), tuple(ceiling)))


def mean_of(rows: Sequence[Record]) -> Record:
    """A stand-in whose curves are the mean of the given ones, replicate by replicate."""
    whole = [row["curves"] for row in rows]
    return {**rows[0], "curves": [[statistics.fmean(points) for points in zip(*each, strict=True)] for each in zip(*whole, strict=True)]}


def area(row: Record) -> float:
    """Mean over replicates of the integral of the score over log(1 + b)."""
    return statistics.fmean(areas(tuple(row["budgets"]), np.asarray(row["curves"])))


def models_table(rows: Mapping[str, Record]) -> str:
    """What each model draws, and how it learns."""
    budgets = next(iter(rows.values()))["budgets"]
    lines = []
    for name, row in rows.items():
        points = [statistics.fmean(column) for column in zip(*row["curves"], strict=True)]
        rest = [*points[1:], area(row)] if len(points) > 1 else [None] * len(budgets)
        rates = [points[0], *(row[g][0] / row[g][1] for g in GROUPS), *rest]
        lines.append(
            [
                name,
                tables.NOTHING if row["kind"] in ("twin", "original") else row["anchor"] if row["how"]["own"] else "none",
                *map(tables.number, rates),
            ]
        )
    return tables.table(["model", "anchor", "plain", *GROUPS, *(f"after {b}" for b in budgets[1:]), "area"], lines)


def matrix(rows: Mapping[str, Record], ceiling: Sequence[float]) -> str:
    """Every model against every other."""
    lines = []
    for one, row in rows.items():
        against = [tables.NOTHING if one == b else f"{statistics.fmean(log_f(row, rows[b], ceiling)):+.2f}" for b in rows]
        lines.append([f"**{one}**", *against])
    return tables.table(["log F of ... against ...", *rows], lines)


def summary(rows: Mapping[str, Record], ceiling: Sequence[float]) -> str:
    """Spread and bias, by kind of control."""
    twins, lines = mean_of([row for row in rows.values() if row["kind"] == "twin"]), []
    for kind in ("twin", "distilled", "other anchor", "no prompt"):
        mine = [row for row in rows.values() if row["kind"] == kind]
        if not mine:
            continue
        each = [statistics.fmean(log_f(row, twins, ceiling)) for row in mine]
        spread = statistics.stdev(each) if len(each) > 1 else None
        bias = t_interval(log_f(mean_of(mine), twins, ceiling), 0.95, len(twins["curves"]))
        lines.append([kind, str(len(mine)), tables.number(spread), tables.NOTHING if kind == "twin" else tables.interval(bias)])
    return tables.table(["control", "models", "sd of log F between them", "log F of their mean against the twins' mean"], lines)


def section(name: str, found: Mapping[Cell, Record]) -> str:
    """One concept, of what has finished; "" without a twin, a distilled model and the original."""
    mine = {cell.name: row for cell, row in found.items() if cell.concept == name}
    ceilings = [[x[0] for x in row["curves"]] for row in mine.values() if row["kind"] == "original"]
    taught = {key: row for key, row in mine.items() if row["kind"] != "original"}
    if not ceilings or not {"twin", "distilled"} <= {row["kind"] for row in taught.values()}:
        return ""
    return "\n\n".join([f"## {name}", models_table(mine), summary(taught, ceilings[0]), matrix(taught, ceilings[0])])


def page(found: Mapping[Cell, Record]) -> str:
    """Of what has finished; nothing on it that records do not hold."""
    row = next(row for row in found.values() if row["kind"] == "distilled")
    how = ", ".join(f"{k} {v}" for k, v in row["how"].items())
    about = (
        f"`python studies/controls.py --page docs/results/controls/tables.md`; suite {row['suite']}, MemoRa from raw references, "
        f"{len(row['curves'])} replicates of 48 pictures; distilled by {how}. Rates are the verification judge's, means over "
        f"replicates; *area* is the integral of the score over log(1 + budget), log F that of form {FORM} of the verdict. Brackets are "
        "95 % t intervals over replicates, which hold the spread between replicates and not that between trainings: that is the column "
        "before."
    )
    parts = [part for name in TWINS if (part := section(name, found))]
    return "\n\n".join(["# Distilled never-models and twins", about, *parts]) + "\n"


def arguments() -> argparse.ArgumentParser:
    parser = grid.parser(__doc__)
    parser.add_argument("--concepts", type=grid.names, default=list(TWINS))
    grid.resumable(parser, "build/controls")
    return parser


def main() -> None:
    options = arguments().parse_args()
    grid.command(
        options, cells(options.concepts), "docs/results/controls/tables.jsonl", named=named, calls=calls, measured=measured, page=page
    )


if __name__ == "__main__":
    grid.start(main)
