"""Model families are files; a *card* (data/models.toml) names a family, where its parts are, and what it never drew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vestige import data, files
from vestige.errors import BadInput, UnknownName
from vestige.models import labels, sources

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
READERS = tuple(f"{kind}{number}" for kind in ("text_encoder", "tokenizer") for number in ("", "_2", "_3"))
FAMILIES = {  # family -> parts that it may have
    "latent": PARTS,
    "classes": ("unet", "transformer", "vae", "scheduler", "labels"),
    "flow": ("transformer", "vae", "scheduler", *READERS),
}

IDENTITY = "2"  # what `identity` and fingerprints tell of models that do not ship; the first knew *.safetensors and noise levels alone


@dataclass(frozen=True)
class Card:
    """What is known of a model before it is loaded.

    Arguments:
        family: File in `models/` that loads it.
        parts: Component -> folder.
        hashes: File, relative to the data folder -> SHA-256; a file that differs is refused.
        world: Concept table and judges that go with it.
        twin_of: The model with the same recipe that drew everything.
        never_drew: Concepts whose pictures and prompts its denoiser never saw.
        file: A single file with all weights, of which `config` is the folder that describes it; or None.
        blank: The empty prompt is all zeros (SDXL), see `LatentModel`.
        distilled: Guidance is built in, see `FlowModel`; None lets the files tell.
        groups: The judge's groups of labels that a prompt decides; of others, e.g. the style where only the garment is told, nothing
            can be expected. Empty where it decides all.
    """

    name: str
    family: str = "latent"
    parts: Mapping[str, Path] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    world: str = ""
    twin_of: str = ""
    never_drew: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    about: str = ""
    file: Path | None = None
    config: Path | None = None
    blank: bool = False
    distilled: bool | None = None


def cards() -> dict[str, Card]:
    """Every built-in model."""
    root, made = data.folder(), {}
    for name, raw in data.shipped_table("models").items():
        spots = {part: root / raw["parts"].get(part, f"{name}/{part}") for part in FAMILIES[raw.get("family", "latent")]}
        parts = {part: spot for part, spot in spots.items() if part in PARTS or part in raw["parts"]}
        lists = {k: tuple(raw.get(k, ())) for k in ("never_drew", "groups")}
        made[name] = Card(name=name, **{**raw, **lists, "parts": parts})
    return made


def card(name: str) -> Card:
    """The card of a model.

    Arguments:
        name: A built-in model; a pipeline folder in diffusers' layout; FILE@FOLDER, a single file with all weights and a pipeline
            folder that describes it; or owner/name[@revision] on the hub.
    """
    known = cards()
    if name in known:
        return known[name]
    if Path(name).is_dir():
        return _of_folder(Path(name), name)
    file, config = _parted(name)
    if file is not None:
        if not config:
            raise BadInput(f"{file} is a single file; say what it is with --config FOLDER (or FILE@FOLDER), a pipeline folder like it")
        described = _of_folder(Path(config), config)
        return Card(name=name, family=described.family, file=file, config=Path(config))
    if sources.HUB.fullmatch(name):
        return _of_folder(sources.fetched(name), name)
    if "/" in name or "\\" in name or Path(name).suffix in (".safetensors", ".ckpt", ".pt", ".pth", ".bin"):
        raise BadInput(f"there is no folder or file at {name}; give a pipeline folder, or a single file with --config FOLDER")
    raise UnknownName("model", name, known, more=f"; nor is there a folder or a file at {name}")


def _parted(name: str) -> tuple[Path | None, str]:
    """The file and the folder of FILE@FOLDER, either of which may have an @ of its own; the file is None where there is none."""
    if Path(name).is_file():
        return Path(name), ""
    splits = [(Path(name[:i]), name[i + 1 :]) for i, letter in enumerate(name) if letter == "@"]
    fits = [(file, config) for file, config in reversed(splits) if file.is_file()]
    return next(((file, config) for file, config in fits if Path(config).is_dir()), fits[0] if fits else (None, ""))


def _of_folder(folder: Path, name: str) -> Card:
    """The card of a pipeline folder; its `model_index.json` tells the family."""
    index = sources.index(folder)
    listed = sources.listed(index)
    if index.get("_class_name") == "DiTPipeline" or "UNet2DModel" in sources.kind(index, "unet"):
        parts = {part: folder / part for part in FAMILIES["classes"] if part in listed}
        return Card(name=name, family="classes", parts={**parts, "labels": folder})
    if "transformer" in listed:  # whether its kind is supported, the family knows
        parts = {part: folder / part for part in FAMILIES["flow"] if part in listed}
        return Card(name=name, family="flow", parts=parts, distilled=index.get("is_distilled"))
    if "text_encoder_2" in listed and "text_encoder" not in listed:
        raise BadInput(f"{name} has a second text encoder and no first: a refiner? give the base model")
    more = tuple(part for part in ("text_encoder_2", "tokenizer_2") if part in listed)
    blank = bool(more) and bool(index.get("force_zeros_for_empty_prompt", True))
    return Card(name=name, parts={part: folder / part for part in (*PARTS, *more)}, blank=blank)


def twins(model: str, concept: str) -> list[str]:
    """Models with the recipe of `model` that never drew `concept`, other than `model` itself; the closest first."""
    known = cards()
    base = known[model].twin_of or model if model in known else model
    fits = [c for c in known.values() if c.twin_of == base and concept in c.never_drew and c.name != model]
    return [c.name for c in sorted(fits, key=lambda c: (len(c.never_drew), c.name))]


def identity(name: str) -> dict[str, str]:
    """What a model is read from, without loading it: hashes of its files; of a built-in model, the released ones.

    Of a folder every file counts that lies in a component's folder, whatever its kind, and what is read beside them; of a single file,
    also all of the folder that describes it but weights.
    """
    found = card(name)
    if found.hashes:
        return dict(found.hashes)
    if found.file is not None and found.config is not None:
        parts = {part: found.config / part for part in sources.COMPONENTS}
        told = {spot: file for spot, file in _files(parts, found.config).items() if not file.name.endswith(sources.WEIGHTS)}
        return {found.file.name: files.digest(found.file), **{spot: files.digest(file) for spot, file in told.items()}}
    whole = {part: folder for part, folder in found.parts.items() if part != "labels"}
    beside = next((part.parent for part in found.parts.values()), None)
    return {} if beside is None else {spot: files.digest(file) for spot, file in _files(whole, beside).items()}


def identified(name: str) -> dict[str, Any]:
    """What specs say of a model's content; and by which identity, where that is not a released model's own."""
    return {"model_content": identity(name), **({} if card(name).hashes else {"identity": IDENTITY})}


def _files(parts: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Every file that components may be read from, and those that describe a pipeline, by their places."""
    beside = {file: folder / file for file in (sources.INDEX, labels.FILE) if (folder / file).is_file()}
    inside = {f"{part}/{f.relative_to(spot).as_posix()}": f for part, spot in parts.items() for f in spot.rglob("*") if f.is_file()}
    return {**beside, **{spot: f for spot, f in sorted(inside.items()) if not f.name.startswith(".")}}


def world_of(model: str) -> str:
    """The world whose concepts and judges go with a model; "" if none is known."""
    known: Mapping[str, Any] = cards()
    return known[model].world if model in known else ""
