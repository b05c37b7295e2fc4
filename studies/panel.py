"""The truth panel: models whose history is known, under one frozen suite. Resumable; writes a table of what has finished.

    python studies/panel.py --concept sneaker --suite quick --out build/panel
    python studies/panel.py --concept sneaker --suite quick --out build/panel --table docs/results/truth_panel/sneaker-quick-4.md
    python studies/panel.py --world build/letters/world --concept golf --set memora.lr=2e-3 --out build/panel
    python studies/panel.py --model wardrobe-flow --concept sneaker --out build/panel
    python studies/panel.py --concept sneaker --further build/wardrobe/pipelines --out build/panel

Rows whose truth is known: the original is not forgotten, a twin never knew, a renamed model knows everything, and what was driven to
collapse must never be called erased. The rest is judged by its order. Every edit stands beside all twins, and every twin beside the others.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import grid
import tables
from vestige import audit, concepts, models
from vestige.audit.plan import VERDICT
from vestige.cli.options import assigned
from vestige.concepts import Concept
from vestige.diffusion import Model
from vestige.diffusion.sampling import Drawing
from vestige.edits import Edit
from vestige.methods import Training, fit
from vestige.methods.fresh import fresh
from vestige.methods.objectives import denoising
from vestige.methods.training_data import drawn
from vestige.models.classes import ClassModel
from vestige.seeds import derive, generator
from vestige.verdict import Interval

Fields = dict[str, Any]  # of a request
NEVER = "never knew: erased, or undecided"
TRUTH = {
    "original": "not forgotten",
    "renamed": "the knowledge is all there: never erased",
    "first half only": "knows: never erased",
    "begun anew": "nothing is left of anything: never to be called erased",
    "ESD to collapse": "never to be called erased",
    "benign fine-tuning": "not forgotten",
}
METHODS = ("uce", "esd", "salun", "erasediff", "dimum", "spm", "gradient_ascent")
CHOSEN = {  # unlearners that have settings for a model of another family
    "wardrobe-flow": ("esd", "dimum"),
    "wardrobe-classes": ("esd", "salun", "erasediff", "dimum", "selective_amnesia", "gradient_ascent"),
}
BENIGN_PICTURES = 256
TABLES = ("token_embedding.weight", "shared.weight")  # CLIP's, T5's


@dataclass(frozen=True)
class World:
    """Where a panel is held.

    Arguments:
        model: The original, by name or folder.
        concept: By name or file.
        twins: Models that never drew it, likewise.
        half: A model that drew it in the first half of its training only; "" without one.
        preset: Whose settings unlearners run with.
    """

    model: str
    concept: str
    twins: tuple[str, ...]
    half: str = ""
    preset: str = ""

    @staticmethod
    def of(folder: Path | None, concept: str, model: str = "wardrobe", further: Path | None = None) -> World:
        """A model of the embedded world, with what twins of it were trained beside those that ship, or one that `tools/worlds` built."""
        if folder is None:
            twins = tuple(name for name in models.twins(model, concept) if len(models.card(name).never_drew) == 1)
            if further is not None:
                found = [path for path in sorted(further.glob(f"{model}-never-{concept}-*")) if path.name not in twins]
                if not found:
                    sys.exit(f"{further} holds no further twin of {concept}: bash tools/wardrobe/build.sh {model}-never-{concept}-3")
                twins += tuple(map(str, found))
            half = f"{model}-half-{concept}"
            return World(model, concept, twins, half if half in models.cards() else "")
        own = folder.resolve().parent.name
        twins = tuple(str(path) for path in sorted(folder.glob(f"{own}-never-{concept}*")))
        return World(str(folder / own), str(folder / "concepts" / f"{concept}.toml"), twins, preset="wardrobe")

    @property
    def control(self) -> str:
        return ",".join(f"twin:{name}" for name in self.twins)


def renamed(model: Model, concept: Concept) -> Edit:
    """The target's row of every table exchanged with an unused word's, or another class's: every other weight still draws the concept."""
    swapped: dict[str, torch.Tensor] = {}
    if isinstance(model, ClassModel):
        (name,) = model.scope("class-embedding")
        swapped[name] = _exchanged(
            model.tensor(name), *(model.labels.find(words, model.name) for words in (concept.target, concept.anchor))
        )
        return Edit(model.fingerprint, "renamed", {"word": concept.anchor}, "class-embedding", swapped)
    for part, tokenizer in _tokenizers(model).items():
        name = next(n for n in model.scope("text-encoder") if n.startswith(f"{part}.") and n.endswith(TABLES))
        first = 1 if tokenizer.bos_token_id is not None else 0
        swapped[name] = _exchanged(model.tensor(name), *(tokenizer(word).input_ids[first] for word in (concept.target, "wug")))
    return Edit(model.fingerprint, "renamed", {"word": "wug"}, "text-encoder", swapped)


