"""Continual unlearning's comparison: one sequence of requests under many methods, protocols and guards. Resumable.

    python studies/sequences.py --out build/continual --dry-run
    python studies/sequences.py --out build/continual                    # what is missing, cheapest first
    python studies/sequences.py --out build/continual --only uce         # the row of this name, else every row that contains it
    python studies/sequences.py --out build/continual --table docs/results/continual.md
    python studies/sequences.py --out build/continual --part duge --first 2 --table docs/results/continual_duge.md

Part "methods" compares methods, protocols and guards, part "closed" the closed forms; part "duge" takes DUGE apart, on as many requests
as `--first` says.
A cell is a row of the table under one order and one seed: a ledger of its own, computed by one thread. What cells share (the
original's pictures, the memory, equal first steps) is computed once. Several processes may work on one folder: a cell that another
one holds is passed over. The table is made of finished cells alone, and names the rest; beside it lie its records, so that a cell
that another machine finished is not run again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grid
import records
import sequences_page
import tables
from sequences_rows import FIVE, MODEL, ORDERS, PARTS, ROWS, SCALE, SHARE, TITLES, TWIN, Row
from vestige import continual, models, runs
from vestige.continual import Order
from vestige.errors import BadInput, RunConflict

# A joint run may spend what the sequence spends: settings that count steps or pictures are multiplied by the number of requests.
COUNTED = ("steps", "rollouts", "anchor_pictures", "target_pictures")


def order_of(row: Row, requests: tuple[str, ...], seed: int, suite: str) -> Order:
    order = Order(model=MODEL, requests=requests, suite=suite, seed=seed, **row.order)
    if order.mode != "simultaneous":
        return order
    method = continual.resolve(order).unlearner
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
        return grid.sequence(self.folder(), self.order, compared=self.row.made is not None)

    @property
    def key(self) -> str:
        """The hash of all that it depends on."""
        chosen = continual.resolve(self.order)
        spec = {**chosen.spec(), **chosen.asked(), "row": self.name}
        if self.row.made is None:
            return runs.key(spec)
        rests = replace(self, name=self.row.rests, row=PARTS[self.options.part]()[self.row.rests]).key if self.row.rests else ""
        made = {"rests": rests, "twin": models.identity(TWIN), "ties": [SHARE, SCALE]}
        return runs.key({**{k: v for k, v in spec.items() if k not in ("method", "settings", "mode", "memory")}, **made})

    def record(self) -> records.Record | None:
        """What its page reads of its result here."""
        result = self.result()
        return None if result is None else sequences_page.record(self.key, self.name, self.number, self.seed, result)

    def calls(self) -> tuple[int, int]:
        """Denoiser calls that it plans, its own and shared ones; one that is trained through counts three."""
        order = self.order if self.row.made is None else replace(self.order, mode="simultaneous", method="uce")  # two states to look at
        chosen = continual.resolve(order)
        planned = chosen.planned_calls()
        shared = planned["scoring"] // (len(chosen.steps) + 1) + planned.get("memory", 0)
        return sum(planned.values()) - shared, shared

    def run(self) -> dict[str, Any]:
        from vestige.report import ledgers

        cache = self.options.out / "runs"
        command = f"python studies/sequences.py --suite {self.options.suite}"
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


def timing(found: Iterable[Cell]) -> tuple[float | None, str]:
    """Seconds a planned call, and where that is from: the slowest finished cell, since others found work done; else it is measured."""
    timed = [(r["cost"]["seconds"] / sum(cell.calls()), cell.name) for cell in found if (r := cell.result()) is not None]
    each, name = max(timed, default=(None, ""))
    return each, f"the finished cell {name!r}" if name else "a try here"


def dry(found: list[Cell]) -> str:
    finished_, rows = finished(found), []
    paid = {(cell.number, cell.seed) for cell in found if cell.result() is not None}  # here: what is shared is here too
    for cell in found:
        own, shared = cell.calls()
        calls = own + (0 if (cell.number, cell.seed) in paid else shared)
        rows.append((f"{cell.name}, order {cell.number}, seed {cell.seed}", calls, cell in finished_))
        paid.add((cell.number, cell.seed))
    return grid.dry(rows, *timing(found))


def finished(found: list[Cell]) -> dict[Cell, records.Record]:
    """Records of the cells that are finished, here or elsewhere."""
    return grid.finished(found, Cell.record, records.read(found[0].options.records))


def table(found: list[Cell]) -> str:
    """The page, of finished cells."""
    done, asked = finished(found), found[0].options
    if not done:
        raise BadInput(f"no cell under {asked.out} is finished; run the panel first")
    part = "" if asked.part == "methods" else f" --part {asked.part} --first {asked.first}"
    return sequences_page.page(
        list(done.values()),
        [(cell.name, cell.number, cell.seed) for cell in found if cell not in done],
        title=TITLES[asked.part],
        command=f"python studies/sequences.py --suite {asked.suite} --orders {asked.orders} --seeds {asked.seeds}{part}",
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
        last = " | ".join(sequences_page.shown(sequences_page.record(cell.key, cell.name, cell.number, cell.seed, result)))
        used = f"{time.monotonic() - began:.0f} s, {time.process_time() - cpu:.0f} s of CPU"
        print(f"{cell.name}, order {cell.number}, seed {cell.seed}: {last}; {used}", flush=True)


def arguments() -> argparse.ArgumentParser:
    parser = grid.parser(__doc__)
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
        tables.write(options.table, page)
        records.write(options.table.with_suffix(".jsonl"), finished(found).values())
        sys.stdout.write(page)
    else:
        work(found)


if __name__ == "__main__":
    grid.start(main, threads=1)
