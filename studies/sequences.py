"""Continual unlearning's comparison: one sequence of requests under many methods, protocols and guards. Resumable.

    python tools/continual_panel.py --out build/continual --dry-run
    python tools/continual_panel.py --out build/continual                    # what is missing, cheapest first
    python tools/continual_panel.py --out build/continual --only uce         # the row of this name, else every row that contains it
    python tools/continual_panel.py --out build/continual --table docs/results/continual.md
    python tools/continual_panel.py --out build/continual --part duge --first 2 --table docs/results/continual_duge.md

Part "methods" compares methods, protocols and guards; part "duge" takes DUGE apart, on as many requests as `--first` says.
A cell is a row of the table under one order and one seed: a ledger of its own, computed by one thread. What cells share (the
original's pictures, the memory, equal first steps) is computed once. Several processes may work on one folder: a cell that another
one holds is passed over. The table is made of finished cells alone, and names the rest; beside it lie its records, so that a cell
that another machine finished is not run again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import continual_page
import records
from vestige import continual, edits, files, models, runs
from vestige.continual import Order, plan
from vestige.continual.guards import Guards
from vestige.edits import Edit, merging
from vestige.errors import BadInput, RunConflict

MODEL, TWIN = "wardrobe", "wardrobe-never-five"
FIVE = ("sneaker", "bag", "dress", "trouser", "neon")
ORDERS = (FIVE, FIVE[::-1], ("trouser", "neon", "sneaker", "dress", "bag"))  # of the later two, nothing was looked at beforehand
METHODS = ("uce", "concept_ablation", "esd", "duge", "forget_me_not")
# Under Concept Ablation. The share is the released one, TIES' share and scale are not tuned. The released pull of 25,000 belongs to a
# sixtieth of this world's rate; here it lets nothing move. On the development concept (bag, 16 pictures each, selection judge; target,
# neighbours, unrelated): 25,000 left 1.00 / 1.00 / 0.94, and 30 gave 0.06 / 1.00 / 0.88; the projection 0.19 / 1.00 / 0.88.
GUARDS = {"L2 pull": Guards(pull=30.0), "selective": Guards(share=0.05), "projection": Guards(project=True)}
SHARE, SCALE = 0.2, 1.0
# A joint run may spend what the sequence spends: settings that count steps or pictures are multiplied by the number of requests.
COUNTED = ("steps", "rollouts", "anchor_pictures", "target_pictures")
SECONDS_A_CALL = 0.0020  # of CPU: the uce cell under quick-2, order 0, seed 0, took 104 s for 51,840 planned calls on one thread


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Arguments:
        order: Fields of a `course.Order`.
        made: Makes the edit that is measured, from the folder of the cell that it rests on; None takes the order's steps.
        rests: Row whose cell must be finished before.
    """

    order: dict[str, Any] = field(default_factory=dict)
    made: Callable[[Path], Edit] | None = None
    rests: str = ""

    @property
    def ordered(self) -> bool:
        """Whether the order of requests is in it; a row without it has cells under the first order alone."""
        return self.made is None and self.order.get("mode", "sequential") in ("sequential", "cumulative")


def merged(folder: Path) -> Edit:
    """TIES of the edits of an independent ledger, each checked by the ledger's own hashes."""
    return merging.ties(models.load(MODEL), alone(folder), share=SHARE, scale=SCALE)


def summed(folder: Path) -> Edit:
    return edits.combine(models.load(MODEL), [(edit, 1.0) for edit in alone(folder)], method="sum")


def averaged(folder: Path) -> Edit:
    parts = alone(folder)
    return edits.combine(models.load(MODEL), [(edit, 1 / len(parts)) for edit in parts], method="mean")


def alone(folder: Path) -> list[Edit]:
    from vestige.continual import Ledger
    from vestige.runs import Run

    return [edit for edit, _ in Ledger(Run(folder, {}), "independent").states(models.load(MODEL))]


def twin(folder: Path) -> Edit:
    """The whole difference to a model that drew none of the requests; both share everything but the denoiser."""
    model = models.load(MODEL)
    return edits.difference(model, models.load(TWIN), model.scope("unet"), method=TWIN)


def methods() -> dict[str, Row]:
    """Name -> row, cheapest first."""
    made = {"twin of five": Row(made=twin)}
    made |= {name: Row({"method": name}) for name in METHODS}
    made |= {f"concept_ablation + {name}": Row({"method": "concept_ablation", "guards": held}) for name, held in GUARDS.items()}
    made |= {f"{name}, again at every step": Row({"method": name, "mode": "cumulative"}) for name in METHODS if name in plan.JOINT}
    made |= {f"{name}, each alone": Row({"method": name, "mode": "independent"}) for name in METHODS}
    for title, how in (("TIES", merged), ("sum", summed), ("mean", averaged)):
        made[f"concept_ablation, {title} of each alone"] = Row(made=how, rests="concept_ablation, each alone")
    made |= {f"{name}, all at once": Row({"method": name, "mode": "simultaneous"}) for name in METHODS if name in plan.JOINT}
    return made


