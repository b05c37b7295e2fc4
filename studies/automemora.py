"""AutoMemoRa's weight: recall of the concept against damage to everything else. Resumable; writes a CSV, a table and a curve.

    python studies/automemora.py --concept sneaker --unlearner esd --out build/automemora
    python studies/automemora.py --concept bag --pictures 24 --weights 0,0.5,1,2 --judge select

For every w, at equal seeds: how often held-out prompts show the concept, how often prompts of unrelated concepts show theirs, the
distance (KID) of those pictures to the original's, and CLIP scores of both. Main is the recovered model; with the edited one as
main, w means 1 - w, so negative weights are its extrapolations.

KID is the unbiased estimate between pictures at equal seeds; for equal sets it is below zero, not zero: read it beside the first row.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import grid
import tables
from vestige import concepts, data, files, models, registry
from vestige.attacks.automemora import automemora
from vestige.concepts import Concept, images
from vestige.concepts.concept import Prompt
from vestige.diffusion import Model
from vestige.diffusion.sampling import pictures
from vestige.edits import Edit
from vestige.harness import suites
from vestige.harness.bench import shows
from vestige.harness.settings import configured
from vestige.harness.suites import Suite
from vestige.harness.unlearning import unlearned
from vestige.methods import Attack, Budget
from vestige.metrics import alignment, classifier, fidelity
from vestige.seeds import derive
from vestige.verdict import Interval
from vestige.verdict.intervals import wilson

WORLD = data.folder() / "wardrobe"
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
FIELDS = ("w", "recall", "recall_low", "recall_high", "unrelated", "unrelated_low", "unrelated_high", "kid", "clip", "clip_unrelated")


def forgotten(model: Model, concept: Concept, unlearner: str, root: Path) -> Edit:
    """The unlearner's edit at the world's settings, made once."""
    run = unlearned(root, model, concept, unlearner, configured("unlearners", unlearner, "wardrobe", "", {}), 0)
    return Edit.load(run.path("edit.safetensors"))


def recovered(model: Model, concept: Concept, suite: Suite, steps: int, replicate: int, file: Path) -> Edit:
    """MemoRa's adapter after so many steps on shipped references, made once."""
    if not file.exists():
        planned, judge = suite.attacks["memora"], classifier.load(WORLD / "judge-select")
        method: Attack = registry.build("attacks", "memora", planned.settings)
        given = images.shipped(WORLD / "pictures/references", {concept.group: concept.label}).draw(planned.references, replicate)

        def select(seen: torch.Tensor) -> torch.Tensor:
            return torch.tensor(shows(judge, seen, concept))

        *_, last = method(model, concept, Budget((0, steps)), seed=replicate, select=select, pictures=given)
        assert last.edit is not None  # noqa: S101
        last.edit.save(file)
    return Edit.load(file)


def drawn(model: Model, prompts: Sequence[Prompt], purpose: str, suite: Suite) -> torch.Tensor:
    seeds = [derive(0, "automemora", purpose, i) for i in range(len(prompts))]
    return pictures(model, [p.text for p in prompts], seeds, suite.protocol)


def right(judge: classifier.Classifier, shown: torch.Tensor, prompts: Sequence[Prompt]) -> list[bool]:
    """Whether each picture shows all that its prompt names."""
    return [all(s.get(g) == v for g, v in p.expects.items()) for s, p in zip(judge.labelled(shown), prompts, strict=True)]


class Bench:
    """What every weight is measured with: prompts, judges, and the original's pictures."""

    def __init__(self, options: argparse.Namespace, original: Model, concept: Concept, suite: Suite) -> None:
        self.concept, self.suite = concept, suite
        self.judge, self.clip = classifier.load(WORLD / f"judge-{options.judge}"), alignment.clip_score(WORLD / "clip")
        self.asked = concept.spread(options.pictures, "held-out")
        self.others = concept.spread(options.pictures, "held-out", words=concept.unrelated)
        self.reference = drawn(original, self.others, "unrelated", suite)

    def measured(self, model: Model) -> dict[str, float]:
        mine = drawn(model, self.asked, "concept", self.suite)
        theirs = drawn(model, self.others, "unrelated", self.suite)
        hits, kept = shows(self.judge, mine, self.concept), right(self.judge, theirs, self.others)
        recall, unrelated = wilson(sum(hits), len(hits)), wilson(sum(kept), len(kept))
        values = [recall.value, recall.low, recall.high, unrelated.value, unrelated.low, unrelated.high]
        values += [fidelity.kid(self.judge, self.reference, theirs).value]
        values += [float(self.clip(x, [p.text for p in ask]).mean()) for x, ask in ((mine, self.asked), (theirs, self.others))]
        return dict(zip(FIELDS[1:], values, strict=True))


def read(file: Path) -> dict[str, dict[str, str]]:
    if not file.exists():
        return {}
    with file.open(newline="") as stream:
        return {row["w"]: row for row in csv.DictReader(stream)}


