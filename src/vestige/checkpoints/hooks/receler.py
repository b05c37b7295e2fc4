"""Receler's adapters at work: a bottleneck after every cross-attention (Huang et al., 2024).

    o <- o + U gelu(D o + d) + u        o is what a cross-attention of the U-Net gives

Only the network's use of them is here, so that a published adapter can be audited; its training is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, final

from torch import Tensor, nn

from vestige.diffusion import Model
from vestige.diffusion.attention import network
from vestige.diffusion.views import Wrapped
from vestige.edits.surgery import rebuild
from vestige.errors import Incompatible

PARTS = ("down.weight", "down.bias", "up.weight", "up.bias")
_PLACE = re.compile(r"(.+)\.transformer_blocks\.\d+\.attn2$")


@final
class Receler:
    """The hook of a Receler adapter."""

    @staticmethod
    def hook(model: Model, *, tensors: Mapping[str, Tensor]) -> Model:
        """`model` with an adapter after every cross-attention; all have to be there, and no other.

        Arguments:
            tensors: "down_blocks.0.attentions.0.down.weight" (R, D), "... .down.bias" (R,), "... .up.weight" (D, R), "... .up.bias" (D,);
                the blocks of one transformer share theirs.
        """
        inner: Any = model
        if not hasattr(inner, "parts"):
            raise Incompatible("Receler's adapters go into a network; put them on before hooks that change what a model reads")
        places = _places(network(model), tensors)
        unet = rebuild(inner.parts["unet"], {})
        for name, place in places.items():
            layer: Any = unet.get_submodule(name)
            like = layer.to_out[0].weight
            own = {part: tensors[f"{place}.{part}"].to(like) for part in PARTS}
            layer.register_forward_hook(_after(own, like.shape[0], name))
        view = inner._view({**inner.parts, "unet": unet}, inner._hashes)
        return _wrapped(view, " ".join(f"{name} {_digest(value)}" for name, value in sorted(tensors.items())))


def _places(unet: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Cross-attention -> the transformer that it lies in, by whose name the file calls its adapter."""
    found = {name: match[1] for name, _ in unet.named_modules() if (match := _PLACE.match(name))}
    wanted = {f"{place}.{part}" for place in found.values() for part in PARTS}
    missing, unknown = sorted(wanted - set(tensors)), sorted(set(tensors) - wanted)
    if missing or unknown:
        what = f"lacks {len(missing)} tensors, e.g. {missing[0]}" if missing else f"has no place for {len(unknown)}, e.g. {unknown[0]}"
        raise Incompatible(f"the adapters were made for another base: this network has {len(set(found.values()))} transformers and {what}")
    return found


def _after(own: Mapping[str, Tensor], width: int, name: str) -> Callable[..., Tensor]:
    down, up = own["down.weight"], own["up.weight"]
    fits = down.dim() == up.dim() == 2 and down.shape == up.T.shape and down.shape[1] == width
    if not fits or own["down.bias"].shape != down.shape[:1] or own["up.bias"].shape != up.shape[:1]:
        raise Incompatible(f"the adapter of {name} has shapes {tuple(down.shape)} and {tuple(up.shape)}; attention there is {width} wide")

    def adapted(layer: nn.Module, given: Any, out: Tensor) -> Tensor:
        within = nn.functional.gelu(nn.functional.linear(out, down.to(out), own["down.bias"].to(out)))
        return out + nn.functional.linear(within, up.to(out), own["up.bias"].to(out))

    return adapted


def _wrapped(view: Model, identity: str) -> Model:
    """The view as a model of its own; edits and adapters on it keep the hooks that its network carries."""
    return Wrapped(view, lambda changed: _wrapped(changed, identity), identity=f"receler {identity}")


def _digest(value: Tensor) -> str:
    import hashlib

    return hashlib.blake2b(value.detach().float().cpu().contiguous().numpy().tobytes(), digest_size=8).hexdigest()
