"""What a published checkpoint is, from its names and shapes alone: its format, its tensors by name, and what was set aside.

Formats carry the tags of `kinds.KINDS`. A folder is a pipeline, one component of it, or an adapter; a file is whatever its names say
that it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vestige.checkpoints import ddpm, kinds, lora
from vestige.checkpoints.untrusted import Stored, inside, read, text
from vestige.checkpoints.wrappers import COPIES, WRAPPERS
from vestige.errors import BadInput

# Set aside: no weights of the denoiser or of a text encoder, or copies that nothing draws with.
_ASIDE = {
    "the EMA copy, which unlearning seldom updates": re.compile(r"^model_ema\."),
    "the autoencoder": re.compile(r"^(first_stage_model|vae)\."),
    "text encoders in another layout": re.compile(r"^(cond_stage_model\.model|conditioner)\."),
    "the noise schedule and counters": re.compile(
        r"^(betas|.*alphas_cumprod.*|sqrt_.*|posterior_.*|log_one_minus.*|logvar|lvlb_weights|scale_factor)$|\.num_batches_tracked$"
    ),
    "words of its own, which change no weight": re.compile(r"^bundle_emb\."),
    "positions": re.compile(r"\.position_ids$|(^|\.)pos_embed\.pos_embed$"),
}
_MODULES = ("module.", "_orig_mod.", "model.unet.")
_WEIGHTS = ("diffusion_pytorch_model", "model", "pytorch_model", "adapter_model", "pytorch_lora_weights", "eraser_weights")


@dataclass(frozen=True)
class Artefact:
    """A published file or folder, recognised.

    Arguments:
        tag: Its format, a key of `kinds.KINDS`.
        shapes: Every tensor that counts, by name; wrappers around the names are stripped.
        places: Name -> the file that holds it, and its name there.
        aside: What does not count -> how many tensors.
        config: What a configuration beside it says.
    """

    path: Path
    tag: str
    shapes: Mapping[str, tuple[int, ...]]
    places: Mapping[str, tuple[Stored, str]]
    aside: Mapping[str, int] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def read(self, name: str) -> Tensor:
        """One tensor."""
        stored, key = self.places[name]
        return stored.read(key)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was taken off around its tensors, or left beside them."""
        files = list({id(stored): stored for stored, _ in self.places.values()}.values())
        around = [name for stored in files for name in stored.wrappers if name in (*WRAPPERS, *COPIES)]
        around += {key.removesuffix(name)[:-1] for name, (_, key) in self.places.items() if key != name and key.endswith(f".{name}")}
        around = [name for name in dict.fromkeys(around) if name not in ("state_dict", *(m[:-1] for m in _MODULES))]
        told = [f"its weights lay in {', '.join(map(repr, around))}"] if around else []
        if {*around} & {*COPIES}:
            told.append("that is an EMA copy, which unlearning seldom updates; the file has no other weights")
        if beside := [copy for stored in files for copy in stored.beside]:
            told.append(
                f"an EMA copy lay beside them ({', '.join(beside)}), which unlearning seldom updates; the trained weights are taken"
            )
        if lists := [name for stored in files for name in stored.wrappers if name.startswith("list") and self.tag not in ("F10", "F13")]:
            told.append(f"it is a {lists[0]}, of which the first is taken")
        return tuple(told)

    @property
    def metadata(self) -> Mapping[str, str]:
        """Text that its files carry."""
        return {k: v for stored in {id(s): s for s, _ in self.places.values()}.values() for k, v in stored.metadata.items()}

    @property
    def dtypes(self) -> Counter[str]:
        """How many tensors have which dtype."""
        return Counter(stored.dtypes[key] for stored, key in self.places.values())


def recognise(path: Path) -> Artefact:
    """Say what a file or folder is; one that is no checkpoint of a known kind is refused with what was found."""
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise BadInput(f"no edit at {path}; give a file written by `vestige unlearn --out FILE`, or a published checkpoint")
    beside = path.parent / "adapter_config.json"
    return _file(path, read(path), text(beside) if beside.is_file() else {})


