"""The claims put to the test: every method on every concept, several edits each, under the attackers with and without pictures.

    python studies/claims.py --dry-run
    python studies/claims.py --concepts sneaker --seeds 0,1,2 --workers 2
    python studies/claims.py --concepts sneaker --seeds 0,1,2 --table docs/results/claims/sneaker
    python studies/claims.py --adapters --out build/adapters    # the attacker without pictures again, by adapters instead of all weights

A cell is one method, one concept and one seed: the edit made with that seed, attacked once with that seed, as an audit of suite
`compare` in OUT. Cells run as processes of one thread; what finished is kept, and the same command goes on. The table is made
of what has finished and says what has not; beside it lie its records, so that a cell that another machine finished is not run again.

Fixed before any attack ran: a method enters a comparison where its plain rate is at most 0.1 and its neighbours lie within 10
points of the original's, both pooled over its edits; methods are at their presets, chosen on the development concept.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grid
import records
import tables
from vestige import registry
from vestige.audit import Request
from vestige.verdict import comparison, measure
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
    return grid.key(cell.request())


def attacks(adapters: bool) -> tuple[str, ...]:
    """Who attacks: without adapters both; with them the one whom they are about."""
    return ("dimra",) if adapters else ATTACKS


def cells(options: argparse.Namespace) -> list[Cell]:
    """Concept after concept, method after method: of neighbouring cells each has a never arm of its own, so that no worker waits."""
    methods = options.methods or [name for name in registry.names("unlearners") if name != RENAMED]
    return [Cell(c, m, s, options.adapters) for c in options.concepts for m in methods for s in options.seeds]


def audited(options: argparse.Namespace, cell: Cell) -> None:
    grid.audited(cell.folder(options.out), cell.request(), options.cache)


def finished(options: argparse.Namespace) -> dict[Cell, records.Record]:
    """What tables read of every cell that is finished, here or by its record."""

    def here(cell: Cell) -> records.Record | None:
        audit = grid.result(cell.folder(options.out), lambda: cell.key)
        return None if audit is None else records.record(cell.key, audit)

    return grid.finished(cells(options), here, records.read(options.records))


def by_method(done: Mapping[Cell, records.Record]) -> dict[tuple[str, str], list[records.Record]]:
    made: dict[tuple[str, str], list[records.Record]] = {}
    for cell, record in done.items():
        made.setdefault((cell.concept, cell.method), []).append(record)
    return made


def pooled_rate(audits: Sequence[Mapping[str, Any]], *keys: str) -> float:
    """Mean over edits of a rate in the audits."""
    return statistics.fmean(float(records.at(audit, *keys, "value")) for audit in audits)


def eligible(audits: Sequence[Mapping[str, Any]]) -> bool:
    lost = pooled_rate(audits, "utility", "neighbours", "before") - pooled_rate(audits, "utility", "neighbours", "after")
    return pooled_rate(audits, "plain", "edited") <= SURFACE and lost <= NEIGHBOURS


def methods_table(done: Cells, by: Sequence[str] = ATTACKS) -> str:
    head = ["concept", "method", "edits", "plain rate", "neighbours lost", "unrelated lost", "compared"]
    head += [f"{attack}: {what}" for attack in by for what in ("F", "reach")]
    rows = []
    for (concept, method), audits in done.items():
        lost = [
            pooled_rate(audits, "utility", g, "before") - pooled_rate(audits, "utility", g, "after") for g in ("neighbours", "unrelated")
        ]
        row = [concept, method, str(len(audits)), tables.number(pooled_rate(audits, "plain", "edited")), *(f"{x:+.2f}" for x in lost)]
        row.append("yes" if eligible(audits) else "no")
        for attack in by:
            row += tables.savings(measure(comparison.pooled(audits, attack), attacks=len(by)))
        rows.append(row)
    return tables.table(head, rows)


def against_dimum(done: Cells, by: Sequence[str] = ATTACKS) -> str:
    """Claim 3: log F of each method less DiMUM's, on the seeds that both have."""
    rows = []
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
            rows.append([concept, method, attack, tables.interval(gap), str(len(both)), fair])
    return tables.table(["concept", "method", "attack", "log F less DiMUM's", "pairs", "both compared"], rows)


