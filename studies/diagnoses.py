"""What decides whether a concept comes back: the diagnostics of every edit of a grid beside what MemoRa and DiMRA did to it.

    python studies/diagnoses.py --grid build/table --cache build/runs --page docs/results/diagnoses.md

Measures the finished cells of a grid that have no record beside the page yet, and writes page and records; without the grid the records
make the page. Which numbers are tried is our choice.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diagnosing
import grid
import records
import tables
from records import Record
from vestige import runs
from vestige.audit.plan import Plan
from vestige.compare import Audited
from vestige.compare.fields import Field, fields_of
from vestige.compare.relations import Seen, corrected, ranks
from vestige.compare.rows import PooledRow, row_of
from vestige.compare.stored import read_interval
from vestige.grid import read
from vestige.verdict.intervals import t_interval

RETURNED = {"memora": "MemoRa", "dimra": "DiMRA"}
WHOSE = {"all": "all methods", "compared": "methods that enter a comparison"}


@dataclass(frozen=True)
class Explanation:
    """A number that would foretell what comes back, and how.

    Arguments:
        key: In a cell's measurements.
        head: The column's.
        sign: +1 where more of it should bring more back, -1 where less.
        because: The reason, in the words of the page.
        digits: After the point.
    """

    key: str
    head: str
    sign: int
    because: str
    digits: int = 2


EXPLANATIONS = (
    Explanation("excess", "excess retain loss x 1000", 1, "what training on retained data could still gain bounds how far it moves", 1),
    Explanation("gradient", "retain gradient", 1, "the first steps go as far as the gradient is large"),
    Explanation("cosine", "cosine of the gradients", 1, "descending on the retained also descends on the forgotten"),
    Explanation("distance", "distance to the original", -1, "who stayed near lies in the same valley", 3),
    Explanation("forgotten", "excess forget loss x 1000", -1, "what is far from drawing the concept has far to go", 1),
    Explanation("halfway", "shown half way back", 1, "the target's rate half way along the straight line to the original: a shallow edge"),
    Explanation("moved", "moved by DiMRA", 1, "relearning is as far as the attack goes", 3),
    Explanation("towards", "of it towards the original", 1, "the attack walks back"),
)


def known(options: argparse.Namespace) -> dict[str, Record]:
    """By key, the record of every cell of the grid that is finished, here or elsewhere; without the grid, every record there is."""
    kept = records.read(options.page.with_suffix(".jsonl"))
    if not (options.grid / "grid.toml").exists():
        return kept
    asked, found = read(options.grid / "grid.toml"), dict[str, Record]()
    for cell in asked.cells:
        planned, folder = asked.plans[cell.name], options.grid / "cells" / cell.name
        if not isinstance(planned, Plan) or planned.request.unlearner == "none":
            continue
        key = runs.key(planned.spec())
        result = grid.result(folder, partial(runs.key, planned.spec()))
        if key in kept:
            found[key] = kept[key]
        elif result is not None:
            numbers = diagnosing.measured(planned, result, folder, options.cache)
            told = {"method": cell.axes["unlearner"], "form": str(planned.spec()["verdict"]), "numbers": numbers}
            found[key] = {"key": key, **told, **records.audit(result)}
            print(cell.name, {name: round(x, 4) for name, x in numbers.items() if x is not None}, flush=True)
    return found


# The page


def rows_of(field: Field) -> list[PooledRow]:
    """Concept by concept, whoever comes back last under MemoRa first."""
    rows = [row_of(*which, audits) for which, audits in field.rows.items()]
    return sorted(rows, key=lambda row: (row.concept, row.found["memora"].log_speedup.value))


def values(row: PooledRow, key: str) -> list[float]:
    """A number of every edit of a row that has it, once."""
    edits = {one.edit: one.result["numbers"][key] for one in row.audits}
    return [x for x in edits.values() if x is not None]


def table(rows: Iterable[PooledRow]) -> str:
    lines = []
    for row in rows:
        own = [(values(row, e.key), e.digits) for e in EXPLANATIONS]
        told = [tables.interval(t_interval(xs, 0.95, len(xs)), n) if xs else tables.NOTHING for xs, n in own]
        found = [cell for attack in RETURNED for cell in tables.savings(row.found[attack])]
        lines.append([row.concept, row.method, str(row.told["edits"]), *told, *found, "yes" if row.eligible else "no"])
    outcomes = [f"{attack}: {what}" for attack in RETURNED.values() for what in ("F", "reach")]
    return tables.table(["concept", "method", "edits", *(e.head for e in EXPLANATIONS), *outcomes, "compared"], lines)


def foretold(rows: Sequence[PooledRow]) -> list[dict[str, Any]]:
    """Every number's rank correlation with log F, concept by concept, with a p that is corrected for all of them."""

    def seen(key: str) -> Seen:
        return lambda row: statistics.fmean(xs) if (xs := values(row, key)) else None

    numbers, made = {e.key: seen(e.key) for e in EXPLANATIONS}, list[dict[str, Any]]()
    for concept in dict.fromkeys(row.concept for row in rows):
        alike = [row for row in rows if row.concept == concept]
        made += [{"concept": concept, **one} for one in ranks(alike, tuple(RETURNED), surfaces=numbers)]
    corrected(made)
    return made


