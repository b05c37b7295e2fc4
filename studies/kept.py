"""What edits took from the rest, on more pictures than an audit draws: each paired with the original's of the same prompt and noise.

    python studies/kept.py build/runs/unlearn-*/edit.safetensors --concepts sneaker,neon --page docs/results/methods/kept.md

Edits of other concepts and models are passed over; edits of one method with other settings are a line of their own, and one that is there
twice is looked at once. Held-out prompts, drawn as suite `all` draws them, the verification judge. A method's difference is the mean over
its edits; its interval is of `verdict.pooling`, with Satterthwaite's degrees of freedom, and

    variance = (variance between edits) / edits + (variance between pictures of the mean over edits) / pictures,

which counts what an edit's own pictures vary by twice: wider, if anything, than it need be.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import grid
import tables
from vestige import concepts, metrics, models
from vestige.compare.fields import varied
from vestige.concepts import Concept
from vestige.diffusion import Model
from vestige.edits import Edit
from vestige.errors import BadInput
from vestige.harness import suites
from vestige.harness.bench import Bench
from vestige.harness.utility import kept
from vestige.verdict import Interval
from vestige.verdict.pooling import Estimate

MODEL, GROUPS = "wardrobe", ("neighbours", "unrelated")
Right = Sequence[bool | None]


def differences(edits: Sequence[Right], original: Right) -> NDArray[np.float64]:
    """Edit less original, (edits, pictures), of pictures that every one of them was judged on."""
    judged = [i for i, told in enumerate(zip(original, *edits, strict=True)) if None not in told]
    return np.array([[float(bool(one[i])) - float(bool(original[i])) for i in judged] for one in edits])


def interval(found: NDArray[np.float64], level: float = 0.95) -> Interval:
    """Of the mean over edits and pictures, in points; without ends where there is one edit."""
    points, (count, pictures) = 100 * found, found.shape
    variances = ((float(points.mean(axis).var(ddof=1)) / size, size - 1) for axis, size in ((1, count), (0, pictures)))
    return Estimate(float(points.mean()), tuple(variances) if count > 1 else ()).interval(level)


def given(files: Sequence[Path], concept: str, fingerprint: str) -> dict[str, list[Edit]]:
    """Method, with the settings by which it differs from its namesakes -> its edits of this concept and model, in the order of their seeds.

    Of two that are alike in all of that, the first.
    """
    found: dict[str, list[Edit]] = {}
    for file in sorted(files):
        edit = Edit.load(file)
        if edit.base == fingerprint and edit.notes.get("concept") == concept:
            found.setdefault(edit.method, []).append(edit)
    if not found:
        raise BadInput(f"none of {len(files)} files is an edit of {concept} and of {MODEL}")
    named: dict[str, dict[int, Edit]] = {}
    for method, edits in sorted(found.items()):
        keys = varied([edit.settings for edit in edits])
        for edit in edits:
            name = f"{method} ({', '.join(f'{key} {edit.settings.get(key)}' for key in keys)})" if keys else method
            named.setdefault(name, {}).setdefault(int(edit.notes["seed"]), edit)
    return {name: [each[seed] for seed in sorted(each)] for name, each in named.items()}


def rows(right: Mapping[str, Mapping[str, Sequence[Right]]], original: Mapping[str, Right]) -> Iterator[list[str]]:
    """A line a method and group of words: the original's rate, each edit's difference, and their mean with its interval."""
    for method, groups in right.items():
        for group, edits in groups.items():
            found, judged = differences(edits, original[group]), [one for one in original[group] if one is not None]
            each = ", ".join(f"{100 * value:+.1f}" for value in found.mean(1))
            yield [method, group, str(found.shape[1]), f"{sum(judged) / len(judged):.3f}", each, tables.interval(interval(found), 1)]


def looked(bench: Bench, original: Model, concept: Concept, found: Mapping[str, Sequence[Edit]]) -> Iterator[list[str]]:
    """The lines of one concept."""
    whole = {group: kept(bench, original, concept, group)["right"] for group in GROUPS}
    right = {
        method: {group: [kept(bench, original.edited(edit), concept, group)["right"] for edit in each] for group in GROUPS}
        for method, each in found.items()
    }
    yield from ([concept.name, *row] for row in rows(right, whole))


HEAD = ("concept", "method", "words", "pictures", "original", "edit by edit, points", "mean, points")


def arguments() -> argparse.ArgumentParser:
    parser = grid.parser(__doc__)
    parser.add_argument("edits", nargs="+", type=Path)
    parser.add_argument("--concepts", type=grid.names, default=["sneaker"])
    parser.add_argument("--pictures", type=int, default=480, help="of each group of words and model")
    parser.add_argument("--out", type=Path, default=Path("build/kept"))
    parser.add_argument("--page", type=Path, help="write the page here")
    return parser


def main() -> None:
    asked = arguments().parse_args()
    original = models.load(MODEL)
    suite = replace(suites.load("all", MODEL), utility_pictures=asked.pictures)
    table: list[list[str]] = []
    seeds: dict[str, list[str]] = {}
    for concept in map(concepts.load, asked.concepts):
        found = given(asked.edits, concept.name, original.fingerprint)
        table += looked(Bench(asked.out, suite, *metrics.pair(concept, MODEL)), original, concept, found)
        for method, each in found.items():
            seeds.setdefault(f"{method} {', '.join(str(edit.notes['seed']) for edit in each)}", []).append(concept.name)
    told = "; ".join(f"{who} ({', '.join(of)})" for who, of in seeds.items())
    about = (
        f"`python studies/kept.py EDITS --concepts {','.join(asked.concepts)} --pictures {asked.pictures}`: each picture paired with the "
        f"original's of the same prompt and noise; held-out prompts, drawn as suite {suite.version} draws them, the verification judge. "
        f"Brackets: 95 % over edits and pictures. Seeds: {told}."
    )
    text = "\n\n".join(["# What edits took from the rest", about, tables.table(HEAD, table)]) + "\n"
    print(text)
    if asked.page:
        tables.write(asked.page, text)


if __name__ == "__main__":
    grid.start(main)
