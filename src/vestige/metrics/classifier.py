"""Judges: does this picture show the concept? Any Hugging Face image classifier in a local folder, with calibrated thresholds.

A judge's folder holds the classifier (`config.json`, `model.safetensors`) and `judge.json`: its name and version, the groups
its labels fall into, how it reads pictures, a temperature a group, and for every label a threshold with the sensitivity and
specificity measured on pictures that it was not trained on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vestige import files
from vestige.errors import BadInput, UnknownName
from vestige.metrics.reading import pretrained
from vestige.metrics.single import SingleScore


@final
@dataclass(frozen=True)
class Classifier(SingleScore):
    """A judge from a classifier's logits; each group of labels is a softmax of its own.

    Its thresholds are calibrated and nobody uses others, so no scores but the label's own are stored.

    Arguments:
        network: A transformers image classifier.
        groups: Group -> labels, in the order of the logits.
        scale: The picture is enlarged by this factor before it is read.
        temperatures: Group -> divisor of its logits.
        rates: Label -> {"threshold", "sensitivity", "specificity"}.
    """

    name: str
    version: str
    weights_hash: str
    network: nn.Module
    groups: Mapping[str, tuple[str, ...]]
    scale: int
    temperatures: Mapping[str, float]
    rates: Mapping[str, Mapping[str, float]]

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> dict[str, Tensor]:
        """Group -> probabilities (B, labels of the group) for pictures (B, 3, H, W) in [0, 1]."""
        logits = torch.cat([self.network(self._read(part)).logits for part in images.split(128)]) if len(images) else torch.zeros(0, 99)
        made, start = {}, 0
        for group, labels in self.groups.items():
            made[group] = (logits[:, start : start + len(labels)] / self.temperatures[group]).softmax(1)
            start += len(labels)
        return made

    def _read(self, images: Tensor) -> Tensor:
        x = images.float() * 2 - 1
        return F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False) if self.scale != 1 else x

    def group(self, label: str) -> str:
        for group, labels in self.groups.items():
            if label in labels:
                return group
        raise UnknownName(f"label of judge {self.name}", label, [n for labels in self.groups.values() for n in labels])

    @property
    def embeds(self) -> bool:
        return True

    def shows(self, images: Tensor, label: str) -> Tensor:
        """Probability that each picture shows the label, (B,)."""
        group = self.group(label)
        return self.probabilities(images)[group][:, self.groups[group].index(label)]

    def threshold(self, label: str) -> float:
        """Probability from which a picture counts as showing the label."""
        self.group(label)
        return float(self.rates[label]["threshold"])

    def knows(self, label: str) -> bool:
        """Whether it can tell this label from others of its group."""
        return any(label in labels for labels in self.groups.values())

    def labelled(self, images: Tensor) -> list[dict[str, str]]:
        """The likeliest label of every group, for each picture."""
        best = {g: p.argmax(1).tolist() for g, p in self.probabilities(images).items()}
        return [{g: self.groups[g][rows[i]] for g, rows in best.items()} for i in range(len(images))]

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """The classifier's pooled features, (B, F)."""
        network: Any = self.network
        pooled = []
        for part in images.split(128):
            out = network.base_model(self._read(part))
            pooled.append(out.pooler_output.flatten(1))
        return torch.cat(pooled)

    def identity(self, label: str) -> dict[str, Any]:
        """Who measures, for results and reports."""
        return {"name": self.name, "version": self.version, "weights_hash": self.weights_hash, **self.rates[label]}

    def witness(self, label: str) -> str:
        return self.weights_hash


def load(folder: Path | str) -> Classifier:
    """Read a judge from its folder; nothing is fetched from anywhere."""
    folder = Path(folder)
    if not (folder / "judge.json").is_file():
        raise BadInput(f"{folder} holds no judge.json")
    card = json.loads((folder / "judge.json").read_text("utf-8"))
    network = pretrained("AutoModelForImageClassification", folder, "judge")
    weights = files.digest(folder / "model.safetensors")
    groups = {g: tuple(labels) for g, labels in card["groups"].items()}
    return Classifier(card["name"], card["version"], weights, network, groups, card["scale"], card["temperatures"], card["rates"])
