"""Published checkpoints: every format becomes the edit that was put into it; whatever is not one is refused with the evidence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import published
from oracles import tiny_classes, tiny_flow, tiny_model, tiny_xl
from vestige import checkpoints
from vestige.diffusion import Model
from vestige.diffusion.sampling import noise, sample
from vestige.edits import Edit, Hook, arithmetic
from vestige.errors import BadInput, Incompatible
from vestige.models.latent import LatentModel
from vestige.seeds import generator


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


@pytest.fixture(scope="module")
def unlike() -> LatentModel:
    other, base = tiny_model(1), tiny_model()
    return LatentModel("unlike", {**other.parts, "vae": base.parts["vae"]}, other.tokenizer, other.scheduler)


def draw(model: Model) -> Tensor:
    return sample(model, noise(model.latent_shape, [0, 1]), model.condition(["a sneaker", "neon"]), steps=3)


def rewritten(path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    """A file's table, changed and saved again as it was."""
    if path.suffix == ".safetensors":
        save_file(change(load_file(path)), path)
    else:
        torch.save(change(torch.load(path, weights_only=True)), path)
    return path


@pytest.mark.parametrize("kind", published.WRITERS)
def test_every_format_becomes_the_edit_that_was_put_into_it(kind: str, tiny: LatentModel, tmp_path: Path) -> None:
    """Replaced weights exactly; factors up to the rounding of their product, about 1e-7 of weights below 1."""
    tag, write = published.WRITERS[kind]
    path, values = write(tmp_path, tiny)
    before = tiny.fingerprint
    found, edit = checkpoints.inspect(path, tiny), checkpoints.load(path, tiny)
    assert found.format == tag
    assert not (found.missing or found.unexpected or found.refusal)
    assert edit.touched == sorted(values)
    for name, value in values.items():
        torch.testing.assert_close(edit.weight(name, tiny.tensor(name)), value, rtol=0, atol=1e-6 if edit.factors else 0)
    assert set(edit.touched) <= set(tiny.scope(edit.scope))
    assert found.changed == len(values)
    assert found.relative and found.share and sum(block["weights"] for block in found.blocks.values()) == len(values)
    assert tiny.fingerprint == before
    assert not torch.equal(draw(tiny.edited(edit)), draw(tiny))


@pytest.mark.parametrize("kind", published.WRITERS)
def test_every_format_is_recognised_without_a_model(kind: str, tiny: LatentModel, tmp_path: Path) -> None:
    tag, write = published.WRITERS[kind]
    path, _ = write(tmp_path, tiny)
    found = checkpoints.inspect(path)
    assert found.format == tag
    assert found.tensors > 0
    assert found.changed is None
    json.dumps(found.as_dict())


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("full dict", "ESD"),
        ("partial safetensors", "ESD (its name says so)"),
        ("partial dict", "Concept Ablation"),
        ("CompVis delta", "Concept Ablation"),
        ("Lightning checkpoint", "SalUn"),
        ("pipeline", "MACE"),
        ("SPM", "SPM"),
        ("wrapped text encoder", "AdvUnlearn"),
        ("DDPM list", "Selective Amnesia"),
        ("CompVis LoRA", "UnGuide"),
    ],
)
def test_probable_method(kind: str, method: str, tiny: LatentModel, tmp_path: Path) -> None:
    path, _ = published.WRITERS[kind][1](tmp_path, tiny)
    assert checkpoints.inspect(path, tiny).made_by[0].startswith(method)


def test_a_hardened_esd_is_told_from_esd_by_its_name(tiny: LatentModel, tmp_path: Path) -> None:
    path, _ = published.WRITERS["full dict"][1](tmp_path, tiny)
    made = {}
    for name in (
        "compvis-word_church-method_noxattn-iter_1000-adv-pgd-eps-0.1-exp--epoch_1000.pt",
        "race_church.pt",
        "embrace-church.pt",
        "esd-race_car.pt",
        "resalign_pretrained_model_higher_safety.pt",
    ):
        path = path.rename(tmp_path / name)
        made[name.split("-")[0]] = checkpoints.inspect(path, tiny).made_by[0]
    assert made == {
        "compvis": "RACE (its name says so)",
        "race_church.pt": "RACE (its name says so)",
        "embrace": made["embrace"],
        "esd": made["esd"],
        "resalign_pretrained_model_higher_safety.pt": "ResAlign (its name says so)",
    }
    assert not made["embrace"].startswith("RACE") and made["esd"].startswith("ESD")


