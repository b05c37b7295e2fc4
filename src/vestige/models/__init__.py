"""Model families are files; a *card* (data/models.toml) names a family, where its parts are, and what it never drew."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from vestige.base import Model
from vestige.errors import BadInput, UnknownName

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


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
    """

    name: str
    family: str = "latent"
    parts: Mapping[str, Path] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    world: str = ""
    twin_of: str = ""
    never_drew: tuple[str, ...] = ()
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
        parts = {part: root / raw["parts"].get(part, f"{name}/{part}") for part in PARTS}
        rest = {k: v for k, v in raw.items() if k != "parts"}
        made[name] = Card(name=name, **{**rest, "parts": parts, "never_drew": tuple(raw.get("never_drew", ()))})
    return made


def card(name: str) -> Card:
    """The card of a built-in model, or of a folder in diffusers' layout."""
    known = cards()
    if name in known:
        return known[name]
    if Path(name).is_dir():
        if not (Path(name) / "model_index.json").is_file():
            raise BadInput(f"{name} is a folder without model_index.json; give a pipeline saved in diffusers' layout")
        return Card(name=name, parts={part: Path(name) / part for part in PARTS})
    raise UnknownName("model", name, known)


def load(name: str) -> Model:
    """A built-in model by name, or a pipeline folder in diffusers' layout."""
    from vestige.models.latent import LatentModel

    found = card(name)
    _verify(found)
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
    files = sorted(p for folder in found.parts.values() for p in folder.glob("*.safetensors"))
    return {f"{p.parent.name}/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def world_of(model: str) -> str:
    """The world whose concepts and judges go with a model; "" if none is known."""
    known: Mapping[str, Any] = cards()
    return known[model].world if model in known else ""
