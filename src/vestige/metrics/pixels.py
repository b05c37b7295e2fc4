"""Pictures as networks read them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def as_read(
    images: Tensor, size: tuple[int, int], mean: Sequence[float], deviation: Sequence[float], *, short: int = 0, mode: str = "bicubic"
) -> Tensor:
    """Pictures as a network reads them: resized, the middle cut out, normalised.

    Arguments:
        size: Height and width that it reads.
        short: Length that the short side is resized to before cutting; 0 resizes to `size` whatever the proportions.
        mode: "bicubic" or "bilinear", antialiased.
    """
    height, width = images.shape[-2:]
    target = (round(height * short / min(height, width)), round(width * short / min(height, width))) if short else size
    x = images.float()
    if target != (height, width):
        x = F.interpolate(x, size=target, mode=mode, antialias=True).clamp(0, 1)
    top, left = ((x.shape[-2 + i] - size[i]) // 2 for i in (0, 1))
    x = x[..., top : top + size[0], left : left + size[1]]
    centre, spread = (torch.tensor(tuple(v), dtype=x.dtype).reshape(1, -1, 1, 1) for v in (mean, deviation))
    return (x - centre) / spread