def _file(path: Path, stored: Stored, config: Any = None) -> Artefact:
    made = _counted(path, stored, config if isinstance(config, dict) else {})
    if made.aside and not made.shapes and stored.shapes:
        raise BadInput(f"{path} holds nothing that counts: {', '.join(f'{n} of {why}' for why, n in made.aside.items())}")
    return _translated(replace(made, tag=kinds.tag(path, stored, made.shapes)))


def _translated(made: Artefact) -> Artefact:
    """A DDPM of the Selective Amnesia code in diffusers' names, where it can be."""
    if made.tag != "F10" or not ddpm.theirs(made.shapes) or ddpm.lacking(made.shapes):
        return made
    shapes, tensor = ddpm.translated(made.shapes, made.read)
    (dtype, _), *_ = made.dtypes.most_common(1)
    stored = Stored(made.path, "translated", shapes, dict.fromkeys(shapes, dtype), tensor)
    return replace(made, shapes=shapes, places={name: (stored, name) for name in shapes})


def _counted(path: Path, stored: Stored, config: Mapping[str, Any]) -> Artefact:
    """A file's tensors, those set aside that do not count; its format is still open."""
    aside: Counter[str] = Counter()
    places = {}
    listed = stored.wrappers[:1] and stored.wrappers[0].endswith("tensors")
    for name, key in (_numbered(stored) if listed else _stripped(stored)).items():
        reason = next((why for why, mark in _ASIDE.items() if mark.search(name)), "")
        if reason:
            aside[reason] += 1
        else:
            places[name] = (stored, key)
    if stored.others:
        aside["values that are no tensors"] = len(stored.others)
    if words := [name for name in places if re.fullmatch(r"<.+>", name)] if lora.style(places) else []:
        aside["words of its own, which change no weight"] += len(words)
        places = {name: place for name, place in places.items() if name not in words}
    places = _without_aliases(path, places, aside)
    return Artefact(path, "", {name: s.shapes[key] for name, (s, key) in places.items()}, places, dict(aside), config)


def _stripped(stored: Stored) -> dict[str, str]:
    """Names without what wrappers of modules put before all of them -> names in the file.

    "model." and the like are taken off where names make no sense with them and do without.
    """
    names = {key: key for key in stored.shapes}
    for prefix in ("module.", "_orig_mod.", "model.unet.", *(f"{name}." for name in (*WRAPPERS, *COPIES))):
        if names and all(name.startswith(prefix) for name in names):
            bare = {name.removeprefix(prefix): key for name, key in names.items()}
            if prefix in _MODULES or (kinds.sensible(bare) and not kinds.sensible(names)):
                names = bare
    return names


def _numbered(stored: Stored) -> dict[str, str]:
    """Names of a bare list of tensors as cloneofsimo's safetensors call them: up and down in turn, of one component."""
    component = "text_encoder" if stored.path.stem.endswith("text_encoder") else "unet"
    return {f"{component}:{i // 2}:{('up', 'down')[i % 2]}": str(i) for i in range(len(stored.shapes))}


def _without_aliases(path: Path, places: dict[str, tuple[Stored, str]], aside: Counter[str]) -> dict[str, tuple[Stored, str]]:
    """Without the second names that some text encoders have for parts of their own; two copies that differ are refused."""
    kept = {}
    for name, place in places.items():
        own = _own(name)
        if own == name or own not in places:
            kept[name] = place
            continue
        if not place[0].read(place[1]).equal(places[own][0].read(places[own][1])):
            raise BadInput(f"{path} holds two different copies of {own}; which one draws cannot be told")
        aside["second names of a text encoder's own parts"] += 1
    return kept


def _own(name: str) -> str:
    """The name of which this would be the second: of AdvUnlearn's wrapped text encoder, and of T5's embeddings."""
    first, _, rest = name.partition(".")
    if first in ("embedding", "encoder", "final_layer_norm") and not rest.startswith("embed_tokens."):
        return f"text_encoder.text_model.{'embeddings' if first == 'embedding' else first}.{rest}"
    return re.sub(r"(^|\.)encoder\.embed_tokens\.weight$", r"\1shared.weight", name)


