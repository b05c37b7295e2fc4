"""The slope of a loss at weights that were trained from others, by those others: implicit differentiation, a few terms of a series.

    theta* = argmin G + |. - theta|^2 / 2
    d/dtheta F(theta, theta*) = dF/dtheta + (I + H)^-1 dF/dtheta*          H the Hessian of G at theta*

Source: Rajeswaran et al., "Meta-learning with implicit gradients", 2019, for the slope; Richardson's iteration, 1910, for the inverse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def hypergradient(
    own: Tensor, through: Tensor, curvature: Callable[[Tensor], Tensor], *, terms: int, halvings: int, limit: float
) -> tuple[Tensor, float]:
    """own + (I + H)^-1 through, (n,), and the pace at which it was found: 0 where none would do, and it is `own`.

        v <- v - pace (v + H v) + through,   from v = 0;   the inverse is pace v

    Arguments:
        own: dF/dtheta, (n,).
        through: dF/dtheta*, (n,).
        curvature: v (n,) -> H v.
        terms: How often v is renewed.
        halvings: How often the pace, at first 1, is halved: where (1 - pace) I - pace H makes a v longer, or the sum is.
        limit: Largest norm of the sum; 0 has none.
    """
    pace = 1.0
    for _ in range(halvings + 1):
        v = through
        for _ in range(terms - 1):
            moved = v - pace * (v + curvature(v))
            if not moved.norm() <= v.norm():
                break
            v = moved + through
        else:
            found = own + pace * v
            if limit == 0 or found.norm() <= limit:
                return found, pace
        pace /= 2
    return own, 0.0


def slopes(value: Tensor, leaves: Sequence[Tensor], *, along: Tensor | None = None, twice: bool = False) -> Tensor:
    """The gradient by all leaves as one vector (n,).

    Arguments:
        value: A number; or a vector, of whose product with `along` it is.
        twice: It will be differentiated itself.
    """
    told: dict[str, Any] = {"create_graph": twice, "retain_graph": True, "allow_unused": True, "materialize_grads": True}
    return torch.cat([part.flatten() for part in torch.autograd.grad(value, list(leaves), along, **told)])


def shaped(vector: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """A vector (n,) in the shapes of leaves."""
    parts = vector.split([leaf.numel() for leaf in leaves])
    return [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
