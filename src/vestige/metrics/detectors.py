"""Judges that a user brings: any Hugging Face image classifier in a local folder, a CLIP asked in words, a function of their own.

Nothing is fetched from anywhere. How often such a judge is right on drawn pictures is not known here; who uses one should look at
its mistakes on a few pictures of the original model before relying on an audit by it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from vestige import files
from vestige.errors import BadInput
from vestige.metrics import coverage
from vestige.metrics.judge import Detector
from vestige.metrics.pixels import as_read
from vestige.metrics.reading import pretrained

GROUP = "label"  # stands for the concept's own group until `Detector.told` names it
TEMPLATE = "a photo of a {}"
ROUNDED = 1e-3  # how far beyond 0 and 1 a score may lie by rounding


@final
@dataclass(frozen=True)
class Reading:
    """How a folder's `preprocessor_config.json` wants pictures.

    Arguments:
        size: Height and width that the network reads.
        short: Length of the short side before the middle is cut out; 0 resizes whatever the proportions.
        mode: "bicubic" or "bilinear".
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    deviation: tuple[float, ...] = (0.5, 0.5, 0.5)
    short: int = 0
    mode: str = "bilinear"

    def __call__(self, images: Tensor) -> Tensor:
        return as_read(images, self.size, self.mean, self.deviation, short=self.short, mode=self.mode)

    @classmethod
    def of(cls, folder: Path, fallback: int) -> Reading:
        """Of a folder; without the file pictures are resized to `fallback` and scaled to [-1, 1]."""
        file = folder / "preprocessor_config.json"
        if not file.is_file():
            return cls((fallback, fallback))
        raw = json.loads(file.read_text(files.UTF8))
        given = raw.get("size", fallback)
        given = given if isinstance(given, dict) else {"height": given, "width": given}
        cut = raw.get("crop_size") or {}
        cut = cut if isinstance(cut, dict) else {"height": cut, "width": cut}
        short = int(given.get("shortest_edge", 0))
        size = tuple(int((cut or given).get(side, short)) for side in ("height", "width"))
        if not raw.get("do_center_crop", True) or (not cut and "crop_pct" not in raw):
            size = (short, short) if short else size
        if "crop_pct" in raw and short and not cut:  # ConvNeXt's way, ResNet's too: enlarged, then cut; whole from 384 on
            size, short = (short, short), int(short / raw["crop_pct"]) if short < 384 else 0
        normal = (raw.get("image_mean", cls.mean), raw.get("image_std", cls.deviation))
        mean, deviation = normal if raw.get("do_normalize", True) else ((0.0,) * 3, (1.0,) * 3)
        return cls((size[0], size[1]), tuple(mean), tuple(deviation), short, "bicubic" if raw.get("resample") == 3 else "bilinear")


def hugging_face(folder: Path | str) -> Detector:
    """An image classifier as transformers saves it: its labels compete unless its config says that they are several problems."""
    folder = Path(folder)
    network = _whole(folder, "AutoModelForImageClassification", "image classifier")
    config = network.config
    labels = tuple(str(config.id2label[i]) for i in range(config.num_labels))
    if len(set(labels)) < len(labels):
        labels = tuple(f"{label} ({i})" for i, label in enumerate(labels))
    reads = Reading.of(folder, int(getattr(config, "image_size", 224) or 224))
    several = config.problem_type == "multi_label_classification" or len(labels) == 1

    def look(images: Tensor) -> Tensor:
        logits: Tensor = network(pixel_values=reads(images)).logits
        return logits.sigmoid() if several else logits.softmax(1)

    return Detector(
        name=folder.resolve().name,
        version=f"{config.model_type} {reads.size[0]}px",
        weights_hash=weights_of(folder),
        labels=labels,
        look=look,
        group="" if several else GROUP,
        embed=lambda images: _pooled(network.base_model, reads(images)),
    )


def zero_shot(clip: Any, labels: Sequence[str], template: str = TEMPLATE) -> Detector:
    """A CLIP asked which of several labels a picture shows: softmax of 100 cos over "a photo of a LABEL" (Radford et al., 2021).

    A model that reads its prompts through the same CLIP is flattered by it: choose another family for the verification judge.

    Arguments:
        clip: As from `alignment.clip_score`: `pictured` and `read` give unit vectors.
        labels: What a picture may show, at least two: probabilities are relative to the others.
        template: Holds one `{}`.
    """
    labels = tuple(dict.fromkeys(labels))
    if len(labels) < 2:
        raise BadInput(f"a zero-shot judge compares labels; given {list(labels)}: name neighbours or unrelated concepts as well")
    words = clip.read([template.format(label) for label in labels])

    def look(images: Tensor) -> Tensor:
        scores: Tensor = 100 * clip.pictured(images) @ words.T
        return scores.softmax(1)

    told = hashlib.sha256(json.dumps([template, *labels]).encode()).hexdigest()[:8]
    return Detector(
        name=f"zero-shot-{clip.name}",
        version=f"{len(labels)} labels {told}",
        weights_hash=clip.weights_hash,
        labels=labels,
        look=look,
        group=GROUP,
        embed=clip.pictured,
    )


