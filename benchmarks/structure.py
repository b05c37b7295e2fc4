"""How large the published networks are, and how much a forward pass computes: from their configurations alone, nothing is run.

    python benchmarks/structure.py        prints the table of docs/cost.md

Networks are built without memory, and PyTorch counts the multiplications of one forward pass of one picture. The count says nothing of a
machine's bandwidth, of kernels, or of precision.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

MEASURED = "SD 1.4, 256 px"  # whose forward pass `full_size.py` timed
SD1: dict[str, Any] = {
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
SD2 = {**SD1, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
SDXL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "transformer_layers_per_block": (1, 2, 10),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD3: dict[str, Any] = {
    "sample_size": 128,
    "in_channels": 16,
    "num_layers": 24,
    "num_attention_heads": 24,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "out_channels": 16,
    "pos_embed_max_size": 192,
}
CIFAR: dict[str, Any] = {
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 256,
    "num_class_embeds": 11,
}


def unet(config: dict[str, Any], side: int, width: int) -> tuple[Any, dict[str, Any]]:
    import torch
    from diffusers import UNet2DConditionModel

    given: dict[str, Any] = {
        "sample": torch.empty(1, 4, side, side),
        "timestep": torch.zeros(1),
        "encoder_hidden_states": torch.empty(1, 77, width),
    }
    if "addition_embed_type" in config:
        given["added_cond_kwargs"] = {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
    return UNet2DConditionModel(**config), given


def flux(side: int) -> tuple[Any, dict[str, Any]]:
    import torch
    from diffusers import FluxTransformer2DModel

    tokens = side * side // 4
    given = {"hidden_states": torch.empty(1, tokens, 64), "encoder_hidden_states": torch.empty(1, 512, 4096)}
    given |= {"pooled_projections": torch.empty(1, 768), "timestep": torch.zeros(1), "guidance": torch.zeros(1)}
    return FluxTransformer2DModel(guidance_embeds=True), given | {"img_ids": torch.zeros(tokens, 3), "txt_ids": torch.zeros(512, 3)}


def sd3(side: int) -> tuple[Any, dict[str, Any]]:
    import torch
    from diffusers import SD3Transformer2DModel

    given = {"hidden_states": torch.empty(1, 16, side, side), "encoder_hidden_states": torch.empty(1, 77 + 256, 4096)}
    return SD3Transformer2DModel(**SD3), given | {"pooled_projections": torch.empty(1, 2048), "timestep": torch.zeros(1)}


def cifar() -> tuple[Any, dict[str, Any]]:
    import torch
    from diffusers import UNet2DModel

    given = {"sample": torch.empty(1, 3, 32, 32), "timestep": torch.zeros(1), "class_labels": torch.zeros(1, dtype=torch.long)}
    return UNet2DModel(**CIFAR), given


# Family and size of its pictures -> the denoiser and what it reads; latents are an eighth of the picture wide.
NETWORKS: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "SD 1.4, 256 px": lambda: unet(SD1, 32, 768),
    "SD 1.x, 512 px": lambda: unet(SD1, 64, 768),
    "SD 2.1, 768 px": lambda: unet(SD2, 96, 1024),
    "SDXL, 1024 px": lambda: unet(SDXL, 128, 2048),
    "SD 3 medium, 1024 px": lambda: sd3(128),
    "FLUX.1, 512 px": lambda: flux(64),
    "FLUX.1, 1024 px": lambda: flux(128),
    "CIFAR-10 DDPM, 32 px": cifar,
}


def counted(made: Callable[[], tuple[Any, dict[str, Any]]]) -> tuple[float, float]:
    """Weights in billions, and multiply-adds of a forward pass in units of 10^12."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network, given = made()
        network.eval()
        network(**given, return_dict=False)
    return sum(p.numel() for p in network.parameters()) / 1e9, counter.get_total_flops() / 2e12


HEAD = """\
| denoiser | weights, billion | in bfloat16, GiB | multiply-adds of a pass, 10^12 | beside SD 1.4 at 256 px |
|---|---|---|---|---|
"""


def line(name: str, weights: float, work: float, relative: float) -> str:
    """One row of the table."""
    return f"| {name} | {weights:.2f} | {weights * 2e9 / 2**30:.1f} | {work:.3g} | {relative:.3g} |\n"


def main() -> None:
    found = {name: counted(made) for name, made in NETWORKS.items()}
    sys.stdout.write(HEAD + "".join(line(name, *pair, pair[1] / found[MEASURED][1]) for name, pair in found.items()))


if __name__ == "__main__":
    main()