def test_adversarial_preservation_is_told_from_esd_by_its_name(tiny: LatentModel, tmp_path: Path) -> None:
    path, _ = published.WRITERS["full dict"][1](tmp_path, tiny)
    path = path.rename(tmp_path / "compvis-adversarial-gumbel-word_church-method_noxattn-sg_3-ng_1-iter_1000-lr_1e-05-info_.pt")
    assert checkpoints.inspect(path, tiny).made_by[0] == "EAP (its name says so)"


def test_half_of_all_weights_moved_points_to_salun(tiny: LatentModel, tmp_path: Path) -> None:
    values = published.moved(tiny, "unet")
    half = {n: torch.where(torch.arange(v.numel()).reshape(v.shape) % 2 == 0, v, tiny.tensor(n)) for n, v in values.items()}
    torch.save(published.bare(half), tmp_path / "a.pt")
    found = checkpoints.inspect(tmp_path / "a.pt", tiny)
    assert found.share == pytest.approx(0.5, abs=0.01)
    assert found.made_by[0].startswith("SalUn")


@pytest.mark.parametrize(("part", "method"), [(r"attn2\.to_v\.weight$", "SPEED"), (r"\.ff\.net\.2\.weight$", "ConceptPrune")])
def test_edits_of_one_kind_of_matrix_point_to_who_makes_them(part: str, method: str, tiny: LatentModel, tmp_path: Path) -> None:
    values = {n: tiny.tensor(n) / 2 for n in tiny.scope("unet") if re.search(part, n)}
    torch.save(published.bare(values), tmp_path / "a.pt")
    assert checkpoints.inspect(tmp_path / "a.pt", tiny).made_by == (method,)


def test_lightning_checkpoint_gives_the_trained_weights_not_the_smoothed_copy(tiny: LatentModel, tmp_path: Path) -> None:
    path, _ = published.f3(tmp_path, tiny)
    found = checkpoints.inspect(path, tiny)
    assert found.aside["the EMA copy, which unlearning seldom updates"] == len(tiny.scope("unet")) + 1
    assert found.aside["the autoencoder"] == found.aside["positions"] == found.aside["the noise schedule and counters"] == 1
    assert any("EMA" in remark for remark in found.remarks)
    assert found.changed == len(tiny.scope("unet"))


def test_scopes_are_the_narrowest(tiny: LatentModel, tmp_path: Path) -> None:
    for kind, scope in (("partial dict", "cross-attention-kv"), ("partial safetensors", "cross-attention"), ("full dict", "unet")):
        assert checkpoints.load(published.WRITERS[kind][1](tmp_path, tiny)[0], tiny).scope == scope


def test_half_precision_counts_what_differs_beyond_its_rounding(tiny: LatentModel, tmp_path: Path) -> None:
    values = {**{n: tiny.tensor(n) for n in tiny.scope("unet")}, **published.moved(tiny, "cross-attention-kv")}
    torch.save({n: v.half() for n, v in published.bare(values).items()}, tmp_path / "half.pt")
    found, edit = checkpoints.inspect(tmp_path / "half.pt", tiny), checkpoints.load(tmp_path / "half.pt", tiny)
    assert edit.touched == sorted(tiny.scope("cross-attention-kv"))
    assert all(torch.equal(edit.tensors[n], values[n].half().float()) for n in edit.touched)
    assert found.rounded > 50


PLACED = [(torch.bfloat16, torch.float16, False), (torch.float16, torch.bfloat16, False), (torch.float16, torch.float32, True)]