def surface_and_savings(done: Cells, by: Sequence[str] = ATTACKS) -> str:
    """Claim 5: does what can be seen without an attack order the methods as the attack does?"""
    kept = {key: audits for key, audits in done.items() if key[1] != "retrain"}
    measures: dict[str, dict[tuple[str, str], Measures]] = {
        attack: {key: measure(comparison.pooled(audits, attack)) for key, audits in kept.items()} for attack in by
    }
    surface = {
        "plain rate": [pooled_rate(audits, "plain", "edited") for audits in kept.values()],
        "neighbours' accuracy": [pooled_rate(audits, "utility", "neighbours", "after") for audits in kept.values()],
        "unrelated accuracy": [pooled_rate(audits, "utility", "unrelated", "after") for audits in kept.values()],
    }
    rows = []
    for name, values in surface.items() if len(kept) > 3 else ():
        for attack in by:
            hidden = [m.log_speedup.value for m in measures[attack].values()]
            rho = comparison.agreement(values, hidden, [method for _, method in kept])
            rows.append([name, attack, tables.interval(rho), str(len(kept))])
    return tables.table(["surface metric", "attack", "rank correlation with log F", "cells"], rows)


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
        f"`python studies/claims.py {asked} --table {options.table}`; suite compare, one attack an edit{how}.",
        f"Brackets of F and reach are t intervals over edits and their attacks, {level:g} % each{together(by)}.",
        f"{len(done)} of {len(cells(options))} cells finished, {spent:.1f} hours of one thread (runs that were shared count once).",
        methods_table(of, by),
        "## DiMUM and the methods that push away\n\nPaired t intervals, 95 % each, not widened for their number; above 0 the method comes "
        "back faster than DiMUM.",
        against_dimum(of, by),
        "## Surface metrics and savings\n\nSpearman, bootstrap over methods; every cell of every method but `retrain`, compared or not.",
        surface_and_savings(of, by),
    ]
    return "\n\n".join(parts) + "\n"


def together(by: Sequence[str]) -> str:
    return f", so that those of {' and '.join(by)} hold together at 95 %" if len(by) > 1 else ""


def arguments() -> argparse.ArgumentParser:
    parser = grid.parser(__doc__)
    parser.add_argument("--concepts", type=grid.names, default=["sneaker", "bag", "neon"])
    parser.add_argument("--methods", type=grid.names, default=[], help="default: every unlearner but the positive control")
    parser.add_argument("--seeds", type=grid.numbers, default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("build/claims"))
    parser.add_argument("--cache", type=Path, default=Path("build/panel/runs"))
    parser.add_argument("--records", type=Path, default=Path("docs/results/claims"), help="what other machines have finished")
    parser.add_argument("--adapters", action="store_true", help="DiMRA alone, by adapters; give an OUT of its own")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread")
    parser.add_argument("--dry-run", action="store_true", help="what is left, and the hours it takes at the pace of what is done")
    parser.add_argument("--table", type=Path, help="write TABLE.md, and TABLE.jsonl with its records; nothing is run")
    return parser


def main() -> None:
    options = arguments().parse_args()
    done = finished(options)
    todo = [c for c in cells(options) if c not in done]
    if options.table:
        tables.write(options.table.with_suffix(".md"), page(done, options))
        records.write(options.table.with_suffix(".jsonl"), done.values())
    elif options.dry_run:
        times = [record["cost"]["seconds"] for record in done.values()]
        pace = statistics.fmean(times) if times else 240.0
        told = "measured" if times else "assumed"
        print(f"{len(todo)} cells to run, {len(todo) * pace / 3600 / options.workers:.1f} hours at {pace:.0f} s a cell ({told})")
    else:
        grid.work(todo, functools.partial(audited, options), options.workers)


if __name__ == "__main__":
    grid.start(main)
