"""The claims put to the test: every method on every concept, several edits each, under the attackers with and without pictures.

    python tools/claims.py --dry-run
    python tools/claims.py --concepts sneaker --seeds 0,1,2 --workers 2
    python tools/claims.py --concepts sneaker --seeds 0,1,2 --table docs/results/claims/sneaker
    python tools/claims.py --adapters --out build/adapters    # the attacker without pictures again, by adapters instead of all weights

A cell is one method, one concept and one seed: the edit made with that seed, attacked once with that seed, as an audit of suite
`compare` in OUT. Cells run as processes of one thread; what finished is kept, and the same command goes on. The table is made
of what has finished and says what has not.

Fixed before any attack ran: a method enters a comparison where its plain rate is at most 0.1 and its neighbours lie within 10
points of the original's, both pooled over its edits; methods are at their presets, chosen on the development concept.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vestige import comparison, plan, registry
from vestige.errors import VestigeError
from vestige.savings import Interval, Measures, measure

ATTACKS = ("memora", "dimra")
ADAPTERS = {"dimra.tune": "lora", "dimra.lr": 3e-3}  # one rate was tried
SURFACE, NEIGHBOURS = 0.1, 0.1
PUSHES = ("esd", "gradient_ascent", "erasediff", "salun", "forget_me_not", "concept_ablation", "selective_amnesia", "spm", "duge")
Cells = Mapping[tuple[str, str], list[dict[str, Any]]]  # (concept, method) -> audits


@dataclass(frozen=True)
class Cell:
    """One audit."""

    concept: str
    method: str
    seed: int
    adapters: bool = False

    def folder(self, out: Path) -> Path:
        return out / self.concept / self.method / str(self.seed)

    def request(self) -> plan.Request:
        return plan.Request(
            concept=self.concept,
            unlearner=self.method,
            suite="compare",
            attacks=attacks(self.adapters),
            seeds=(self.seed,),
            edit_seed=self.seed,
            settings=ADAPTERS if self.adapters else {},
        )


def attacks(adapters: bool) -> tuple[str, ...]:
    """Who attacks: without adapters both; with them the one whom they are about."""
    return ("dimra",) if adapters else ATTACKS


def cells(options: argparse.Namespace) -> list[Cell]:
    """Concept after concept; within one, every method's first seed before any method's second."""
    methods = options.methods or registry.names("unlearners")
    return [Cell(c, m, s, options.adapters) for c in options.concepts for s in options.seeds for m in methods]


def audited(cell: Cell, options: argparse.Namespace) -> None:
    from vestige import api

    wanted = cell.request()
    api.run_audit(cell.folder(options.out), cache=options.cache, **{k: getattr(wanted, k) for k in vars(wanted)})


def run(todo: Sequence[Cell], options: argparse.Namespace) -> None:
    """Every cell in a process of its own, `workers` at a time."""
    waiting, busy = list(todo), dict[subprocess.Popen[bytes], tuple[Cell, float]]()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    while waiting or busy:
        while waiting and len(busy) < options.workers:
            cell = waiting.pop(0)
            one = ["--concepts", cell.concept, "--methods", cell.method, "--seeds", str(cell.seed), "--here"]
            one += ["--adapters"] if cell.adapters else []
            command = [sys.executable, "-W", "ignore", __file__, *one, "--out", str(options.out), "--cache", str(options.cache)]
            busy[subprocess.Popen(command, env=environment)] = (cell, time.monotonic())
        time.sleep(0.5)
        for process in [p for p in busy if p.poll() is not None]:
            cell, began = busy.pop(process)
            print(f"{cell}: exit {process.returncode}, {time.monotonic() - began:.0f} s, {len(waiting)} to go", flush=True)


def finished(options: argparse.Namespace) -> dict[tuple[str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for cell in cells(options):
        path = cell.folder(options.out) / "result.json"
        if path.exists():
            found.setdefault((cell.concept, cell.method), []).append(json.loads(path.read_text()))
    return found


def pooled_rate(audits: Sequence[Mapping[str, Any]], *keys: str) -> float:
    """Mean over edits of a rate in the audits."""
    values = []
    for audit in audits:
        value: Any = audit
        for key in keys:
            value = value[key]
        values.append(float(value["value"]))
    return statistics.fmean(values)


def eligible(audits: Sequence[Mapping[str, Any]]) -> bool:
    lost = pooled_rate(audits, "utility", "neighbours", "before") - pooled_rate(audits, "utility", "neighbours", "after")
    return pooled_rate(audits, "plain", "edited") <= SURFACE and lost <= NEIGHBOURS


def shown(x: Interval, digits: int = 2) -> str:
    return f"{x.value:.{digits}f} [{x.low:.{digits}f}, {x.high:.{digits}f}]"


def methods_table(found: Cells, by: Sequence[str] = ATTACKS) -> list[str]:
    head = ["concept", "method", "edits", "plain rate", "neighbours lost", "unrelated lost", "compared"]
    for attack in by:
        head += [f"{attack}: F", f"{attack}: reach"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for (concept, method), audits in found.items():
        lost = [
            pooled_rate(audits, "utility", g, "before") - pooled_rate(audits, "utility", g, "after") for g in ("neighbours", "unrelated")
        ]
        row = [concept, method, str(len(audits)), f"{pooled_rate(audits, 'plain', 'edited'):.2f}", *(f"{x:+.2f}" for x in lost)]
        row.append("yes" if eligible(audits) else "no")
        for attack in by:
            m = measure(comparison.pooled(audits, attack), attacks=len(by))
            row += [("at least " if m.censored else "") + shown(m.speedup), shown(m.reach)]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def against_dimum(found: Cells, by: Sequence[str] = ATTACKS) -> list[str]:
    """Claim 3: log F of each method less DiMUM's, on the seeds that both have."""
    lines = ["| concept | method | attack | log F less DiMUM's | pairs | both compared |", "|---|---|---|---|---|---|"]
    for (concept, method), audits in found.items():
        ours = found.get((concept, "dimum"), [])
        if method not in PUSHES or not ours:
            continue
        both = {a["provenance"]["edit_seed"] for a in audits} & {a["provenance"]["edit_seed"] for a in ours}
        sides = [[a for a in side if a["provenance"]["edit_seed"] in both] for side in (audits, ours)]
        if len(both) < 2:
            continue
        for attack in by:
            theirs, own = (comparison.pooled(side, attack) for side in sides)
            gap = comparison.contrast(theirs, own)
            fair = "yes" if eligible(sides[0]) and eligible(sides[1]) else "no"
            lines.append(f"| {concept} | {method} | {attack} | {shown(gap)} | {len(both)} | {fair} |")
    return lines


