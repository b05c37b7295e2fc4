"""LoRA files of FLUX.1's fused modules as kohya's and XLabs' trainers write them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vestige.models.flow import FlowModel
from vestige.seeds import generator

# Modules as the trainers see them, and what their rows are in diffusers, block 0 alone: written down once more, by hand.
FUSED = {
    "double_blocks.0.img_attn.qkv": [f"transformer_blocks.0.attn.to_{x}" for x in "qkv"],
    "double_blocks.0.txt_attn.qkv": [f"transformer_blocks.0.attn.add_{x}_proj" for x in "qkv"],
    "single_blocks.0.linear1": [f"single_transformer_blocks.0.{x}" for x in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")],
}
ALONE = {
    "double_blocks.0.img_attn.proj": "transformer_blocks.0.attn.to_out.0",
    "double_blocks.0.txt_attn.proj": "transformer_blocks.0.attn.to_add_out",
    "double_blocks.0.img_mlp.0": "transformer_blocks.0.ff.net.0.proj",
    "double_blocks.0.img_mlp.2": "transformer_blocks.0.ff.net.2",
    "double_blocks.0.txt_mlp.0": "transformer_blocks.0.ff_context.net.0.proj",
    "double_blocks.0.txt_mlp.2": "transformer_blocks.0.ff_context.net.2",
    "double_blocks.0.img_mod.lin": "transformer_blocks.0.norm1.linear",
    "double_blocks.0.txt_mod.lin": "transformer_blocks.0.norm1_context.linear",
    "single_blocks.0.linear2": "single_transformer_blocks.0.proj_out",
    "single_blocks.0.modulation.lin": "single_transformer_blocks.0.norm.linear",
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
TABLE = {**FUSED, **{theirs: [ours] for theirs, ours in ALONE.items()}}
XLABS = {
    "double_blocks.0.processor.qkv_lora1": FUSED["double_blocks.0.img_attn.qkv"],
    "double_blocks.0.processor.qkv_lora2": FUSED["double_blocks.0.txt_attn.qkv"],
    "double_blocks.0.processor.proj_lora1": ["transformer_blocks.0.attn.to_out.0"],
    "double_blocks.0.processor.proj_lora2": ["transformer_blocks.0.attn.to_add_out"],
    "single_blocks.0.processor.qkv_lora": FUSED["single_blocks.0.linear1"][:3],
    "single_blocks.0.processor.proj_lora": ["single_transformer_blocks.0.proj_out"],
}


def weight(model: FlowModel, module: str) -> Tensor:
    return model.tensor(f"transformer.{module}.weight")


def drawn(rows: int, columns: int, rank: int, name: str) -> tuple[Tensor, Tensor]:
    rng = generator(0, name)
    return torch.randn(rank, columns, generator=rng) / columns**0.5, 0.1 * torch.randn(rows, rank, generator=rng)


def written(
    model: FlowModel, table: dict[str, list[str]], rank: int = 3, alpha: float | None = 1.5
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Factors of every module, and what each weight becomes: the module's rows are its parts', one below the other."""
    pairs, values = {}, {}
    for theirs, parts in table.items():
        rows = [len(weight(model, part)) for part in parts]
        pairs[theirs] = drawn(sum(rows), weight(model, parts[0]).shape[1], rank, theirs)
        whole = (1.0 if alpha is None else alpha / rank) * pairs[theirs][1] @ pairs[theirs][0]
        if parts == ["norm_out.linear"]:
            whole = torch.cat([whole[len(whole) // 2 :], whole[: len(whole) // 2]])
        for part, change in zip(parts, whole.split(rows), strict=True):
            values[f"transformer.{part}.weight"] = weight(model, part) + change
    return pairs, values


def kohyas(pairs: dict[str, Any], alpha: float = 1.5) -> dict[str, Tensor]:
    made = {}
    for theirs, (down, up) in pairs.items():
        head = f"lora_unet_{theirs.replace('.', '_')}"
        made |= {f"{head}.lora_down.weight": down, f"{head}.lora_up.weight": up, f"{head}.alpha": torch.tensor(alpha)}
    return made


def dotted(pairs: dict[str, Any], sides: tuple[str, str], head: str) -> dict[str, Tensor]:
    made = {}
    for theirs, pair in pairs.items():
        made |= {f"{head}{theirs}.{side}.weight": factor for side, factor in zip(sides, pair, strict=True)}
        made |= {} if "processor" in theirs else {f"{head}{theirs}.alpha": torch.tensor(1.5)}
    return made