@pytest.mark.parametrize(("model", "file", "upcast"), PLACED, ids=["bf16 model", "fp16 model", "fp32 model of fp16 weights"])
def test_a_base_of_lower_precision_is_no_change(model: torch.dtype, file: torch.dtype, upcast: bool, tmp_path: Path) -> None:
    """A model and a file that are two roundings of one base differ where the edit is, and nowhere else."""
    tiny = tiny_model()
    values = {**published.base(tiny), **published.moved(tiny, "cross-attention-kv", size=0.5)}
    parts = {name: part.to(model).to(torch.float32 if upcast else model) for name, part in tiny.parts.items()}
    placed = LatentModel("placed", parts, tiny.tokenizer, tiny.scheduler)
    save_file({n: v.to(file) for n, v in published.bare(values).items()}, tmp_path / "unet.safetensors")
    found, edit = checkpoints.inspect(tmp_path / "unet.safetensors", placed), checkpoints.load(tmp_path / "unet.safetensors", placed)
    assert edit.touched == sorted(placed.scope("cross-attention-kv")) and edit.scope == "cross-attention-kv"
    assert found.rounded > 50


def test_class_conditional_list_becomes_an_edit(tmp_path: Path) -> None:
    model: Any = tiny_classes()
    path, values = published.f10(tmp_path, model)
    edit = checkpoints.load(path, model)
    assert all(torch.equal(edit.tensors[n], v) for n, v in values.items())


def test_flux_partial_weights_and_lora(tmp_path: Path) -> None:
    """ESD's for FLUX, and EraseAnything's adapters on what the text brings to attention."""
    flux = tiny_flow()
    names = flux.scope("cross-attention-kv")
    values = {n: flux.tensor(n) * 1.1 for n in names}
    save_file(published.bare(values), tmp_path / "esd-flux.safetensors")
    found, edit = checkpoints.inspect(tmp_path / "esd-flux.safetensors", flux), checkpoints.load(tmp_path / "esd-flux.safetensors", flux)
    assert found.format == "F2"
    assert all(torch.equal(edit.tensors[n], v) for n, v in values.items())
    own, flat = published.factors(flux, "cross-attention-kv", 2), {}
    for name, (down, up) in own.items():
        flat |= {f"{name.removesuffix('.weight')}.lora_A.weight": down, f"{name.removesuffix('.weight')}.lora_B.weight": up}
    save_file(flat, tmp_path / "pytorch_lora_weights.safetensors")
    adapted = checkpoints.load(tmp_path / "pytorch_lora_weights.safetensors", flux)
    assert adapted.touched == sorted(own)
    for name, value in published.added(flux, own).items():
        torch.testing.assert_close(adapted.weight(name, flux.tensor(name)), value, rtol=0, atol=1e-6)


def test_xl_text_encoders_in_kohyas_names(tmp_path: Path) -> None:
    """With two encoders kohya's scripts number them, and spell the U-Net's modules as CompVis did."""
    from vestige.checkpoints import keymaps

    model = tiny_xl()
    unet = model.scope("cross-attention-kv")[0]
    theirs = {ours: name for name, ours in keymaps.compvis(published.bare(published.base(model))).items()}
    first = next(n for n in model.scope("text-encoder") if n.startswith("text_encoder.") and n.endswith("q_proj.weight"))
    second = next(n for n in model.scope("text-encoder") if n.startswith("text_encoder_2.") and n.endswith("q_proj.weight"))
    flat = {}
    for head, name in (("lora_unet", unet), ("lora_te1", first), ("lora_te2", second)):
        path = name.partition(".")[2].removesuffix(".weight")
        path = theirs[f"{path}.weight"].removesuffix(".weight") if head == "lora_unet" else "text_model." + path.removeprefix("text_model.")
        out, into = model.tensor(name).shape
        key = f"{head}_{path.replace('.', '_')}"
        flat |= {f"{key}.lora_down.weight": torch.ones(1, into), f"{key}.lora_up.weight": torch.ones(out, 1)}
    save_file(flat, tmp_path / "xl.safetensors")
    assert checkpoints.load(tmp_path / "xl.safetensors", model).touched == sorted([unet, first, second])


