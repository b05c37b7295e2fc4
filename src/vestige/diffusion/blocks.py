"""What the blocks of a denoiser hand on to one another: the states between its layers."""

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
    """Within, a list that every call of the denoiser appends to: each tensor that a block returns, in the order of computation.

    Blocks are the members of the network's outermost lists of modules: the resolutions of a U-Net on the way down, with what they keep
    for the way up, and on the way up; the layers of a transformer, with the states of text and picture where it has both.
    """
    found: list[Tensor] = []
    with ExitStack() as stack:
        for block in _blocks(model):
            stack.callback(block.register_forward_hook(lambda *called: found.extend(_tensors(called[-1]))).remove)
        yield found


def _blocks(model: Model) -> list[nn.Module]:
    inner = innermost(model)
    network = getattr(inner, "parts", {}).get(getattr(inner, "denoiser", ""))
    lists = [part for part in network.children() if isinstance(part, nn.ModuleList)] if isinstance(network, nn.Module) else []
    if not any(map(len, lists)):
        raise Incompatible(f"{model.name} has a denoiser without a list of blocks, whose states could be read")
    return [block for part in lists for block in part]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