def correlations(made: Iterable[Mapping[str, Any]]) -> str:
    """Those of one concept over one choice of methods, a line a number."""
    lines = {e.key: [e.head, "more" if e.sign > 0 else "less", e.because] for e in EXPLANATIONS}
    for one in made:
        rho = tables.interval(read_interval(one["spearman"]))
        lines[one["surface"]] += [str(one["methods"]), rho, tables.chance(one["p"]), tables.chance(one["holm"])]
    head = [part for attack in RETURNED.values() for part in ("methods", attack, "p", "Holm's p")]
    full = [line for line in lines.values() if len(line) == 3 + len(head)]
    return tables.table(["number", "more comes back where there is", "because", *head], full)


def page(found: Mapping[str, Record], options: argparse.Namespace) -> str:
    """The whole page, made of records alone."""
    audits = [Audited(Path(key), one, {"verdict": one["form"]}, one["method"]) for key, one in found.items()]
    parts = [
        "# What decides whether a concept comes back",
        f"`python studies/diagnoses.py --grid {options.grid} --cache {options.cache} --page {options.page}`, of a grid's edits and "
        "what its attacks left. A number is of an edit; of several edits it is a mean with its t interval of 95 %. F and reach are "
        "those of `vestige compare --pool`, their brackets for all attacks of a row together. Compared: the edit forgot, and kept "
        "its neighbours ([decision 0007](../decisions/0007-comparisons.md)). A dash: the number sees nothing of such an edit, a hook or "
        "one of the text encoder alone.",
    ]
    if not audits:
        parts.append("No audit of this grid has finished and been diagnosed yet.")
    for field in fields_of(audits):
        rows = rows_of(field)
        made = foretold(rows)
        parts += [f"## Suite {field.suite}, form {field.form} of the verdict", table(rows)]
        parts.append(
            "### Which number foretells it\n\nSpearman's rank correlation with log F over methods, in brackets a bootstrap over them, "
            f"95 % each; p is of Kendall's tau, and Holm's p is corrected for all {len(made)} correlations of this section. A number that "
            "explains what comes back correlates in the direction that its reason asks for: above 0 where more would bring back more, "
            "below 0 where less."
        )
        for concept, whose in dict.fromkeys((one["concept"], one["of"]) for one in made):
            own = [one for one in made if (one["concept"], one["of"]) == (concept, whose)]
            parts.append(f"#### {concept}, {WHOSE[whose]}\n\n{correlations(own)}")
    return "\n\n".join(parts) + "\n"


def arguments() -> argparse.ArgumentParser:
    parser = grid.parser(__doc__)
    parser.add_argument("--grid", type=Path, default=Path("build/table"), help="folder of a grid, finished or not")
    parser.add_argument("--cache", type=Path, default=Path("build/runs"), help="folder of its runs")
    parser.add_argument("--page", type=Path, default=Path("docs/results/diagnoses.md"), help="its records lie beside it")
    return parser


def main() -> None:
    options = arguments().parse_args()
    found = known(options)
    records.write(options.page.with_suffix(".jsonl"), found.values())
    tables.write(options.page, page(found, options))


if __name__ == "__main__":
    grid.start(main)
