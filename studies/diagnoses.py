"""What decides whether training without the concept brings it back: the diagnostics of every audited edit beside what DiMRA did to it.

    python studies/diagnoses.py --concepts sneaker,bag --seeds 0,1,2                     # measure what no audit has measured yet
    python studies/diagnoses.py --concepts sneaker,bag --seeds 0,1,2 --page docs/results/diagnoses.md

Reads the cells that `studies/claims.py` has finished, and their edits and attacked weights from its cache. An audit diagnoses methods
that train on a retain set; this does it for the others too, and adds two numbers of the attack: how far DiMRA moved the weights, and
how much of that way leads back to the original. Beside the page lie its records, as beside those of the claims.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import grid
import records
import tables
from claims import ATTACKS, Cell, by_method, cells, finished
from vestige import audit, files, runs
from vestige.audit import experiment
from vestige.diffusion.model import silent
from vestige.edits import Edit
from vestige.errors import BadInput
from vestige.harness import arms, diagnostics, unlearning
from vestige.verdict import comparison, measure
from vestige.verdict.intervals import t_interval
from vestige.verdict.savings import Measures

ATTACK = "dimra"


@dataclass(frozen=True)
class Explanation:
    """A number that would foretell relearning, and how.

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


def measured(cell: Cell, options: argparse.Namespace) -> dict[str, Any]:
    """One cell's numbers by the keys of EXPLANATIONS; None where one is not defined."""
    planned = audit.resolve(cell.request())
    audited = experiment.Experiment(
        planned, experiment.furnished(planned, options.cache, silent), runs.claim(cell.folder(options.out), planned.spec())
    )
    model, concept, edit = audited.subject, audited.concept, audited.edit
    if edit is None:
        raise BadInput(f"{cell} has no edit to diagnose")
    found = dict(audited.diagnostics)
    if not found:
        data = unlearning.training_data(model, "drawn", "drawn", audited.bench.album(concept).cache(options.cache))
        found = diagnostics.measured(model, concept, edit, data, seed=cell.seed)
        found["rate_on_line"] = arms.line(audited.bench, model, edit, concept) if not edit.hooks else []
    run = audited.arm(audited.edited, concept, ATTACK, planned.attacks[ATTACK][0], cell.seed)
    attacked = audited.edited.edited(Edit.load(run.path("last.safetensors")))
    scope = model.scope(diagnostics.SCOPE)

    def flat(view: Any) -> torch.Tensor:
        return torch.cat([view.tensor(name).flatten() for name in scope]).double()

    start, now, then = flat(model), flat(audited.edited), flat(attacked)
    back, went = start - now, then - now
    size = float(back.norm() * went.norm())
    return {
        "excess": 1000 * found["excess_retain_loss"],
        "gradient": found["retain_gradient"],
        "cosine": found["gradient_cosine"],
        "distance": found["distance"],
        "forgotten": 1000 * (line[-1] - line[0]) if (line := found["forget_loss_on_line"]) else None,
        "halfway": found["rate_on_line"][len(diagnostics.LINE) // 2] if found["rate_on_line"] else None,
        "moved": float(went.norm() / start.norm()),
        "towards": float(back @ went) / size if size else None,
    }


def path(cell: Cell, options: argparse.Namespace) -> Path:
    return Path(options.keep / cell.concept / cell.method / f"{cell.seed}.json")


def known(options: argparse.Namespace) -> dict[Cell, dict[str, Any]]:
    """What has been measured of every cell, here or by its record."""

    def here(cell: Cell) -> records.Record | None:
        found = files.object_in(path(cell, options))
        return None if found is None else {"key": cell.key, **found}

    return grid.finished(diagnosed(options), here, records.read(options.measured))


def diagnosed(options: argparse.Namespace) -> list[Cell]:
    """Cells whose edit changes a model that has an original."""
    return [cell for cell in cells(options) if cell.method != "retrain"]


Found = dict[tuple[str, str], list[dict[str, Any]]]  # (concept, method) -> a row an edit
Reached = dict[str, dict[tuple[str, str], Measures]]  # attack -> what it brought back


def table(found: Found, reached: Reached) -> str:
    head = ["concept", "method", "edits", *(e.head for e in EXPLANATIONS), "DiMRA: F", "DiMRA: reach"]
    lines = []
    for (concept, method), rows in found.items():
        told = [concept, method, str(len(rows))]
        for e in EXPLANATIONS:
            values = [row[e.key] for row in rows if row[e.key] is not None]
            told.append(tables.interval(t_interval(values, 0.95, len(values)), e.digits) if len(values) > 1 else tables.NOTHING)
        lines.append([*told, *tables.savings(reached[ATTACK][concept, method])])
    return tables.table(head, lines)


def foretold(found: Found, reached: Reached) -> str:
    """Rank correlation of each number with what the attacks brought back, over the methods of one concept."""
    wanted = {"DiMRA: log F": "dimra", "DiMRA by adapters: log F": "adapters", "MemoRa: log F": "memora"}
    lines = []
    for e in EXPLANATIONS:
        known = {key: [row[e.key] for row in rows if row[e.key] is not None] for key, rows in found.items()}
        if sum(bool(values) for values in known.values()) < 4:
            continue
        told, counts = [], set()
        for attack in wanted.values():
            keys = [key for key, values in known.items() if values and key in reached[attack]]
            values = [reached[attack][key].log_speedup.value for key in keys]
            means = [statistics.fmean(known[key]) for key in keys]
            enough = len(keys) > 3
            told.append(tables.interval(comparison.agreement(means, values, [m for _, m in keys])) if enough else tables.NOTHING)
            counts.add(len(keys) if enough else 0)
        over = ", ".join(str(n) for n in sorted(counts - {0}, reverse=True))
        lines.append([e.head, "more" if e.sign > 0 else "less", e.because, *told, over])
    return tables.table(["number", "more comes back where there is", "because", *wanted, "methods"], lines)


def page(rows: Mapping[Cell, dict[str, Any]], options: argparse.Namespace) -> str:
    """The whole page, made of records alone."""
    done = finished(options)
    found, audits = by_method({cell: rows[cell] for cell in done if cell in rows}), by_method({c: done[c] for c in done if c in rows})
    reached = {a: {key: measure(comparison.pooled(audits[key], a), attacks=len(ATTACKS)) for key in found} for a in ATTACKS}
    by_adapters = by_method(finished(argparse.Namespace(**{**vars(options), "out": options.by_adapters, "adapters": True})))
    reached["adapters"] = {key: measure(comparison.pooled(of, ATTACK)) for key, of in by_adapters.items() if key in found}
    missing = sum(cell not in rows for cell in done if cell.method != "retrain")
    unmeasured = f" {missing} finished cells are not measured yet." if missing else ""
    asked = f"--concepts {','.join(options.concepts)} --seeds {','.join(map(str, options.seeds))}"
    asked += f" --methods {','.join(options.methods)}" if options.methods else ""
    parts = [
        "# What decides whether a concept comes back",
        f"`python studies/diagnoses.py {asked} --page {options.page}`, on the edits and attacks of `studies/claims.py`. Brackets are t "
        f"intervals over edits, of 95 %; of F and reach 97.5 %, as in the claims.{unmeasured}",
        table(found, reached),
        "## Which number foretells it\n\nSpearman over methods, the interval a bootstrap over them. A number that explains relearning "
        "correlates in the direction that its reason asks for: above 0 where more would bring back more, below 0 where less. The "
        "intervals are not corrected for how many numbers were tried.",
    ]
    for concept in dict.fromkeys(c for c, _ in found):
        of = {key: rows for key, rows in found.items() if key[0] == concept}
        parts.append(f"### {concept}\n\n" + foretold(of, reached))
    return "\n\n".join(parts) + "\n"


def arguments() -> argparse.ArgumentParser:
    parser = grid.parser(__doc__)
    parser.add_argument("--concepts", type=grid.names, default=["sneaker", "bag", "neon"])
    parser.add_argument("--methods", type=grid.names, default=[], help="default: every unlearner but the positive control")
    parser.add_argument("--seeds", type=grid.numbers, default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("build/claims"), help="where the cells of studies/claims.py lie")
    parser.add_argument("--cache", type=Path, default=Path("build/panel/runs"))
    parser.add_argument("--records", type=Path, default=Path("docs/results/claims"), help="what other machines have finished")
    parser.add_argument("--measured", type=Path, default=Path("docs/results/diagnoses.jsonl"), help="likewise, of this page")
    parser.add_argument("--by-adapters", type=Path, default=Path("build/adapters"), help="where those of its --adapters lie")
    parser.add_argument("--keep", type=Path, default=Path("build/diagnoses"))
    parser.add_argument("--page", type=Path, help="write what is measured here, its records beside it, and measure nothing")
    parser.set_defaults(adapters=False)
    return parser


def main() -> None:
    options = arguments().parse_args()
    rows = known(options)
    if options.page:
        tables.write(options.page, page(rows, options))
        records.write(options.page.with_suffix(".jsonl"), rows.values())
        return
    for cell in diagnosed(options):
        if cell not in rows and (cell.folder(options.out) / "result.json").exists():
            found = measured(cell, options)
            tables.write(path(cell, options), files.json_bytes(found).decode())
            print(cell, {k: round(v, 4) for k, v in found.items() if v is not None}, flush=True)


if __name__ == "__main__":
    grid.start(main)