def users_function(place: str) -> Detector:
    """A function of the user's: pictures (B, 3, H, W) in [0, 1] -> scores (B,) in [0, 1], None or NaN where it cannot tell.

    It may carry `labels`, a list of at least two: it then gives probabilities (B, labels) that compete. It may carry `version`,
    `threshold` and `features`, and `sensitivity`, `specificity` and `measured` (on what) where its errors are known. It should carry
    `files`, a list of what it reads, weights above all: they are part of what it is, as its file is and the local modules that this
    imports. Naming a function runs its file: read a stranger's concept file first.

    Arguments:
        place: "MODULE:FUNCTION", or "FILE.py:FUNCTION".
    """
    function = _found(place)
    labels = tuple(getattr(function, "labels", ()))
    source = inspect.getsourcefile(inspect.unwrap(function) if inspect.isfunction(function) else type(function))
    file = coverage.source_of(place) or (Path(source) if source else None)
    made, unseen = coverage.whole(file, function) if file is not None else ("", "")
    return Detector(
        name=getattr(function, "name", None) or place.rpartition(":")[2],
        version=str(getattr(function, "version", "unversioned")),
        weights_hash=f"{function.weights_hash} {made[:16]}" if hasattr(function, "weights_hash") else made,
        labels=labels or ("concept",),
        look=partial(_called, function),
        level=float(getattr(function, "threshold", 0.5)),
        group=GROUP if len(labels) > 1 else "",
        embed=getattr(function, "features", None),
        unseen=unseen,
        stated=_stated(function, place),
    )


def _stated(function: Any, place: str) -> dict[str, Any]:
    """The error rates that a function carries, and on what they were measured."""
    found = {key: getattr(function, key) for key in ("sensitivity", "specificity") if hasattr(function, key)}
    for key, rate in found.items():
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
            raise BadInput(f"{key} of {place} is a share of pictures, from 0 to 1; given {rate!r}")
    on = getattr(function, "measured", "")
    if found and not (isinstance(on, str) and on):
        raise BadInput(
            f'{place} states its {" and ".join(found)}; say on what they were measured: {place.rpartition(":")[2]}.measured = "..."'
        )
    return {**{key: float(rate) for key, rate in found.items()}, "measured": on} if found else {}


def _called(function: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    found = function(images)
    if not isinstance(found, Tensor):
        found = torch.tensor([_number(row) for row in found], dtype=torch.float32)
    odd = found[(found < -ROUNDED) | (found > 1 + ROUNDED)]
    if len(odd):
        raise ValueError(f"gave a score of {float(odd[0]):g}; scores lie between 0 and 1 (of logits, take the sigmoid or softmax)")
    return found[:, None] if found.dim() == 1 else found


def _number(row: Any) -> Any:
    if isinstance(row, Sequence):
        return [_number(value) for value in row]
    return float("nan") if row is None else float(row)


def _found(place: str) -> Any:
    where, _, name = place.rpartition(":")
    if not where or not name:
        raise BadInput(f"a function is MODULE:FUNCTION or FILE.py:FUNCTION; given {place!r}")
    try:
        if where.endswith(".py"):
            file = Path(where)
            spec = importlib.util.spec_from_file_location(f"vestige_user_{file.stem}", file)
            if spec is None or spec.loader is None or not file.is_file():
                raise ImportError(f"there is no file {file}")
            module = importlib.util.module_from_spec(spec)
            sys.modules[module.__name__] = module
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
        return getattr(module, name)
    except (ImportError, AttributeError) as error:
        raise BadInput(f"the detector {place} cannot be loaded ({error})") from error


def _whole(folder: Path, kind: str, what: str) -> Any:
    """A network from a folder; what the folder holds beside it is left out."""
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise BadInput(f"{folder} holds no {what} (config.json and *.safetensors, as transformers saves it)")
    return pretrained(kind, folder, what, headless=True)


def _pooled(network: Any, pixels: Tensor) -> Tensor:
    out = network(pixel_values=pixels)
    found: Tensor = out.pooler_output if getattr(out, "pooler_output", None) is not None else out.last_hidden_state[:, 0]
    return found.flatten(1).float()


def weights_of(folder: Path) -> str:
    """SHA-256 over a folder's weight files and what says how they are read."""
    return files.digest_of((*folder.glob("*.safetensors"), *folder.glob("*config.json")), folder)


@final
@dataclass(frozen=True)
class Features:
    """A network's features, for distances; the numbers made of them are named after it."""

    name: str
    weights_hash: str
    network: Any
    about: Mapping[str, Any]

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        return torch.cat([self.network(part) for part in images.split(16)])


def vision(folder: Path | str) -> Features:
    """Pooled features of any vision network in a local folder (DINOv2, CLIP's vision tower, ViT, ResNet)."""
    folder = Path(folder)
    file = folder / "config.json"
    made = json.loads(file.read_text(files.UTF8)).get("architectures") or [""] if file.is_file() else [""]
    if made[0].endswith("ForImageClassification"):  # such a folder has no pooler of its own, and a drawn one would be noise
        network = _whole(folder, "AutoModelForImageClassification", "vision network").base_model
    else:
        network = _whole(folder, "AutoModel", "vision network")
    network = getattr(network, "vision_model", network)
    reads = Reading.of(folder, int(getattr(network.config, "image_size", 224) or 224))
    return Features(folder.resolve().name, weights_of(folder), lambda images: _pooled(network, reads(images)), {"reads": reads.size})
