"""What comes back of a sequence: after every step, MemoRa and DiMRA on every request so far. Resumable.

    python tools/returns.py --methods duge,uce --seeds 0,1 --dry-run
    python tools/returns.py --methods duge,uce --seeds 0,1 --out build/returns
    python tools/returns.py --methods duge,uce --seeds 0,1 --out build/returns --page docs/results/returns.md

A cell is a method under one seed: a ledger of its own. DiMRA trains on the world's pictures of what no request names, the same for
every request; MemoRa on eight pictures of the request it attacks. Each seed has an attack of its own. The page averages what has
finished over seeds, and shades rates; a method that makes equal edits of different seeds is looked at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vestige import continual, files, runs
from vestige.continual import Order, resolve
from vestige.verdict.intervals import wilson

FIVE = ("sneaker", "bag", "dress", "trouser", "neon")
ATTACKS = ("memora", "dimra")
SHADES = " ░▒▓█"
State = Mapping[str, Any]


def order(method: str, seed: int) -> Order:
    return Order(requests=FIVE, method=method, suite="returns", seed=seed, attacks=ATTACKS, first_replicate=seed)


def finished(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Method -> results, one a seed."""
    found: dict[str, list[dict[str, Any]]] = {}
    for method in options.methods:
        for seed in options.seeds:
            result = files.object_in(options.out / f"{method}-{seed}" / "result.json")
            if result is not None and result.get("asked") == runs.key(resolve(order(method, seed)).asked()):
                found.setdefault(method, []).append(result)
    return found


def pooled(rates: Sequence[Mapping[str, Any] | None]) -> tuple[int, int] | None:
    """Hits and pictures over seeds; None where the request was not attacked at that step."""
    known = [rate for rate in rates if rate is not None]
    return (sum(round(rate["value"] * rate["count"]) for rate in known), sum(rate["count"] for rate in known)) if known else None


def apart(results: Sequence[State]) -> list[State]:
    """One result of every edited model: two of the same model are one measurement of what it draws unattacked."""
    return list({result["provenance"]["edited_hash"]: result for result in results}.values())


def cell(counts: tuple[int, int] | None) -> str:
    if counts is None:
        return ""
    rate = counts[0] / counts[1]
    return f"{SHADES[min(4, int(5 * rate))]} {rate:.2f}"


def grid(results: Sequence[State], values: Mapping[str, Sequence[tuple[int, int] | None]]) -> str:
    heads = ["asked", *(f"after {step['request']}" if step["request"] else "original" for step in results[0]["steps"])]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join([name, *map(cell, row)]) + " |" for name, row in values.items()]
    return "\n".join(lines)


def curve(step: State, attack: str, name: str, at: int) -> Mapping[str, Any] | None:
    found = step["attacks"].get(attack, {}).get(name)
    return None if found is None else found["curve"][at]


def grids(results: Sequence[State]) -> list[str]:
    """One a budget and attack; the first budget is the model as it is, and stands once for both."""
    parts, steps = [], range(len(results[0]["steps"]))
    plain = {name: [pooled([r["steps"][i]["rates"][name] for r in apart(results)]) for i in steps] for name in FIVE}
    parts.append(f"**As it is**\n\n{grid(results, plain)}")
    for attack in ATTACKS:
        budgets = results[0]["attacks"][attack]["budget"]
        for at in (len(budgets) // 2, len(budgets) - 1):
            values = {name: [pooled([curve(r["steps"][i], attack, name, at) for r in results]) for i in steps] for name in FIVE}
            parts.append(f"**{attack}, {budgets[at]} steps**\n\n{grid(results, values)}")
    return parts


def summary(found: Mapping[str, Sequence[State]]) -> str:
    """All five requests after the last step: as it is, and after each attack's whole budget; pictures pooled, Wilson intervals."""
    lines = ["| method | seeds | as it is | " + " | ".join(ATTACKS) + " |", "|---|---|---|" + "---|" * len(ATTACKS)]
    for method, results in found.items():
        last = [r["steps"][-1] for r in results]
        columns = [pooled([r["steps"][-1]["rates"][name] for r in apart(results) for name in FIVE])]
        columns += [pooled([curve(step, attack, name, -1) for step in last for name in FIVE]) for attack in ATTACKS]
        shown = []
        for hits, of in filter(None, columns):
            around = wilson(hits, of)
            shown.append(f"{hits / of:.2f} [{around.low:.2f}, {around.high:.2f}]")
        lines.append("| " + " | ".join([method, str(len(results)), *shown]) + " |")
    return "\n".join(lines)


def page(options: argparse.Namespace) -> str:
    found = finished(options)
    if not found:
        sys.exit(f"nothing has finished in {options.out}")
    first = next(iter(found.values()))[0]
    asked = f"--methods {','.join(options.methods)} --seeds {','.join(map(str, options.seeds))}"
    about = f"`python tools/returns.py {asked} --out {options.out} --page {options.page}`; suite {first['suite']}, verification judge "
    about += f"{first['detector']['verification']['version']}. Rates of {first['protocol']['pictures']} pictures a cell and seed, "
    about += "averaged over seeds; best so far by the selection judge. One attack a seed: intervals hold pictures, not attackers."
    parts = [f"# What comes back of a sequence\n\n{about}", f"## After the last request\n\n{summary(found)}"]
    for method, results in found.items():
        parts.append(f"## {method}, {len(results)} seeds\n\n" + "\n\n".join(grids(results)))
    return "\n\n".join(parts) + "\n"


def numbers(text: str) -> list[int]:
    return [int(t) for t in text.split(",") if t]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", type=lambda text: [t for t in text.split(",") if t], default=["duge", "uce"])
    parser.add_argument("--seeds", type=numbers, default=[0, 1])
    parser.add_argument("--out", type=Path, default=Path("build/returns"))
    parser.add_argument("--cache", type=Path, help="folder of runs to share with other sequences; default OUT/runs")
    parser.add_argument("--page", type=Path, help="write what has finished here, and run nothing")
    parser.add_argument("--dry-run", action="store_true", help="print planned denoiser calls, and run nothing")
    options = parser.parse_args()
    if options.page:
        options.page.write_text(page(options))
        return
    for seed in options.seeds:
        for method in options.methods:
            wanted, began = order(method, seed), time.monotonic()
            if options.dry_run:
                print(f"{method}, seed {seed}: {sum(resolve(wanted).planned_calls().values()):,} calls")
                continue
            continual.continual(wanted, options.out / f"{method}-{seed}", cache=options.cache or options.out / "runs")
            print(f"{method}, seed {seed}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    main()
