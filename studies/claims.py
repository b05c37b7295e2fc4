"""The claims put to the test: every method on every concept, several edits each, under the attackers with and without pictures.

    python tools/claims.py --dry-run
    python tools/claims.py --concepts sneaker --seeds 0,1,2 --workers 2
    python tools/claims.py --concepts sneaker --seeds 0,1,2 --table docs/results/claims/sneaker
    python tools/claims.py --adapters --out build/adapters    # the attacker without pictures again, by adapters instead of all weights

A cell is one method, one concept and one seed: the edit made with that seed, attacked once with that seed, as an audit of suite
`compare` in OUT. Cells run as processes of one thread; what finished is kept, and the same command goes on. The table is made
of what has finished and says what has not; beside it lie its records, so that a cell that another machine finished is not run again.

Fixed before any attack ran: a method enters a comparison where its plain rate is at most 0.1 and its neighbours lie within 10
points of the original's, both pooled over its edits; methods are at their presets, chosen on the development concept.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import records
from vestige import files, registry, runs
from vestige.audit import Request, resolve
from vestige.errors import VestigeError
from vestige.verdict import Interval, comparison, measure
from vestige.verdict.savings import Measures

ATTACKS = ("memora", "dimra")
ADAPTERS = {"dimra.tune": "lora", "dimra.lr": 3e-3}  # one rate was tried
SURFACE, NEIGHBOURS = 0.1, 0.1
PUSHES = ("esd", "gradient_ascent", "erasediff", "salun", "forget_me_not", "concept_ablation", "selective_amnesia", "spm", "duge")
RENAMED = "remap"  # the positive control: it moves a concept to another name, and claims nothing
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

    @property
    def key(self) -> str:
        """Of its audit: the hash of all that it depends on."""
        return key(self)

    def request(self) -> Request:
        return Request(
            concept=self.concept,
            unlearner=self.method,
            suite="compare",
            attacks=attacks(self.adapters),
            seeds=(self.seed,),
            edit_seed=self.seed,
            settings=ADAPTERS if self.adapters else {},
        )


@functools.cache
def key(cell: Cell) -> str:
    return runs.key(resolve(cell.request()).spec())


def attacks(adapters: bool) -> tuple[str, ...]:
    """Who attacks: without adapters both; with them the one whom they are about."""
    return ("dimra",) if adapters else ATTACKS


def cells(options: argparse.Namespace) -> list[Cell]:
    """Concept after concept, method after method: of neighbouring cells each has a never arm of its own, so that no worker waits."""
    methods = options.methods or [name for name in registry.names("unlearners") if name != RENAMED]
    return [Cell(c, m, s, options.adapters) for c in options.concepts for m in methods for s in options.seeds]


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
            places = ["--out", str(options.out), "--cache", str(options.cache), "--records", str(options.records)]
            command = [sys.executable, "-W", "ignore", __file__, *one, *places]
            busy[subprocess.Popen(command, env=environment)] = (cell, time.monotonic())
        time.sleep(0.5)
        for process in [p for p in busy if p.poll() is not None]:
            cell, began = busy.pop(process)
            print(f"{cell}: exit {process.returncode}, {time.monotonic() - began:.0f} s, {len(waiting)} to go", flush=True)


def finished(options: argparse.Namespace) -> dict[Cell, records.Record]:
    """What tables read of every cell that is finished, here or by its record."""
    kept, made = records.read(options.records), {}
    for cell in cells(options):
        audit, spec = (files.object_in(cell.folder(options.out) / name) for name in ("result.json", "spec.json"))
        if spec is None or runs.key(spec) != cell.key:  # of another suite, setting or model
            audit = None
        record = kept.get(cell.key) if audit is None else records.record(cell.key, audit)
        if record is not None:
            made[cell] = record
    return made


def by_method(done: Mapping[Cell, records.Record]) -> dict[tuple[str, str], list[records.Record]]:
    made: dict[tuple[str, str], list[records.Record]] = {}
    for cell, record in done.items():
        made.setdefault((cell.concept, cell.method), []).append(record)
    return made


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


def methods_table(done: Cells, by: Sequence[str] = ATTACKS) -> list[str]:
    head = ["concept", "method", "edits", "plain rate", "neighbours lost", "unrelated lost", "compared"]
    for attack in by:
        head += [f"{attack}: F", f"{attack}: reach"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for (concept, method), audits in done.items():
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


def against_dimum(done: Cells, by: Sequence[str] = ATTACKS) -> list[str]:
    """Claim 3: log F of each method less DiMUM's, on the seeds that both have."""
    lines = ["| concept | method | attack | log F less DiMUM's | pairs | both compared |", "|---|---|---|---|---|---|"]
    for (concept, method), audits in done.items():
        ours = done.get((concept, "dimum"), [])
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


