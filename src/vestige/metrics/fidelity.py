"""Distances between sets of pictures: FID (Heusel et al., 2017) and KID (Binkowski et al., 2018), by torchmetrics.

The features are a judge's, and the number is named after it ("FID-judge-verify"): it is comparable with itself alone, never
with a published FID.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vestige.errors import BadInput


@dataclass(frozen=True)
class Distance:
    """A distance between two sets of pictures, with its name, sizes, and spread over subsets where it has one."""

    name: str
    value: float
    spread: float | None
    counts: tuple[int, int]


class _Features(nn.Module):
    """A judge's features as torchmetrics wants them: 8-bit pictures in, (B, F) out."""

    def __init__(self, judge: Any, width: int) -> None:
        super().__init__()
        self._judge, self.num_features = judge, width

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self._judge.features(images.float() / 255)
        return features


def _bytes(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round().byte()


def fid(judge: Any, real: Tensor, made: Tensor) -> Distance:
    """Frechet distance between Gaussians fitted to the features of two sets, (N, 3, H, W) and (M, 3, H, W) in [0, 1].

    Biased upwards by about 1 / N: compare only at equal sizes. Fewer pictures than features leave the covariance singular.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    width = judge.features(real[:1]).shape[1]
    if min(len(real), len(made)) <= width:
        raise BadInput(f"FID-{judge.name} needs more than {width} pictures a side; given {len(real)} and {len(made)}")
    metric = FrechetInceptionDistance(feature=_Features(judge, width))
    metric.set_dtype(torch.float64)
    for images, is_real in ((real, True), (made, False)):
        for part in images.split(256):
            metric.update(_bytes(part), real=is_real)
    return Distance(f"FID-{judge.name}", float(metric.compute()), None, (len(real), len(made)))


def kid(judge: Any, real: Tensor, made: Tensor, subsets: int = 50, subset_size: int = 400) -> Distance:
    """Kernel distance, the unbiased MMD^2 with the kernel (x.y / d + 1)^3; the spread is over (overlapping) random subsets."""
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(subset_size, len(real), len(made))
    if size < 2:
        raise BadInput(f"KID-{judge.name} needs at least 2 pictures a side; given {len(real)} and {len(made)}")
    width = judge.features(real[:1]).shape[1]
    with warnings.catch_warnings():  # every construction warns that features are kept in memory, which is what is wanted
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance`", category=UserWarning)
        metric = KernelInceptionDistance(feature=_Features(judge, width), subsets=subsets, subset_size=size)
    for images, is_real in ((real, True), (made, False)):
        for part in images.split(256):
            metric.update(_bytes(part), real=is_real)
    with torch.random.fork_rng(devices=[]):  # its subsets come from the global generator
        torch.manual_seed(0)
        mean, deviation = metric.compute()
    return Distance(f"KID-{judge.name}", float(mean), float(deviation), (len(real), len(made)))
