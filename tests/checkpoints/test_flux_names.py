"""FLUX.1's fused modules: LoRA files of kohya's and XLabs' trainers, against diffusers' own converters and by their definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import published
from oracles import tiny_flow
from published_flux import FUSED, TABLE, XLABS, dotted, drawn, kohyas, written
from vestige import checkpoints
from vestige.checkpoints import export, flux_names
from vestige.diffusion.sampling import noise, sample
from vestige.edits import Edit
from vestige.errors import Incompatible
from vestige.models.flow import FlowModel
from vestige.seeds import generator

ENCODERS = {
    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": "text_encoder.encoder.layers.0.self_attn.q_proj",
    "lora_te3_encoder_block_0_layer_0_SelfAttention_k": "text_encoder_2.encoder.block.0.layer.0.SelfAttention.k",
    "lora_te3_encoder_block_0_layer_1_DenseReluDense_wi_0": "text_encoder_2.encoder.block.0.layer.1.DenseReluDense.wi_0",
}


@pytest.fixture(scope="module")
def flux() -> FlowModel:
    return tiny_flow("dev")


FILES = {
    "kohya": ("F5", lambda pairs: kohyas(pairs)),
    "dotted": ("F11", lambda pairs: dotted(pairs, ("lora_A", "lora_B"), "diffusion_model.")),
    "dotted, kohya's sides": ("F11", lambda pairs: dotted(pairs, ("lora_down", "lora_up"), "")),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_module_becomes_the_weights_that_it_holds(kind: str, flux: FlowModel, tmp_path: Path) -> None:
    pairs, values = written(flux, TABLE)
    save_file(FILES[kind][1](pairs), tmp_path / "lora.safetensors")
    found, edit = checkpoints.inspect(tmp_path / "lora.safetensors", flux), checkpoints.load(tmp_path / "lora.safetensors", flux)
    assert (found.format, found.matched, found.refusal) == (FILES[kind][0], len(TABLE), "")
    assert edit.touched == sorted(values)
    for name, value in values.items():
        torch.testing.assert_close(edit.weight(name, flux.tensor(name)), value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("head", ["", "diffusion_model."])
def test_xlabs_processors(head: str, flux: FlowModel, tmp_path: Path) -> None:
    pairs, values = written(flux, XLABS, alpha=None)
    save_file(dotted(pairs, ("down", "up"), head), tmp_path / "lora.safetensors")
    found, edit = checkpoints.inspect(tmp_path / "lora.safetensors", flux), checkpoints.load(tmp_path / "lora.safetensors", flux)
    assert (found.format, found.made_by) == ("F5", ("any trainer that writes XLabs' names",))
    assert edit.touched == sorted(values)
    for name, value in values.items():
        torch.testing.assert_close(edit.weight(name, flux.tensor(name)), value, rtol=0, atol=1e-6)


def test_text_encoders_in_kohyas_names(flux: FlowModel, tmp_path: Path) -> None:
    flat = {}
    for theirs, ours in ENCODERS.items():
        rows, columns = flux.tensor(f"{ours}.weight").shape
        flat |= {f"{theirs}.lora_down.weight": torch.ones(1, columns), f"{theirs}.lora_up.weight": torch.ones(rows, 1)}
    save_file(flat, tmp_path / "lora.safetensors")
    assert checkpoints.load(tmp_path / "lora.safetensors", flux).touched == sorted(f"{ours}.weight" for ours in ENCODERS.values())


def test_diffusers_names_with_underscores(flux: FlowModel, tmp_path: Path) -> None:
    """As OneTrainer writes: no module is fused."""
    pairs, values = written(flux, {"transformer_blocks_0_attn_add_k_proj": ["transformer_blocks.0.attn.add_k_proj"]})
    save_file({n.replace("lora_unet", "lora_transformer"): v for n, v in kohyas(pairs).items()}, tmp_path / "lora.safetensors")
    (name, value), *_ = values.items()
    edit = checkpoints.load(tmp_path / "lora.safetensors", flux)
    assert edit.touched == [name]
    torch.testing.assert_close(edit.weight(name, flux.tensor(name)), value, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def real() -> Any:
    """FLUX.1 dev's structure, without memory."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        return FluxTransformer2DModel(guidance_embeds=True)


