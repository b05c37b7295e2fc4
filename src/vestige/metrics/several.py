"""A judge of several concepts at once: a picture shows them where it shows any of them, by each one's own judge and threshold."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from vestige.metrics.judge import Judge
from vestige.metrics.single import SingleScore


@final
@dataclass(frozen=True)
class AnyOf(SingleScore):
    """Scores of all parts, each stretched so that its threshold lies at 1/2, where they compare; the highest counts.

    What else a picture shows, and its features, the first part's judge tells.

    Arguments:
        label: What all of them together are called.
        parts: The label of each, and who looks for it.
    """

    label: str
    parts: tuple[tuple[str, Judge], ...]

    @property
    def first(self) -> Judge:
        return self.parts[0][1]

    @property
    def name(self) -> str:
        return " or ".join(dict.fromkeys(judge.name for _, judge in self.parts))

    @property
    def version(self) -> str:
        return ", ".join(dict.fromkeys(judge.version for _, judge in self.parts))

    @property
    def weights_hash(self) -> str:
        each = list(dict.fromkeys(judge.weights_hash for _, judge in self.parts))
        return each[0] if len(each) == 1 else hashlib.sha256(" ".join(each).encode()).hexdigest()

    @property
    def unseen(self) -> str:
        """Where a user's own function reads what is part of no hash."""
        return next((where for _, judge in self.parts if (where := getattr(judge, "unseen", ""))), "")

    @property
    def embeds(self) -> bool:
        return self.first.embeds

    def shows(self, images: Tensor, label: str) -> Tensor:
        """How near the nearest part is to its threshold, which is 1/2, (B,); NaN where a part could not be judged and none is seen."""
        if label != self.label:
            return self.first.shows(images, label)
        each = torch.stack([levelled(judge.shows(images, one), judge.threshold(one)) for one, judge in self.parts])
        best = each.nan_to_num(-1.0).amax(0)
        return torch.where(each.isnan().any(0) & (best < 0.5), torch.nan, best)

    def threshold(self, label: str) -> float:
        return 0.5 if label == self.label else self.first.threshold(label)

    def knows(self, label: str) -> bool:
        return self.first.knows(label)

    def labelled(self, images: Tensor) -> list[dict[str, str]]:
        return self.first.labelled(images)

    def features(self, images: Tensor) -> Tensor:
        return self.first.features(images)

    def identity(self, label: str) -> dict[str, Any]:
        """Who measures, and each part's judge as it is told; how often all of them together are right was not measured."""
        if label != self.label:
            return self.first.identity(label)
        who = {"name": self.name, "version": self.version, "weights_hash": self.weights_hash, "threshold": 0.5}
        return {**who, "parts": {one: judge.identity(one) for one, judge in self.parts}}

    def witness(self, label: str) -> Any:
        return [judge.witness(one) for one, judge in self.parts]


def levelled(scores: Tensor, threshold: float) -> Tensor:
    """Scores from 0 to 1, stretched on both sides of their threshold so that it lies at 1/2."""
    below, above = 0.5 * scores / max(threshold, 1e-12), 1 - 0.5 * (1 - scores) / max(1 - threshold, 1e-12)
    return torch.where(scores < threshold, below, above)
