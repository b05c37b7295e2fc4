"""Measure a packed world: do both judges see it alike, does the base draw what it is asked, how often does a twin draw the rest?

python -m worlds.measure WORLD     into docs/results/worlds/WORLD.md, a sample sheet beside it
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from PIL import Image

from vestige import models
from vestige.diffusion.sampling import Drawing, pictures
from vestige.metrics.detectors import users_function
from vestige.metrics.judge import Detector
from vestige.seeds import derive
from worlds import autoencoder
from worlds.loop import generator
from worlds.pack import out
from worlds.pictures import Pictures, sheet
from worlds.world import OBJECT, STYLE, World, load

RESULTS = Path(__file__).resolve().parents[2] / "docs/results/worlds"
PROTOCOL = Drawing(steps=10, guidance=3.0, batch=64)
EACH = 3  # pictures of every object in every style
PLAIN = 96  # pictures of a concept that a twin never drew
REAL = 960
NAMES = ("verify", "select")
Labels = list[tuple[str, str]]


@cache
def judge(folder: Path, name: str, group: str) -> Detector:
    """A packed world's judge, found as an audit finds it."""
    return users_function(f"{folder}/judges/looks.py:{name}{'' if group == OBJECT else '_style'}")


def scores(world: World, name: str, group: str, x: torch.Tensor) -> torch.Tensor:
    """Probability of every label of a group."""
    who = judge(out(world), name, group)
    return torch.cat([who.look(part) for part in x.split(128)])


def seen(world: World, name: str, group: str, x: torch.Tensor) -> list[str]:
    """What a judge calls each picture."""
    labels = world.all_objects if group == OBJECT else world.all_styles
    return [labels[i] for i in scores(world, name, group, x).argmax(1)]


def drawn(world: World, model: str, prompts: Sequence[str], seed: int) -> torch.Tensor:
    """Pictures of prompts, kept in the build folder for the next time."""
    loaded = models.load(str(out(world) / model))
    stored = world.build / f"drawn-{model}-{loaded.fingerprint[:12]}-{derive(seed, *prompts) % 10**8:08d}.pt"
    if not stored.exists():
        torch.save(
            (pictures(loaded, list(prompts), [derive(seed, "measure", i) for i in range(len(prompts))], PROTOCOL) * 255).round().byte(),
            stored,
        )
    return torch.load(stored, weights_only=True).float() / 255


def asked(world: World) -> tuple[list[str], Labels]:
    """Held-out prompts of every object in every style, and what they ask for."""
    labels = [(o, s) for o in world.objects for s in world.styles for _ in range(EACH)]
    bank = world.prompts.held_both
    return [bank[i % len(bank)].format(object=o, style=s) for i, (o, s) in enumerate(labels)], labels


def real(world: World) -> tuple[torch.Tensor, Labels]:
    """Pictures of drawings that no network learned from."""
    x, shown, style = Pictures.of(world, held=True, part="test", proxy=False).sample(REAL, generator(92, 0))
    return x, [(world.all_objects[o], world.all_styles[s]) for o, s in zip(shown, style, strict=True)]


def share(hits: Sequence[bool]) -> str:
    return f"{sum(hits) / len(hits):.1%}" if hits else "-"


def accuracy(world: World) -> list[str]:
    """One row a concept of the world's list, then the means: both judges on real pictures, round trips and drawn ones."""
    x, labels = real(world)
    prompts, wanted = asked(world)
    sets = {
        "real": (x, labels),
        "round trip": (torch.cat([autoencoder.round_trip(autoencoder.read(world), part) for part in x.split(128)]), labels),
        "drawn": (drawn(world, world.base, prompts, 7), wanted),
    }
    lines = ["| shown | " + " | ".join(f"{kind}, {name}" for kind in sets for name in NAMES) + " |", "|---" * 7 + "|"]
    hits: dict[tuple[str, str, int], list[bool]] = {}
    for kind, (shown, truth) in sets.items():
        for name in NAMES:
            for place, group in enumerate((OBJECT, STYLE)):
                found = seen(world, name, group, shown)
                hits[kind, name, place] = [f == t[place] for f, t in zip(found, truth, strict=True)]
    rows = [(concept, world.group(concept)) for concept in world.concepts if concept in (*world.objects, *world.styles)]
    for concept, group in rows:
        place = 0 if group == OBJECT else 1
        cells = [
            share([h for h, t in zip(hits[kind, name, place], sets[kind][1], strict=True) if t[place] == concept])
            for kind in sets
            for name in NAMES
        ]
        lines.append(f"| {concept} | " + " | ".join(cells) + " |")
    for title, place in (("mean of objects", 0), ("mean of styles", 1)):
        lines.append(f"| **{title}** | " + " | ".join(share(hits[kind, name, place]) for kind in sets for name in NAMES) + " |")
    lines += ["", "Drawn objects, by the verification judge, from the least recognised: " + worst(hits["drawn", "verify", 0], wanted) + "."]
    return lines