def test_every_weight_of_the_real_network_has_one_module(real: Any) -> None:
    names = [f"transformer.{n}" for n, p in real.named_parameters() if n.endswith(".weight") and p.dim() == 2]
    held = [part for parts in flux_names.fused_modules(names).values() for part in parts]
    assert len(held) == len(set(held))
    assert set(held) == set(names)
    assert len(flux_names.fused_modules(names)) == 19 * 10 + 38 * 3 + 10


def compared(theirs: dict[str, Tensor], ours: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Two sets of factors by what they do to a vector; diffusers leaves the component out of some names."""
    modules = {n.removesuffix(".lora_A.weight").removeprefix("transformer.") for n in theirs if n.endswith(".lora_A.weight")}
    assert {f"transformer.{m}.weight" for m in modules} == set(ours)
    plain = {n.removeprefix("transformer."): v for n, v in theirs.items()}
    for module in modules:
        down, up = ours[f"transformer.{module}.weight"]
        vector = torch.randn(down.shape[1], generator=generator(1, module))
        expected = plain[f"{module}.lora_B.weight"] @ (plain[f"{module}.lora_A.weight"] @ vector)
        torch.testing.assert_close(up @ (down @ vector), expected, rtol=1e-4, atol=1e-5)


def real_pairs(real: Any, table: dict[str, flux_names.Parts], blocks: tuple[str, ...]) -> dict[str, Any]:
    shapes = {f"transformer.{n}": p.shape for n, p in real.named_parameters()}
    chosen = {m: parts for m, parts in table.items() if m[0] not in "ds" or m.startswith(blocks)}
    return {
        m: (drawn(sum(shapes[p][0] for p in parts), shapes[parts[0]][1], 2, m), parts, [shapes[p][0] for p in parts])
        for m, parts in chosen.items()
    }


def test_map_equals_diffusers_own_converter_of_kohyas_files(real: Any) -> None:
    """At FLUX.1 dev's size, where that converter works, on its first and last blocks; alpha is the rank for the sake of the last layer,
    whose alpha it drops."""
    from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers

    names = [f"transformer.{n}" for n, _ in real.named_parameters()]
    made = real_pairs(
        real, flux_names.fused_modules(names), ("double_blocks.0.", "double_blocks.18.", "single_blocks.0.", "single_blocks.37.")
    )
    assert len(made) == 2 * 10 + 2 * 3 + 10
    ours = {n: p for pair, parts, rows in made.values() for n, p in flux_names.parted(pair, parts, rows).items()}
    compared(_convert_kohya_flux_lora_to_diffusers(kohyas({m: pair for m, (pair, _, _) in made.items()}, 2.0)), ours)


def test_map_equals_diffusers_own_converter_of_xlabs_files(real: Any) -> None:
    from diffusers.loaders.lora_conversion_utils import _convert_xlabs_flux_lora_to_diffusers

    names = [f"transformer.{n}" for n, _ in real.named_parameters()]
    table = {m: parts for m, parts in flux_names.spelled(names).items() if ".processor." in m}
    made = real_pairs(real, table, ("double_blocks.0.", "double_blocks.18.", "single_blocks.0.", "single_blocks.37."))
    assert len(made) == 2 * 4 + 2 * 2
    ours = {n: p for pair, parts, rows in made.values() for n, p in flux_names.parted(pair, parts, rows).items()}
    compared(_convert_xlabs_flux_lora_to_diffusers(dotted({m: pair for m, (pair, _, _) in made.items()}, ("down", "up"), "")), ours)


def test_lora_equals_diffusers_own_reading(flux: FlowModel, tmp_path: Path) -> None:
    """Of what that loader can place on a network of any width."""
    pairs, _ = written(flux, {m: TABLE[m] for m in TABLE if m[:6] in ("double", "single") and "linear1" not in m})
    save_file(kohyas(pairs), tmp_path / "lora.safetensors")
    pipe = flux.pipeline()
    pipe.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    theirs = FlowModel("theirs", {**flux.parts, "transformer": pipe.transformer}, flux.tokenizers, flux.scheduler)
    ours = flux.edited(checkpoints.load(tmp_path / "lora.safetensors", flux))
    torch.testing.assert_close(draw(ours), draw(theirs), rtol=1e-4, atol=1e-5)
    assert (draw(ours) - draw(flux)).abs().max() > 1e-3


def draw(model: Any) -> Tensor:
    return sample(model, noise(model.latent_shape, [0, 1]), model.condition(["a sneaker", "neon"]), steps=2)


@pytest.mark.parametrize("scope", ["attention", "transformers", "cross-attention-kv"])
def test_export_in_kohyas_names_comes_back_as_it_was(scope: str, flux: FlowModel, tmp_path: Path) -> None:
    own: dict[str, Any] = published.factors(flux, scope, 2)  # type: ignore[arg-type]
    edit = Edit(flux.fingerprint, "x", {}, scope, {}, own)
    written = export(edit, flux, tmp_path / "out", "kohya")
    assert written.loss is not None
    assert written.loss.error == 0
    back = checkpoints.load(tmp_path / "out/lora.safetensors", flux)
    assert back.touched == edit.touched
    for name, (down, up) in own.items():
        assert [len(f) for f in (back.factors[name][0], down)] == [2, 2]
        torch.testing.assert_close(back.factors[name][1] @ back.factors[name][0], up @ down, rtol=0, atol=1e-7)
    assert all(
        name.startswith(("lora_unet_double_blocks_0_", "lora_unet_single_blocks_0_"))
        for name in load_file(tmp_path / "out/lora.safetensors")
    )


def test_export_is_what_diffusers_reads(flux: FlowModel, tmp_path: Path) -> None:
    """Ranks side by side, of which its converter takes each part's own."""
    names = [n for n in flux.scope("attention") if ".single_" not in n]
    own = {n: p for n, p in published.factors(flux, "attention", 2).items() if n in names and "to_k" not in n}  # type: ignore[arg-type]
    edit = Edit(flux.fingerprint, "x", {}, "attention", {}, own)
    export(edit, flux, tmp_path / "out", "kohya")
    pipe = flux.pipeline()
    pipe.load_lora_weights(tmp_path / "out", weight_name="lora.safetensors")
    theirs = FlowModel("theirs", {**flux.parts, "transformer": pipe.transformer}, flux.tokenizers, flux.scheduler)
    torch.testing.assert_close(draw(flux.edited(edit)), draw(theirs), rtol=1e-4, atol=1e-5)


def test_rows_of_another_width_are_refused(flux: FlowModel, tmp_path: Path) -> None:
    pairs, _ = written(flux, {"double_blocks.0.img_attn.qkv": FUSED["double_blocks.0.img_attn.qkv"]})
    (down, up) = pairs["double_blocks.0.img_attn.qkv"]
    save_file(kohyas({"double_blocks.0.img_attn.qkv": (down, up[:-1].contiguous())}), tmp_path / "lora.safetensors")
    with pytest.raises(Incompatible, match=r"another base than tiny-dev: lora_unet_double_blocks_0_img_attn_qkv maps 32 numbers to 95"):
        checkpoints.load(tmp_path / "lora.safetensors", flux)


def test_block_that_the_model_lacks_is_refused(flux: FlowModel, tmp_path: Path) -> None:
    pairs, _ = written(flux, {"double_blocks.0.img_attn.qkv": FUSED["double_blocks.0.img_attn.qkv"]})
    save_file(kohyas({"double_blocks.7.img_attn.qkv": pairs["double_blocks.0.img_attn.qkv"]}), tmp_path / "lora.safetensors")
    with pytest.raises(Incompatible, match=r"1 of its 1 modules are not in tiny-dev, e\.g\. lora_unet_double_blocks_7_img_attn_qkv"):
        checkpoints.load(tmp_path / "lora.safetensors", flux)


def test_other_transformers_have_no_such_names(tmp_path: Path) -> None:
    model: Any = tiny_flow("sd3")
    assert flux_names.fused_modules(model.scope("all")) == {}
    edit = Edit(model.fingerprint, "x", {}, "attention", {}, published.factors(model, "attention", 2))
    with pytest.raises(Incompatible, match="kohya's format has no name for transformer"):
        export(edit, model, tmp_path / "out", "kohya")
