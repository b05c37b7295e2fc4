"""A judge whose score of the label that it is asked for is all there is to store: one column, and nothing that is counted by sets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


class SingleScore(ABC):
    """The part of `metrics.Judge` that follows from `shows` alone."""

    @abstractmethod
    def shows(self, images: Tensor, label: str) -> Tensor:
        """Probability or score that each picture shows the label, (B,); NaN where it could not be judged."""

    @property
    def stores(self) -> bool:
        return False

    def raw(self, images: Tensor, label: str) -> Tensor:
        return self.shows(images, label)[:, None]

    def read(self, raw: Tensor, label: str) -> Tensor:
        return raw[:, 0]

    def heads(self, label: str) -> tuple[str, ...]:
        return (label,)

    def table(self, raw: Tensor, *, units: Sequence[Any] = ()) -> Mapping[str, Mapping[float, Mapping[str, Any]]]:
        return {}
