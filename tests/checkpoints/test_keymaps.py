"""Names of weights: both maps are one to one on the real structures, and equal to diffusers' own converter."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oracles import tiny_model, tiny_xl
from vestige.checkpoints import keymaps

SD1: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SD2 = {**SD1, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "transformer_layers_per_block": (1, 2, 10),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def unet(config: dict[str, Any]) -> Any:
    """The real structure, without memory."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(**config)


@pytest.mark.parametrize(("config", "count"), [(SD1, 686), (SD2, 686), (SDXL, 1680)], ids=["1.4", "2.1", "XL"])
def test_every_key_of_the_real_networks_has_one_counterpart(config: dict[str, Any], count: int) -> None:
    names = list(unet(config).state_dict())
    made = keymaps.compvis(names)
    assert len(names) == len(made) == count
    assert sorted(made.values()) == sorted(names)


@pytest.mark.parametrize("config", [SD1, SD2, SDXL], ids=["1.4", "2.1", "XL"])
def test_map_equals_diffusers_own_converter(config: dict[str, Any]) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    network = unet(config)
    made = keymaps.compvis(network.state_dict())
    theirs = convert_ldm_unet_checkpoint({f"{keymaps.UNET}{name}": name for name in made}, network.config)
    assert theirs == {ours: name for name, ours in made.items()}


def test_names_that_the_published_files_carry() -> None:
    made = keymaps.compvis(unet(SD1).state_dict())
    assert (
        made["input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"]
        == "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    )
    assert made["output_blocks.8.2.conv.weight"] == "up_blocks.2.upsamplers.0.conv.weight"
    assert made["output_blocks.2.1.conv.bias"] == "up_blocks.0.upsamplers.0.conv.bias"
    assert made["input_blocks.4.0.skip_connection.weight"] == "down_blocks.1.resnets.0.conv_shortcut.weight"
    assert made["middle_block.2.emb_layers.1.weight"] == "mid_block.resnets.1.time_emb_proj.weight"
    assert made["out.0.weight"] == "conv_norm_out.weight"


@pytest.mark.parametrize("model", [tiny_model, tiny_xl])
def test_kohyas_names_are_one_to_one(model: Any) -> None:
    names = [n for n in model().scope("all") if n.endswith(".weight")]
    encoders = len({n.partition(".")[0] for n in names if n.startswith("text_encoder")})
    spelled = [keymaps.kohya_names(n, encoders)[0] for n in names]
    assert len(set(spelled)) == len(names)
    table = keymaps.modules(names, "unet")
    assert [table[s] for s in spelled] == names


def test_kohyas_names_of_the_real_network_are_one_to_one() -> None:
    names = [f"unet.{n}" for n in unet(SD1).state_dict() if n.endswith(".weight")]
    assert len({keymaps.kohya_names(n)[0] for n in names}) == len(names)
    known = "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_0_proj"
    assert keymaps.modules(names, "unet")[known] == "unet.up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj.weight"
