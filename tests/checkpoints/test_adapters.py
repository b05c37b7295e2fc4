"""Adapters as other people name them: with a name of their own, with a bias, beside bundled words, or numbered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from oracles import tiny_model
from vestige import checkpoints
from vestige.checkpoints import numbered
from vestige.errors import Incompatible
from vestige.models.latent import LatentModel
from vestige.seeds import generator


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def pair(model: LatentModel, name: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    out, into = model.tensor(name).flatten(1).shape
    rng = generator(seed, name)
    return torch.randn(2, into, generator=rng) / 4, torch.randn(out, 2, generator=rng) / 20


def named(model: LatentModel, inner: str = "") -> tuple[dict[str, Tensor], str]:
    """A LoRA of one output projection in PEFT's names, and the weight's name."""
    name = next(n for n in model.scope("cross-attention") if n.endswith("to_out.0.weight"))
    down, up = pair(model, name)
    head = name.removesuffix(".weight")
    return {f"{head}.lora_A{inner}.weight": down, f"{head}.lora_B{inner}.weight": up}, name


@pytest.mark.parametrize("inner", ["", ".default", ".my-adapter", ".v1+x"])
def test_an_adapter_may_have_any_name(inner: str, tiny: LatentModel, tmp_path: Path) -> None:
    table, name = named(tiny, inner)
    save_file(table, tmp_path / "a.safetensors")
    down, up = table.values()
    assert checkpoints.inspect(tmp_path / "a.safetensors").format == "F11"
    edit = checkpoints.load(tmp_path / "a.safetensors", tiny)
    torch.testing.assert_close(edit.weight(name, tiny.tensor(name)), tiny.tensor(name) + up @ down)


@pytest.mark.parametrize("inner", ["", ".my-adapter"])
def test_a_bias_goes_onto_the_modules_own_at_the_same_scale(inner: str, tiny: LatentModel, tmp_path: Path) -> None:
    """As PEFT's own layer computes it."""
    from peft import LoraConfig, get_peft_model

    table, name = named(tiny, inner)
    head = name.removesuffix(".weight")
    added = torch.randn(len(tiny.tensor(name)), generator=generator(1))
    save_file({**table, f"{head}.lora_B{inner}.bias": added, f"{head}.alpha": torch.tensor(6.0)}, tmp_path / "a.safetensors")
    edit = checkpoints.load(tmp_path / "a.safetensors", tiny)
    assert edit.touched == sorted([name, f"{head}.bias"])

    layer = nn.Module()
    layer.out = nn.Linear(*tiny.tensor(name).shape[::-1])  # type: ignore[assignment]
    layer.out.load_state_dict({"weight": tiny.tensor(name), "bias": tiny.tensor(f"{head}.bias")})  # type: ignore[union-attr]
    theirs: Any = get_peft_model(layer, LoraConfig(r=2, lora_alpha=6, target_modules=["out"], lora_bias=True))  # type: ignore[arg-type]
    part = theirs.base_model.model.out
    down, up = table.values()
    part.lora_A.default.load_state_dict({"weight": down})
    part.lora_B.default.load_state_dict({"weight": up, "bias": added})
    x = torch.randn(5, down.shape[1], generator=generator(2))
    ours = nn.functional.linear(x, edit.weight(name, tiny.tensor(name)), edit.weight(f"{head}.bias", tiny.tensor(f"{head}.bias")))
    torch.testing.assert_close(ours, part(x), rtol=1e-4, atol=1e-5)


def test_a_bias_for_a_module_without_one_is_refused(tiny: LatentModel, tmp_path: Path) -> None:
    name = next(n for n in tiny.scope("cross-attention") if n.endswith("to_k.weight"))
    down, up = pair(tiny, name)
    head = name.removesuffix(".weight")
    table = {f"{head}.lora_A.weight": down, f"{head}.lora_B.weight": up, f"{head}.lora_B.bias": torch.ones(len(up))}
    save_file(table, tmp_path / "a.safetensors")
    with pytest.raises(Incompatible, match=r"goes onto a bias, and tiny has no unet.*to_k\.bias"):
        checkpoints.load(tmp_path / "a.safetensors", tiny)


@pytest.mark.parametrize("words", ["bundle_emb.<cat>.string_to_param.*", "bundle_emb.my.word.clip_l", "<s1>"])
def test_words_beside_adapters_are_set_aside(words: str, tiny: LatentModel, tmp_path: Path) -> None:
    table, name = named(tiny)
    save_file({**table, words: torch.ones(1, 32)}, tmp_path / "a.safetensors")
    assert checkpoints.load(tmp_path / "a.safetensors", tiny).touched == [name]
    assert checkpoints.inspect(tmp_path / "a.safetensors").aside == {"words of its own, which change no weight": 1}


