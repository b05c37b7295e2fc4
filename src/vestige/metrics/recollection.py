"""What of a concept's real pictures a model draws again: coverage by nearest neighbours in a judge's features. Arithmetic only.

    radius(h)  = distance from a real picture h to its k-th nearest other real picture
    covered(h) = some drawn picture lies within radius(h) of h

A model that was shown a few pictures of a concept draws those and what lies between them; the rest only a model with a memory of it
draws. So the share of *unshown* real pictures that are covered tells memory from teaching, and needs no model that never knew: what the
shown pictures cover by themselves is its zero. The number of drawn pictures matters and has to be the same everywhere.

Source: coverage after Naeem et al., "Reliable fidelity and diversity metrics for generative models", 2020; what it is asked here is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vestige.errors import BadInput
from vestige.verdict.intervals import Hits

NEAREST = 3


def covered(real: Tensor, drawn: Tensor, nearest: int = NEAREST) -> list[bool]:
    """Whether each real picture is covered.

    Arguments:
        real: Features (N, F) of every real picture of the concept, shown ones too: they set the radii.
        drawn: Features (M, F) of as many drawn pictures; none cover nothing.
        nearest: k, below N.
    """
    if not 1 <= nearest < len(real):
        raise BadInput(f"the radius of a real picture is the distance to its {nearest}. neighbour; {len(real)} real pictures are given")
    apart = torch.cdist(real.double(), real.double()).fill_diagonal_(float("inf"))
    radius = apart.kthvalue(nearest, dim=1).values
    if not len(drawn):
        return [False] * len(real)
    return (torch.cdist(real.double(), drawn.double()).min(dim=1).values <= radius).tolist()


def of_the_concept(features: Tensor, hits: Hits, count: int) -> Tensor:
    """Features (<= count, F) of the first so many pictures that a judge says show the concept: what a wreck draws covers nothing."""
    rows = [i for i, hit in enumerate(hits) if hit][:count]
    return features[rows]


def unshown(seen: Sequence[bool], given: Sequence[bool]) -> float:
    """Share of real pictures covered among those that were not given to whoever taught the model."""
    left = [hit for hit, shown in zip(seen, given, strict=True) if not shown]
    if not left:
        raise BadInput("every real picture was shown: nothing is left by which memory could be told from teaching")
    return sum(left) / len(left)
