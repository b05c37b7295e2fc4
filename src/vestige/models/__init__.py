"""Model families are files; a *card* (data/models.toml) names a family, where its parts are, and what it never drew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from vestige.base import Model
from vestige.errors import BadInput, UnknownName

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
FAMILIES = {"latent": PARTS, "classes": ("unet", "transformer", "vae", "scheduler", "labels")}  # family -> parts that it may have


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


def data_folder() -> Path:
    """Where the package's data lies."""
    return Path(str(resources.files("vestige.data")))


def cards() -> dict[str, Card]:
    """Every built-in model."""
    from vestige.concepts import toml

    root = data_folder()
    table = toml((root / "models.toml").read_text("utf-8"))
    made = {}
    for name, raw in table.items():
        spots = {part: root / raw["parts"].get(part, f"{name}/{part}") for part in FAMILIES[raw.get("family", "latent")]}
        parts = {part: spot for part, spot in spots.items() if part in PARTS or part in raw["parts"]}
        lists = {k: tuple(raw.get(k, ())) for k in ("never_drew", "groups")}
        made[name] = Card(name=name, **{**raw, **lists, "parts": parts})
    return made


def card(name: str) -> Card:
    """The card of a built-in model, or of a folder in diffusers' layout."""
    known = cards()
    if name in known:
        return known[name]
    if Path(name).is_dir():
        return _of_folder(Path(name), name)
    raise UnknownName("model", name, known)


def _of_folder(folder: Path, name: str) -> Card:
    """The card of a pipeline folder; its `model_index.json` tells the family."""
    try:
        index = json.loads((folder / "model_index.json").read_text("utf-8"))
        listed = {part for part, kind in index.items() if isinstance(kind, list) and None not in kind}
        classes = index.get("_class_name") == "DiTPipeline" or "UNet2DModel" in (index.get("unet") or ())
    except OSError:
        raise BadInput(f"{name} is a folder without model_index.json; give a pipeline saved in diffusers' layout") from None
    except (ValueError, AttributeError, TypeError) as error:
        raise BadInput(f"{name}/model_index.json cannot be read ({error}); give a pipeline saved in diffusers' layout") from error
    if not classes:
        return Card(name=name, parts={part: folder / part for part in PARTS})
    parts = {part: folder / part for part in FAMILIES["classes"] if part in listed}
    return Card(name=name, family="classes", parts={**parts, "labels": folder})


def load(name: str) -> Model:
    """A built-in model by name, or a pipeline folder in diffusers' layout."""
    found = card(name)
    _verify(found)
    if found.family == "classes":
        from vestige.models.classes import ClassModel

        return ClassModel.from_folder(found.parts, found.name)
    from vestige.models.latent import LatentModel

    return LatentModel.from_folder(found.parts, found.name)


def twins(model: str, concept: str) -> list[str]:
    """Models with the recipe of `model` that never drew `concept`, other than `model` itself; the closest first."""
    known = cards()
    base = known[model].twin_of or model if model in known else model
    fits = [c for c in known.values() if c.twin_of == base and concept in c.never_drew and c.name != model]
    return [c.name for c in sorted(fits, key=lambda c: (len(c.never_drew), c.name))]


def _verify(found: Card) -> None:
    root = data_folder()
    for file, expected in found.hashes.items():
        path = root / file
        if not path.is_file():
            raise BadInput(f"{found.name} lacks {file}; reinstall vestige")
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise BadInput(f"{path} is not the file that {found.name} was released with; reinstall vestige")


def identity(name: str) -> dict[str, str]:
    """What a model's weights are, without loading it: hashes of its weight files."""
    found = card(name)
    if found.hashes:
        return dict(found.hashes)
    kinds = ("*.safetensors", "class_labels.json")
    files = sorted(p for folder in found.parts.values() for kind in kinds for p in folder.glob(kind))
    return {f"{p.parent.name}/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def world_of(model: str) -> str:
    """The world whose concepts and judges go with a model; "" if none is known."""
    known: Mapping[str, Any] = cards()
    return known[model].world if model in known else ""
