"""What the layers of a denoiser hand on to one another: the states between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from vestige.diffusion.attention import innermost
from vestige.diffusion.model import Model
from vestige.errors import Incompatible


@contextmanager
def handed_on(model: Model) -> Iterator[list[Tensor]]:
    """Within, a list that every call of the denoiser appends to: each tensor that a layer returns, in the order of computation.

    Layers are the network's own parts with weights, and of a part that is made of lists, or of a list of such parts, their members: a
    U-Net's residual and attention layers and what changes its resolution, a transformer's blocks, with the states of text and picture
    where it has both; beside them the embeddings of time and what else is told, and last the prediction itself.
    """
    found: list[Tensor] = []
    with ExitStack() as stack:
        for layer in _layers(model):
            stack.callback(layer.register_forward_hook(lambda *called: found.extend(_tensors(called[-1]))).remove)
        yield found


def readable(model: Model) -> None:
    """Refuse a model whose layers cannot be read, before the work that it is for."""
    _layers(model)


def _layers(model: Model) -> list[nn.Module]:
    inner = innermost(model)
    network = getattr(inner, "parts", {}).get(getattr(inner, "denoiser", ""))
    if not isinstance(network, nn.Module):
        raise Incompatible(f"{model.name} has no denoiser made of layers, whose states could be read; hints=0 teaches its prediction alone")
    parts = [part for child in network.children() for part in (child if isinstance(child, nn.ModuleList) else [child])]
    found = []
    for part in parts:
        lists = [child for child in part.children() if isinstance(child, nn.ModuleList)]
        found += [member for each in lists for member in each] if lists else [part]
    return [layer for layer in found if any(True for _ in layer.parameters())]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
