"""What MemoRa's recovery rests on: one concept, one edit, a dozen ways to recover, each against its own never arm. Resumable.

    python tools/memora_controls.py --concept bag --unlearner esd --dry-run
    python tools/memora_controls.py --concept sneaker --unlearner esd --out build/controls --table docs/results/memora.md

The questions are those that readers of the paper asked: is it recall or plain learning from the pictures (raw references, and the
never arm of every row), does interpolation help, how deep should the inversion go, how many pictures, and is it the adapter's
doing (full fine-tuning, textual inversion, rank). Every row is an audit of its own over one shared cache of arms.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from vestige import models, plan, registry, suites
from vestige.sampling import noise


@dataclass(frozen=True)
class Row:
    """One way to recover.

    Arguments:
        settings: Changes of the attack's settings.
        attack: Which attack.
        references: Pictures a replicate; 0 takes the suite's number.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    attack: str = "memora"
    references: int = 0


ROWS = {
    "as in the suite": Row(),
    "raw references": Row({"regenerate": False}),
    "no slerp": Row({"interpolation": "none"}),
    **{f"inversion to index {i} of 20": Row({"start": i}) for i in (0, 6, 16)},  # the suite's is 11
    **{f"guidance {g:g} in the inversion": Row({"guidance": g}) for g in (3.0, 7.5)},  # the suite's is 1
    **{f"{n} references": Row(references=n) for n in (2, 4, 6, 12)},  # the suite's are 8; fewer than 2 cannot be interpolated
    **{f"rank {r}": Row({"rank": r, "alpha": float(r)}) for r in (1, 16)},  # the suite's is 4; the scale stays 1
    **{f"full fine-tuning at {lr:g}": Row({"lr": lr}, "finetune") for lr in (1e-4, 1e-3)},
    **{f"textual inversion at {lr:g}": Row({"lr": lr}, "textual_inversion") for lr in (5e-3, 5e-2)},
}


def request(row: Row, options: argparse.Namespace) -> plan.Request:
    """An audit under the suite; another attack than MemoRa takes MemoRa's settings by the same names, but for the rate."""
    known = {f.name for f in fields(registry.find("attacks", row.attack))} - {"lr"}
    shared = suites.load(options.suite, "wardrobe").attacks["memora"].settings if row.attack != "memora" else {}
    settings = {f"{row.attack}.{k}": v for k, v in {**{k: v for k, v in shared.items() if k in known}, **row.settings}.items()}
    seeds = tuple(range(options.replicates)) if options.replicates else ()
    given = {"concept": options.concept, "unlearner": options.unlearner, "suite": options.suite, "seeds": seeds, "settings": settings}
    return plan.Request(attacks=(row.attack,), reference_count=row.references, **given)


def speed(rows: int = 64, tries: int = 5) -> float:
    """Processor seconds of a single denoiser call here, in batches; the best of a few tries."""
    model = models.load("wardrobe")
    x, condition, best = noise(model.latent_shape, range(rows)), model.condition([""]).repeat(rows), float("inf")
    with torch.no_grad():
        for _ in range(tries):
            began = time.process_time()  # whatever else the machine does
            model.denoise(x, torch.full((rows,), 500), condition)
            best = min(best, time.process_time() - began)
    return best / rows


def dry(rows: Mapping[str, Row], options: argparse.Namespace) -> None:
    """Planned hours, if nothing is stored; arms that rows share are counted in each."""
    each, total = speed(), 0.0
    for name, row in rows.items():
        calls = sum(plan.planned_calls(plan.plan(request(row, options))).values())
        total += calls * each / 3600
        sys.stdout.write(f"{name:<34} {calls:>12,} calls  {calls * each / 3600:6.2f} h\n")
    sys.stdout.write(f"{'together, at most':<34} {'':>12}        {total:6.2f} h  ({1e3 * each:.2f} ms a call here)\n")


def interval(x: Mapping[str, float | None]) -> str:
    if x["value"] is None:
        return "-"
    return f"{x['value']:.2f}" + (f" [{x['low']:.2f}, {x['high']:.2f}]" if x["low"] is not None and x["high"] is not None else "")


def share(notes: Mapping[str, Any]) -> str:
    return f"{notes['references_show']:.2f}" if notes.get("references_show") is not None else "-"


def table(results: Mapping[str, tuple[Row, dict[str, Any]]]) -> str:
    head = ["setting", "savings", "F", "reach", "last, edited", "last, never", "never's way", "pictures show it: edited, never", "verdict"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, (row, r) in results.items():
        found = r["attacks"][row.attack]
        last = [f"{found['arms'][arm]['curve'][-1]['score']:.2f}" for arm in ("edited", "never")]
        shown = ", ".join(share(found["notes"][arm]) for arm in ("edited", "never"))
        cells = [name, *(interval(r[k]) for k in ("savings", "speedup", "reach")), *last, found["never_variant"], shown]
        lines.append("| " + " | ".join([*cells, r["verdict"]["kind"]]) + " |")
    return "\n".join(lines)


def page(results: Mapping[str, tuple[Row, dict[str, Any]]], options: argparse.Namespace) -> str:
    first = next(iter(results.values()))[1]
    about = f"`python tools/memora_controls.py --concept {options.concept} --unlearner {options.unlearner} --suite {options.suite}`; "
    about += f"suite {first['suite']}, replicates {first['provenance']['seeds']}, edited model {first['provenance']['edited_hash']}, "
    about += f"verification judge {first['detector']['verification']['version']}."
    return f"# MemoRa and its controls: {options.concept}\n\n{about}\n\n{table(results)}\n"


def main() -> None:
    from vestige import api

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concept", default="bag")
    parser.add_argument("--unlearner", default="esd")
    parser.add_argument("--suite", default="quick")
    parser.add_argument("--replicates", type=int, default=0, help="0 takes the suite's")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--out", type=Path, default=Path("build/controls"))
    parser.add_argument("--cache", type=Path, help="folder of runs to share with other audits; default OUT/runs")
    parser.add_argument("--table", type=Path, help="write what has finished here, and run nothing")
    parser.add_argument("--dry-run", action="store_true", help="print planned hours, and run nothing")
    options = parser.parse_args()
    rows = {name: row for name, row in ROWS.items() if options.only in name}
    if options.dry_run:
        dry(rows, options)
        return
    results = {}
    for name, row in rows.items():
        folder = options.out / f"{options.concept}-{options.unlearner}-{options.suite}" / name.replace(" ", "_")
        if options.table is None:
            wanted = request(row, options)
            result = api.run_audit(folder, cache=options.cache or options.out / "runs", **vars(wanted))
            sys.stderr.write(f"{name}: {result['verdict']['kind']}; {result['cost']['seconds']:.0f} s\n")
        if (folder / "result.json").exists():
            results[name] = (row, json.loads((folder / "result.json").read_text()))
    if options.table is not None and results:
        options.table.parent.mkdir(parents=True, exist_ok=True)
        options.table.write_text(page(results, options))
    sys.stdout.write(table(results) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    main()
