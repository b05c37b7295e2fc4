"""Hidden units of feed-forward blocks, heard while a model denoises: they are what a block's last linear map reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from vestige.diffusion.attention import innermost
from vestige.diffusion.model import Model
from vestige.errors import Incompatible

_LAST = re.compile(r"\.ff(_context)?\.(net\.2|linear_out)\.weight$")
Told = Callable[[str, Tensor], None]  # (weight's name, hidden units (..., in))


def last_maps(model: Model, lack: str = "its hidden units cannot be heard") -> list[str]:
    """Names of the last weights of all feed-forward blocks, each (out, in); the picture's and, where it has some, the text's.

    Arguments:
        lack: What it means for the one who asks that a model has none.
    """
    found = [name for name in model.scope("unet") if _LAST.search(name)]
    if not found:
        raise Incompatible(f"{model.name} has no feed-forward blocks; {lack}, choose another method for it")
    return found


@contextmanager
def hearing(model: Model, names: Sequence[str], told: Told) -> Iterator[None]:
    """Within, `told` is given what each of these maps reads at every pass of the model; afterwards the network is as it was."""
    inner: Any = innermost(model)
    with ExitStack() as stack:
        for name in names:
            part, _, place = name.partition(".")
            layer: nn.Module = inner.parts[part].get_submodule(place.removesuffix(".weight"))
            stack.callback(layer.register_forward_pre_hook(_hook(name, told)).remove)
        yield


def _hook(name: str, told: Told) -> Callable[[nn.Module, Any], None]:
    return lambda layer, given: told(name, given[0])
