"""Receler's adapters at work, whoever trained them: a bottleneck after every cross-attention (Huang et al., 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from torch import Tensor

from vestige.diffusion import Model
from vestige.diffusion.bottlenecks import bottlenecked


@final
class Receler:
    """The hook of a Receler adapter."""

    @staticmethod
    def hook(model: Model, *, tensors: Mapping[str, Tensor]) -> Model:
        """`model` with an adapter after every cross-attention; for the tensors see `bottlenecks.bottlenecked`."""
        return bottlenecked(model, tensors)