def worst(hits: Sequence[bool], wanted: Labels, count: int = 8) -> str:
    rates = {o: [h for h, t in zip(hits, wanted, strict=True) if t[0] == o] for o, _ in wanted}
    least = sorted(rates, key=lambda o: (sum(rates[o]), o))[:count]
    return ", ".join(f"{o} {share(rates[o])}" for o in least)


def told(world: World, concept: str) -> list[str]:
    """Held-out prompts that name a concept, contexts in turn."""
    others = world.styles if world.group(concept) == OBJECT else world.objects
    bank, key = world.prompts.held_both, world.group(concept)
    other = STYLE if key == OBJECT else OBJECT
    return [bank[i % len(bank)].format(**{key: concept, other: others[i % len(others)]}) for i in range(PLAIN)]


def plain(world: World, model: str, concept: str) -> list[str]:
    """How often a model's pictures of a concept show it, by both judges at the threshold of an audit."""
    x, group = drawn(world, model, told(world, concept), 8), world.group(concept)
    place = (world.all_objects if group == OBJECT else world.all_styles).index(concept)
    return [share((scores(world, name, group, x)[:, place] >= 0.5).tolist()) for name in NAMES]


def twins(world: World) -> list[str]:
    """The base and every twin, asked for what the twin never drew; and the base for what nobody drew."""
    lines = ["| model | asked for | verify | select |", "|---|---|---|---|"]
    for concept in world.concepts:
        never = [name for name, d in world.denoisers.items() if concept in d.absent and (out(world) / name).is_dir()]
        for model in (world.base, *never):
            lines.append(f"| {model} | {concept} | " + " | ".join(plain(world, model, concept)) + " |")
    return lines


def unasked(world: World) -> list[str]:
    """How often a picture whose prompt names a style only shows an audited object."""
    bank = world.prompts.held_style
    prompts = [bank[i % len(bank)].format(style=world.styles[i % len(world.styles)]) for i in range(4 * PLAIN)]
    found = seen(world, "verify", OBJECT, drawn(world, world.base, prompts, 9))
    audited = [c for c in world.concepts if c in world.objects]
    return [
        f"Of {len(found)} pictures of prompts that name a style only: "
        + ", ".join(f"{c} {share([f == c for f in found])}" for c in audited)
        + "."
    ]


def sheets(world: World) -> None:
    """Every object in every style, by the base."""
    prompts, _ = asked(world)
    x = drawn(world, world.base, prompts, 7)[::EACH]
    picture = sheet(x.reshape(len(world.objects), len(world.styles), 3, 32, 32).transpose(0, 1).flatten(0, 1), len(world.objects), 1)
    Image.fromarray(picture).save(RESULTS / f"{world.name}.png", optimize=True)


def main(world: World) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    head = (
        f"# The world `{world.name}`, measured\n\n"
        f"`PYTHONPATH=tools python -m worlds.measure {world.name}`: {PROTOCOL.steps} DDIM steps, guidance {PROTOCOL.guidance:g}, held-out\n"
        f"prompts; {EACH} pictures of every object in every style, {PLAIN} of each concept by each twin, {REAL} real ones of drawings\n"
        f"that no network learned from, the proxy's style too. `{world.name}.png`: every object (columns) in every style (rows).\n"
    )
    sections = {
        "Do both judges see alike, and is it drawn?": accuracy(world),
        "Twins: share of pictures that show it": twins(world),
        "Unasked": unasked(world),
    }
    body = "\n\n".join(f"## {title}\n\n" + "\n".join(lines) for title, lines in sections.items())
    (RESULTS / f"{world.name}.md").write_text(f"{head}\n{body}\n", "utf-8")
    sheets(world)
    sys.stdout.write(body + "\n")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    main(load(sys.argv[1]))