@pytest.mark.parametrize(("scale", "zero"), [(0.0, False), (1.0, True)])
def test_adapters_of_zero_are_told_as_such(scale: float, zero: bool, tiny: LatentModel, tmp_path: Path) -> None:
    table, name = named(tiny)
    table = {n: v * (not zero or "lora_A" in n) for n, v in table.items()} | {f"{name.removesuffix('.weight')}.alpha": torch.tensor(scale)}
    save_file(table, tmp_path / "a.safetensors")
    with pytest.raises(Incompatible, match=r"its scale is zero \(alpha 0\), or the second of its factors, .* all of 1 modules"):
        checkpoints.load(tmp_path / "a.safetensors", tiny)


def levels(widths: tuple[int, int] = (16, 32)) -> LatentModel:
    """A model whose attention has two widths, so that an order can be told."""
    from diffusers import UNet2DConditionModel

    like = tiny_model()
    torch.manual_seed(0)
    kinds = {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
    size = {"sample_size": 8, "layers_per_block": 1, "block_out_channels": widths, "norm_num_groups": 8, "attention_head_dim": 2}
    channels = like.parts["unet"].config.in_channels
    unet = UNet2DConditionModel(**kinds, **size, in_channels=channels, out_channels=channels, cross_attention_dim=32)
    return LatentModel("levels", {**like.parts, "unet": unet}, like.tokenizers, like.scheduler)


def walked(model: LatentModel, *, old: bool) -> list[str]:
    """As cloneofsimo's code walks a network: the linear maps below every module of these classes, in the modules' own order."""
    unet = model.parts["unet"]
    if old:  # as diffusers had it: the feed-forward between the two attentions
        for module in unet.modules():
            if type(module).__name__ == "BasicTransformerBlock":
                module._modules["attn2"] = module._modules.pop("attn2")
    found = []
    for above, module in unet.named_modules():
        if type(module).__name__ in ("Attention", "GEGLU"):
            found += [f"unet.{above}.{name}.weight" for name, inner in module.named_modules() if isinstance(inner, nn.Linear)]
    return found


def numbers(model: LatentModel, names: list[str], component: str = "unet") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A file of numbered factors, and what every weight should become."""
    table, values = {}, {}
    for i, name in enumerate(names):
        down, up = pair(model, name, i)
        table |= {f"{component}:{i}:up": up, f"{component}:{i}:down": down}
        values[name] = model.tensor(name) + up @ down
    return table, values


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("kind", ["safetensors", "list"])
def test_numbered_modules_are_found_in_the_order_of_either_day(kind: str, old: bool, tmp_path: Path) -> None:
    model = levels()
    names = walked(levels(), old=old)
    table, values = numbers(model, names)
    if kind == "list":
        path = tmp_path / "lora_weight.pt"
        torch.save(list(table.values()), path)
    else:
        path = tmp_path / "lora.safetensors"
        save_file({**table, "<s1>": torch.ones(32)}, path, metadata={"unet": '["Attention"]', "<s1>": "<embed>"})
    assert checkpoints.inspect(path).format == "F13"
    edit = checkpoints.load(path, model)
    assert edit.touched == sorted(values)
    for name, value in values.items():
        torch.testing.assert_close(edit.weight(name, model.tensor(name)), value)


def test_numbered_layers_of_a_text_encoder(tmp_path: Path) -> None:
    model = levels()
    names = [
        f"text_encoder.{n}.weight"
        for n, m in model.parts["text_encoder"].named_modules()
        if ".self_attn." in n and isinstance(m, nn.Linear)
    ]
    table, values = numbers(model, names, "text_encoder")
    torch.save(list(table.values()), tmp_path / "lora_weight.text_encoder.pt")
    edit = checkpoints.load(tmp_path / "lora_weight.text_encoder.pt", model)
    assert edit.touched == sorted(values)
    for name, value in values.items():
        torch.testing.assert_close(edit.weight(name, model.tensor(name)), value)


def test_an_order_that_cannot_be_told_is_refused(tmp_path: Path) -> None:
    """One module too few, and a network whose blocks are all alike, so that two orders fit."""
    model, alike = levels(), levels((32, 32))
    save_file(numbers(model, walked(model, old=False)[:-1])[0], tmp_path / "few.safetensors")
    save_file(numbers(alike, walked(alike, old=False))[0], tmp_path / "alike.safetensors")
    for file, on in (("few", model), ("alike", alike)):
        with pytest.raises(Incompatible, match="modules are numbered, and no order of levels's modules fits them, or several do"):
            checkpoints.load(tmp_path / f"{file}.safetensors", on)
    assert numbered.modules(model.scope("all"), {}, model) == {}
