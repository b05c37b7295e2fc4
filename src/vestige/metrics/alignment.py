"""Alignment of pictures with prompts: the CLIP score, 100 max(cos(picture, text), 0), by a CLIP in a local folder.

The number is named after its backbone: two CLIPs give the same pictures different scores. A model that reads its prompts through
the same CLIP is flattered by it, the embedded world's among them; recall by a judge is the evidence, this stands beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from vestige import files
from vestige.errors import BadInput
from vestige.metrics.pixels import as_read
from vestige.metrics.reading import pretrained
from vestige.metrics.score import Score
from vestige.metrics.score import score as rate

FEW = 100  # pictures below which a mean CLIP score moves more by chance than by most edits


@final
@dataclass(frozen=True)
class ClipScore:
    """Scores pictures against prompts, one by one.

    Arguments:
        name: The folder's name.
        weights_hash: SHA-256 of its weight file.
        network: A transformers CLIPModel.
        tokenizer: Its tokenizer.
        size: Side of the square that it reads.
        mean: Of a channel, as it was trained.
        deviation: Likewise.
    """

    name: str
    weights_hash: str
    network: Any
    tokenizer: Any
    size: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B,) from 0 to 100 of pictures (B, 3, H, W) in [0, 1], each for its prompt."""
        if len(images) != len(prompts):
            raise ValueError(f"one prompt a picture: {len(images)} pictures, {len(prompts)} prompts")
        unique = list(dict.fromkeys(prompts))
        rows = [unique.index(prompt) for prompt in prompts]
        pictures = torch.cat([self.pictured(part) for part in images.split(128)])
        texts = torch.cat([self.read(unique[i : i + 128]) for i in range(0, len(unique), 128)])
        return 100 * (pictures * texts[rows]).sum(1).clamp_min(0)

    def pictured(self, images: Tensor) -> Tensor:
        """Unit vectors of pictures, (B, D)."""
        return F.normalize(_projected(self.network.get_image_features(pixel_values=self.prepared(images))).float(), dim=1)

    def read(self, prompts: Sequence[str]) -> Tensor:
        """Unit vectors of prompts, (B, D)."""
        ids = self.tokenizer(list(prompts), padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        return F.normalize(_projected(self.network.get_text_features(input_ids=ids)).float(), dim=1)

    def prepared(self, images: Tensor) -> Tensor:
        """The short side resized to `size`, the middle square of it, normalised: (B, 3, size, size)."""
        return as_read(images, (self.size, self.size), self.mean, self.deviation, short=self.size)


@final
@dataclass(frozen=True)
class Alignment:
    """The mean CLIP score of pictures, named after its backbone, with a 95 % interval, normal over pictures."""

    name: str
    value: float
    low: float
    high: float
    count: int
    note: str = ""
    weights_hash: str = ""


def aligned(score: ClipScore, pairs: Iterable[tuple[Tensor, Sequence[str]]]) -> Alignment:
    """Mean score of pictures and their prompts, given in batches: a set of any size."""
    count, total, squares = 0, 0.0, 0.0
    for images, prompts in pairs:
        found = score(images, prompts).double()
        count, total, squares = count + len(found), total + float(found.sum()), squares + float((found**2).sum())
    if count < 2:
        raise BadInput(f"a mean CLIP score needs at least 2 pictures; given {count}")
    mean = total / count
    half = 1.96 * math.sqrt(max(0.0, squares / count - mean**2) / (count - 1))
    note = f"only {count} pictures" if count < FEW else ""
    return Alignment(f"CLIP-score-{score.name}", mean, mean - half, mean + half, count, note, score.weights_hash)


def recognised(score: ClipScore, images: Tensor, labels: Sequence[str], truth: Sequence[str], template: str = "a photo of a {}") -> Score:
    """Share of pictures whose likeliest of some labels is the true one, as MACE measures efficacy, specificity and generality."""
    if len(set(labels)) < 2 or not set(truth) <= set(labels) or len(truth) != len(images):
        raise BadInput(f"give at least two labels, and for each of {len(images)} pictures one of them; given {sorted(set(truth))}")
    words = score.read([template.format(label) for label in labels])
    best = torch.cat([score.pictured(part) @ words.T for part in images.split(128)]).argmax(1).tolist()
    hits = [labels[i] == wanted for i, wanted in zip(best, truth, strict=True)]
    return rate(hits, detector=f"zero-shot-{score.name}", version=f"{len(labels)} labels", weights_hash=score.weights_hash)


def _projected(out: Any) -> Tensor:
    """The projected features; transformers 5 wraps them, earlier versions do not."""
    found: Tensor = out if isinstance(out, Tensor) else out.pooler_output
    return found


def clip_score(folder: Path | str) -> ClipScore:
    """Read a CLIP from a local folder; nothing is fetched from anywhere.

    Arguments:
        folder: `config.json` and `model.safetensors` as transformers writes them; the tokenizer beside them, or in a folder
            `tokenizer` next to this one. Without a `preprocessor_config.json` pictures are scaled to [-1, 1].
    """
    from transformers import CLIPTokenizer

    folder = Path(folder)
    if not (folder / "model.safetensors").is_file():
        raise BadInput(f"{folder} holds no CLIP (config.json, model.safetensors)")
    words = folder if (folder / "tokenizer_config.json").is_file() else folder.parent / "tokenizer"
    if not words.is_dir():
        raise BadInput(f"no tokenizer in {folder}, nor in {words}")
    network = pretrained("CLIPModel", folder, "CLIP")
    file = folder / "preprocessor_config.json"
    reads = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    mean, deviation = (tuple(reads.get(key, (0.5, 0.5, 0.5))) for key in ("image_mean", "image_std"))
    weights = files.digest(folder / "model.safetensors")
    size = int(network.config.vision_config.image_size)
    return ClipScore(folder.resolve().name, weights, network, CLIPTokenizer.from_pretrained(words), size, mean, deviation)