def _exchanged(table: torch.Tensor, one: int, other: int) -> torch.Tensor:
    table = table.clone()
    table[[one, other]] = table[[other, one]]
    return table


def _tokenizers(model: Model) -> dict[str, Any]:
    """Of every text encoder, by its part's name."""
    own = getattr(model, "tokenizers", None)
    return dict(own) if isinstance(own, Mapping) else {"text_encoder": model.tokenizer}  # type: ignore[attr-defined]


def finetuned(model: Model, concept: Concept) -> Edit:
    """Benign fine-tuning of every weight on what the model draws of other concepts; nothing is meant to be forgotten."""
    words = (*concept.neighbours, *concept.unrelated)
    held = drawn(model, concept.spread(BENIGN_PICTURES, "training", words=words), seed=derive(0, "benign"), protocol=Drawing())
    latents = torch.cat([model.encode(part) for part in held.images.split(128)])
    condition = model.condition([caption for (caption,) in held.captions])
    view, leaves = model.trainable(model.scope("unet"))

    def loss(rng: torch.Generator) -> torch.Tensor:
        picked = torch.randint(len(latents), (16,), generator=rng)
        return denoising(view, latents[picked], condition[picked], rng)

    for _ in fit(leaves, loss, Training(steps=200, lr=1e-4), seed=derive(0, "benign")):
        pass
    return Edit(model.fingerprint, "benign", {"steps": 200, "lr": 1e-4}, "unet", {n: v.detach().clone() for n, v in leaves.items()})


def begun(model: Model, concept: Concept) -> Edit:
    """Every weight of the denoiser as before any training."""
    return Edit(model.fingerprint, "begun", {}, "unet", fresh(model, model.scope("unet"), generator(0, "fresh")))


def rows(world: World) -> dict[str, Fields]:
    """Name of a row -> what its request has besides the panel's own."""
    made: dict[str, Fields] = {"original": {}}
    for i, twin in enumerate(world.twins):
        rest = ",".join(f"twin:{name}" for name in world.twins if name != twin)
        if rest and twin in models.cards():
            made[f"twin {i + 1}"] = {"model": twin, "control": rest}
            made[f"twin {i + 1} + ESD"] = {"model": twin, "control": rest, "unlearner": "esd"}
        elif rest:
            made[f"twin {i + 1}"] = {"edit": twin, "control": rest}
    if world.half:
        made["first half only"] = {"model": world.half}
    made |= {"renamed": {"edit": renamed}, "benign fine-tuning": {"edit": finetuned}, "begun anew": {"edit": begun}}
    made |= {name: {"unlearner": name} for name in CHOSEN.get(world.model, METHODS)}
    if len(world.twins) > 1:  # the same edit beside each twin alone: other widths, and never opposite words
        each = {f"twin {i + 1}": f"twin:{name}" for i, name in enumerate(world.twins)}
        made |= {
            f"{edit} against {name} alone": {**made[edit], "control": one} for edit in ("renamed", "uce") for name, one in each.items()
        }
    collapse = {"esd.variant": "u", "esd.strength": 10.0, "esd.steps": 400, "esd.lr": 1e-3}
    if world.model in CHOSEN and len(world.twins) < 2:  # nothing beside which it could stand
        made |= {"the twin": {"model": world.twins[0], "control": "proxy"}}
    return {**made, "ESD to collapse": {"unlearner": "esd", "settings": collapse}}


def request(fields: Fields, world: World, options: argparse.Namespace) -> audit.Request:
    """A row's audit; an edit that no method makes is made, and kept, here."""
    values = {"model": world.model, "control": world.control or "auto", **fields}
    make: Callable[[Model, Concept], Edit] | str | None = values.get("edit")
    if callable(make):
        model, concept = models.load(world.model), concepts.load(world.concept)
        path = options.out / "edits" / f"{options.concept}-{make.__name__}-{model.fingerprint[:12]}.safetensors"
        if not path.exists():
            make(model, concept).save(path)
        values["edit"] = str(path)
    settings = {**assigned(options.set), **values.pop("settings", {})}
    preset = world.preset if values.get("unlearner") else ""
    own: Fields = {
        "concept": world.concept,
        "suite": options.suite,
        "attacks": ("memora",),
        "seeds": tuple(options.seeds),
        "unshown": options.unshown,
    }
    own |= {"settings": settings, "preset": preset}
    return audit.Request(**own, **values)


def key(fields: Fields, world: World, options: argparse.Namespace) -> str:
    return grid.key(request(fields, world, options))