def duge() -> dict[str, Row]:
    """The world's preset, and what each of its parts does: it keeps no pull, and 192 pictures of a memory of 200."""

    def changed(**settings: Any) -> Row:
        return Row({"method": "duge", "settings": {f"duge.{k}": v for k, v in settings.items()}})

    return {
        "duge": Row({"method": "duge"}),
        "duge, no prior preservation": changed(retain_weight=0.0, related_weight=0.0),
        "duge, memory of 20": Row({"method": "duge", "memory": 20}),
        "duge, held to the original": changed(reference="original"),
        "duge, all of cross-attention": changed(scope="cross-attention"),
        "duge, pulled back": changed(pull_weight=1e-3),
        "duge, pulled back by importance": changed(pull_weight=1e-3, importance="mas"),
        "duge, towards the empty prompt": changed(reference_condition="null"),
        "duge, no cross-attention loss": changed(attention_weight=0.0),
    }


TITLES = {"methods": "Continual unlearning, compared", "duge": "DUGE taken apart"}
ROWS = {
    "methods": f"""
A row of the form "again at every step" forgets every request so far in each step, at the price of one; "each alone" is the mean over
models that each forgot one request. All at once may spend as many steps and pictures as the sequence in all. The twin never drew any
of them; its drift is that between two trainings. The pull is {GUARDS["L2 pull"].pull:g}, chosen on bag; the share that moves is
{GUARDS["selective"].share:g}, TIES' share {SHARE:g} and scale {SCALE:g}, not tuned.""",
    "duge": """
Every row is the world's preset, chosen on bag, but for what its name says: keys and values alone train, towards the start token, beside
a memory of 200 and with no pull. Towards the start token no reference is asked and without a pull none is held to, so "held to the
original" must give the first row's numbers.""",
}

PARTS: dict[str, Callable[[], dict[str, Row]]] = {"methods": methods, "duge": duge}


def order_of(row: Row, requests: tuple[str, ...], seed: int, suite: str) -> Order:
    order = Order(model=MODEL, requests=requests, suite=suite, seed=seed, **row.order)
    if order.mode != "simultaneous":
        return order
    method = plan.resolve(order).unlearner
    more = {f"{order.method}.{k}": getattr(method, k) * len(requests) for k in COUNTED if hasattr(method, k)}
    return replace(order, settings=more)


