"""The Selective Amnesia code's network, written down naively, against its translation; and its checkpoints on their way to an edit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from published_ddpm import Weights, network, saved
from vestige import checkpoints
from vestige.checkpoints import ddpm
from vestige.diffusion.sampling import noise, sample
from vestige.errors import BadSetting, Incompatible
from vestige.models.classes import ClassModel
from vestige.seeds import generator

NAMES = ("airplane", "automobile", "bird")


def forward(w: Weights, x: Tensor, t: Tensor, label: int | None) -> Tensor:
    """What that code computes, from its weights, step by step; no label is the null class."""
    ch, levels = len(w["null_classes_emb"]), 1 + max(int(n.split(".")[1]) for n in w if n.startswith("down."))
    layers = len([n for n in w if n.startswith("down.0.block.") and n.endswith("conv1.weight")])
    conv = lambda name, v, **more: F.conv2d(v, w[f"{name}.weight"], w[f"{name}.bias"], **more)  # noqa: E731
    norm = lambda name, v: F.group_norm(v, 32, w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)  # noqa: E731
    line = lambda name, v: F.linear(v, w[f"{name}.weight"], w[f"{name}.bias"])  # noqa: E731
    rates = torch.exp(torch.arange(ch // 2) * -(math.log(10000) / (ch // 2 - 1)))
    angles = t[:, None].float() * rates
    temb = line("temb.dense.1", F.silu(line("temb.dense.0", torch.cat([angles.sin(), angles.cos()], 1))))
    told = w["null_classes_emb"] if label is None else w["classes_emb.weight"][label]
    cemb = line("cemb.dense.1", F.silu(line("cemb.dense.0", told.expand(len(x), -1))))
    pair = F.silu(torch.cat([temb, cemb], 1))

    def block(name: str, v: Tensor) -> Tensor:
        h = conv(f"{name}.conv1", F.silu(norm(f"{name}.norm1", v)), padding=1) + line(f"{name}.temb_cemb_proj", pair)[:, :, None, None]
        h = conv(f"{name}.conv2", F.silu(norm(f"{name}.norm2", h)), padding=1)
        return h + (conv(f"{name}.nin_shortcut", v) if f"{name}.nin_shortcut.weight" in w else v)

    def attention(name: str, v: Tensor) -> Tensor:
        if f"{name}.q.weight" not in w:
            return v
        q, k, value = (conv(f"{name}.{part}", norm(f"{name}.norm", v)).flatten(2) for part in "qkv")
        seen = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(v.shape[1]), 2)
        return v + conv(f"{name}.proj_out", (value @ seen.transpose(1, 2)).reshape(v.shape))

    skips = [conv("conv_in", x, padding=1)]
    for i in range(levels):
        for j in range(layers):
            skips.append(attention(f"down.{i}.attn.{j}", block(f"down.{i}.block.{j}", skips[-1])))
        if i < levels - 1:
            skips.append(conv(f"down.{i}.downsample.conv", F.pad(skips[-1], (0, 1, 0, 1)), stride=2))
    h = block("mid.block_2", attention("mid.attn_1", block("mid.block_1", skips[-1])))
    for i in reversed(range(levels)):
        for j in range(layers + 1):
            h = attention(f"up.{i}.attn.{j}", block(f"up.{i}.block.{j}", torch.cat([h, skips.pop()], 1)))
        if i:
            h = conv(f"up.{i}.upsample.conv", F.interpolate(h, scale_factor=2.0, mode="nearest"), padding=1)
    return conv("conv_out", F.silu(norm("norm_out", h)), padding=1)


@pytest.fixture(scope="module")
def weights() -> Weights:
    return network()


@pytest.fixture(scope="module")
def base(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> ClassModel:
    pipe = checkpoints.class_pipeline(saved(weights, tmp_path_factory.mktemp("base") / "ckpt.pth"), size=8)
    return ClassModel.from_pipeline(pipe, "cifar10", NAMES)


@pytest.mark.parametrize(
    "shape", [{}, {"mult": (1, 2), "layers": 1, "attending": (0, 1)}, {"attending": ()}], ids=["usual", "small", "bare"]
)
def test_translation_computes_the_same(shape: dict[str, Any], tmp_path: Path) -> None:
    table = network(**shape)
    model = ClassModel.from_pipeline(checkpoints.class_pipeline(saved(table, tmp_path / "ckpt.pth"), size=8), "cifar10", NAMES)
    x, t = torch.randn(3, 3, 8, 8, generator=generator(1)), torch.tensor([0, 37, 999])
    for prompt, label in (("an airplane", 0), ("a bird", 2), ("", None)):
        ours = model.denoise(x, t, model.condition([prompt] * 3)).noise
        torch.testing.assert_close(ours, forward(table, x, t, label), rtol=1e-4, atol=1e-4)
    told = [forward(table, x, t, label) for label in (0, 2, None)]
    assert min((told[0] - other).abs().max() for other in told[1:]) > 0.01


def test_names_of_the_cifar_network_are_all_of_diffusers() -> None:
    """The published configuration at its size, by names and shapes."""
    from diffusers import UNet2DModel

    table = network(128, (1, 2, 2, 2), 2, (1,), 10)
    shapes, _ = ddpm.translated({n: tuple(v.shape) for n, v in table.items()}, table.__getitem__)
    with torch.device("meta"):
        made = UNet2DModel(**ddpm.config(shapes, 32))
    assert shapes == {n: tuple(v.shape) for n, v in made.state_dict().items()}


def test_model_is_saved_and_read_again(base: ClassModel, tmp_path: Path) -> None:
    from vestige import load_model

    again: Any = load_model(str(base.save(tmp_path / "cifar10")))
    assert draw(again).equal(draw(base))


def draw(model: Any) -> Tensor:
    return sample(model, noise(model.latent_shape, [0, 1]), model.condition(["an airplane", "a bird"]), steps=2)


def test_unlearned_checkpoint_becomes_an_edit(base: ClassModel, weights: Weights, tmp_path: Path) -> None:
    """A rewritten block, and a class embedding that moved, which changes its row alone."""
    changed = dict(weights)
    changed["down.1.attn.0.q.weight"] = weights["down.1.attn.0.q.weight"] * 1.1
    changed["up.2.block.1.temb_cemb_proj.bias"] = weights["up.2.block.1.temb_cemb_proj.bias"] + 0.1
    changed["classes_emb.weight"] = weights["classes_emb.weight"] + torch.tensor([[0.5], [0.0], [0.0]])
    path = saved(changed, tmp_path / "ckpt.pth")
    found, edit = checkpoints.inspect(path, base), checkpoints.load(path, base)
    expected = ["class_embedding.weight", "down_blocks.1.attentions.0.to_q.weight", "up_blocks.0.resnets.1.time_emb_proj.bias"]
    assert edit.touched == [f"unet.{name}" for name in expected]
    assert (found.format, found.made_by[0], found.missing) == ("F10", "Selective Amnesia", ())
    assert any("written anew" in remark for remark in found.remarks)
    moved = (edit.tensors["unet.class_embedding.weight"] - base.tensor("unet.class_embedding.weight")).abs().amax(1)
    assert moved[0] > 0.01
    assert moved[1:].max() == 0
    x, t = torch.randn(1, 3, 8, 8, generator=generator(1)), torch.tensor([500])
    ours = base.edited(edit).denoise(x, t, base.condition(["airplane"])).noise
    torch.testing.assert_close(ours, forward(changed, x, t, 0), rtol=1e-4, atol=1e-4)


def test_untouched_checkpoint_is_told(base: ClassModel, weights: Weights, tmp_path: Path) -> None:
    with pytest.raises(Incompatible, match="it changes nothing"):
        checkpoints.load(saved(weights, tmp_path / "ckpt.pth"), base)


def without(part: str) -> Any:
    return lambda table: {n: v for n, v in table.items() if part not in n}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("cemb.dense.1.bias"), "lacks 1 of its embeddings, e.g. cemb.dense.1.bias"),
        (lambda t: {**t, "down.0.block.0.extra.weight": torch.ones(2)}, "weights of another kind, e.g. down.0.block.0.extra.weight"),
        (lambda t: {**t, "classes_emb.weight": torch.ones(3, 5)}, r"its classes_emb.weight has shape \(3, 5\)"),
        (lambda t: {**t, "null_classes_emb": torch.tensor(1.0)}, "null_classes_emb has shape"),
        (lambda t: {n.replace("temb_cemb_proj", "temb_proj"): v for n, v in t.items()}, "is told no class"),
    ],
)
def test_other_networks_of_that_lineage_are_refused_with_the_reason(change: Any, message: str, base: ClassModel, tmp_path: Path) -> None:
    path = saved(change(network()), tmp_path / "ckpt.pth")
    assert checkpoints.inspect(path).format == "F10"
    for read in (lambda: checkpoints.load(path, base), lambda: checkpoints.class_pipeline(path, size=8)):
        with pytest.raises(Incompatible, match=message):
            read()


def test_network_that_lacks_a_block_is_refused(base: ClassModel, tmp_path: Path) -> None:
    path = saved(without("mid.block_2")(network()), tmp_path / "ckpt.pth")
    with pytest.raises(Incompatible, match="is no network of the Selective Amnesia code"):
        checkpoints.class_pipeline(path, size=8)
    with pytest.raises(Incompatible, match="lacks 10 of the"):
        checkpoints.load(path, base)


def test_other_models_have_no_place_for_it(weights: Weights, tmp_path: Path) -> None:
    from oracles import tiny_classes

    with pytest.raises(Incompatible, match="are no weights of tiny-unet"):
        checkpoints.load(saved(weights, tmp_path / "ckpt.pth"), tiny_classes())


@pytest.mark.parametrize("size", [0, -8, 6])
def test_pictures_that_cannot_be_halved_as_often_are_refused(size: int, weights: Weights, tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="size is a multiple of 4"):
        checkpoints.class_pipeline(saved(weights, tmp_path / "ckpt.pth"), size=size)


def test_attention_that_is_no_pointwise_convolution_is_refused(base: ClassModel, weights: Weights, tmp_path: Path) -> None:
    wide = weights["mid.attn_1.q.weight"].expand(-1, -1, 3, 3).contiguous()
    with pytest.raises(Incompatible, match=r"1 shapes differ, e\.g\. mid_block.attentions.0.to_q.weight \(64, 576\)"):
        checkpoints.load(saved({**weights, "mid.attn_1.q.weight": wide}, tmp_path / "ckpt.pth"), base)


def test_only_such_a_checkpoint_is_a_base(tmp_path: Path) -> None:
    torch.save({"down_blocks.0.resnets.0.conv1.weight": torch.ones(2, 2)}, tmp_path / "a.pt")
    with pytest.raises(Incompatible, match="no class-conditional DDPM in the layout"):
        checkpoints.class_pipeline(tmp_path / "a.pt", size=32)
