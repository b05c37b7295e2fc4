"""Published kinds of checkpoint, true in structure, random in content: each writer puts a change of a tiny model into a file."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vestige.checkpoints import keymaps
from vestige.models.latent import LatentModel
from vestige.seeds import generator


def moved(model: LatentModel, scope: str, seed: int = 0, size: float = 0.1) -> dict[str, Tensor]:
    """New values of a scope's weights, a tenth away from the old ones."""
    rng = generator(seed, scope)
    names = model.scope(scope)
    return {
        n: model.tensor(n) + size * torch.randn(model.tensor(n).shape, generator=rng) / math.sqrt(model.tensor(n)[0].numel()) for n in names
    }


def factors(model: LatentModel, scope: str, rank: int, seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """Random factors on a scope's weights, down and up as matrices."""
    rng = generator(seed, f"{scope} {rank}")
    made = {}
    for name in model.scope(scope):
        out, into = model.tensor(name).flatten(1).shape
        down, up = torch.randn(rank, into, generator=rng), torch.randn(out, rank, generator=rng)
        made[name] = (down / math.sqrt(into), 0.1 * up / math.sqrt(rank))
    return made


def bare(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name.partition(".")[2]: value for name, value in values.items()}


def convolutional(model: LatentModel, name: str, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Factors in the shapes that trainers of LoRA on convolutions save."""
    down, up = pair
    shape = model.tensor(name).shape
    return (down, up) if len(shape) == 2 else (down.reshape(-1, *shape[1:]), up.reshape(*up.shape, *[1] * (len(shape) - 2)))


def compvis(model: LatentModel, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    theirs = {ours: name for name, ours in keymaps.compvis(bare(base(model))).items()}
    return {f"{keymaps.UNET}{theirs[name]}": value for name, value in bare(values).items()}


Written = tuple[Path, dict[str, Tensor]]  # the file, and the value that every touched weight should have
Writer = Callable[[Path, LatentModel], Written]


def f1(folder: Path, model: LatentModel) -> Written:
    values = moved(model, "unet")
    torch.save(OrderedDict(bare(values)), folder / "ESD-Diffusers-UNet.pt")
    return folder / "ESD-Diffusers-UNet.pt", values


def f1_safetensors(folder: Path, model: LatentModel) -> Written:
    values = moved(model, "unet")
    save_file(bare(values), folder / "unet.safetensors")
    return folder / "unet.safetensors", values


def f2(folder: Path, model: LatentModel) -> Written:
    values = moved(model, "cross-attention")
    save_file(bare(values), folder / "esd-bag-from-bag-esd-x.safetensors")
    return folder / "esd-bag-from-bag-esd-x.safetensors", values


def f2b(folder: Path, model: LatentModel) -> Written:
    values = moved(model, "cross-attention-kv")
    torch.save(bare(values), folder / "weights.pt")
    return folder / "weights.pt", values


def f2b_old(folder: Path, model: LatentModel) -> Written:
    """As PyTorch saved before 1.6."""
    values = moved(model, "cross-attention-kv")
    torch.save(bare(values), folder / "weights.pt", _use_new_zipfile_serialization=False)
    return folder / "weights.pt", values


def f2b_delta(folder: Path, model: LatentModel) -> Written:
    values, words = moved(model, "cross-attention-kv"), moved(model, "text-encoder")
    torch.save({"unet": bare(values), "text_encoder": {f"text_model.{n}": v for n, v in bare(words).items()}}, folder / "delta.bin")
    return folder / "delta.bin", {**values, **words}


def f3(folder: Path, model: LatentModel) -> Written:
    """As Lightning saves: a wrapper, an EMA copy that is the untouched model, an autoencoder, the schedule, an unchanged text encoder."""
    values = moved(model, "unet")
    rest = {"betas": torch.ones(5), "first_stage_model.encoder.conv_in.weight": torch.ones(2), "model_ema.num_updates": torch.tensor(3)}
    ema = {"model_ema.diffusion_model" + k.removeprefix(keymaps.UNET).replace(".", ""): v for k, v in compvis(model, base(model)).items()}
    words = {
        f"cond_stage_model.transformer.text_model.{n}": v
        for n, v in bare({n: model.tensor(n) for n in model.scope("text-encoder")}).items()
    }
    words["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    state = {**compvis(model, values), **ema, **words, **rest}
    torch.save({"state_dict": state, "epoch": 3, "optimizer_states": [{"lr": 1e-5}]}, folder / "SalUn.ckpt")
    return folder / "SalUn.ckpt", values


def base(model: LatentModel) -> dict[str, Tensor]:
    return {n: model.tensor(n) for n in model.scope("unet")}


def f3_bare(folder: Path, model: LatentModel) -> Written:
    values = moved(model, "unet")
    torch.save(compvis(model, values), folder / "compvis-x.pt")
    return folder / "compvis-x.pt", values


def f3b(folder: Path, model: LatentModel) -> Written:
    values = moved(model, "cross-attention-kv")
    torch.save({"state_dict": compvis(model, values)}, folder / "delta_epoch=000000.ckpt")
    return folder / "delta_epoch=000000.ckpt", values


def f4(folder: Path, model: LatentModel) -> Written:
    from vestige.edits import Edit

    values = moved(model, "cross-attention-kv")
    edited: Any = model.edited(Edit(model.fingerprint, "x", tensors=values))
    edited.pipeline().save_pretrained(folder / "LoRA_fusion_model")
    return folder / "LoRA_fusion_model", values


def f4_component(folder: Path, model: LatentModel) -> Written:
    """One component's folder, in two shards."""
    values = moved(model, "unet")
    names, place = sorted(bare(values)), folder / "unet"
    place.mkdir()
    shards = {"a-00001-of-00002.safetensors": names[::2], "a-00002-of-00002.safetensors": names[1::2]}
    for file, own in shards.items():
        save_file({n: bare(values)[n] for n in own}, place / file)
    index = {"metadata": {}, "weight_map": {n: file for file, own in shards.items() for n in own}}
    (place / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (place / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    return place, values


def f5(folder: Path, model: LatentModel) -> Written:
    """SPM: rank one on linear maps and convolutions of the transformers, alpha 1."""
    own, flat = factors(model, "transformers", 1), {}
    for name, pair in own.items():
        down, up = convolutional(model, name, pair)
        key = "lora_" + name.removesuffix(".weight").replace(".", "_")
        flat |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(1.0)}
    save_file(flat, folder / "bag_last.safetensors", metadata={"prompts": "bag", "rank": "1", "alpha": "1.0"})
    return folder / "bag_last.safetensors", added(model, own)


def f5_text(folder: Path, model: LatentModel) -> Written:
    """Rank 4 at alpha 2, half strength, on a text encoder."""
    own, flat = projections(model, 4), {}
    for name, (down, up) in own.items():
        key = "lora_te_text_model_" + name.removesuffix(".weight").partition(".")[2].removeprefix("text_model.").replace(".", "_")
        flat |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(2.0)}
    save_file(flat, folder / "words.safetensors")
    return folder / "words.safetensors", added(model, own, 0.5)


def projections(model: LatentModel, rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    rng = generator(0, "projections")
    names = [n for n in model.scope("text-encoder") if n.endswith("_proj.weight")]
    return {n: (torch.randn(rank, 32, generator=rng) / 6, torch.randn(32, rank, generator=rng) / 20) for n in names}


def added(model: LatentModel, own: Mapping[str, tuple[Tensor, Tensor]], scale: float = 1.0) -> dict[str, Tensor]:
    return {n: model.tensor(n) + scale * (up @ down).reshape(model.tensor(n).shape) for n, (down, up) in own.items()}


def f6(folder: Path, model: LatentModel) -> Written:
    values = moved(model, "cross-attention-kv")
    nested = {name.removesuffix(".weight"): {"weight": value} for name, value in values.items()}
    torch.save(nested, folder / "modules.pt")
    return folder / "modules.pt", values


def f7(folder: Path, model: LatentModel) -> Written:
    """AdvUnlearn's wrapper, which saves every part under a second name."""
    values = moved(model, "text-encoder")
    own = {f"text_encoder.text_model.{n}": v for n, v in bare(values).items()}
    own["text_encoder.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    alias = {n.removeprefix("text_encoder.text_model.").replace("embeddings.", "embedding.", 1): v for n, v in own.items()}
    torch.save({**own, **alias}, folder / "TextEncoder-text_encoder_full.pt")
    return folder / "TextEncoder-text_encoder_full.pt", values


def f7_folder(folder: Path, model: LatentModel) -> Written:
    values, place = moved(model, "text-encoder"), folder / "nudity_unlearned"
    place.mkdir()
    save_file({f"text_model.{n}": v for n, v in bare(values).items()}, place / "model.safetensors")
    (place / "config.json").write_text(json.dumps({"architectures": ["CLIPTextModel"]}))
    return place, values


def f10(folder: Path, model: LatentModel) -> Written:
    values = moved(model, "unet")
    state = {f"module.{n}": v for n, v in bare(values).items()}
    torch.save([state, {"state": {}, "param_groups": [{"lr": 1e-4}]}, 2000, state], folder / "ckpt.pth")
    return folder / "ckpt.pth", values


def f11(folder: Path, model: LatentModel) -> Written:
    own, flat = factors(model, "attention", 3), {}
    for name, (down, up) in own.items():
        flat |= {f"{name.removesuffix('.weight')}.lora_A.weight": down, f"{name.removesuffix('.weight')}.lora_B.weight": up}
    save_file(flat, folder / "pytorch_lora_weights.safetensors")
    return folder / "pytorch_lora_weights.safetensors", added(model, own)


def f11_peft(folder: Path, model: LatentModel) -> Written:
    """A PEFT folder: the scale, alpha 6 at rank 3, stands in its configuration."""
    own, flat, place = factors(model, "attention", 3), {}, folder / "adapter"
    for name, (down, up) in own.items():
        head = f"base_model.model.{name.partition('.')[2].removesuffix('.weight')}"
        flat |= {f"{head}.lora_A.weight": down, f"{head}.lora_B.weight": up}
    place.mkdir()
    save_file(flat, place / "adapter_model.safetensors")
    (place / "adapter_config.json").write_text(json.dumps({"r": 3, "lora_alpha": 6, "peft_type": "LORA"}))
    return place, added(model, own, 2.0)


def f11_older(folder: Path, model: LatentModel) -> Written:
    """diffusers' names before PEFT: attention processors' attributes."""
    own, flat = {n: p for n, p in factors(model, "attention", 2).items() if "attn" in n}, {}
    for name, (down, up) in own.items():
        head, _, last = name.removesuffix(".weight").replace("to_out.0", "to_out").rpartition(".")
        flat |= {f"{head}.processor.{last}_lora.down.weight": down, f"{head}.processor.{last}_lora.up.weight": up}
    torch.save(flat, folder / "pytorch_lora_weights.bin")
    return folder / "pytorch_lora_weights.bin", added(model, own)


def f12(folder: Path, model: LatentModel) -> Written:
    """UnGuide: factors the other way round, a scale of 8 that is not in the file."""
    own, theirs = factors(model, "cross-attention-kv", 1), compvis(model, {n: n for n in model.scope("cross-attention-kv")})
    flat = {}
    for name, ours in theirs.items():
        down, up = own[ours]
        flat |= {f"{name.removesuffix('.weight')}.lora.A": down.T.contiguous(), f"{name.removesuffix('.weight')}.lora.B": up.T.contiguous()}
    torch.save(flat, folder / "lora.pth")
    return folder / "lora.pth", added(model, own, 8.0)


# Format -> its writers' names and whether it holds factors.
WRITERS: dict[str, tuple[str, Writer]] = {
    "full dict": ("F1", f1),
    "full safetensors": ("F1", f1_safetensors),
    "partial safetensors": ("F2", f2),
    "partial dict": ("F2b", f2b),
    "partial dict, older than archives": ("F2b", f2b_old),
    "delta by component": ("F2b", f2b_delta),
    "Lightning checkpoint": ("F3", f3),
    "CompVis U-Net": ("F3", f3_bare),
    "CompVis delta": ("F3b", f3b),
    "pipeline": ("F4", f4),
    "component in shards": ("F4", f4_component),
    "SPM": ("F5", f5),
    "kohya text encoder": ("F5", f5_text),
    "nested modules": ("F6", f6),
    "wrapped text encoder": ("F7", f7),
    "text encoder folder": ("F7", f7_folder),
    "DDPM list": ("F10", f10),
    "diffusers LoRA": ("F11", f11),
    "PEFT folder": ("F11", f11_peft),
    "older diffusers LoRA": ("F11", f11_older),
    "CompVis LoRA": ("F12", f12),
}


def receler(folder: Path, model: LatentModel, rank: int = 5, size: float = 0.3) -> tuple[Path, dict[str, Tensor]]:
    """A bottleneck for every transformer, and its configuration."""
    rng, nested = generator(0, "receler"), {}
    for name in model.scope("cross-attention"):
        if name.endswith("attn2.to_out.0.weight"):
            place, width = name.removeprefix("unet.").partition(".transformer_blocks")[0], len(model.tensor(name))
            shapes = {"down.weight": (rank, width), "down.bias": (rank,), "up.weight": (width, rank), "up.bias": (width,)}
            nested[place] = {part: size * torch.randn(shape, generator=rng) for part, shape in shapes.items()}
    torch.save(nested, folder / "eraser_weights.pt")
    (folder / "eraser_config.json").write_text(json.dumps({"eraser_type": "adapter", "eraser_rank": rank}))
    return folder, {f"{place}.{part}": value for place, own in nested.items() for part, value in own.items()}


def autoencoder(folder: Path) -> Path:
    point = folder / "sae/unet.up_blocks.1.attentions.1"
    point.mkdir(parents=True)
    save_file(
        {"encoder.weight": torch.ones(8, 4), "encoder.bias": torch.ones(8), "W_dec": torch.ones(8, 4), "b_dec": torch.ones(4)},
        point / "sae.safetensors",
    )
    (point / "cfg.json").write_text(json.dumps({"d_in": 4, "k": 2}))
    return folder / "sae"
