"""Model families are files; a *card* (data/models.toml) names a family, where its parts are, and what it never drew."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, cast

from vestige.diffusion import Model
from vestige.errors import BadInput, BadSetting, UnknownName
from vestige.models import sources

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
DTYPES, DEVICES = ("float32", "bfloat16", "float16"), ("auto", "cpu", "cuda", "mps")
READERS = tuple(f"{kind}{number}" for kind in ("text_encoder", "tokenizer") for number in ("", "_2", "_3"))
FAMILIES = {  # family -> parts that it may have
    "latent": PARTS,
    "classes": ("unet", "transformer", "vae", "scheduler", "labels"),
    "flow": ("transformer", "vae", "scheduler", *READERS),
}


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


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a model works, in which precision, and what it saves memory by.

    Arguments:
        device: "cpu", "cuda", "cuda:1", "mps", or "auto": the fastest there is.
        dtype: "float32", "bfloat16" or "float16", of the weights.
        offload: Everything but the denoiser stays on the CPU while it has nothing to do.
        checkpointing: Activations are computed again in the backward pass instead of being kept.
        slicing: Attention is computed head by head.
    """

    device: str = "auto"
    dtype: str = "float32"
    offload: bool = False
    checkpointing: bool = False
    slicing: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise BadSetting(f"dtype is one of {', '.join(DTYPES)}; given {self.dtype!r}")
        if self.device.partition(":")[0] not in DEVICES:
            raise BadSetting(f"device is auto, cpu, cuda, cuda:N or mps; given {self.device!r}")

    def as_dict(self) -> dict[str, str]:
        """What of it changes numbers, plain data; empty for what is usual."""
        return {} if self.dtype == "float32" else {"dtype": self.dtype}

    @property
    def resolved(self) -> str:
        """The device, "auto" resolved; one that is not there is an error. Of several processes, each has a GPU of its own."""
        import torch

        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        kind = self.device.partition(":")[0]
        if kind == "auto":
            kind = next(device for device, found in there.items() if found)
            return f"cuda:{os.environ['LOCAL_RANK']}" if kind == "cuda" and "LOCAL_RANK" in os.environ else kind
        if not there[kind]:
            raise BadSetting(f"there is no {self.device} on this machine; choose {' or '.join(d for d, found in there.items() if found)}")
        return self.device


_USUAL = Placement()
_PLACED: ContextVar[Placement] = ContextVar("placed", default=_USUAL)


def current() -> Placement:
    """Where `load` puts models that it is not told otherwise about."""
    return _PLACED.get()


@contextmanager
def using(placement: Placement) -> Iterator[None]:
    """Let every model loaded inside be placed so."""
    token = _PLACED.set(placement)
    try:
        yield
    finally:
        _PLACED.reset(token)


def data_folder() -> Path:
    """Where the package's data lies."""
    return Path(str(resources.files("vestige.data")))


def cards() -> dict[str, Card]:
    """Every built-in model."""
    from vestige.concepts.concept import toml

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
    file, _, config = name.partition("@")
    if Path(file).is_file():
        if not config:
            raise BadInput(f"{file} is a single file; say what it is with --config FOLDER (or FILE@FOLDER), a pipeline folder like it")
        described = _of_folder(Path(config), config)
        return Card(name=name, family=described.family, file=Path(file), config=Path(config))
    if sources.HUB.fullmatch(name):
        return _of_folder(sources.fetched(name), name)
    raise UnknownName("model", name, known)


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


def load(name: str, placement: Placement | None = None) -> Model:
    """A model by what `card` takes, on its device and in its precision; by default as `using` says, else where it is fastest, in single."""
    import torch

    placement = placement or current()
    found, dtype = card(name), getattr(torch, placement.dtype)
    _verify(found)
    made = _of_file(found, dtype) if found.file is not None else _of_parts(found, dtype)
    made.placed(placement.resolved, offload=placement.offload, checkpointing=placement.checkpointing, slicing=placement.slicing)
    return cast(Model, made)


def _of_parts(found: Card, dtype: Any) -> Any:
    if found.family == "classes":
        from vestige.models.classes import ClassModel

        return ClassModel.from_folder(found.parts, found.name, dtype)
    if found.family == "flow":
        from vestige.models.flow import FlowModel

        return FlowModel.from_folder(found.parts, found.name, dtype, distilled=found.distilled)
    from vestige.models.latent import LatentModel

    return LatentModel.from_folder(found.parts, found.name, dtype, blank=found.blank)


def _of_file(found: Card, dtype: Any) -> Any:
    if found.file is None or found.config is None or found.family == "classes":
        raise BadInput(f"{found.name}: class-conditional models are read from folders, not from a single file")
    pipe = sources.single(found.file, found.config).to(dtype)
    if found.family == "flow":
        from vestige.models.flow import FlowModel

        return FlowModel.from_pipeline(pipe, found.name)
    from vestige.models.latent import LatentModel

    return LatentModel.from_pipeline(pipe, found.name)


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
        if sources.hashed(path) != expected:
            raise BadInput(f"{path} is not the file that {found.name} was released with; reinstall vestige")


def identity(name: str) -> dict[str, str]:
    """What a model's weights are, without loading it: hashes of its weight files."""
    found = card(name)
    if found.hashes:
        return dict(found.hashes)
    if found.file is not None and found.config is not None:
        told = sorted(p for part in sources.COMPONENTS for p in (found.config / part).glob("*.json"))
        return {found.file.name: _hashed(found.file), **{f"{p.parent.name}/{p.name}": _hashed(p) for p in told}}
    kinds = ("*.safetensors", "class_labels.json")
    files = sorted(p for folder in found.parts.values() for kind in kinds for p in folder.glob(kind))
    return {f"{p.parent.name}/{p.name}": _hashed(p) for p in files}


def _hashed(file: Path) -> str:
    """The SHA-256 of a file; of one that has not changed since, from memory."""
    seen = file.stat()
    return _sha256(str(file), seen.st_size, seen.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256(file: str, size: int, time: int) -> str:
    return sources.hashed(Path(file))


def world_of(model: str) -> str:
    """The world whose concepts and judges go with a model; "" if none is known."""
    known: Mapping[str, Any] = cards()
    return known[model].world if model in known else ""
