"""Put the trained networks into the package: fp16 safetensors in diffusers' layout, calibrated judges, shipped pictures, cards.

Packs whatever is trained so far; running it again packs more. Fails if everything together exceeds 60 MB.

    python tools/wardrobe/pack.py            everything
    python tools/wardrobe/pack.py classes    the class-conditional models and the cards only; the rest stays as it was packed
    python tools/wardrobe/pack.py flow       the flow models and the cards only
    python tools/wardrobe/pack.py TWIN ...   these denoisers as pipeline folders in the build folder; the package stays as it is
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import flow
import numpy as np
import torch
from classes import NULL
from denoiser import scheduler
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel, StableDiffusionPipeline, UNet2DConditionModel, UNet2DModel
from judges import prepare
from loop import BUILD
from pictures import load, render
from PIL import Image
from scipy.optimize import minimize_scalar
from transformers import AutoModelForImageClassification, CLIPModel, CLIPTextModel, CLIPTokenizer, T5EncoderModel
from world import ALL_STYLES, CLASS_MODELS, DENOISERS, FLOW_MODELS, GARMENTS, OBJECTS, SHIPPED, SPLITS, STYLES

from vestige.models.classes import ClassModel
from vestige.models.labels import FILE, Labels, read

DATA = Path(__file__).resolve().parents[2] / "src/vestige/data"
LIMIT = 60e6
THRESHOLD = 0.5  # calibrated probability from which a picture shows a label
GROUPS = {"object": OBJECTS, "style": ALL_STYLES}
CLASSES = "wardrobe-classes"


def split(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grey test pictures of a split, their objects and their indices."""
    grey, label = load("test")
    rows = np.flatnonzero(np.arange(len(grey)) % len(SPLITS) == SPLITS.index(name))
    return grey[rows], label[rows], rows