def interval(found: dict[str, float | None]) -> str:
    """An interval as a result holds it."""
    value, low, high = (found[end] for end in ("value", "low", "high"))
    if value is None:
        return tables.NOTHING
    return tables.interval(Interval(value, -math.inf if low is None else low, math.inf if high is None else high))


def row(name: str, r: dict[str, Any]) -> list[str]:
    flags = ", ".join(dict.fromkeys(f["name"] for f in r["verdict"]["flags"])) or tables.NOTHING
    measured = [tables.number(r["plain"]["edited"]["value"]), *(interval(r[k]) for k in ("savings", "speedup", "reach"))]
    probes = [probe for probe in r["positive_controls"] if probe["hides"]]
    found = (
        f"{sum(bool(probe['found']) for probe in probes)} of {len(probes)}"
        if r["positive_controls"]
        else "spared"
        if r.get("positives_spared")
        else tables.NOTHING
    )
    return [name, TRUTH.get(name, NEVER if name.startswith("twin") else ""), *measured, found, r["verdict"]["kind"], flags]


def table(results: dict[str, dict[str, Any]]) -> str:
    head = ["model", "truth", "plain rate", "savings", "F", "reach", "positive controls found", "verdict", "flags"]
    return tables.table(head, [row(name, r) for name, r in results.items()])


def replicates(results: Mapping[str, dict[str, Any]]) -> str:
    """How many replicates rows took."""
    taken = Counter(len(r["provenance"]["seeds"]) for r in results.values())
    if len(taken) == 1:
        return f"replicates {next(iter(results.values()))['provenance']['seeds']}"
    return "replicates until they decide or cannot: " + ", ".join(
        f"{n} in {rows} row{'s' * (rows > 1)}" for n, rows in sorted(taken.items())
    )


def page(results: dict[str, dict[str, Any]], world: World, options: argparse.Namespace) -> str:
    first = next(iter(results.values()))
    numbers = ",".join(map(str, options.seeds))
    told = (
        ("--world", options.world),
        ("--model", options.model if options.model in CHOSEN else ""),
        ("--further", options.further),
        ("--seeds", numbers),
        ("--unshown", options.unshown),
        *(("--set", pair) for pair in options.set),
    )
    asked = "".join(f" {flag} {value}" for flag, value in told if value)
    about = f"`python studies/panel.py --concept {options.concept} --suite {options.suite}{asked}`; "
    about += f"{replicates(results)}, memora, verification judge {first['detector']['verification']['version']}, "
    about += f"model {first['provenance']['model_hash']}, form {VERDICT} of the verdict. "
    about += f"Control: {len(world.twins)} twins, of a twin the others."
    return f"# Truth panel: {options.concept}, suite {first['suite']}\n\n{about}\n\n{table(results)}\n"


def arguments() -> argparse.ArgumentParser:
    parser = grid.parser(__doc__)
    parser.add_argument("--world", type=Path, help="folder that tools/worlds packed; default: the embedded world")
    parser.add_argument("--model", default="wardrobe", help="of the embedded world, where no --world is given")
    parser.add_argument("--further", type=Path, help="folder of twins that do not ship (tools/wardrobe/build.sh)")
    parser.add_argument("--concept", default="sneaker")
    parser.add_argument("--suite", default="quick")
    parser.add_argument("--seeds", type=grid.numbers, default=[], help="replicates; default: the suite's number")
    parser.add_argument("--unshown", type=int, default=0, help="as of an audit")
    parser.add_argument("--set", action="append", default=[], help="METHOD.NAME=VALUE, for every row")
    parser.add_argument("--out", type=Path, default=Path("build/panel"))
    parser.add_argument("--cache", type=Path, help="folder of runs to share with others; default OUT/runs")
    parser.add_argument("--table", type=Path, help="write what has finished here, and run nothing")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    return parser


def main() -> None:
    options, results = arguments().parse_args(), {}
    world = World.of(options.world, options.concept, options.model, options.further)
    for name, fields in rows(world).items():
        if options.only not in name:
            continue
        held = "" if options.model == "wardrobe" else f"{options.model}-"
        folder = options.out / f"{held}{options.concept}-{Path(options.suite).stem}" / name.replace(" ", "_").replace("+", "and")
        if options.table is None:
            done = grid.audited(folder, request(fields, world, options), options.cache or options.out / "runs")
            verdict = done["verdict"]
            print(f"{name}: {verdict['kind']}; {verdict['reason']}; {done['cost']['seconds']:.0f} s", flush=True)
            results[name] = done
        elif (found := grid.result(folder, functools.partial(key, fields, world, options))) is not None:
            results[name] = found
    if options.table is not None:
        if not results:
            sys.exit(f"nothing has finished in {options.out}")
        tables.write(options.table, page(results, world, options))
    sys.stdout.write(table(results) + "\n")


if __name__ == "__main__":
    grid.start(main)
