"""Latents as a transformer reads them: 2x2 patches as channels, pixels as tokens, and where each token stands."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def packed(x: Tensor) -> Tensor:
    """2x2 patches as channels, (B, C, h, w) -> (B, 4 C, h / 2, w / 2)."""
    return F.pixel_unshuffle(x, 2)


def unpacked(x: Tensor) -> Tensor:
    """The inverse of `packed`."""
    return F.pixel_shuffle(x, 2)


def flat(x: Tensor) -> Tensor:
    """Pixels as tokens, (B, C, h, w) -> (B, h w, C)."""
    return x.flatten(2).transpose(1, 2)


def square(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `flat`."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)


def spots(*counts: int, like: Tensor) -> Tensor:
    """Every position of a grid of these sizes, the last axis fastest, (product, axes)."""
    return torch.cartesian_prod(*(torch.arange(n, device=like.device) for n in counts)).to(like.dtype)