def _folder(path: Path) -> Artefact:
    if (path / "model_index.json").is_file():
        return _pipeline(path)
    if (path / "eraser_weights.pt").is_file() or (path / "eraser_config.json").is_file():
        return _file(path, read(path / "eraser_weights.pt"), text(path / "eraser_config.json") if _has(path, "eraser_config.json") else {})
    found = sorted(path.glob("*/sae.safetensors")) or sorted(path.glob("sae.safetensors"))
    if found:
        return _autoencoder(path, found)
    files = _weight_files(path)
    if not files:
        raise BadInput(
            f"{path} is a folder without model_index.json and without weights ({', '.join(_WEIGHTS[:3])}, ...); give a pipeline in "
            "diffusers' layout, one component of it, or a file"
        )
    config: Any = next((text(path / n) for n in ("adapter_config.json", "config.json") if _has(path, n)), {})
    config = config if isinstance(config, dict) else {}
    made = _joined(path, [_counted(path, read(file), config) for file in files], config)
    tag = kinds.tag(path, next(iter(made.places.values()))[0], made.shapes) if made.places else "F4"
    return replace(made, tag=tag if tag in ("F5", "F7", "F11", "F12", "F13", "inversion") else "F4")


def _has(path: Path, name: str) -> bool:
    return (path / name).is_file()


def _pipeline(path: Path) -> Artefact:
    index = text(path / "model_index.json")
    if not isinstance(index, dict):
        raise BadInput(f"{path / 'model_index.json'} holds no table")
    parts = []
    for part in sorted(index):
        if re.fullmatch(r"unet|transformer|text_encoder(_[23])?", part) and (path / part).is_dir():
            parts += [_prefixed(_counted(path, read(file), {}), f"{part}.") for file in _weight_files(path / part)]
    if not parts:
        raise BadInput(f"{path} has no weights of a denoiser or text encoder; was the pipeline saved whole?")
    return replace(_joined(path, parts, index), tag="F4")


def _prefixed(made: Artefact, prefix: str) -> Artefact:
    shapes = {f"{prefix}{name}": shape for name, shape in made.shapes.items()}
    return replace(made, shapes=shapes, places={f"{prefix}{name}": place for name, place in made.places.items()})


def _joined(path: Path, parts: list[Artefact], config: Mapping[str, Any]) -> Artefact:
    """Several files as one artefact; a name in two of them is refused."""
    places: dict[str, tuple[Stored, str]] = {}
    for part in parts:
        twice = places.keys() & part.places.keys()
        if twice:
            raise BadInput(f"{path} holds {sorted(twice)[0]} in two files")
        places.update(part.places)
    aside: Counter[str] = Counter()
    for part in parts:
        aside.update(part.aside)
    return Artefact(path, "", {name: shape for part in parts for name, shape in part.shapes.items()}, places, dict(aside), config)


def _weight_files(folder: Path) -> list[Path]:
    """The files with a component's weights: safetensors before pickles, plain before a variant; all shards that an index names."""
    for ending in ("safetensors", "bin", "pt"):
        for variant in ("", ".fp16", ".bf16"):
            for stem in _WEIGHTS:
                file, index = folder / f"{stem}{variant}.{ending}", folder / f"{stem}.{ending}.index{variant}.json"
                if file.is_file():
                    return [file]
                if index.is_file():
                    return list(_shards(folder, index))
    return []


def _shards(folder: Path, index: Path) -> Iterator[Path]:
    told = text(index)
    table = told.get("weight_map") if isinstance(told, dict) else None
    if not isinstance(table, dict) or not table or not all(isinstance(v, str) for v in table.values()):
        raise BadInput(f"{index} names no files")
    for name in sorted(set(table.values())):
        shard = inside(folder, name)
        if not shard.is_file():
            raise BadInput(f"{index} names {name}, which is not there; was the copy cut short?")
        yield shard


def _autoencoder(path: Path, files: list[Path]) -> Artefact:
    """Sparse autoencoders, one a hook point: the folder's name, with the configuration beside it."""
    parts = []
    for file in files:
        config = text(file.parent / "cfg.json") if _has(file.parent, "cfg.json") else {}
        made = _counted(path, read(file), config if isinstance(config, dict) else {})
        parts.append(made if file.parent == path else _prefixed(made, f"{file.parent.name}/"))
    return replace(_joined(path, parts, parts[0].config), tag="F9")
