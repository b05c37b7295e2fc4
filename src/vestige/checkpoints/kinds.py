"""What tensors are, from their names and shapes alone: the formats that are known, by tag, and what tells them apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from vestige.checkpoints import lora
from vestige.checkpoints.keymaps import UNET
from vestige.checkpoints.untrusted import Stored
from vestige.errors import BadInput

KINDS = {
    "F1": "every weight of a denoiser, in diffusers' names",
    "F2": "some weights of a denoiser, in diffusers' names (safetensors)",
    "F2b": "some weights, in diffusers' names (pickle; Concept Ablation's delta holds them by component)",
    "F3": "a whole CompVis checkpoint, or its U-Net",
    "F3b": "some weights of a U-Net, in CompVis's names",
    "F4": "a pipeline folder, or one component of it",
    "F5": "a LoRA in kohya's names, or in XLabs'",
    "F6": "some modules of a U-Net as nested tables",
    "F7": "a text encoder",
    "F8": "Receler's adapters: a bottleneck after every cross-attention, active at inference",
    "F9": "a sparse autoencoder of a block's activations, which something at inference has to steer by",
    "F10": "a list [model, optimiser, step, ...] of a class-conditional DDPM",
    "F11": "a LoRA in PEFT's or diffusers' names",
    "F12": "a LoRA in CompVis's names",
    "F13": "a LoRA whose modules are numbered, as cloneofsimo's code writes it",
    "inversion": "a textual inversion: embeddings of words of its own",
}
FULL = (("conv_in.weight", "conv_norm_out.weight", "conv_out.weight"), ("x_embedder.weight", "proj_out.weight"))
_DENOISER = re.compile(
    r"^((unet|transformer)\.)?((down|up)_blocks\.\d|mid_block\.|(single_)?transformer_blocks\.\d|conv_(in|out)\.|time_embed)"
)
_ENCODER = re.compile(
    r"^(text_encoder(_[23])?\.)?(text_model\.)?(embeddings\.(token|position)_|encoder\.layers\.\d+\.(self_attn|mlp|layer_norm))"
)
_COMPVIS = re.compile(rf"^({re.escape(UNET)}|diffusion_model\.)?((input|output)_blocks\.\d+\.\d|middle_block\.\d)\.")
_RECELER = re.compile(r"^((down|up)_blocks\.\d+|mid_block)\.attentions(\.\d+)*\.(down|up)\.(weight|bias)$")
_DDPM = re.compile(r"^(temb\.dense\.0\.|down\.\d+\.block\.\d+\.|mid\.block_1\.)")


def tag(path: Path, stored: Stored, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The format of a file with these tensors; one of no known kind is refused."""
    names = list(shapes)
    kind = lora.style(shapes)
    if kind or lora.foreign(shapes):
        return {"peft": "F11", "diffusers": "F11", "compvis": "F12", "numbered": "F13"}.get(kind, "F5")
    if {"encoder.weight", "encoder.bias", "W_dec", "b_dec"} <= set(names):
        return "F9"
    if any(_DDPM.match(n) for n in names) or (stored.wrappers[:1] and stored.wrappers[0].startswith("list") and _whole(shapes)):
        return "F10"
    if names and all(_RECELER.match(n) for n in names):
        return "F8"
    if any(_COMPVIS.match(n) for n in names):
        return "F3" if any(re.search(r"(^|\.)out\.2\.weight$", n) for n in names) else "F3b"
    if any(_DENOISER.match(n) for n in names):
        return _diffusers(stored, shapes)
    if any(_ENCODER.match(n) for n in names):
        return "F7"
    if _inversion(names, shapes):
        return "inversion"
    shown = ", ".join(names[:4]) or "nothing"
    raise BadInput(f"{path} is no checkpoint of a known kind: {len(names)} tensors, e.g. {shown}")


def _diffusers(stored: Stored, shapes: Mapping[str, tuple[int, ...]]) -> str:
    if _whole(shapes):
        return "F1"
    if stored.kind == "safetensors":
        return "F2"
    return "F6" if stored.nested and not stored.nested <= {"unet", "transformer", "text_encoder"} else "F2b"


def _whole(names: Iterable[str]) -> bool:
    """Whether the ends of a denoiser are there, in diffusers' names."""
    bare = {name.removeprefix("unet.").removeprefix("transformer.") for name in names}
    return any(all(name in bare for name in full) for full in FULL)


def _inversion(names: list[str], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    told = any(n.startswith("string_to_param") or n in ("emb_params", "clip_l", "clip_g") for n in names)
    told = told or (0 < len(names) <= 2 and set(names) <= {"emb", "emb2"})  # of SDXL's two text encoders
    rows = 0 < len(names) <= 16 and all(1 <= len(shapes[n]) <= 2 and "." not in n for n in names)
    return told or (rows and all(re.fullmatch(r"<.+>|\*", n) for n in names))


def sensible(names: Iterable[str]) -> bool:
    """Whether some of the names are those of a network that is known here."""
    return any(mark.match(name) for name in names for mark in (_DENOISER, _ENCODER, _COMPVIS, _DDPM))
