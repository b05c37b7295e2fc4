"""FLUX.1 in the names of its first release, which kohya's and XLabs' LoRA trainers kept: one module there is several weights in diffusers.

A fused module's rows are those of its parts, one below the other, so a LoRA on it is a LoRA on each part with the same down and its own
rows of up; the other way round, parts become one module by setting their ranks side by side.

    double_blocks.i.img_attn.qkv   transformer_blocks.i.attn.to_q, to_k, to_v            the text's: add_q_proj, add_k_proj, add_v_proj
    single_blocks.i.linear1        single_transformer_blocks.i.attn.to_q, to_k, to_v, proj_mlp

The last modulation holds shift before scale here and scale before shift in diffusers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from vestige.edits.surgery import Factors

Parts = tuple[str, ...]  # qualified names of the weights that a module's rows belong to, in their order
SWAPPED = "transformer.norm_out.linear.weight"
_STREAMS = {
    "img": ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "ff", "norm1"),
    "txt": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out", "ff_context", "norm1_context"),
}
_SINGLE = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
}
_OUTSIDE = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    **{
        f"{theirs}.{layer}_layer": f"time_text_embed.{ours}.linear_{number}"
        for theirs, ours in (("time_in", "timestep_embedder"), ("vector_in", "text_embedder"), ("guidance_in", "guidance_embedder"))
        for layer, number in (("in", 1), ("out", 2))
    },
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
_BLOCK = re.compile(r"transformer\.(single_)?transformer_blocks\.(\d+)\.")


def fused_modules(names: Iterable[str]) -> dict[str, Parts]:
    """Module in the release's names -> the weights that it holds; empty for a transformer that is not FLUX.1's.

    Arguments:
        names: Qualified names of all weights; how many blocks there are is read from them.
    """
    known = set(names)
    if not {"transformer.single_transformer_blocks.0.proj_mlp.weight", "transformer.context_embedder.weight"} <= known:
        return {}
    blocks = {(bool(match[1]), int(match[2])) for match in map(_BLOCK.match, known) if match}
    made: dict[str, Sequence[str]] = {theirs: (ours,) for theirs, ours in _OUTSIDE.items()}
    for single, i in sorted(blocks):
        head, place = f"{'single' if single else 'double'}_blocks.{i}", f"{'single_' if single else ''}transformer_blocks.{i}"
        inside = _SINGLE if single else _double()
        made |= {f"{head}.{theirs}": [f"{place}.{part}" for part in parts] for theirs, parts in inside.items()}
    whole = {theirs: tuple(f"transformer.{part}.weight" for part in parts) for theirs, parts in made.items()}
    return {theirs: parts for theirs, parts in whole.items() if known.issuperset(parts)}


def _double() -> dict[str, tuple[str, ...]]:
    """What a block of two streams holds."""
    made: dict[str, tuple[str, ...]] = {}
    for stream, (q, k, v, out, feed, norm) in _STREAMS.items():
        made |= {f"{stream}_attn.qkv": (q, k, v), f"{stream}_attn.proj": (out,), f"{stream}_mod.lin": (f"{norm}.linear",)}
        made |= {f"{stream}_mlp.0": (f"{feed}.net.0.proj",), f"{stream}_mlp.2": (f"{feed}.net.2",)}
    return made


def spelled(names: Iterable[str]) -> dict[str, Parts]:
    """Every spelling that LoRA files use for these modules -> the weights: dotted, kohya's flattened, XLabs' processors."""
    made: dict[str, Parts] = {}
    for module, parts in fused_modules(names).items():
        made |= dict.fromkeys((module, f"diffusion_model.{module}", kohya_module(module)), parts)
        block, _, inside = module.partition("_attn.")
        if match := re.fullmatch(r"(double_blocks\.\d+)\.(img|txt)", block):
            made[f"{match[1]}.processor.{inside}_lora{1 if match[2] == 'img' else 2}"] = parts
        if match := re.fullmatch(r"(single_blocks\.\d+)\.linear([12])", module):
            kind = "qkv" if match[2] == "1" else "proj"
            made[f"{match[1]}.processor.{kind}_lora"] = parts[:3]  # XLabs' queries, keys and values go without the rows of the MLP
    return made


def kohya_module(module: str) -> str:
    """A module as kohya's scripts spell it."""
    return f"lora_unet_{module.replace('.', '_')}"


def parted(pair: tuple[Tensor, Tensor], parts: Parts, rows: Sequence[int]) -> Factors:
    """A fused module's factors as factors of its parts; a part that they leave alone, and ranks that it does not use, are left out.

    Arguments:
        rows: How many rows each part has.
    """
    down, up = pair
    made: Factors = {}
    for name, own in zip(parts, up.split(list(rows)), strict=True):
        own = swapped(own) if name == SWAPPED else own
        used = (own != 0).any(0) if len(parts) > 1 else torch.ones(len(down), dtype=torch.bool)
        if used.any():
            made[name] = (down[used].contiguous(), own[:, used].contiguous())
    return made


def joined_factors(factors: Factors, parts: Parts, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The factors of a fused module from those of its parts, of which some may lack; ranks stand side by side."""
    own = [(part, factors[part]) for part in parts if part in factors]
    down = torch.cat([down for _, (down, _) in own])
    up = down.new_zeros(sum(rows), len(down))
    starts = {part: sum(rows[:i]) for i, part in enumerate(parts)}
    column = 0
    for part, (low, high) in own:
        value = swapped(high) if part == SWAPPED else high
        up[starts[part] : starts[part] + len(high), column : column + len(low)] = value
        column += len(low)
    return down, up


def swapped(up: Tensor) -> Tensor:
    """Rows with their halves exchanged."""
    first, second = up.chunk(2)
    return torch.cat([second, first])


def holding(names: Iterable[str]) -> Mapping[str, str]:
    """Weight -> the module that holds it."""
    return {part: module for module, parts in fused_modules(names).items() for part in parts}
