"""Weights as an architecture begins with them, of which nothing that a model had learnt is left; and weights on their way there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from vestige.diffusion import Model
from vestige.diffusion.attention import innermost
from vestige.edits.precision import wide
from vestige.errors import Incompatible

_DENSE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TABLES = ("scale_shift_table",)  # of modulation, beside the layers of a transformer block


def fresh(model: Model, names: Sequence[str], rng: Generator) -> dict[str, Tensor]:
    """New values, float32 on the CPU, for named weights; only shapes are read of the old ones.

        matrices and kernels   U(-k, k), k = fan_in^(-1/2), as torch.nn begins (He et al., 2015, with slope sqrt(5))
        tables of embeddings   N(0, 1)
        tables of modulation   N(0, 1) / sqrt(width)
        norms                  gain 1
        every bias             0, where torch.nn draws those of matrices from U(-k, k)

    Errors:
        Incompatible, for a weight of a kind whose beginning is not known.
    """
    made = {name: _begun(*_place(model, name), rng) for name in names}
    unknown = [name for name, value in made.items() if value is None]
    if unknown:
        raise Incompatible(
            f"how {unknown[0]} of {model.name} begins is not known, and of {len(unknown) - 1} more weights: none can be made afresh"
        )
    return {name: value for name, value in made.items() if value is not None}


def shrunk(model: Model, names: Sequence[str], rng: Generator, *, share: float, noise: float) -> dict[str, Tensor]:
    """Values, in float32 at least, part of the way from a model's weights to no knowledge at all: UNDO's noise (Lee et al., 2025).

        matrices, kernels, tables   (1 - share) w + share noise N,   N ~ U(-k, k), k = (6 / (fan_in + fan_out))^(1/2)  (Xavier)
        gains of norms              (1 - share) w + share
        other vectors               (1 - share) w

    The paper's code has matrices and vectors alone, and shrinks every vector, gains too; kernels, by their fans, and gains that go
    towards 1, where norms begin, are ours.

    Arguments:
        share: In [0, 1]: 0 leaves every weight as it is, bit for bit.
        noise: Times Xavier's deviation, at least 0.
    """
    made = {}
    for name in names:
        value = wide(model.tensor(name))
        if value.dim() > 1:
            fans = value[0].numel() + value[:, 0].numel()
            goal = noise * (2 * torch.rand(value.shape, generator=rng) - 1) * (6 / fans) ** 0.5
        else:
            layer, leaf, _ = _place(model, name)
            goal = torch.full(value.shape, float(leaf == "weight" and "Norm" in type(layer).__name__))
        made[name] = (1 - share) * value + share * goal.to(value)
    return made


def scrambled(model: Model, names: Sequence[str], rng: Generator, *, share: float) -> dict[str, Tensor]:
    """Values, in float32 at least, on the straight line from a model's weights to fresh ones: (1 - share) w + share `fresh`.

    Biases move towards 0 and gains towards 1 by it, for there an architecture begins. At `share` 0 every weight is as it was, bit for bit.
    """
    begun = fresh(model, names, rng)
    return {name: (1 - share) * (old := wide(model.tensor(name))) + share * begun[name].to(old) for name in names}


def _place(model: Model, name: str) -> tuple[nn.Module, str, torch.Size]:
    """The layer that holds a weight, the weight's name there, and its shape."""
    parts = getattr(innermost(model), "parts", None)
    if parts is None:
        raise Incompatible(f"{model.name} is not made of torch modules; its weights cannot be made afresh")
    part, _, rest = name.partition(".")
    layer, _, leaf = rest.rpartition(".")
    return parts[part].get_submodule(layer), leaf, model.tensor(name).shape


def _begun(layer: nn.Module, leaf: str, shape: torch.Size, rng: Generator) -> Tensor | None:
    """A weight's first value; None where nobody knows it."""
    if leaf in _TABLES:
        table: Tensor = torch.randn(shape, generator=rng) / shape[-1] ** 0.5
        return table
    if leaf == "bias":
        return torch.zeros(shape)
    if leaf != "weight":
        return None
    if isinstance(layer, _DENSE):
        bound = shape[1:].numel() ** -0.5
        dense: Tensor = (2 * torch.rand(shape, generator=rng) - 1) * bound
        return dense
    if isinstance(layer, nn.Embedding):
        return torch.randn(shape, generator=rng)
    return torch.ones(shape) if "Norm" in type(layer).__name__ and len(shape) == 1 else None
