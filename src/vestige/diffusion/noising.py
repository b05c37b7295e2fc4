"""Noise beside what a deterministic sampler begins with: Start, where drawing begins instead, and Churn, what is added on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Start:
    """Where drawing begins instead of pure noise: pictures, noised to some place on the way, or a starting noise that somebody chose.

    Arguments:
        latents: Clean latents, (N, C, h, w); the i-th picture drawn begins from number i modulo N.
        share: Of the sampling grid, how much is skipped, in [0, 1]; a place that is no grid point is rounded to one.
        found: The latents are noise, and drawing begins from them at the grid's first point; `share` is 0 then.
        fresh: Of a found noise, how much the picture's own takes the place of, in [0, 1]: sqrt(1 - fresh^2) found + fresh own.
    """

    latents: Tensor
    share: float
    found: bool = False
    fresh: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share lies in [0, 1]; given {self.share}")
        if not 0 <= self.fresh <= 1 or (self.fresh and not self.found) or (self.share and self.found):
            raise ValueError(f"fresh lies in [0, 1], of a found noise at share 0; given {self.fresh} at share {self.share}")


@dataclass(frozen=True)
class Churn:
    """Noise on the way, which a deterministic sampler has none of: in every step, and in going back and drawing the rest again.

        x_s = signal(s) data + sqrt(|level(s)^2 - sigma^2|) eps + scale sigma xi
        sigma = eta level(s) sqrt(1 - (signal(t) level(s) / (signal(s) level(t)))^2)

    eta = 0 is DDIM, eta = 1 at scale 1 ancestral sampling (Song et al., 2021, eq. 16, in any schedule's levels), and more is more noise
    than the schedule has room for.

    Arguments:
        eta: Noise of a step, in units of ancestral sampling's.
        scale: Multiplies it, and nothing makes up for that.
        back: Share of the grid in [0, 1) to which a finished picture is noised again, to be drawn from there on; 1 does not.
    """

    eta: float = 0.0
    scale: float = 1.0
    back: float = 1.0

    def __post_init__(self) -> None:
        if self.eta < 0 or self.scale < 0 or not 0 <= self.back <= 1:
            raise ValueError(f"eta and scale are at least 0, back lies in [0, 1]; given {self.eta}, {self.scale} and {self.back}")
