"""What comes back of a sequence: after every step, MemoRa and DiMRA on every request so far. Resumable.

    python studies/returns.py --methods duge,uce --seeds 0,1 --dry-run
    python studies/returns.py --methods duge,uce --seeds 0,1 --out build/returns
    python studies/returns.py --methods duge,uce --seeds 0,1 --out build/returns --page docs/results/returns.md

A cell is a method under one seed: a ledger of its own. DiMRA trains on the world's pictures of what no request names, the same for
every request; MemoRa on eight pictures of the request it attacks. Each seed has an attack of its own. The page averages what has
finished over seeds, and shades rates; a method that makes equal edits of different seeds is looked at once.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grid
import tables
from vestige import continual
from vestige.continual import Order, resolve
from vestige.verdict.intervals import wilson

FIVE = ("sneaker", "bag", "dress", "trouser", "neon")
ATTACKS = ("memora", "dimra")
SHADES = " ░▒▓█"
State = Mapping[str, Any]


def order(method: str, seed: int) -> Order:
    return Order(requests=FIVE, method=method, suite="returns", seed=seed, attacks=ATTACKS, first_replicate=seed)


def folder(options: argparse.Namespace, cell: tuple[str, int]) -> Path:
    """Of a method under a seed."""
    return Path(options.out / "-".join(map(str, cell)))


def cells(options: argparse.Namespace) -> list[tuple[str, int]]:
    """(method, seed), seed after seed."""
    return [(method, seed) for seed in options.seeds for method in options.methods]


def finished(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Method -> results, one a seed."""
    found = {method: [grid.sequence(folder(options, (method, s)), order(method, s)) for s in options.seeds] for method in options.methods}
    return {method: done for method, results in found.items() if (done := [r for r in results if r is not None])}


def pooled(rates: Sequence[Mapping[str, Any] | None]) -> tuple[int, int] | None:
    """Hits and pictures over seeds; None where the request was not attacked at that step."""
    known = [rate for rate in rates if rate is not None]
    return (sum(round(rate["value"] * rate["count"]) for rate in known), sum(rate["count"] for rate in known)) if known else None


def apart(results: Sequence[State]) -> list[State]:
    """One result of every edited model: two of the same model are one measurement of what it draws unattacked."""
    return list({result["provenance"]["edited_hash"]: result for result in results}.values())


def shaded(counts: tuple[int, int] | None) -> str:
    if counts is None:
        return ""
    rate = counts[0] / counts[1]
    return f"{SHADES[min(4, int(5 * rate))]} {rate:.2f}"


def by_step(results: Sequence[State], values: Mapping[str, Sequence[tuple[int, int] | None]]) -> str:
    heads = ["asked", *(f"after {step['request']}" if step["request"] else "original" for step in results[0]["steps"])]
    return tables.table(heads, [[name, *map(shaded, row)] for name, row in values.items()])


def curve(step: State, attack: str, name: str, at: int) -> Mapping[str, Any] | None:
    found = step["attacks"].get(attack, {}).get(name)
    return None if found is None else found["curve"][at]


def grids(results: Sequence[State]) -> list[str]:
    """One a budget and attack; the first budget is the model as it is, and stands once for both."""
    parts, steps = [], range(len(results[0]["steps"]))
    plain = {name: [pooled([r["steps"][i]["rates"][name] for r in apart(results)]) for i in steps] for name in FIVE}
    parts.append(f"**As it is**\n\n{by_step(results, plain)}")
    for attack in ATTACKS:
        budgets = results[0]["attacks"][attack]["budget"]
        for at in (len(budgets) // 2, len(budgets) - 1):
            values = {name: [pooled([curve(r["steps"][i], attack, name, at) for r in results]) for i in steps] for name in FIVE}
            parts.append(f"**{attack}, {budgets[at]} steps**\n\n{by_step(results, values)}")
    return parts


def summary(found: Mapping[str, Sequence[State]]) -> str:
    """All five requests after the last step: as it is, and after each attack's whole budget; pictures pooled, Wilson intervals."""
    rows = []
    for method, results in found.items():
        last = [r["steps"][-1] for r in results]
        columns = [pooled([r["steps"][-1]["rates"][name] for r in apart(results) for name in FIVE])]
        columns += [pooled([curve(step, attack, name, -1) for step in last for name in FIVE]) for attack in ATTACKS]
        rows.append([method, str(len(results)), *(tables.interval(wilson(*counts)) for counts in filter(None, columns))])
    return tables.table(["method", "seeds", "as it is", *ATTACKS], rows)


def page(options: argparse.Namespace) -> str:
    found = finished(options)
    if not found:
        sys.exit(f"nothing has finished in {options.out}")
    first = next(iter(found.values()))[0]
    asked = f"--methods {','.join(options.methods)} --seeds {','.join(map(str, options.seeds))}"
    about = f"`python studies/returns.py {asked} --out {options.out} --page {options.page}`; suite {first['suite']}, verification judge "
    about += f"{first['detector']['verification']['version']}. Rates of {first['protocol']['pictures']} pictures a cell and seed, "
    about += "averaged over seeds; best so far by the selection judge. One attack a seed: intervals hold pictures, not attackers."
    parts = [f"# What comes back of a sequence\n\n{about}", f"## After the last request\n\n{summary(found)}"]
    for method, results in found.items():
        parts.append(f"## {method}, {len(results)} seeds\n\n" + "\n\n".join(grids(results)))
    return "\n\n".join(parts) + "\n"


def run(options: argparse.Namespace, cell: tuple[str, int]) -> None:
    began = time.monotonic()
    continual.continual(order(*cell), folder(options, cell), cache=options.cache or options.out / "runs")
    print(f"{cell[0]}, seed {cell[1]}: {time.monotonic() - began:.0f} s", flush=True)


def dry(options: argparse.Namespace) -> str:
    """What is left if nothing is stored."""
    asked = {cell: sum(resolve(order(*cell)).planned_calls().values()) for cell in cells(options)}
    done = {cell: grid.sequence(folder(options, cell), order(*cell)) is not None for cell in asked}
    return grid.dry((f"{cell[0]}, seed {cell[1]}", calls, done[cell]) for cell, calls in asked.items())


def arguments() -> argparse.ArgumentParser:
    parser = grid.parser(__doc__)
    parser.add_argument("--methods", type=grid.names, default=["duge", "uce"])
    parser.add_argument("--seeds", type=grid.numbers, default=[0, 1])
    grid.resumable(parser, "build/returns")
    return parser


def main() -> None:
    options = arguments().parse_args()
    if options.page:
        tables.write(options.page, page(options))
    elif options.dry_run:
        print(dry(options))
    else:
        grid.work(cells(options), functools.partial(run, options), options.workers)


if __name__ == "__main__":
    grid.start(main)
