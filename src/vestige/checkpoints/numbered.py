"""The modules that cloneofsimo's LoRA code numbered: in the order in which a network of its day listed the layers that it adapted.

    unet:0:up  unet:0:down  unet:1:up ...    the linear maps of attention, and the first of every feed-forward (GEGLU), block by block
    text_encoder:0:up ...                    keys, values, queries and outputs, layer by layer

What lay where has changed since: diffusers put the feed-forward between the two attentions, and now has it after them. Every order that
was ever in use is tried, and the one that fits by its shapes is taken; where two fit, nobody can tell, and none is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from itertools import product

from vestige.checkpoints.flux_names import Parts
from vestige.diffusion import Model

_BLOCKS = (("down_blocks", "up_blocks", "mid_block"), ("down_blocks", "mid_block", "up_blocks"))
_WITHIN = (("attn1", "ff", "attn2"), ("attn1", "attn2", "ff"))
_LAYERS = ("to_q", "to_k", "to_v", "to_out", "net")
_UNET = re.compile(
    r"unet\.(?P<block>down_blocks|mid_block|up_blocks)(?P<where>(?:\.\w+)*?\.transformer_blocks\.\d+)\."
    r"(?P<part>attn1|attn2|ff)\.(?P<layer>to_q|to_k|to_v|to_out|net)(?:\.0)?(?:\.proj)?\.weight"
)
_WORDS = re.compile(r"text_encoder\.(?:.*\.)?layers\.(?P<number>\d+)\.self_attn\.(?P<layer>[kvq]|out)_proj\.weight")


def modules(names: Iterable[str], shapes: Mapping[str, tuple[int, int]], model: Model) -> dict[str, Parts]:
    """Module as numbered ("unet:0") -> the weight that it adapts; a component whose order cannot be told is left out.

    Arguments:
        names: Qualified names of all weights.
        shapes: Of every module in the file, how many numbers it maps to and from, i.e. (out, in).
    """
    names, made = list(names), dict[str, Parts]()
    for component, orders in (("unet", _unet(names)), ("text_encoder", [_words(names)])):
        own = {name: shape for name, shape in shapes.items() if name.startswith(f"{component}:")}
        fits = [order for order in orders if own == _mapped(component, order, model)]
        if fits and all(order == fits[0] for order in fits):
            made |= {f"{component}:{i}": (name,) for i, name in enumerate(fits[0])}
    return made


def _mapped(component: str, order: list[str], model: Model) -> dict[str, tuple[int, int]]:
    shapes = {f"{component}:{i}": tuple(model.tensor(name).shape) for i, name in enumerate(order)}
    return {name: (shape[0], math.prod(shape[1:])) for name, shape in shapes.items()}


def _unet(names: list[str]) -> list[list[str]]:
    """Every order in which the layers of a U-Net may have been numbered."""
    found = {match: name for name in names if (match := _UNET.fullmatch(name))}
    orders = []
    for blocks, within in product(_BLOCKS, _WITHIN):

        def place(match: re.Match[str], blocks: tuple[str, ...] = blocks, within: tuple[str, ...] = within) -> tuple[object, ...]:
            numbers = [int(n) for n in re.findall(r"\d+", match["where"])]
            return blocks.index(match["block"]), numbers, within.index(match["part"]), _LAYERS.index(match["layer"])

        orders.append([found[match] for match in sorted(found, key=place)])
    return orders


def _words(names: list[str]) -> list[str]:
    """The order of a text encoder's layers, which has always been this."""
    found = {match: name for name in names if (match := _WORDS.fullmatch(name))}
    return [found[match] for match in sorted(found, key=lambda m: (int(m["number"]), ("k", "v", "q", "out").index(m["layer"])))]