def test_xl_lora_equals_diffusers_own_reading(tmp_path: Path) -> None:
    """Both encoders, and the U-Net in diffusers' names with underscores."""
    model: Any = tiny_xl()
    names = [
        *model.scope("cross-attention-kv"),
        *(n for n in model.scope("text-encoder") if n.endswith(("q_proj.weight", "out_proj.weight"))),
    ]
    rng, flat = generator(3), {}
    for name in names:
        out, into = model.tensor(name).shape
        down, up = torch.randn(2, into, generator=rng) / into**0.5, 0.1 * torch.randn(out, 2, generator=rng)
        part, _, rest = name.removesuffix(".weight").partition(".")
        head = {"unet": "lora_unet_", "text_encoder": "lora_te1_text_model_", "text_encoder_2": "lora_te2_text_model_"}[part]
        key = head + rest.removeprefix("text_model.").replace(".", "_")
        flat |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(1.0)}
    save_file(flat, tmp_path / "xl.safetensors")
    pipe = model.pipeline()
    pipe.load_lora_weights(tmp_path, weight_name="xl.safetensors")
    parts = {part: getattr(pipe, part) for part in model.parts}
    theirs = LatentModel("theirs", parts, model.tokenizers, model.scheduler, blank=model.blank)
    ours = model.edited(checkpoints.load(tmp_path / "xl.safetensors", model))
    torch.testing.assert_close(draw(ours), draw(theirs), rtol=1e-4, atol=1e-5)
    assert (draw(ours) - draw(model)).abs().max() > 1e-4


def test_receler_is_its_formula(tiny: LatentModel, tmp_path: Path) -> None:
    """Beside the network with a module of its own after every cross-attention."""
    path, tensors = published.receler(tmp_path, tiny)
    edit = checkpoints.load(path, tiny)
    assert checkpoints.inspect(path).made_by == ("Receler",)
    view = tiny.edited(Edit.load(edit.save(tmp_path / "edit.safetensors")))

    class After(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module, own: dict[str, Tensor]) -> None:
            super().__init__()
            self.inner, self.own = inner, own

        def forward(self, *given: Any, **named: Any) -> Tensor:
            out = self.inner(*given, **named)
            within = torch.nn.functional.gelu(out @ self.own["down.weight"].T + self.own["down.bias"])
            return out + within @ self.own["up.weight"].T + self.own["up.bias"]

    plain = tiny_model()
    for name, layer in list(plain.parts["unet"].named_modules()):
        if name.endswith("attn2"):
            place = name.partition(".transformer_blocks")[0]
            own = {n.removeprefix(f"{place}."): v for n, v in tensors.items() if n.startswith(f"{place}.")}
            parent, _, last = name.rpartition(".")
            setattr(plain.parts["unet"].get_submodule(parent), last, After(layer, own))
    torch.testing.assert_close(draw(view), draw(plain), rtol=1e-5, atol=1e-5)
    assert (draw(view) - draw(tiny)).abs().max() > 1e-3
    assert view.fingerprint != tiny.fingerprint


def test_receler_stays_under_an_edit_and_under_adapters(tiny: LatentModel, tmp_path: Path) -> None:
    view = tiny.edited(checkpoints.load(published.receler(tmp_path, tiny)[0], tiny))
    more = Edit(view.fingerprint, "x", tensors=published.moved(tiny, "cross-attention-kv", size=1.0))
    both = view.edited(more)
    assert not torch.equal(draw(both), draw(view))
    assert not torch.equal(draw(both), draw(tiny.edited(replace(more, base=tiny.fingerprint))))
    adapted, leaves = view.adapted(tiny.scope("attention"), rank=2, alpha=2, init="gaussian", rng=generator(0))
    assert torch.equal(draw(adapted), draw(view))
    adapted.denoise(noise(tiny.latent_shape, [0]), torch.tensor([500]), view.condition(["a"])).value.square().mean().backward()
    assert all(up.grad is not None and up.grad.any() for _, up in leaves.values())


def test_receler_of_another_base_is_refused(tiny: LatentModel, tmp_path: Path) -> None:
    path, _ = published.receler(tmp_path, tiny)
    rewritten(path / "eraser_weights.pt", lambda table: {n: v for n, v in table.items() if "mid" not in n})
    with pytest.raises(Incompatible, match="made for another base: this network has 4 transformers and lacks 4 tensors"):
        checkpoints.load(path, tiny)


def test_receler_that_gives_zero_is_refused(tiny: LatentModel, tmp_path: Path) -> None:
    path, _ = published.receler(tmp_path, tiny, size=0.0)
    with pytest.raises(Incompatible, match="change nothing"):
        checkpoints.load(path, tiny)