def add(file: Path, row: dict[str, object]) -> None:
    """Append by rewriting: a file that exists is whole."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, FIELDS)
    writer.writeheader()
    writer.writerows([*read(file).values(), row])
    tables.write(file, text.getvalue())


def rate(row: dict[str, float], name: str) -> str:
    """A measured rate and its interval."""
    return tables.interval(Interval(*(row[f"{name}{end}"] for end in ("", "_low", "_high"))))


def table(rows: dict[str, dict[str, str]]) -> str:
    lines = []
    for name, r in sorted(rows.items(), key=lambda item: (item[0] != "original", item[0] != "edited", _number(item[0]))):
        x = {k: float(r[k]) for k in FIELDS[1:]}
        rates = [rate(x, k) for k in ("recall", "unrelated")]
        lines.append([name, *rates, tables.number(x["kid"], 4), tables.number(x["clip"], 1), tables.number(x["clip_unrelated"], 1)])
    return tables.table(["w", "recall", "unrelated right", "KID to the original's", "CLIP, concept", "CLIP, unrelated"], lines)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def curve(rows: dict[str, dict[str, str]], width: int = 560, height: int = 260) -> str:
    """Recall and unrelated accuracy over w, with their intervals, as SVG; KID is written at its points."""
    found = sorted((float(w), {k: float(v) for k, v in r.items() if k != "w"}) for w, r in rows.items() if w != "original")
    low, high = found[0][0], found[-1][0]
    left, top, right_, bottom = 46, 16, width - 120, height - 40

    def x(w: float) -> float:
        return left + (w - low) / ((high - low) or 1) * (right_ - left)

    def y(rate: float) -> float:
        return bottom - rate * (bottom - top)

    parts = [f'<line x1="{left}" x2="{right_}" y1="{y(v):.1f}" y2="{y(v):.1f}" stroke="#ddd"/>' for v in (0, 0.25, 0.5, 0.75, 1)]
    parts += [f'<text x="{left - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v:g}</text>' for v in (0, 0.5, 1)]
    parts += [f'<text x="{x(w):.1f}" y="{bottom + 16}" text-anchor="middle">{w:g}</text>' for w, _ in found]
    parts += [f'<text x="{(left + right_) / 2}" y="{height - 6}" text-anchor="middle">w</text>']
    for key, colour, title in (("recall", "#b2182b", "recall of the concept"), ("unrelated", "#2166ac", "unrelated right")):
        points = " ".join(f"{x(w):.1f},{y(r[key]):.1f}" for w, r in found)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for w, r in found:
            ends = f'y1="{y(r[key + "_low"]):.1f}" y2="{y(r[key + "_high"]):.1f}"'
            parts.append(f'<line x1="{x(w):.1f}" x2="{x(w):.1f}" {ends} stroke="{colour}"/>')
            label = f"w {w:g}: {r[key]:.2f}, KID {r['kid']:.4f}"
            parts.append(f'<circle cx="{x(w):.1f}" cy="{y(r[key]):.1f}" r="3" fill="{colour}"><title>{label}</title></circle>')
        parts.append(f'<text x="{right_ + 8}" y="{y(found[-1][1][key]) + 4:.1f}" fill="{colour}">{title}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">'
    return "\n".join([head, *parts, "</svg>", ""])


def page(options: argparse.Namespace, bench: Bench, mark: str, text: str) -> str:
    command = f"python studies/automemora.py --concept {bench.concept.name} --unlearner {options.unlearner} --suite {options.suite}"
    about = f"`{command}`; {options.pictures} pictures a rate, MemoRa {options.steps} steps, replicate {options.replicate}, "
    about += f"judge {bench.judge.name} {bench.judge.version}, CLIP {bench.clip.weights_hash[:12]}, edited model {mark}."
    return f"# AutoMemoRa: {bench.concept.name}\n\n{about}\n\n{text}\n\n![]({options.page.stem}.svg)\n"


def arguments() -> argparse.ArgumentParser:
    parser = grid.parser(__doc__)
    parser.add_argument("--concept", default="bag")
    parser.add_argument("--unlearner", default="esd")
    parser.add_argument("--suite", default="quick", help="whose sampler and MemoRa settings hold")
    parser.add_argument("--steps", type=int, default=80, help="MemoRa's")
    parser.add_argument("--replicate", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=400, help="each for the concept and for unrelated prompts")
    parser.add_argument("--weights", type=lambda text: tuple(map(float, text.split(","))), default=WEIGHTS)
    parser.add_argument("--judge", choices=("verify", "select"), default="verify")
    parser.add_argument("--out", type=Path, default=Path("build/automemora"))
    parser.add_argument("--page", type=Path, help="write table and curve here, e.g. docs/results/automemora/sneaker.md")
    return parser


def main() -> None:
    options = arguments().parse_args()
    suite, concept = suites.load(options.suite, "wardrobe"), concepts.load(options.concept)
    name = f"{concept.name}-{options.unlearner}-{suite.version}-{options.steps}-{options.replicate}-{options.pictures}-{options.judge}"
    folder = options.out / name
    files.make(folder)
    original = models.load("wardrobe")
    edit = forgotten(original, concept, options.unlearner, options.out / "runs")
    edited = original.edited(edit)
    mark = edited.fingerprint[:12]
    adapter = recovered(
        edited, concept, suite, options.steps, options.replicate, options.out / f"{name.rsplit('-', 2)[0]}-{mark}.safetensors"
    )
    file = folder / f"{mark}.csv"
    bench = Bench(options, original, concept, suite)
    wanted = {"original": original, **{f"{w:g}": edited.edited(automemora(adapter, w)) for w in options.weights}}
    for w, model in wanted.items():
        if w not in read(file):
            add(file, {"w": w, **bench.measured(model)})
            sys.stderr.write(f"w = {w}: done\n")
    text, picture = table(read(file)), curve(read(file))
    automemora(adapter, 0.5, on=edit).save(folder / "half.safetensors")  # for `vestige generate --edit`
    tables.write(folder / "curve.svg", picture)
    if options.page is not None:
        tables.write(options.page.with_suffix(".svg"), picture)
        tables.write(options.page, page(options, bench, mark, text))
    print(text)


if __name__ == "__main__":
    grid.start(main)
