"""The truth panel: models whose history is known, under one frozen suite. Resumable; writes a table of what has finished.

    python studies/panel.py --concept sneaker --suite quick --out build/panel
    python studies/panel.py --concept sneaker --suite quick --out build/panel --table docs/results/truth_panel/sneaker-quick-1.md

Rows whose truth is known: the original is not forgotten, a second twin never knew, and what was driven to collapse must never
be called erased. The rest is judged by its order.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import grid
import tables
from vestige import audit, concepts, data, models
from vestige.concepts import images
from vestige.diffusion import Model
from vestige.edits import Edit
from vestige.methods import Training, fit
from vestige.methods.training import denoising
from vestige.seeds import derive
from vestige.verdict import Interval

TRUTH = {
    "original": "not forgotten",
    "renamed": "the knowledge is all there",
    "second twin": "never knew: erased",
    "second twin + ESD": "never knew: erased",
    "ESD to collapse": "never to be called erased",
    "benign fine-tuning": "not forgotten",
}


def renamed(model: Model, concept: concepts.Concept) -> Edit:
    """The target's token embedding exchanged with an unused word's: every weight of the denoiser still draws the concept."""
    name = next(n for n in model.scope("text-encoder") if n.endswith("token_embedding.weight"))
    tokenizer = model.tokenizer  # type: ignore[attr-defined]
    rows = [tokenizer(word).input_ids[1] for word in (concept.target, "wug")]
    table = model.tensor(name).clone()
    table[rows] = table[rows[::-1]]
    return Edit(model.fingerprint, "renamed", {"word": "wug"}, "text-encoder", {name: table})


def finetuned(model: Model, concept: concepts.Concept) -> Edit:
    """Benign fine-tuning of every weight on shipped pictures of the other concepts; nothing is meant to be forgotten."""
    sheet = data.folder() / "wardrobe/pictures/references"
    held = images.shipped(sheet)
    known = {concept.label, "digit", "halftone"}
    rows = [i for i, labels in enumerate(held.labels) if not known & {*labels.values()}]
    latents = torch.cat([model.encode(part) for part in held.images[rows].split(128)])
    prompts = [f"a {held.labels[i]['style']} picture of a {held.labels[i]['object']}" for i in rows]
    condition = model.condition(prompts)
    view, leaves = model.trainable(model.scope("unet"))

    def loss(rng: torch.Generator) -> torch.Tensor:
        picked = torch.randint(len(latents), (16,), generator=rng)
        return denoising(view, latents[picked], condition[picked], rng)

    for _ in fit(leaves, loss, Training(steps=200, lr=1e-4), seed=derive(0, "benign")):
        pass
    return Edit(model.fingerprint, "benign", {"steps": 200, "lr": 1e-4}, "unet", {n: v.detach().clone() for n, v in leaves.items()})


def rows(concept: str) -> dict[str, dict[str, object]]:
    """Name of a row -> the request's fields."""
    twins = [name for name in models.twins("wardrobe", concept) if len(models.card(name).never_drew) == 1]
    esd = {f"ESD-{v} {s:g}": {"unlearner": "esd", "settings": {"esd.variant": v, "esd.strength": s}} for v in "xu" for s in (0.0, 1.0, 3.0)}
    made: dict[str, dict[str, object]] = {"original": {}}
    if len(twins) > 1:
        made["second twin"] = {"model": twins[1]}
        made["second twin + ESD"] = {"model": twins[1], "unlearner": "esd"}
    half = f"wardrobe-half-{concept}"
    if half in models.cards():
        made["first half only"] = {"model": half}
    made |= {"renamed": {"edit": renamed}, "benign fine-tuning": {"edit": finetuned}, "UCE": {"unlearner": "uce"}, **esd}
    collapse = {"esd.variant": "u", "esd.strength": 10.0, "esd.steps": 400, "esd.lr": 1e-3}
    made["ESD to collapse"] = {"unlearner": "esd", "settings": collapse}
    return made


def request(fields: dict[str, object], options: argparse.Namespace) -> audit.Request:
    values = dict(fields)
    make: Callable[[Model, concepts.Concept], Edit] | None = values.pop("edit", None)  # type: ignore[assignment]
    if make is not None:
        model, concept = models.load("wardrobe"), concepts.load(options.concept)
        path = options.out / "edits" / f"{options.concept}-{make.__name__}-{model.fingerprint[:12]}.safetensors"
        if not path.exists():
            make(model, concept).save(path)
        values["edit"] = str(path)
    return audit.Request(concept=options.concept, suite=options.suite, attacks=("memora",), **values)  # type: ignore[arg-type]


def key(fields: dict[str, object], options: argparse.Namespace) -> str:
    return grid.key(request(fields, options))


def interval(found: dict[str, float | None]) -> str:
    """An interval as a result holds it."""
    value, low, high = (found[end] for end in ("value", "low", "high"))
    if value is None:
        return tables.NOTHING
    return tables.interval(Interval(value, -math.inf if low is None else low, math.inf if high is None else high))


def table(results: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name, r in results.items():
        flags = ", ".join(f["name"] for f in r["verdict"]["flags"]) or tables.NOTHING
        measured = [tables.number(r["plain"]["edited"]["value"]), *(interval(r[k]) for k in ("savings", "speedup", "reach"))]
        lines.append([name, TRUTH.get(name, ""), *measured, r["verdict"]["kind"], flags])
    return tables.table(["model", "truth", "plain rate", "savings", "F", "reach", "verdict", "flags"], lines)


def page(results: dict[str, dict[str, Any]], options: argparse.Namespace) -> str:
    first = next(iter(results.values()))
    about = f"`python studies/panel.py --concept {options.concept} --suite {options.suite}`; "
    about += f"replicates {first['provenance']['seeds']}, memora, verification judge {first['detector']['verification']['version']}, "
    about += f"model {first['provenance']['model_hash']}."
    return f"# Truth panel: {options.concept}, suite {first['suite']}\n\n{about}\n\n{table(results)}\n"


def arguments() -> argparse.ArgumentParser:
    parser = grid.parser(__doc__)
    parser.add_argument("--concept", default="sneaker")
    parser.add_argument("--suite", default="quick")
    parser.add_argument("--out", type=Path, default=Path("build/panel"))
    parser.add_argument("--table", type=Path, help="write what has finished here, and run nothing")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    return parser


def main() -> None:
    options, results = arguments().parse_args(), {}
    for name, fields in rows(options.concept).items():
        if options.only not in name:
            continue
        folder = options.out / f"{options.concept}-{options.suite}" / name.replace(" ", "_").replace("+", "and")
        if options.table is None:
            done = grid.audited(folder, request(fields, options), options.out / "runs")
            verdict = done["verdict"]
            print(f"{name}: {verdict['kind']}; {verdict['reason']}; {done['cost']['seconds']:.0f} s", flush=True)
            results[name] = done
        elif (found := grid.result(folder, functools.partial(key, fields, options))) is not None:
            results[name] = found
    if options.table is not None:
        if not results:
            sys.exit(f"nothing has finished in {options.out}")
        tables.write(options.table, page(results, options))
    sys.stdout.write(table(results) + "\n")


if __name__ == "__main__":
    grid.start(main)
