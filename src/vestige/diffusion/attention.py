"""Cross-attention probabilities of a forward pass, and the columns that belong to a concept's words.

In layer i, with queries from the picture and keys from the text,

    A_i = softmax(Q_i K_i' / sqrt(d_i)),   shape (batch, heads, pixels, tokens), rows sum to 1

`recording` reads them while a model denoises. The fused kernels that networks use never form A, so the chosen layers compute
it step by step meanwhile, by diffusers' own code; the output is the same up to rounding, and gradients flow through the maps
into whatever the view was made trainable in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vestige.diffusion.model import Model
from vestige.errors import BadInput, Incompatible, UnknownName, shortened

Layers = Literal["all"] | tuple[str, ...]
Maps = dict[str, Tensor]  # layer -> (B, heads, pixels, tokens)

# Processors that compute softmax(Q K' / sqrt(d)) V and nothing else, so that the stepwise one may stand in for them.
PLAIN = ("AttnProcessor", "AttnProcessor2_0", "SlicedAttnProcessor", "XFormersAttnProcessor")


def innermost(model: Model) -> Any:
    """The model under its inference-time hooks."""
    found: Any = model
    while hasattr(found, "inner"):
        found = found.inner
    return found


def network(model: Model, lack: str = "its maps cannot be read") -> nn.Module:
    """The U-Net of a model; a model without cross-attention is refused.

    Arguments:
        lack: What that means for the one who asks.
    """
    unet: nn.Module | None = getattr(innermost(model), "parts", {}).get("unet")
    if unet is None or not _cross(unet):
        raise Incompatible(f"{model.name} has no U-Net with cross-attention; {lack}, choose another method for it")
    return unet


def joint_attention(model: Model) -> bool:
    """Text and picture attend to each other in one attention, into which the text has projections of its own (FLUX, SD3)."""
    transformer = getattr(innermost(model), "parts", {}).get("transformer")
    return transformer is not None and any(name.endswith(".add_k_proj") for name, _ in transformer.named_modules())


def layers(model: Model, chosen: Layers = "all") -> list[str]:
    """Names of cross-attention layers, in the network's order.

    Arguments:
        chosen: "all", or any of: whole names, parts of them ("mid_block", "up_blocks.1"), and resolutions on the model's own
            latents, height by width ("8x8").
    """
    unet = network(model)
    sizes = {name: _size(name, unet, innermost(model).latent_shape[1:]) for name in _cross(unet)}
    if chosen == "all":
        return list(sizes)
    picked = {item: [n for n, size in sizes.items() if item == size or f".{item}." in f".{n}."] for item in chosen}
    for item, names in picked.items():
        if not names:
            blocks = {re.sub(r"\.attentions.*", "", n) for n in sizes}
            raise UnknownName(f"cross-attention layer of {model.name}", item, {"all", *sizes.values(), *blocks})
    return [n for n in sizes if any(n in names for names in picked.values())]


@contextmanager
def recording(model: Model, chosen: Layers = "all") -> Iterator[Maps]:
    """Within, every pass of `model` leaves its probabilities in the yielded table, those of the latest pass only.

    The network is as it was afterwards, also when an error ends the block.
    """
    unet, maps = network(model), Maps()
    names = layers(model, chosen)
    with ExitStack() as stack:
        for name in names:
            _record(unet.get_submodule(name), name, maps, stack)
        yield maps


def map_distance(maps: Maps, goals: Maps, counted: Tensor, *, pooled: bool = False) -> Tensor:
    """Mean over layers, batch, heads and pixels of the sum over counted tokens of squared differences; `goals` get no gradient.

    Arguments:
        maps: Layer -> (B, heads, pixels, tokens).
        counted: (B, tokens).
        pooled: Compare the maps' means over pixels.
    """
    found = []
    for name, own in maps.items():
        goal = goals[name].detach()
        gap = own.mean(2, keepdim=True) - goal.mean(2, keepdim=True) if pooled else own - goal
        found.append((gap.square() * counted[:, None, None]).sum(-1).mean())
    return torch.stack(found).mean()


def columns(model: Model, text: str, words: str) -> list[int]:
    """Positions of the tokens of `words`, wherever the prompt holds them; they are columns of its maps. None for no words."""
    ids, inner = _ids(model, text)[1:-1], _ids(model, words)[1:-1]
    starts = _starts(ids, inner)
    if inner and not starts:
        if _starts(innermost(model).tokenizer(text).input_ids, inner):
            told = f"{shortened(text)} is cut after {len(ids) + 1} tokens, before {shortened(words)} ends"
            raise Incompatible(f"{told}; give a shorter prompt")
        raise BadInput(f"{shortened(text)} does not hold the words {shortened(words)} within what the model reads; give a prompt that does")
    return sorted({1 + start + k for start in starts for k in range(len(inner))})


def _starts(ids: Sequence[int], inner: Sequence[int]) -> list[int]:
    """Where a row of tokens holds another."""
    return [i for i in range(len(ids) - len(inner) + 1) if inner and list(ids[i : i + len(inner)]) == list(inner)]


def endings(model: Model, text: str, *, padding: bool = False) -> list[int]:
    """Position of the prompt's end token; with `padding`, every position that carries the same token, as padding does in CLIP-L."""
    tokenizer = innermost(model).tokenizer
    first = len(_ids(model, text)) - 1
    padded = padding and tokenizer.pad_token_id == tokenizer.eos_token_id
    return list(range(first, _length(tokenizer))) if padded else [first]


def _cross(unet: nn.Module) -> list[str]:
    return [name for name, part in unet.named_modules() if getattr(part, "is_cross_attention", False)]


def _size(name: str, unet: Any, latent: tuple[int, int]) -> str:
    """Height by width of the picture positions that a layer attends from."""
    deepest = len(unet.config.block_out_channels) - 1
    block, index = name.split(".")[:2]
    depth = {"down_blocks": lambda: int(index), "up_blocks": lambda: deepest - int(index)}.get(block, lambda: deepest)()
    return "x".join(str(-(-side // 2**depth)) for side in latent)


def _record(layer: Any, name: str, maps: Maps, stack: ExitStack) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    kind = type(layer.processor).__name__
    if kind not in PLAIN:
        raise Incompatible(f"{name} computes its attention by {kind}; only plain attention ({', '.join(PLAIN)}) can be read")
    scores: Callable[..., Tensor] = layer.get_attention_scores

    def kept(*arguments: Any, **named: Any) -> Tensor:
        probabilities = scores(*arguments, **named)
        maps[name] = probabilities.unflatten(0, (-1, layer.heads))
        return probabilities

    # Both are plain attributes of this module object alone: views share tensors, never modules that one of them replaces.
    for attribute, value in (("processor", AttnProcessor()), ("get_attention_scores", kept)):
        stack.callback(_restored, layer, attribute, vars(layer).get(attribute))
        vars(layer)[attribute] = value


def _restored(layer: Any, attribute: str, before: Any) -> None:
    if before is None:
        del vars(layer)[attribute]
    else:
        vars(layer)[attribute] = before


def _length(tokenizer: Any) -> int:
    return min(int(tokenizer.model_max_length), 77)


def _ids(model: Model, text: str) -> list[int]:
    """Token numbers of a prompt, start and end included, cut where the model cuts."""
    tokenizer = getattr(innermost(model), "tokenizer", None)
    if tokenizer is None:
        raise Incompatible(f"{model.name} has no tokenizer; a model that reads prompts is needed")
    found: list[int] = tokenizer(text, truncation=True, max_length=_length(tokenizer)).input_ids
    return found
