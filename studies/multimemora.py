"""Multi-MemoRa: two concepts erased together, one adapter each; who brings back what. Resumable; writes a table.

    python studies/multimemora.py --concepts sneaker,dress --unlearner uce --out build/multimemora
    python studies/multimemora.py --concepts bag,dress --pictures 24 --judge select

Rows: the original, the erased model, each adapter alone, and the pair in four ways: both active at full weight (what adapters
loaded side by side do), both at half weight (an average), both active but merged back to one adapter of the same rank (the best
such, by singular values), and each weight swept a little. The sum folded into the weights is the first way up to rounding.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import grid
import tables
from automemora import Bench, forgotten, rate, recovered
from vestige import concepts, models
from vestige.concepts import Concept
from vestige.diffusion import Model
from vestige.edits import Edit, combine
from vestige.edits.arithmetic import truncated
from vestige.harness import suites


def erased(model: Model, pair: list[Concept], unlearner: str, root: Path) -> Edit:
    """Both concepts gone: the second forgotten by the model that forgot the first, as one edit of the original."""
    first = forgotten(model, pair[0], unlearner, root)
    view = model.edited(first)
    second = forgotten(view, pair[1], unlearner, root)
    values = {n: second.weight(n, view.tensor(n)) for n in second.touched} if not second.hooks else {}
    if first.hooks or second.hooks:
        raise SystemExit(f"{unlearner} acts at inference time; multimemora needs edits of weights")
    before = {n: view.tensor(n) for n in first.touched if n not in values}
    return Edit(model.fingerprint, f"{unlearner} twice", {}, "all", {**before, **values})


def ways(model: Model, one: Edit, two: Edit) -> dict[str, Edit]:
    """Name of a row -> the edit of the erased model."""
    both = combine(model, [(one, 1.0), (two, 1.0)])
    rank = next(iter(one.factors.values()))[0].shape[0]
    made = {"first adapter": one, "second adapter": two, "pair": both, f"pair, merged to rank {rank}": truncated(both, rank)}
    return made | {f"pair at {a:g} and {b:g}": combine(model, [(one, a), (two, b)]) for a, b in ((0.5, 0.5), (1.0, 0.5), (0.5, 1.0))}


def page(options: argparse.Namespace, pair: list[Concept], mark: str, text: str) -> str:
    command = f"python studies/multimemora.py --concepts {options.concepts} --unlearner {options.unlearner} --suite {options.suite}"
    about = f"`{command}`; {options.pictures} pictures a rate, MemoRa {options.steps} steps, judge {options.judge}, edited {mark[:12]}."
    return f"# Multi-MemoRa: {' and '.join(c.name for c in pair)}\n\n{about}\n\n{text}\n"


def apart(concept: Concept, pair: list[Concept]) -> Concept:
    """The concept without its companion among what must stay."""
    gone = {c.name for c in pair}
    return replace(concept, unrelated=tuple(u for u in concept.unrelated if u not in gone))


def table(rows: dict[str, dict[str, dict[str, float]]], names: list[str]) -> str:
    lines = []
    for name, found in rows.items():
        first = found[names[0]]
        lines.append([name, *(rate(found[n], "recall") for n in names), rate(first, "unrelated"), tables.number(first["kid"], 4)])
    return tables.table(["model", *(f"{n} shown" for n in names), "unrelated right", "KID to the original's"], lines)


def arguments() -> argparse.ArgumentParser:
    parser = grid.parser(__doc__)
    parser.add_argument("--concepts", default="bag,dress", help="two of them")
    parser.add_argument("--unlearner", default="uce")
    parser.add_argument("--suite", default="quick", help="whose sampler and MemoRa settings hold")
    parser.add_argument("--steps", type=int, default=80, help="MemoRa's")
    parser.add_argument("--replicate", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=200, help="a concept, and as many for unrelated prompts")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--judge", choices=("verify", "select"), default="verify")
    parser.add_argument("--out", type=Path, default=Path("build/multimemora"))
    parser.add_argument("--page", type=Path)
    return parser


def main() -> None:
    options = arguments().parse_args()
    suite, pair = suites.load(options.suite, "wardrobe"), [concepts.load(name) for name in options.concepts.split(",")]
    if len(pair) != 2:
        raise SystemExit(f"two concepts are needed; given {options.concepts}")
    original = models.load("wardrobe")
    gone = original.edited(erased(original, pair, options.unlearner, options.out / "runs"))
    mark = f"{gone.fingerprint[:12]}-{suite.version}-{options.steps}-{options.replicate}"
    found = [recovered(gone, c, suite, options.steps, options.replicate, options.out / f"{mark}-{c.name}.safetensors") for c in pair]
    rows = {"original": original, "erased": gone, **{name: gone.edited(edit) for name, edit in ways(gone, *found).items()}}
    file = options.out / f"{mark}-{options.pictures}-{options.judge}.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    others = {concept.name: Bench(options, original, apart(concept, pair), suite) for concept in pair}
    for name, model in rows.items():
        if options.only in name and name not in known:
            known[name] = {c: bench.measured(model) for c, bench in others.items()}
            tables.write(file, json.dumps(known, indent=1))
            sys.stderr.write(f"{name}: done\n")
    text = table(known, [c.name for c in pair])
    if options.page is not None:
        tables.write(options.page, page(options, pair, mark, text))
    print(text)


if __name__ == "__main__":
    grid.start(main)
