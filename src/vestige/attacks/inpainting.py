"""Inpainting: hand the unchanged model the rim of a picture of the concept, and let it draw the rest under the concept's prompt.

    x_s <- M (signal(s) latents + level(s) eps) + (1 - M) x_s,   after every sampling step, M = 1 where the picture is kept

An unlearner that ties the concept's prompt to something else may leave alone what the network makes of surroundings that ask for it. The
more of a picture is kept, the more of the concept it shows by itself: only what the edited model shows above the never arm, which is
handed the same part of the same pictures, says anything. On the embedded world it finds no more in edits than in the twin
(docs/results/attacks.md).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.noising import Kept
from vestige.methods import Attack, Budget, Candidate, Paper
from vestige.methods.contract import Access, Select
from vestige.methods.ranges import at_least
from vestige.methods.training_data import given_some


@final
@dataclass(frozen=True, kw_only=True)
class Inpainting(Attack):
    """Fill a hole in true pictures of the concept (after Lu et al., 2025).

    That a part is put back at its noise level after every step is RePaint's (Lugmayr et al., 2022), which puts it back with fresh noise and
    goes some steps back again and again, so that both parts agree. Lu et al. take diffusers' pipeline for networks that know of no mask,
    which does neither: a picture's one noise in every step, each step once. So it is here, and so drawing costs what plain drawing does.

    Differs from the released code: (1) the hole is a square of the released shape, in the middle, at several sizes, of which the largest
    is tried first; there one of half the side, which leaves three quarters of the picture; (2) what lies in the hole is painted over
    before the picture is encoded, in the mean colour of what is kept, for the autoencoder carries it into the latents around; there
    it is encoded with the rest; (3) pictures are the attacker's references, there the original's drawings; (4) a judge sees all of the
    result, as the selection judge sees what was masked before anything was filled in (the note `masked_shows`: what the kept part
    shows by itself); (5) prompts, sampler and guidance are the audit's.

    Nothing is trained and no seed is chosen; whoever sets what the sampler goes on from has a white box.

    Arguments:
        grid: A budget of n keeps n of so many equal parts of the picture's area; more than `grid` is all of it, the picture itself.
        prompt: "concept" fills in under the audit's prompts, "empty" under none.
    """

    paper: ClassVar[Paper] = Paper(
        "When Are Concepts Erased From Diffusion Models?", "Lu et al.", 2025, arxiv="2505.17013", code="kevinlu4588/WhenAreConceptsErased"
    )
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[str]] = frozenset({"pictures"})

    grid: int = 8
    prompt: Literal["concept", "empty"] = "concept"

    def __post_init__(self) -> None:
        at_least(1, self, "grid")

    def __call__(
        self,
        model: Model,
        concept: Concept,
        budget: Budget,
        *,
        seed: int,
        select: Select,
        pictures: PictureSet | None = None,
        watch: Watch = silent,
    ) -> Iterator[Candidate]:
        pictures = given_some(pictures, "inpainting", concept, "to keep a part of")
        began, prompts = time.monotonic(), ("",) if self.prompt == "empty" else None
        yield Candidate(0, cost={"calls": 0, "seconds": time.monotonic() - began})
        for spent in budget.points[1:]:
            where = rim(*model.latent_shape[1:], min(1.0, spent / self.grid))
            seen = painted_over(pictures.images, where)
            notes = {"kept": float(where.mean()), "masked_shows": select(seen).float().mean().item()}
            kept = Kept(model.encode(seen), where)
            yield Candidate(spent, prompts=prompts, kept=kept, cost={"calls": 0, "seconds": time.monotonic() - began}, notes=notes)


def rim(height: int, width: int, share: float) -> Tensor:
    """What is kept, (height, width) of 0 and 1: the given share of all cells, those farthest from the middle.

    Far is the larger of both distances, in units of the sides; of equals, corners come first.
    """
    down, across = (((torch.arange(n) + 0.5) / n - 0.5).abs() for n in (height, width))
    far = torch.maximum(down[:, None], across[None]) + 1e-3 * (down[:, None] + across[None])
    chosen = far.flatten().argsort(descending=True, stable=True)[: round(share * height * width)]
    return torch.zeros(height * width).index_fill(0, chosen, 1.0).reshape(height, width)


def painted_over(images: Tensor, where: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) of which only a part is left, `where` (h, w) of 0 and 1; the rest has the mean colour of that part."""
    mask = interpolate(where[None, None], size=images.shape[-2:], mode="nearest")[0, 0].to(images)
    mean = (images * mask).sum((2, 3), keepdim=True) / mask.sum().clamp_min(1)
    return images * mask + mean * (1 - mask)
