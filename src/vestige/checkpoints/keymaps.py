"""One weight, several names: CompVis's U-Net beside diffusers', and the flattened names of LoRA files. FLUX.1's fused modules: `bfl`.

Both maps are made from the structure, i.e. from the diffusers names of a U-Net's weights: how many blocks go down, and how many layers
a block has. With L layers a block, block i's layer j is

    input_blocks.{1 + (L + 1) i + j}     down_blocks.i.{resnets, attentions}.j    and its downsampler  input_blocks.{(L + 1)(i + 1)}.0.op
    output_blocks.{(L + 1) i + j}        up_blocks.i.{resnets, attentions}.j      and its upsampler beside the last layer

with .0 for the resnet and .1 for the attention; of an upsampler, .2 where its block has attention, else .1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

UNET = "model.diffusion_model."  # where CompVis keeps the U-Net
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def compvis(names: Iterable[str]) -> dict[str, str]:
    """CompVis name -> diffusers name of every weight of a U-Net, neither with a prefix; weights without a counterpart are left out.

    Arguments:
        names: Diffusers names of all weights of the U-Net; its structure is read from them.
    """
    names = list(names)
    parsed = [match.groups() for match in map(_BLOCK.match, names) if match]
    layers = len({layer for way, block, kind, layer, _ in parsed if (way, block, kind) == ("down", "0", "resnets")})
    attending = {int(block) for way, block, kind, _, _ in parsed if (way, kind) == ("up", "attentions")}
    made = {_theirs(name, layers, attending): name for name in names}
    made.pop("", None)
    return made


def _theirs(name: str, layers: int, attending: set[int]) -> str:
    """A weight's CompVis name; "" if it has none."""
    if match := _BLOCK.match(name):
        way, block, kind, layer, rest = match.groups()
        i, j = int(block), int(layer)
        if kind == "downsamplers":
            return f"input_blocks.{(layers + 1) * (i + 1)}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            return f"output_blocks.{(layers + 1) * i + layers}.{2 if i in attending else 1}.{rest}"
        place = f"input_blocks.{1 + (layers + 1) * i + j}" if way == "down" else f"output_blocks.{(layers + 1) * i + j}"
        return _within(f"{place}.{0 if kind == 'resnets' else 1}", kind, rest)
    if match := _MIDDLE.match(name):
        kind, layer, rest = match.groups()
        return _within(f"middle_block.{1 if kind == 'attentions' else 2 * int(layer)}", kind, rest)
    module, _, leaf = name.rpartition(".")
    return f"{_OUTSIDE[module]}.{leaf}" if module in _OUTSIDE else ""


def _within(place: str, kind: str, rest: str) -> str:
    """Inside a transformer both use the same names; inside a resnet they do not."""
    if kind == "attentions":
        return f"{place}.{rest}"
    module, _, leaf = rest.rpartition(".")
    return f"{place}.{_RESNET[module]}.{leaf}" if module in _RESNET else ""


def plain(name: str) -> str:
    """A qualified weight name without the "text_model." that CLIP encoders carry in some releases of transformers and not in others."""
    part, dot, rest = name.partition(".")
    return f"{part}{dot}{rest.removeprefix('text_model.')}" if part.startswith("text_encoder") else name


def weights(names: Iterable[str], denoiser: str) -> dict[str, str]:
    """Every spelling that published checkpoints use for a weight -> its qualified name; CLIP's without "text_model.", see `plain`.

    Arguments:
        names: Qualified names of all weights, e.g. "unet.conv_in.weight".
        denoiser: The component whose weights are also spelled without it.
    """
    names = list(names)
    made = {plain(name): name for name in names}
    made |= {name.removeprefix(f"{denoiser}."): name for name in names if name.startswith(f"{denoiser}.")}
    ours = [name.removeprefix("unet.") for name in names if name.startswith("unet.")]
    for theirs, own in compvis(ours).items():
        made |= {f"{head}{theirs}": f"unet.{own}" for head in (UNET, "diffusion_model.", "")}
    made |= {f"cond_stage_model.transformer.{n.partition('.')[2]}": n for n in (plain(n) for n in names) if n.startswith("text_encoder.")}
    return made


def modules(names: Iterable[str], denoiser: str) -> dict[str, str]:
    """Every spelling that LoRA files use for a module -> the qualified name of its weight.

    Spellings are dotted paths as in `weights`, and kohya's, flattened with underscores ("lora_unet_mid_block_..."; of CompVis's names
    too, as for SDXL).
    """
    names = [name for name in names if name.endswith(".weight")]
    made = {spelled.removesuffix(".weight"): name for spelled, name in weights(names, denoiser).items()}
    flat = {f"lora_unet_{s.removeprefix(UNET).replace('.', '_')}": n for s, n in made.items() if s.startswith(UNET)}
    encoders = len({n.partition(".")[0] for n in names if n.startswith("text_encoder")})
    return made | flat | {spelled: name for name in names for spelled in kohya_names(name, encoders)}


def kohya_names(name: str, encoders: int = 1) -> list[str]:
    """A weight's module as kohya's scripts spell it, the usual spelling first; none for a component that they do not know.

    Arguments:
        encoders: How many text encoders the model has; with two, the first one is "te1".
    """
    part, _, rest = plain(name).removesuffix(".weight").partition(".")
    flat = rest.replace(".", "_")
    if part == "unet":
        return [f"lora_unet_{flat}"]
    if part == "transformer":
        return [f"lora_transformer_{flat}", f"lora_unet_{flat}"]
    if part.startswith("text_encoder") and re.match(r"(encoder\.block\.|shared$)", rest):
        return [f"lora_te3_{flat}"]  # T5, whichever encoder of a model it is
    heads = {"text_encoder": ["lora_te", "lora_te1"], "text_encoder_2": ["lora_te2"]}.get(part, [])
    if encoders > 1:
        heads = heads[::-1]
    within = flat if flat.startswith("text_projection") else f"text_model_{flat}"
    return [f"{head}_{within}" for head in heads]