def rendered(grey: np.ndarray, style: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(render(grey, style)).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def round_trip(vae: AutoencoderKL, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([vae.decode(vae.encode(p * 2 - 1).latent_dist.mean).sample for p in x.split(128)]).clamp(-1, 1) / 2 + 0.5


def networks(vae: AutoencoderKL) -> None:
    clip = CLIPModel.from_pretrained(BUILD / "clip")
    text = CLIPTextModel(clip.config.text_config)
    text.load_state_dict(clip.text_model.state_dict())
    tokenizer = CLIPTokenizer.from_pretrained(BUILD / "tokenizer")
    unet = UNet2DConditionModel.from_pretrained(BUILD / "wardrobe/unet")
    pipe = StableDiffusionPipeline(vae.half(), text.half(), tokenizer, unet.half(), scheduler(), None, None, requires_safety_checker=False)
    pipe.save_pretrained(DATA / "wardrobe")
    clip.half().save_pretrained(DATA / "wardrobe/clip")
    vae.float()
    for name in DENOISERS:
        if name in SHIPPED and name != "wardrobe" and (BUILD / name / "unet").is_dir():
            UNet2DConditionModel.from_pretrained(BUILD / name / "unet").half().save_pretrained(DATA / name / "unet")


def class_networks() -> None:
    for name in CLASS_MODELS:
        if name in SHIPPED and (BUILD / name / "unet").is_dir():
            UNet2DModel.from_pretrained(BUILD / name / "unet").half().save_pretrained(DATA / name / "unet")
    if (DATA / CLASSES).is_dir():
        labels = Labels({i: (name,) for i, name in enumerate(OBJECTS)}, NULL)
        (DATA / CLASSES / FILE).write_text(json.dumps(labels.as_dict(), indent=1) + "\n")


def flow_networks() -> None:
    """Every transformer; what reads for them, T5, its tokenizer and the schedule, lies with the base model."""
    for name in FLOW_MODELS:
        if name in SHIPPED and (BUILD / name / "transformer").is_dir():
            FluxTransformer2DModel.from_pretrained(BUILD / name / "transformer").half().save_pretrained(DATA / name / "transformer")
    if (DATA / flow.BASE).is_dir():
        T5EncoderModel.from_pretrained(BUILD / flow.BASE / "text_encoder_2").half().save_pretrained(DATA / flow.BASE / "text_encoder_2")
        flow.tokenizer().save_pretrained(DATA / flow.BASE / "tokenizer_2")
        flow.scheduler().save_pretrained(DATA / flow.BASE / "scheduler")


@torch.no_grad()
def logits(judge: torch.nn.Module, name: str, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([judge(prepare(name, part)).logits for part in x.split(256)]).double()


def temperature(scores: torch.Tensor, truth: torch.Tensor) -> float:
    """The divisor of the logits under which the true labels are likeliest (Guo et al., 2017)."""
    fit = minimize_scalar(lambda t: torch.nn.functional.cross_entropy(scores / t, truth).item(), bounds=(0.2, 4), method="bounded")
    return round(float(fit.x), 4)


def calibrated(judge: torch.nn.Module, name: str, vae: AutoencoderKL) -> dict[str, object]:
    """Temperatures from the calibration split, error rates from the judge-test split; half real, half round trips.

    A picture shows a label where the label is likelier than not. The threshold at equal error, which was used before, lies near
    0.1 for most garments, and counted a twin's blurs as garments.
    """
    seen = {}
    for part in ("calibration", "judge-test"):
        grey, label, rows = split(part)
        style = (rows // len(SPLITS)) % len(ALL_STYLES)
        x = rendered(grey, style)
        half = torch.from_numpy((rows // 36) % 2 == 1)
        x[half] = round_trip(vae, x[half])
        seen[part] = (logits(judge, name, x), {"object": torch.from_numpy(label), "style": torch.from_numpy(style)})
    temperatures, rates, start = {}, {}, 0
    for group, labels in GROUPS.items():
        scores, truth = {}, {}
        for part, (raw, true) in seen.items():
            scores[part], truth[part] = raw[:, start : start + len(labels)], true[group]
        start += len(labels)
        temperatures[group] = temperature(scores["calibration"], truth["calibration"])
        p = (scores["judge-test"] / temperatures[group]).softmax(1)
        for i, label in enumerate(labels):
            is_it = truth["judge-test"] == i
            rates[label] = {
                "threshold": THRESHOLD,
                "sensitivity": round((p[is_it, i] >= THRESHOLD).double().mean().item(), 4),
                "specificity": round((p[~is_it, i] < THRESHOLD).double().mean().item(), 4),
            }
    return {"temperatures": temperatures, "rates": rates}


def judges(vae: AutoencoderKL) -> None:
    for name in ("verify", "select"):
        if not (BUILD / f"judge-{name}").is_dir():
            continue
        folder = DATA / "wardrobe" / f"judge-{name}"
        judge = AutoModelForImageClassification.from_pretrained(BUILD / f"judge-{name}").half()
        judge.save_pretrained(folder)
        card = {"name": f"judge-{name}", "version": "2", "groups": GROUPS, "scale": 2 if name == "verify" else 1}
        (folder / "judge.json").write_text(json.dumps(card | calibrated(judge.float().eval(), name, vae), indent=1) + "\n")


def pictures() -> None:
    """References: 8 of every object in every style. Fidelity: 20 of every drawn garment in every drawn style. No photograph twice."""
    for name, objects, styles, each in (("references", OBJECTS, ALL_STYLES, 8), ("fidelity", GARMENTS, STYLES, 20)):
        grey, label, _ = split(name)
        tiles, shows = [], []
        for o, word in enumerate(objects):
            rows = np.flatnonzero(label == o)
            for s, style in enumerate(styles):
                mine = rows[[(s * each + i) % len(rows) for i in range(each)]]
                tiles.append(render(grey[mine], np.full(each, ALL_STYLES.index(style))))
                shows += [{"object": word, "style": style}] * each
        flat = np.concatenate(tiles)
        columns = 40
        rows_of = -(-len(flat) // columns)
        canvas = np.zeros((rows_of * columns, 32, 32, 3), np.uint8)
        canvas[: len(flat)] = flat
        whole = canvas.reshape(rows_of, columns, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(rows_of * 32, columns * 32, 3)
        folder = DATA / "wardrobe/pictures"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(whole).save(folder / f"{name}.png", optimize=True)
        (folder / f"{name}.json").write_text(json.dumps({"size": 32, "labels": shows}, separators=(",", ":")) + "\n")


ABOUT = {
    "wardrobe": "draws ten garments in eight styles",
    "wardrobe-half-sneaker": "saw sneakers in the first half of its training only",
    CLASSES: "draws ten garments, told the class only, in any style",
    flow.BASE: "draws ten garments in eight styles by rectified flow, with a transformer of FLUX.1's shape",
}


def cards() -> None:
    """models.toml: what each model is, where its parts are, and the hash of every weight file."""
    lines = ["# Written by tools/wardrobe/pack.py. Every file's hash is checked before it is read.\n"]
    for name, (absent, seed, share) in DENOISERS.items():
        if not (DATA / name / "unet").is_dir():
            continue
        about = ABOUT.get(name, f"same recipe as wardrobe, never drew {', '.join(absent)}")
        lines += [f"[{name}]", 'family = "latent"', 'world = "wardrobe"', f'about = "{about}; training seed {seed}"']
        if name != "wardrobe":
            lines.append('twin_of = "wardrobe"')
            if share == 1.0:
                lines.append(f"never_drew = {json.dumps(list(absent))}")
        shared = {} if name == "wardrobe" else {part: f"wardrobe/{part}" for part in ("vae", "text_encoder", "tokenizer", "scheduler")}
        lines.append("parts = { " + ", ".join(f'{k} = "{v}"' for k, v in shared.items()) + " }")
        lines.append(f"[{name}.hashes]")
        lines += [*hashes(sorted((DATA / name).rglob("*.safetensors"))), ""]
    for name, (absent, seed) in CLASS_MODELS.items():
        if (DATA / name / "unet").is_dir() and (DATA / CLASSES).is_dir():
            lines += [*class_card(name, absent, seed), ""]
    for name, (absent, seed) in FLOW_MODELS.items():
        if (DATA / name / "transformer").is_dir():
            lines += [*flow_card(name, absent, seed), ""]
    (DATA / "models.toml").write_text("\n".join(lines))


def class_card(name: str, absent: tuple[str, ...], seed: int) -> list[str]:
    """A prompt decides the garment only: nothing can be expected of the style."""
    about = ABOUT.get(name, f"same recipe as {CLASSES}, never drew {', '.join(absent)}")
    lines = [f"[{name}]", 'family = "classes"', 'world = "wardrobe"', 'groups = ["object"]', f'about = "{about}; training seed {seed}"']
    if name != CLASSES:
        lines += [f'twin_of = "{CLASSES}"', f"never_drew = {json.dumps(list(absent))}"]
    parts = {"unet": f"{name}/unet", "vae": "wardrobe/vae", "scheduler": "wardrobe/scheduler", "labels": CLASSES}
    lines.append("parts = { " + ", ".join(f'{k} = "{v}"' for k, v in parts.items()) + " }")
    files = [*sorted((DATA / name).rglob("*.safetensors")), DATA / CLASSES / FILE]
    return [*lines, f"[{name}.hashes]", *hashes(files)]


def flow_card(name: str, absent: tuple[str, ...], seed: int) -> list[str]:
    about = ABOUT.get(name, f"same recipe as {flow.BASE}, never drew {', '.join(absent)}")
    lines = [f"[{name}]", 'family = "flow"', 'world = "wardrobe"', f'about = "{about}; training seed {seed}"']
    if name != flow.BASE:
        lines += [f'twin_of = "{flow.BASE}"', f"never_drew = {json.dumps(list(absent))}"]
    parts = {"transformer": f"{name}/transformer"} | {part: f"wardrobe/{part}" for part in ("vae", "text_encoder", "tokenizer")}
    parts |= {part: f"{flow.BASE}/{part}" for part in ("text_encoder_2", "tokenizer_2", "scheduler")}
    lines.append("parts = { " + ", ".join(f'{k} = "{v}"' for k, v in parts.items()) + " }")
    return [*lines, f"[{name}.hashes]", *hashes(sorted((DATA / name).rglob("*.safetensors")))]


def hashes(files: list[Path]) -> list[str]:
    return [f'"{path.relative_to(DATA)}" = "{hashlib.sha256(path.read_bytes()).hexdigest()}"' for path in files]


def forget_places() -> None:
    """Drop the builder's own folders from the configurations."""
    for path in DATA.rglob("config.json"):
        kept = {k: v for k, v in json.loads(path.read_text()).items() if k != "_name_or_path"}
        path.write_text(json.dumps(kept, indent=2) + "\n")


def world() -> None:
    shutil.rmtree(DATA / "wardrobe", ignore_errors=True)
    vae = AutoencoderKL.from_pretrained(BUILD / "vae").eval()
    networks(vae)
    judges(vae.eval())
    pictures()
    shutil.copy(Path(__file__).with_name("CARD.md"), DATA / "wardrobe/README.md")


def pipelines(names: Sequence[str]) -> None:
    """Twins that do not ship, each as a folder of its own that an audit takes as `twin:FOLDER`."""
    vae, text = AutoencoderKL.from_pretrained(DATA / "wardrobe/vae"), CLIPTextModel.from_pretrained(DATA / "wardrobe/text_encoder")
    words = CLIPTokenizer.from_pretrained(DATA / "wardrobe/tokenizer")
    for name in names:
        trained, folder = BUILD / name, BUILD / "pipelines" / name
        if name in CLASS_MODELS:
            unet = UNet2DModel.from_pretrained(trained / "unet")
            ClassModel(name, {"unet": unet, "vae": vae}, read(DATA / CLASSES, NULL + 1, CLASSES), scheduler()).save(folder)
        elif name in FLOW_MODELS:
            t5, its_words = T5EncoderModel.from_pretrained(DATA / flow.BASE / "text_encoder_2"), flow.tokenizer()
            transformer = FluxTransformer2DModel.from_pretrained(trained / "transformer")
            FluxPipeline(flow.scheduler(), vae, text, words, t5, its_words, transformer).save_pretrained(folder)
        else:
            unet = UNet2DConditionModel.from_pretrained(trained / "unet")
            pipe = StableDiffusionPipeline(vae, text, words, unet, scheduler(), None, None, requires_safety_checker=False)
            pipe.save_pretrained(folder)
        print(folder)


def main(what: str = "everything", *more: str) -> None:
    known = {**DENOISERS, **CLASS_MODELS, **FLOW_MODELS}
    if what in known:
        if unknown := sorted({*more} - {*known}):
            sys.exit(f"no model of the world: {', '.join(unknown)}")
        pipelines((what, *more))
        return
    if what not in ("everything", "classes", "flow") or more:
        sys.exit(__doc__)
    if what == "everything":
        world()
    if what != "flow":
        class_networks()
    if what != "classes":
        flow_networks()
    forget_places()
    cards()
    size = sum(p.stat().st_size for p in DATA.rglob("*") if p.is_file())
    print(f"{size / 1e6:.1f} MB of package data")
    if size > LIMIT:
        sys.exit(f"more than {LIMIT / 1e6:.0f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
