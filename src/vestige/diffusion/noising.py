"""What a deterministic sampler may be handed beside noise: Start, where drawing begins, Churn, noise on the way, Kept, what is put back."""

from __future__ import annotations

from collections.abc import Sequence
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


def dealt(latents: Tensor, rows: Sequence[int]) -> Tensor:
    """Latents (N, C, h, w) for pictures of these numbers: to number i those of number i modulo N."""
    return latents[[i % len(latents) for i in rows]]


@dataclass(frozen=True)
class Kept:
    """A part of true pictures that is put back after every step, at the noise level that the step ends at; the rest is drawn.

        x_s <- where (signal(s) latents + level(s) eps) + (1 - where) x_s

    eps is the picture's own starting noise, the same in every step.

    Arguments:
        latents: Clean latents, (N, C, h, w); the i-th picture drawn keeps of number i modulo N.
        where: What is kept, (h, w) of 0 and 1.
    """

    latents: Tensor
    where: Tensor

    def of(self, rows: Sequence[int], eps: Tensor) -> Held:
        """What pictures of these numbers keep, each with its own noise, (B, C, h, w)."""
        return Held(dealt(self.latents, rows).to(eps), self.where.to(eps), eps)


@dataclass(frozen=True)
class Held:
    """A batch of `Kept`: clean latents and noise, both (B, C, h, w), and where they are kept, (h, w)."""

    latents: Tensor
    where: Tensor
    eps: Tensor

    def put(self, x: Tensor, signal: Tensor, level: Tensor) -> Tensor:
        """States (B, C, h, w) with what is kept put back at these levels."""
        return self.where * (signal * self.latents + level * self.eps) + (1 - self.where) * x