def test_sparse_autoencoder_is_recognised_and_refused_with_the_reason(tiny: LatentModel, tmp_path: Path) -> None:
    path = published.autoencoder(tmp_path)
    found = checkpoints.inspect(path)
    assert (found.format, found.made_by) == ("F9", ("SAeUron",))
    with pytest.raises(Incompatible, match=r"of unet.up_blocks.1.attentions.1 \(8 latents, of which 2 at a time, of 4 numbers\)"):
        checkpoints.load(path, tiny)
    assert "which latents belong to the concept, the mean of each at every step" in checkpoints.inspect(path).refusal


@pytest.mark.parametrize("table", [{"<bag>": torch.ones(32)}, {"string_to_param": {"*": torch.ones(2, 32)}, "name": "bag"}])
def test_textual_inversion_is_recognised_and_refused_with_the_reason(table: dict[str, Any], tiny: LatentModel, tmp_path: Path) -> None:
    torch.save(table, tmp_path / "learned_embeds.bin")
    assert checkpoints.inspect(tmp_path / "learned_embeds.bin").format == "inversion"
    with pytest.raises(Incompatible, match="adds words of its own"):
        checkpoints.load(tmp_path / "learned_embeds.bin", tiny)


@pytest.mark.parametrize("ending", ["hada_w1_a", "lokr_w1", "dora_scale"])
def test_other_adapters_are_named_and_refused(ending: str, tiny: LatentModel, tmp_path: Path) -> None:
    save_file({f"lora_unet_mid_block_attentions_0_proj_in.{ending}": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(Incompatible, match="not a product of two matrices"):
        checkpoints.load(tmp_path / "a.safetensors", tiny)


def test_untouched_weights_are_the_ema_trap(tiny: LatentModel, tmp_path: Path) -> None:
    torch.save(published.bare(published.base(tiny)), tmp_path / "a.pt")
    with pytest.raises(Incompatible, match=r"equals tiny in every weight.*without extracting the EMA copy"):
        checkpoints.load(tmp_path / "a.pt", tiny)


def test_untouched_weights_at_half_precision_are_the_same_trap(tiny: LatentModel, tmp_path: Path) -> None:
    torch.save({n: v.half() for n, v in published.bare(published.base(tiny)).items()}, tmp_path / "a.pt")
    with pytest.raises(Incompatible, match=r"equals tiny in every weight .*at the file's precision"):
        checkpoints.load(tmp_path / "a.pt", tiny)


def test_adapters_of_zeros_change_nothing(tiny: LatentModel, tmp_path: Path) -> None:
    path, _ = published.f11(tmp_path, tiny)
    rewritten(path, lambda table: {n: v * 0 if "lora_B" in n else v for n, v in table.items()})
    with pytest.raises(Incompatible, match="changes nothing"):
        checkpoints.load(path, tiny)


@pytest.mark.parametrize(
    "kind",
    [
        "full dict",
        "partial safetensors",
        "CompVis U-Net",
        "nested modules",
        "wrapped text encoder",
        "component in shards",
        "component in shards",
    ],
)
def test_weights_of_another_model_fit_by_accident_and_are_refused(
    kind: str, tiny: LatentModel, unlike: LatentModel, tmp_path: Path
) -> None:
    path, _ = published.WRITERS[kind][1](tmp_path, unlike)
    with pytest.raises(Incompatible, match=r"its shapes fit tiny by accident, it was made from another base.*cosine"):
        checkpoints.load(path, tiny)


def test_whole_pipeline_that_was_trained_anew_is_taken_and_told(tiny: LatentModel, unlike: LatentModel, tmp_path: Path) -> None:
    """It stands for itself: every weight that draws is in it."""
    unlike.pipeline().save_pretrained(tmp_path / "other")
    assert any("trained anew" in remark for remark in checkpoints.inspect(tmp_path / "other", tiny).remarks)
    edit = checkpoints.load(tmp_path / "other", tiny)
    torch.testing.assert_close(draw(tiny.edited(edit)), draw(unlike), rtol=0, atol=0)


def test_edited_pipeline_equals_diffusers_own_reading(tiny: LatentModel, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    path, _ = published.f4(tmp_path, tiny)
    theirs = LatentModel.from_pipeline(StableDiffusionPipeline.from_pretrained(path, local_files_only=True))
    assert torch.equal(draw(tiny.edited(checkpoints.load(path, tiny))), draw(theirs))


def test_second_name_of_t5s_embeddings_is_set_aside(tmp_path: Path) -> None:
    model: Any = tiny_flow()
    edit = Edit(model.fingerprint, "x", {}, "attention", {n: model.tensor(n) * 1.1 for n in model.scope("attention")})
    model.edited(edit).pipeline().save_pretrained(tmp_path)
    file = tmp_path / "text_encoder_2/model.safetensors"
    table = load_file(file)
    save_file({**table, "encoder.embed_tokens.weight": table["shared.weight"].clone()}, file)
    assert checkpoints.load(tmp_path, model).touched == edit.touched
    assert checkpoints.inspect(tmp_path).aside["second names of a text encoder's own parts"] == 1


@pytest.mark.parametrize("kind", ["free", "sd3"])
def test_edited_flow_pipeline_is_read_by_its_difference(kind: str, tmp_path: Path) -> None:
    model: Any = tiny_flow(kind)
    edit = Edit(model.fingerprint, "x", {}, "attention", {n: model.tensor(n) * 1.1 for n in model.scope("attention")})
    model.edited(edit).pipeline().save_pretrained(tmp_path / "flow")
    back = checkpoints.load(tmp_path / "flow", model)
    assert back.touched == edit.touched
    assert all(torch.equal(back.tensors[n], v) for n, v in edit.tensors.items())


def test_lora_equals_diffusers_own_reading(tiny: LatentModel, tmp_path: Path) -> None:
    for kind in ("SPM", "diffusers LoRA"):
        path, _ = published.WRITERS[kind][1](tmp_path, tiny)
        pipe = tiny.pipeline()
        pipe.load_lora_weights(tmp_path, weight_name=path.name)
        theirs = LatentModel("theirs", {**tiny.parts, "unet": pipe.unet}, tiny.tokenizer, tiny.scheduler)
        torch.testing.assert_close(draw(tiny.edited(checkpoints.load(path, tiny))), draw(theirs), rtol=1e-4, atol=1e-5)


def without(part: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda table: {n: v for n, v in table.items() if part not in n}


def one(change: Callable[[Tensor], Tensor], part: str = "") -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    def changed(table: dict[str, Tensor]) -> dict[str, Tensor]:
        name = next(n for n in table if part in n)
        return {**table, name: change(table[name].clone())}

    return changed


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("full dict", without("mid_block.attentions.0.norm.weight"), "lacks 1 of the 208 weights of the unet, e.g. unet.mid_block"),
        ("full dict", lambda t: {**t, "conv_mid.weight": torch.ones(2)}, "1 of its 209 tensors are no weights of tiny, e.g. conv_mid"),
        ("partial safetensors", lambda t: {**t, "model.x": torch.ones(2)}, "are no weights of tiny, e.g. model.x"),
        ("partial safetensors", one(lambda v: v[:-1].contiguous()), "another base than tiny: 1 shapes differ, e.g. down_blocks"),
        ("partial safetensors", one(lambda v: v.fill_(float("nan"))), "numbers that are not finite"),
        ("partial safetensors", one(lambda v: v / 0), "numbers that are not finite"),
        ("partial safetensors", one(lambda v: v.long()), "holds whole numbers"),
        ("full dict", one(lambda v: v.double() * 1e300), "numbers that are not finite"),
        ("SPM", lambda t: t | {f"lora_unet_no.lora_{s}.weight": torch.ones(1, 1) for s in ("down", "up")}, "in tiny, e.g. lora_unet_no"),
        ("SPM", without("proj_in.lora_up"), "of its tensors are not in tiny"),
        ("SPM", one(lambda v: v.fill_(float("inf")), ".alpha"), "a scale is finite"),
        ("diffusers LoRA", one(lambda v: v[:, :-1].contiguous(), "lora_A"), "another base than tiny: .* maps"),
        ("diffusers LoRA", one(lambda v: v[:-1].contiguous(), "lora_A"), "no rank in common"),
        ("diffusers LoRA", one(lambda v: v.fill_(float("nan")), "lora_B"), "numbers that are not finite"),
        ("wrapped text encoder", one(lambda v: v + 1, "final_layer_norm"), "two different copies"),
    ],
)  # fmt: skip
def test_what_does_not_belong_is_refused_with_the_evidence(
    kind: str, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str, tiny: LatentModel, tmp_path: Path
) -> None:
    path, _ = published.WRITERS[kind][1](tmp_path, tiny)
    with pytest.raises((Incompatible, BadInput), match=message):
        checkpoints.load(rewritten(path, change), tiny)


def test_finding_of_a_refused_file_counts_what_was_wrong(tiny: LatentModel, tmp_path: Path) -> None:
    path, _ = published.f1(tmp_path, tiny)
    found = checkpoints.inspect(rewritten(path, without("mid_block.attentions.0.norm.weight")), tiny)
    assert found.missing == ("unet.mid_block.attentions.0.norm.weight",)
    assert found.matched == 207
    assert "lacks 1" in found.refusal
    assert "lacks 1" in checkpoints.described(path, tiny)[1]


def test_wrong_family_is_refused(tmp_path: Path, tiny: LatentModel) -> None:
    """SD 1's cross-attention does not fit a network that is told a class."""
    path, _ = published.f2(tmp_path, tiny)
    with pytest.raises(Incompatible, match="are no weights of tiny-unet"):
        checkpoints.load(path, tiny_classes())


def test_shard_that_leads_elsewhere_is_refused(tiny: LatentModel, tmp_path: Path) -> None:
    path, _ = published.f4_component(tmp_path, tiny)
    index = path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(BadInput, match="a path; its files lie beside it"):
        checkpoints.load(path, tiny)
    index.write_text(json.dumps({"weight_map": {"a": "b-00001-of-00002.safetensors"}}))
    with pytest.raises(BadInput, match="which is not there"):
        checkpoints.load(path, tiny)


@pytest.mark.parametrize("made", ["empty", "unknown", "text"])
def test_what_is_no_checkpoint_is_refused(made: str, tiny: LatentModel, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    if made == "empty":
        path = tmp_path / "folder"
        path.mkdir()
    elif made == "unknown":
        save_file({"brain.weight": torch.ones(2)}, path)
    else:
        path.write_text("weights, honestly")
    with pytest.raises(BadInput, match=r"folder without model_index|no checkpoint of a known kind: 1 tensors|is text .*, no checkpoint"):
        checkpoints.inspect(path)


def test_saved_edit_is_checked_like_any_file(tiny: LatentModel, unlike: LatentModel, tmp_path: Path) -> None:
    edit = Edit(tiny.fingerprint, "uce", {"strength": 1.0}, "cross-attention-kv", published.moved(tiny, "cross-attention-kv"))
    path = edit.save(tmp_path / "edit.safetensors")
    assert checkpoints.load(path, tiny).tensors.keys() == edit.tensors.keys()
    assert checkpoints.inspect(path).made_by == ("uce",)
    with pytest.raises(Incompatible, match="was made on a model with fingerprint"):
        checkpoints.load(path, unlike)
    name = edit.touched[0]
    replace(edit, tensors={name: edit.tensors[name] / 0}).save(path)
    with pytest.raises(BadInput, match="not finite"):
        checkpoints.load(path, tiny)
    replace(edit, hooks=(Hook("data", "x", {}),)).save(path)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="hook of kind 'data'"):
        checkpoints.load(path, tiny)


def test_a_checkpoint_goes_the_way_of_every_edit(tiny: LatentModel, tmp_path: Path) -> None:
    path, _ = published.f2(tmp_path, tiny)
    edit = checkpoints.load(path, tiny)
    told = arithmetic.describe(tiny, edit)
    assert (told["method"], told["scope"]) == ("published", "cross-attention")
    assert (told["settings"]["file"], told["settings"]["format"]) == (path.name, "F2")
    assert told["changed_tensors"] == len(edit.touched)
    assert Edit.load(edit.save(tmp_path / "edit.safetensors")).settings == edit.settings


def test_what_a_method_noted_is_told_with_its_names_joined(tiny: LatentModel) -> None:
    notes = {"concept": "bag", "seed": 3, "retain_still_since": 120, "losses": {"attention": {"first": 0.9, "last": 0.1}}}
    told = arithmetic.describe(tiny, Edit(tiny.fingerprint, "duge", notes=notes))
    assert told["seed"] == 3
    assert told["notes"] == {"retain_still_since": 120, "losses.attention.first": 0.9, "losses.attention.last": 0.1}