def surface_and_savings(done: Cells, by: Sequence[str] = ATTACKS) -> list[str]:
    """Claim 5: does what can be seen without an attack order the methods as the attack does?"""
    kept = {key: audits for key, audits in done.items() if key[1] != "retrain"}
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


def page(done: Mapping[Cell, records.Record], options: argparse.Namespace) -> str:
    """The whole page, made of records alone."""
    asked = f"--concepts {','.join(options.concepts)} --seeds {','.join(map(str, options.seeds))}"
    asked += f" --methods {','.join(options.methods)}" if options.methods else ""
    asked += " --adapters" if options.adapters else ""
    how = f", DiMRA by adapters at {ADAPTERS['dimra.lr']:g}" if options.adapters else ""
    by, of = attacks(options.adapters), by_method(done)
    level = 100 * (1 - (1 - 0.95) / len(by))
    spent = sum(record["cost"]["seconds"] for record in done.values()) / 3600
    parts = [
        "# Methods under attack",
        f"`python tools/claims.py {asked} --table {options.table}`; suite compare, one attack an edit{how}.",
        f"Brackets of F and reach are t intervals over edits and their attacks, {level:g} % each{together(by)}.",
        f"{len(done)} of {len(cells(options))} cells finished, {spent:.1f} hours of one thread (runs that were shared count once).",
        "\n".join(methods_table(of, by)),
        "## DiMUM and the methods that push away\n\nPaired t intervals, 95 % each, not widened for their number; above 0 the method comes "
        "back faster than DiMUM.",
        "\n".join(against_dimum(of, by)),
        "## Surface metrics and savings\n\nSpearman, bootstrap over methods; every cell of every method but `retrain`, compared or not.",
        "\n".join(surface_and_savings(of, by)),
    ]
    return "\n\n".join(parts) + "\n"


def together(by: Sequence[str]) -> str:
    return f", so that those of {' and '.join(by)} hold together at 95 %" if len(by) > 1 else ""


def names(text: str) -> list[str]:
    return [t for t in text.split(",") if t]


def numbers(text: str) -> list[int]:
    return [int(t) for t in names(text)]


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", type=names, default=["sneaker", "bag", "neon"])
    parser.add_argument("--methods", type=names, default=[], help="default: every unlearner but the positive control")
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("build/claims"))
    parser.add_argument("--cache", type=Path, default=Path("build/panel/runs"))
    parser.add_argument("--records", type=Path, default=Path("docs/results/claims"), help="what other machines have finished")
    parser.add_argument("--adapters", action="store_true", help="DiMRA alone, by adapters; give an OUT of its own")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--dry-run", action="store_true", help="what is left, and the hours it takes at the pace of what is done")
    parser.add_argument("--table", type=Path, help="write TABLE.md, and TABLE.jsonl with its records; nothing is run")
    parser.add_argument("--here", action="store_true", help="run the cells in this process")
    return parser


def main() -> None:
    options = arguments().parse_args()
    done = finished(options)
    todo = [c for c in cells(options) if c not in done]
    if options.table:
        options.table.with_suffix(".md").write_text(page(done, options), "utf-8")
        records.write(options.table.with_suffix(".jsonl"), done.values())
    elif options.dry_run:
        times = [record["cost"]["seconds"] for record in done.values()]
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
