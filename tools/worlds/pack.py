"""Write a world as its users take it: pipeline folders, concept files, judges, reference pictures, and a card.

Packs whatever is trained so far; running it again packs more.

    python -m worlds.pack WORLD     into WORLDS_BUILD/WORLD/world
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from scipy.optimize import minimize_scalar
from torch.nn import functional as F
from transformers import AutoModelForImageClassification, CLIPTextModel, CLIPTokenizer

from worlds import autoencoder, judges
from worlds.denoiser import scheduler
from worlds.loop import generator
from worlds.pictures import Pictures
from worlds.world import OBJECT, STYLE, World, load

HERE = Path(__file__).resolve().parent
REFERENCES = 48
CALIBRATION = 1536


def out(world: World) -> Path:
    return world.build / "world"


def pipelines(world: World) -> list[str]:
    """A folder for every trained denoiser, whole, as `--model` and `--control twin:` take it; their names."""
    vae = AutoencoderKL.from_pretrained(world.build / "vae")
    text = CLIPTextModel.from_pretrained(world.build / "text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(world.build / "tokenizer")
    trained = [name for name in world.denoisers if (world.build / name / "unet").is_dir()]
    for name in trained:
        unet = UNet2DConditionModel.from_pretrained(world.build / name / "unet")
        pipe = StableDiffusionPipeline(vae, text, tokenizer, unet, scheduler(), None, None, requires_safety_checker=False)
        pipe.save_pretrained(out(world) / name)
    for path in out(world).rglob("config.json"):  # drop the builder's own folders
        kept = {k: v for k, v in json.loads(path.read_text("utf-8")).items() if k != "_name_or_path"}
        path.write_text(json.dumps(kept, indent=2) + "\n", "utf-8")
    return trained


def temperature(scores: torch.Tensor, truth: torch.Tensor) -> float:
    """The divisor of the logits under which the true labels are likeliest (Guo et al., 2017)."""
    fit = minimize_scalar(lambda t: F.cross_entropy(scores / t, truth).item(), bounds=(0.2, 4), method="bounded")
    return round(float(fit.x), 4)


@torch.no_grad()
def calibrated(world: World, name: str, judge: torch.nn.Module, seed: int = 90) -> dict[str, float]:
    """A temperature for each group, on drawings that no network learned from; every second picture is a round trip."""
    x, shown, style = Pictures.of(world, held=True, part="test").sample(CALIBRATION, generator(seed, 0))
    x[::2] = autoencoder.round_trip(autoencoder.read(world), x[::2])
    logits = torch.cat([judge(judges.prepare(name, part)).logits for part in x.split(256)]).double()
    count = len(world.all_objects)
    return {OBJECT: temperature(logits[:, :count], shown), STYLE: temperature(logits[:, count:], style)}


def write_judges(world: World) -> None:
    folder = out(world) / "judges"
    for name in judges.NAMES:
        judge = AutoModelForImageClassification.from_pretrained(world.build / f"judge-{name}").eval()
        judge.save_pretrained(folder / f"judge-{name}")
        card = {
            "name": f"{world.name}-judge-{name}",
            "version": "1",
            "groups": {OBJECT: world.all_objects, STYLE: world.all_styles},
            "scale": 2 if name == "verify" else 1,
            "temperatures": calibrated(world, name, judge),
        }
        (folder / f"judge-{name}/judge.json").write_text(json.dumps(card, indent=1) + "\n", "utf-8")
    shutil.copy(HERE / "looks.py", folder / "looks.py")


def references(world: World, concept: str) -> None:
    """Pictures of a concept from held-out drawings, drawings and styles (of a style: objects) in turn, with captions."""
    folder, rng = out(world) / "references" / concept, generator(91, 0)
    folder.mkdir(parents=True, exist_ok=True)
    held = Pictures.of(world, held=True, part="references", proxy=concept == world.proxy)
    if world.group(concept) == STYLE:
        rows = torch.stack([_turn(held, i % len(world.objects), i // len(world.objects)) for i in range(REFERENCES)])
        style = torch.full((REFERENCES,), world.all_styles.index(concept))
    else:
        rows = torch.stack([_turn(held, world.all_objects.index(concept), i) for i in range(REFERENCES)])
        style = torch.arange(REFERENCES) % len(world.styles)
    lines = []
    for i, picture in enumerate(held.drawn(rows, style, rng)):
        Image.fromarray((picture.permute(1, 2, 0) * 255).round().byte().numpy()).save(folder / f"{i:03d}.png")
        words = {"object": world.all_objects[held.label[rows[i]]], "style": world.all_styles[style[i]]}
        lines.append(json.dumps({"file_name": f"{i:03d}.png", "text": world.prompts.both[i % len(world.prompts.both)].format(**words)}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


def _turn(held: Pictures, shown: int, turn: int) -> torch.Tensor:
    """The row of an object's drawing whose turn it is."""
    rows = torch.nonzero(held.label == shown).flatten()
    return rows[turn % len(rows)]


def concept_file(world: World, concept: str) -> str:
    """A concept as TOML: its prompts with `{concept}` for itself and `{context}` for the other group."""
    group = world.group(concept)
    members, contexts = (world.objects, world.styles) if group == OBJECT else (world.styles, world.objects)
    near, said = world.concepts[concept], world.prompts
    alone, held_alone, other = (
        (said.object, said.held_object, said.held_style) if group == OBJECT else (said.style, said.held_style, said.held_object)
    )
    fill = {"object": "{concept}", "style": "{context}"} if group == OBJECT else {"object": "{context}", "style": "{concept}"}
    suffix = "" if group == OBJECT else "_style"
    unrelated = [m for m in members if m not in near.neighbours and m != concept]
    indirect = [t.format(**{STYLE if group == OBJECT else OBJECT: context}) for t in other for context in contexts]
    fields = {
        "name": concept,
        "kind": group,
        "group": group,
        "anchor": near.anchor,
        "neighbours": list(near.neighbours),
        "unrelated": unrelated,
        "contexts": list(contexts),
        "templates": [t.format(**fill) for t in (*said.both, *alone[:2])],
        "held_out": [t.format(**fill) for t in (*said.held_both, *held_alone[:1])],
        "indirect": indirect,
        "source": f"{world.name}-prompts-1",
        "detector": f"../judges/looks.py:verify{suffix}",
        "selector": f"../judges/looks.py:select{suffix}",
        "pictures": f"../references/{concept}",
    }
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return "\n".join([f"# Written by tools/worlds/pack.py for the world {world.name}.", *lines]) + "\n"


def main(world: World) -> None:
    trained = pipelines(world)
    if all((world.build / f"judge-{name}").is_dir() for name in judges.NAMES):
        write_judges(world)
    (out(world) / "concepts").mkdir(exist_ok=True)
    for concept in world.concepts:
        references(world, concept)
        (out(world) / f"concepts/{concept}.toml").write_text(concept_file(world, concept), "utf-8")
    card = HERE / f"{world.name}.md"
    if card.exists():
        shutil.copy(card, out(world) / "README.md")
    print("packed", *trained, "into", out(world))


if __name__ == "__main__":
    main(load(sys.argv[1]))
