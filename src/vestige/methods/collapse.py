"""Gradients without what a concept shares with the rest: the leading singular directions of each matrix's gradient, damped on both sides.

    G ~ U S V^T, its first q directions
    soft        G - (G V)(I - diag(S_q / S)) V^T,   then the same on the left with U
    quadratic   the same with (S_q / S)^2
    hard        without those directions: G - G V V^T, then G - U U^T G

The finding behind it (RepSelect, 2606.17168): what leads a forget loss's gradient is what the concept and everything else have in common;
stepping along it costs what must stay, and any training afterwards restores it first.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

How = Literal["soft", "quadratic", "hard"]


def collapsed(gradient: Tensor, directions: int, how: How = "soft") -> Tensor:
    """A gradient of a matrix (out, in) or a kernel (out, in, ...) with its leading directions damped; a vector's comes back as it is.

    On the directions themselves the two sides multiply: soft leaves S_q^2 / S_k of the k-th, so that what led comes last.

    Arguments:
        directions: At most q; at most half of the smaller side is taken, so that S_q is a size that occurs (ours: the code's 512 are few
            in matrices of thousands, and all that a small network has). 0 changes nothing.
    """
    if how not in get_args(How):
        raise ValueError(f"how is one of {', '.join(get_args(How))}; given {how!r}")
    if gradient.dim() < 2:
        return gradient
    flat = gradient.flatten(1)
    count = min(directions, min(flat.shape) // 2)
    if count < 1 or not bool(flat.any()):
        return gradient
    u, s, v = (part[..., :count] for part in _factors(flat))
    ratio = torch.where(s > 0, s[-1] / s, torch.zeros_like(s))
    kept = {"soft": ratio, "quadratic": ratio.square(), "hard": torch.zeros_like(s)}[how]
    flat = flat - (flat @ v) * (1 - kept) @ v.T
    flat = flat - u * (1 - kept) @ (u.T @ flat)
    return flat.reshape(gradient.shape)


def _factors(flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U (m, k), S (k,) and V (n, k), exact, where the released code draws a randomised factorisation."""
    u, s, vh = torch.linalg.svd(flat, full_matrices=False)
    return u, s, vh.T
