"""Bottlenecks after cross-attention, beside a network that stays as it is: Receler's adapters (Huang et al., 2024).

o <- o + U gelu(D o + d) + u        o is what a cross-attention of the U-Net gives
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, final

from torch import Tensor, nn

from vestige.diffusion.attention import innermost, network
from vestige.diffusion.model import Model
from vestige.diffusion.views import Wrapped
from vestige.edits.surgery import rebuild
from vestige.errors import Incompatible

PARTS = ("down.weight", "down.bias", "up.weight", "up.bias")
_PLACE = re.compile(r"(.+)\.transformer_blocks\.\d+\.attn2$")
Told = Callable[[str, Tensor, Tensor], Tensor]  # (cross-attention, what it gave, what the bottleneck adds) -> what is added


@final
class Bottlenecks:
    """The hook of an edit that brings adapters."""

    @staticmethod
    def hook(model: Model, *, tensors: Mapping[str, Tensor]) -> Model:
        """`model` with an adapter after every cross-attention; for the tensors see `bottlenecked`."""
        return bottlenecked(model, tensors)


def bottlenecked(model: Model, tensors: Mapping[str, Tensor], told: Told | None = None) -> Model:
    """`model` with an adapter after every cross-attention; all have to be there, and no other.

    Arguments:
        tensors: "down_blocks.0.attentions.0.down.weight" (R, D), "... .down.bias" (R,), "... .up.weight" (D, R), "... .up.bias" (D,);
            the blocks of one transformer share theirs. Leaves that require gradients are trained through.
        told: Sees what every bottleneck adds, (B, pixels, D), and may change it.
    """
    if isinstance(model, Wrapped):  # into the network that hooks lie around; behind the adapters that are there
        return model.around(bottlenecked(model.inner, tensors, told))
    inner: Any = model
    places = _places(network(model), tensors)
    unet = rebuild(inner.parts["unet"], {})
    for name, place in places.items():
        layer: Any = unet.get_submodule(name)
        like = layer.to_out[0].weight
        own = {part: tensors[f"{place}.{part}"].to(like) for part in PARTS}
        layer.register_forward_hook(_Bottleneck(own, like.shape[0], name, told))
    identity = " ".join(f"{name} {_digest(value)}" for name, value in sorted(tensors.items()))
    return _wrapped(_with(inner, unet), identity)


def widths(model: Model) -> dict[str, int]:
    """The transformers of a U-Net with cross-attention, by the names that adapters have, and how wide their attention is."""
    unet = network(model)
    found: dict[str, int] = {}
    for name, part in unet.named_modules():
        if match := _PLACE.match(name):
            layer: Any = part
            found[match[1]] = layer.to_out[0].weight.shape[0]
    return found


def _places(unet: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Cross-attention -> the transformer that it lies in, by whose name the file calls its adapter."""
    found = {name: match[1] for name, _ in unet.named_modules() if (match := _PLACE.match(name))}
    wanted = {f"{place}.{part}" for place in found.values() for part in PARTS}
    missing, unknown = sorted(wanted - set(tensors)), sorted(set(tensors) - wanted)
    if missing or unknown:
        what = f"lacks {len(missing)} tensors, e.g. {missing[0]}" if missing else f"has no place for {len(unknown)}, e.g. {unknown[0]}"
        raise Incompatible(f"the adapters were made for another base: this network has {len(set(found.values()))} transformers and {what}")
    return found


class _Bottleneck:
    """A forward hook of one cross-attention."""

    def __init__(self, own: Mapping[str, Tensor], width: int, name: str, told: Told | None) -> None:
        down, up = own["down.weight"], own["up.weight"]
        fits = down.dim() == up.dim() == 2 and down.shape == up.T.shape and down.shape[1] == width
        if not fits or own["down.bias"].shape != down.shape[:1] or own["up.bias"].shape != up.shape[:1]:
            raise Incompatible(
                f"the adapter of {name} has shapes {tuple(down.shape)} and {tuple(up.shape)}; attention there is {width} wide"
            )
        self.own, self.name, self.told = own, name, told

    def __call__(self, layer: nn.Module, given: Any, out: Tensor) -> Tensor:
        down, first, up, last = (self.own[part].to(out) for part in PARTS)
        added = nn.functional.linear(nn.functional.gelu(nn.functional.linear(out, down, first)), up, last)
        return out + (added if self.told is None else self.told(self.name, out, added))


def _with(view: Any, unet: nn.Module) -> Model:
    made: Model = view._view({**view.parts, "unet": unet}, view._hashes)
    return made


def _bare(view: Model) -> Model:
    """A view of the network without bottlenecks."""
    inner = innermost(view)
    unet = rebuild(inner.parts["unet"], {})
    for part in unet.modules():
        if any(isinstance(hook, _Bottleneck) for hook in part._forward_hooks.values()):
            part._forward_hooks = OrderedDict((k, h) for k, h in part._forward_hooks.items() if not isinstance(h, _Bottleneck))
    return _with(inner, unet)


def _wrapped(view: Model, identity: str) -> Model:
    """The view as a model of its own; edits and adapters on it keep the hooks that its network carries."""
    return Wrapped(view, lambda changed: _wrapped(changed, identity), bare=_bare, identity=f"receler {identity}")


def _digest(value: Tensor) -> str:
    import hashlib

    return hashlib.blake2b(value.detach().float().cpu().contiguous().numpy().tobytes(), digest_size=8).hexdigest()