@dataclass(frozen=True, eq=False)
class Cell:
    """A row under one order and one seed."""

    name: str
    row: Row
    number: int
    seed: int
    options: argparse.Namespace

    @property
    def requests(self) -> tuple[str, ...]:
        return ORDERS[self.number][: self.options.first]

    @property
    def order(self) -> Order:
        return order_of(self.row, self.requests, self.seed, self.options.suite)

    def folder(self, name: str = "") -> Path:
        short = (name or self.name).replace(",", "").replace("+", "and").replace(" ", "_")
        part = "" if len(self.requests) == len(ORDERS[self.number]) else f"-first-{len(self.requests)}"
        return self.options.out / self.options.suite / f"order-{self.number}-seed-{self.seed}{part}" / short

    def result(self) -> dict[str, Any] | None:
        """The finished result of this very sequence, with all that is measured today; anything else counts as missing."""
        found, spec = (files.object_in(self.folder() / name) for name in ("result.json", "spec.json"))
        chosen = plan.resolve(self.order)
        if found is None or spec is None or found.get("asked") != runs.key(chosen.asked()):
            return None
        return found if self.row.made is not None or runs.key(spec) == runs.key(chosen.spec()) else None

    @property
    def key(self) -> str:
        """The hash of all that it depends on."""
        chosen = plan.resolve(self.order)
        spec = {**chosen.spec(), **chosen.asked(), "row": self.name}
        if self.row.made is None:
            return runs.key(spec)
        rests = replace(self, name=self.row.rests, row=PARTS[self.options.part]()[self.row.rests]).key if self.row.rests else ""
        made = {"rests": rests, "twin": models.identity(TWIN), "ties": [SHARE, SCALE]}
        return runs.key({**{k: v for k, v in spec.items() if k not in ("method", "settings", "mode", "memory")}, **made})

    def record(self, kept: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
        """What its page reads: from its result here, or as another machine left it."""
        result = self.result()
        return kept.get(self.key) if result is None else continual_page.record(self.key, self.name, self.number, self.seed, result)

    def calls(self) -> tuple[int, int]:
        """Denoiser calls that it plans, its own and shared ones; one that is trained through counts three."""
        order = self.order if self.row.made is None else replace(self.order, mode="simultaneous", method="uce")  # two states to look at
        chosen = plan.resolve(order)
        planned = chosen.planned_calls()
        shared = planned["scoring"] // (len(chosen.steps) + 1) + planned.get("memory", 0)
        return sum(planned.values()) - shared, shared

    def run(self) -> dict[str, Any]:
        from vestige.report import ledgers

        cache = self.options.out / "runs"
        command = f"python tools/continual_panel.py --suite {self.options.suite}"
        if self.row.made is None:
            result = continual.continual(self.order, self.folder(), cache=cache, command=command)
        else:
            if self.row.rests and not (self.folder(self.row.rests) / "result.json").exists():
                raise BadInput(f"{self.name} rests on {self.row.rests!r}, which is not finished")
            result = continual.compared(self.order, self.row.made(self.folder(self.row.rests)), self.folder(), cache=cache, command=command)
        ledgers.write(self.folder())
        return result


def cells(options: argparse.Namespace) -> list[Cell]:
    table_ = PARTS[options.part]()
    names = [options.only] if options.only in table_ else [name for name in table_ if options.only in name]
    if not names:
        raise BadInput(f"no row is called {options.only!r}; rows: {'; '.join(table_)}")
    places = [(seed, number) for seed in range(options.seeds) for number in range(options.orders)]
    every = (Cell(name, table_[name], number, seed, options) for seed, number in places for name in names)
    return [cell for cell in every if cell.row.ordered or not cell.number]


def timing(found: Iterable[Cell]) -> tuple[float, str]:
    """Seconds a planned call, and where that is from: the slowest finished cell, since others found work done; else the constant."""
    timed = [(r["cost"]["seconds"] / sum(cell.calls()), cell.name) for cell in found if (r := cell.result()) is not None]
    each, name = max(timed, default=(SECONDS_A_CALL, ""))
    return each, f"the finished cell {name!r}" if name else "an earlier cell, uce under quick-2"


def dry(found: list[Cell]) -> str:
    (each, source), finished_ = timing(found), finished(found)
    lines, left = ["| cell | order | seed | calls | expected hours | state |", "|---|---|---|---|---|---|"], 0.0
    paid = {(cell.number, cell.seed) for cell in found if cell.result() is not None}  # here: what is shared is here too
    for cell in found:
        own, shared = cell.calls()
        done, calls = cell in finished_, own + (0 if (cell.number, cell.seed) in paid else shared)
        left += 0 if done else calls * each / 3600
        paid.add((cell.number, cell.seed))
        state = "finished" if done else "missing"
        lines.append(f"| {cell.name} | {cell.number} | {cell.seed} | {calls:,} | {calls * each / 3600:.2f} | {state} |")
    return "\n".join([*lines, "", f"missing: {left:.1f} hours of one thread, at {1e3 * each:.2f} ms a call from {source}"])


def finished(found: Iterable[Cell]) -> dict[Cell, dict[str, Any]]:
    """Records of the cells that are finished, here or elsewhere."""
    kept, done = {}, {}
    for cell in found:
        kept = kept or records.read(cell.options.records)
        if (record := cell.record(kept)) is not None:
            done[cell] = record
    return done


def table(found: list[Cell]) -> str:
    """The page, of finished cells."""
    done, asked = finished(found), found[0].options
    if not done:
        raise BadInput(f"no cell under {asked.out} is finished; run the panel first")
    part = "" if asked.part == "methods" else f" --part {asked.part} --first {asked.first}"
    return continual_page.page(
        list(done.values()),
        [(cell.name, cell.number, cell.seed) for cell in found if cell not in done],
        title=TITLES[asked.part],
        command=f"python tools/continual_panel.py --suite {asked.suite} --orders {asked.orders} --seeds {asked.seeds}{part}",
        orders="; ".join(f"{i}: {', '.join(o[: asked.first])}" for i, o in enumerate(ORDERS[: asked.orders])),
        rows=ROWS[asked.part],
    )


def work(found: list[Cell]) -> None:
    done = finished(found)
    needed = {cell.row.rests for cell in found if cell not in done}  # with their edits, which no record holds
    for cell in found:
        if (cell in done and cell.name not in needed) or cell.result() is not None:  # another process may have finished it meanwhile
            continue
        began, cpu = time.monotonic(), time.process_time()
        try:
            result = cell.run()
        except (RunConflict, BadInput) as error:  # another process's, or resting on one that is
            print(f"{cell.name}: passed over; {error}", flush=True)
            continue
        last = " | ".join(continual_page.shown(continual_page.record(cell.key, cell.name, cell.number, cell.seed, result)))
        used = f"{time.monotonic() - began:.0f} s, {time.process_time() - cpu:.0f} s of CPU"
        print(f"{cell.name}, order {cell.number}, seed {cell.seed}: {last}; {used}", flush=True)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/continual"))
    parser.add_argument("--records", type=Path, default=Path("docs/results"), help="what other machines have finished")
    parser.add_argument("--suite", default="quick")
    parser.add_argument("--orders", type=int, default=1, choices=range(1, len(ORDERS) + 1))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--part", default="methods", choices=PARTS)
    parser.add_argument("--first", type=int, default=len(FIVE), choices=range(1, len(FIVE) + 1), help="requests of the order to take")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--table", type=Path, help="write this page, and its records beside it, of what is finished; nothing is run")
    return parser


def main() -> None:
    options = arguments().parse_args()
    found = cells(options)
    if options.dry_run:
        sys.stdout.write(dry(found) + "\n")
    elif options.table is not None:
        page = table(found)
        options.table.parent.mkdir(parents=True, exist_ok=True)
        options.table.write_text(page, "utf-8")
        records.write(options.table.with_suffix(".jsonl"), finished(found).values())
        sys.stdout.write(page)
    else:
        work(found)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    main()