def surface_and_savings(found: Cells, by: Sequence[str] = ATTACKS) -> list[str]:
    """Claim 5: does what can be seen without an attack order the methods as the attack does?"""
    kept = {key: audits for key, audits in found.items() if key[1] != "retrain"}
    measures: dict[str, dict[tuple[str, str], Measures]] = {
        attack: {key: measure(comparison.pooled(audits, attack)) for key, audits in kept.items()} for attack in by
    }
    numbers = {
        "plain rate": [pooled_rate(audits, "plain", "edited") for audits in kept.values()],
        "neighbours' accuracy": [pooled_rate(audits, "utility", "neighbours", "after") for audits in kept.values()],
        "unrelated accuracy": [pooled_rate(audits, "utility", "unrelated", "after") for audits in kept.values()],
    }
    lines = ["| surface metric | attack | rank correlation with log F | cells |", "|---|---|---|---|"]
    if len(kept) < 4:
        return lines
    for name, values in numbers.items():
        for attack in by:
            hidden = [m.log_speedup.value for m in measures[attack].values()]
            rho = comparison.agreement(values, hidden, [method for _, method in kept])
            lines.append(f"| {name} | {attack} | {shown(rho)} | {len(kept)} |")
    return lines


def tables(found: Cells, options: argparse.Namespace) -> str:
    missing = [c for c in cells(options) if not (c.folder(options.out) / "result.json").exists()]
    total = len(cells(options))
    spent = sum(a["cost"]["seconds"] for audits in found.values() for a in audits) / 3600
    by = attacks(options.adapters)
    parts = [
        f"{total - len(missing)} of {total} cells finished, {spent:.1f} hours of one thread (runs that were shared count once).",
        "\n".join(methods_table(found, by)),
        "## DiMUM and the methods that push away\n\nPaired t intervals at 95 %; above 0 the method comes back faster than DiMUM.",
        "\n".join(against_dimum(found, by)),
        "## Surface metrics and savings\n\nSpearman, bootstrap over methods; every cell of every method but `retrain`, compared or not.",
        "\n".join(surface_and_savings(found, by)),
    ]
    return "\n\n".join(parts) + "\n"


def names(text: str) -> list[str]:
    return [t for t in text.split(",") if t]


def numbers(text: str) -> list[int]:
    return [int(t) for t in names(text)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", type=names, default=["sneaker", "bag", "neon"])
    parser.add_argument("--methods", type=names, default=[], help="default: every unlearner")
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("build/claims"))
    parser.add_argument("--cache", type=Path, default=Path("build/panel/runs"))
    parser.add_argument("--adapters", action="store_true", help="DiMRA alone, by adapters; give an OUT of its own")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--dry-run", action="store_true", help="what is left, and the hours it takes at the pace of what is done")
    parser.add_argument("--table", type=Path, help="write TABLE.md from what is finished; nothing is run")
    parser.add_argument("--here", action="store_true", help="run the cells in this process")
    options = parser.parse_args()
    todo = [c for c in cells(options) if not (c.folder(options.out) / "result.json").exists()]
    if options.table:
        asked = f"--concepts {','.join(options.concepts)} --seeds {','.join(map(str, options.seeds))}"
        asked += f" --methods {','.join(options.methods)}" if options.methods else ""
        asked += " --adapters" if options.adapters else ""
        how = f", DiMRA by adapters at {ADAPTERS['dimra.lr']:g}" if options.adapters else ""
        told = f"`python tools/claims.py {asked} --table {options.table}`; suite compare, one attack an edit{how}."
        head = f"# Methods under attack\n\n{told}\n\n"
        options.table.with_suffix(".md").write_text(head + tables(finished(options), options))
    elif options.dry_run:
        times = [a["cost"]["seconds"] for audits in finished(options).values() for a in audits]
        pace = statistics.fmean(times) if times else 240.0
        told = "measured" if times else "assumed"
        print(f"{len(todo)} cells to run, {len(todo) * pace / 3600 / options.workers:.1f} hours at {pace:.0f} s a cell ({told})")
    elif options.here:
        for cell in todo:
            try:
                audited(cell, options)
            except VestigeError as error:
                sys.exit(f"{cell}: {error}")
    else:
        run(todo, options)


if __name__ == "__main__":
    main()
