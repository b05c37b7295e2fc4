"""Stable Diffusion's families beside diffusers' own pipelines: 1.x, 2.x with velocities and a rescaled schedule, XL with two encoders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from oracles import scheduler, script, tiny_model, tiny_parts, tiny_velocity, tiny_xl, tokenizer
from vestige import models
from vestige.diffusion.sampling import invert, noise, sample
from vestige.errors import Incompatible, VestigeError
from vestige.models.latent import LatentModel
from vestige.models.reading import frozen
from vestige.seeds import generator

KINDS: dict[str, Callable[[], LatentModel]] = {
    "1.x": tiny_model,
    "2.x": lambda: tiny_model(prediction_type="v_prediction"),
    "2.x zero terminal SNR": tiny_velocity,
    "xl": tiny_xl,
    "xl with encoded empty prompts": lambda: tiny_xl(blank=False),
}
PROMPTS = ["a picture of a sneaker", "a bag"]
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> LatentModel:
    return KINDS[request.param]()


@pytest.fixture(scope="module")
def xl() -> LatentModel:
    return tiny_xl()


@pytest.fixture
def xl_folder(tmp_path: Path, xl: LatentModel) -> Path:
    xl.pipeline().save_pretrained(tmp_path / "xl")
    return tmp_path / "xl"


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_sampling_equals_diffusers_pipeline(model: LatentModel, guidance: float) -> None:
    """The same latents, prompts, guidance and DDIM steps; within 1e-4 of latents of about 1, or a rounding's relative share.

    The number of steps divides 1,000: with trailing timesteps that are not evenly spaced, diffusers' DDIM steps to a time that is not
    the next one of its grid.
    """
    pipe = model.pipeline()
    pipe.set_progress_bar_config(disable=True)
    x = noise(model.latent_shape, [1, 2])
    # A pipeline scales what it is given by its scheduler's initial deviation, which is 1 for DDIM.
    theirs = pipe(prompt=PROMPTS, latents=x, guidance_scale=guidance, num_inference_steps=8, eta=0.0, output_type="latent").images
    null = model.condition([""])
    ours = sample(model, x, model.condition(PROMPTS), steps=8, guidance=guidance, null=null)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_decoding_equals_diffusers_pipeline(model: LatentModel) -> None:
    pipe = model.pipeline()
    pipe.set_progress_bar_config(disable=True)
    x = noise(model.latent_shape, [1, 2])
    run = {"prompt": PROMPTS, "latents": x, "guidance_scale": 1.0, "num_inference_steps": 4, "eta": 0.0}
    theirs = torch.from_numpy(pipe(**run, output_type="np").images).permute(0, 3, 1, 2)
    torch.testing.assert_close(model.decode(sample(model, x, model.condition(PROMPTS), steps=4)), theirs, atol=1e-4, rtol=0)


def test_a_rescaled_schedule_begins_in_pure_noise() -> None:
    model = tiny_velocity()
    signal, level = model.schedule(model.grid(5))
    assert signal[0] == 0
    assert level[0] == 1
    drawn = sample(model, noise(model.latent_shape, [0]), model.condition(["a bag"]), steps=5)
    assert drawn.isfinite().all()


def test_inversion_reaches_the_pure_noise_of_a_rescaled_schedule() -> None:
    """The fixed point is the exact inverse of the sampling step also there, where the noise alone would be the guess itself."""
    model = tiny_velocity()
    condition, x = model.condition(PROMPTS), noise(model.latent_shape, [1, 2])
    drawn = sample(model, x, condition, steps=5)
    gaps = []
    for refine in (0, 4, 40):
        back = invert(model, drawn, condition, steps=5, refine=refine)
        gaps.append((sample(model, back, condition, steps=5) - drawn).norm() / drawn.norm())
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-3


def test_two_encoders_read_side_by_side(xl: LatentModel) -> None:
    """Last hidden states but one, the second one's projection, and each encoder's own padding: as the pipeline encodes."""
    pipe = xl.pipeline()
    with torch.no_grad():
        text, empty, pooled, empty_pooled = pipe.encode_prompt(PROMPTS, device="cpu", do_classifier_free_guidance=True)
    ours, null = xl.condition(PROMPTS), xl.condition([""])
    torch.testing.assert_close(ours.text, text, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.pooled, pooled, atol=1e-6, rtol=0)
    assert torch.equal(null.text.expand_as(empty), empty)
    assert torch.equal(null.pooled.expand_as(empty_pooled), empty_pooled)  # type: ignore[union-attr]
    assert not null.text.any()


def test_empty_prompts_are_encoded_where_the_model_says_so(xl: LatentModel) -> None:
    told = tiny_xl(blank=False)
    assert told.condition([""]).text.any()
    assert told.fingerprint != xl.fingerprint
    pipe = told.pipeline()
    with torch.no_grad():
        _, empty, _, pooled = pipe.encode_prompt("a bag", device="cpu", do_classifier_free_guidance=True)
    torch.testing.assert_close(told.condition([""]).text, empty, atol=1e-6, rtol=0)
    torch.testing.assert_close(told.condition([""]).pooled, pooled, atol=1e-6, rtol=0)


def test_weights_over_the_vocabulary_reach_both_encoders(xl: LatentModel) -> None:
    ids = xl.tokens(PROMPTS)
    soft = nn.functional.one_hot(ids, len(xl.tokenizer)).float().requires_grad_(True)
    hard, mixed = xl.embed(ids), xl.embed(soft)
    torch.testing.assert_close(mixed.text, hard.text, atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed.pooled, hard.pooled, atol=1e-5, rtol=0)
    torch.testing.assert_close(hard.text, xl.condition(PROMPTS).text, atol=1e-6, rtol=0)
    for part in (mixed.text[..., :24], mixed.text[..., 24:], mixed.pooled):
        assert part is not None
        (slope,) = torch.autograd.grad(part.sum(), soft, retain_graph=True)
        assert slope.any()


def test_the_picture_size_is_told(xl: LatentModel) -> None:
    """Larger latents are a larger picture to the U-Net, as the pipeline tells it."""
    pipe = xl.pipeline()
    pipe.set_progress_bar_config(disable=True)
    x = noise((4, 12, 8), [3])
    run = {"prompt": "a bag", "height": 48, "width": 32, "latents": x, "guidance_scale": 1.0, "num_inference_steps": 2, "eta": 0.0}
    theirs = pipe(**run, output_type="latent").images
    torch.testing.assert_close(sample(xl, x, xl.condition(["a bag"]), steps=2), theirs, atol=1e-4, rtol=1e-4)


def test_a_folder_with_two_encoders_is_the_same_model(xl: LatentModel, xl_folder: Path) -> None:
    loaded = models.load(str(xl_folder))
    assert loaded.fingerprint == xl.fingerprint
    index = xl_folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "force_zeros_for_empty_prompt": False}))
    assert models.load(str(xl_folder)).condition([""]).text.any()


def test_a_pipeline_with_two_encoders_is_the_same_model(xl: LatentModel) -> None:
    assert LatentModel.from_pipeline(xl.pipeline()).fingerprint == xl.fingerprint


def test_scopes_take_both_encoders(xl: LatentModel) -> None:
    heads = {name.partition(".")[0] for name in xl.scope("text-encoder")}
    assert heads == {"text_encoder", "text_encoder_2"}
    assert not any("add_embedding" in name for name in xl.scope("compvis-noxattn"))
    assert any("add_embedding" in name for name in xl.scope("non-cross-attention"))


def test_a_refiner_is_refused(xl_folder: Path) -> None:
    with pytest.raises(Incompatible, match="aesthetic score"):
        tiny_xl(projection_class_embeddings_input_dim=16 + 5 * 8)
    index = xl_folder / "model_index.json"
    listed = json.loads(index.read_text())
    index.write_text(json.dumps({**listed, "text_encoder": [None, None], "tokenizer": [None, None]}))
    with pytest.raises(VestigeError, match="refiner"):
        models.load(str(xl_folder))


def test_two_tokenizers_share_their_vocabulary(xl: LatentModel) -> None:
    other = tokenizer()
    other.add_tokens(["<new>"])
    with pytest.raises(Incompatible, match="different vocabularies"):
        LatentModel("mixed", xl.parts, [xl.tokenizers[0], other], scheduler())


@pytest.mark.parametrize("make", [tiny_model, tiny_xl], ids=["1.x", "xl"])
def test_checkpointed_gradients_are_the_same(make: Callable[[], LatentModel]) -> None:
    def slope(model: LatentModel) -> dict[str, Tensor]:
        view, leaves = model.trainable(model.scope("attention"))
        x, t = noise(model.latent_shape, [0, 1]), torch.tensor([10, 500])
        loss = view.denoise(x, t, model.condition(PROMPTS)).value.square().mean()
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    plain, saving = make(), make()
    saving.placed("cpu", checkpointing=True)
    calls: list[Any] = []
    last = [m for m in saving.parts["unet"].modules() if type(m).__name__ == "ResnetBlock2D"][-1]
    last.register_forward_pre_hook(lambda *_: calls.append(1))  # the second pass stops as soon as it has what it needs
    one, other = slope(plain), slope(saving)
    assert len(calls) == 2  # once forward, once more for the gradient
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-6, rtol=1e-4)


def test_sliced_attention_computes_the_same() -> None:
    plain, sliced = tiny_model(), tiny_model()
    sliced.placed("cpu", slicing=True)
    kinds = {type(p).__name__ for p in sliced.parts["unet"].attn_processors.values()}  # type: ignore[union-attr,operator]
    assert kinds == {"SlicedAttnProcessor"}
    x = noise(plain.latent_shape, [0, 1])
    drawn = [sample(m, x, m.condition(PROMPTS), steps=2) for m in (plain, sliced)]
    torch.testing.assert_close(drawn[0], drawn[1], atol=1e-5, rtol=1e-5)


def test_what_rests_is_called_to_work_and_sent_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one device here, so what is checked is who moves, when, and in which order."""
    model, moves = tiny_xl(), []
    model.placed("cpu", offload=True)
    names = {id(module): part for part, module in model.parts.items()}
    whole = nn.Module.to

    def moving(self: nn.Module, *given: Any, **named: Any) -> nn.Module:
        if id(self) in names:
            moves.append((names[id(self)], str(given[0])))
        return whole(self, *given, **named)

    monkeypatch.setattr(nn.Module, "to", moving)
    monkeypatch.setattr(LatentModel, "device", property(lambda self: torch.device("cpu:0")))
    model.condition(["a bag"])
    encoders = ["text_encoder", "text_encoder_2"]
    assert moves == [(e, "cpu:0") for e in encoders] + [(e, "cpu") for e in encoders]
    moves.clear()
    model.decode(model.encode(torch.rand(1, 3, 32, 32, generator=generator(0, "picture"))))
    assert moves == [("vae", "cpu:0"), ("vae", "cpu")] * 2


def test_a_memory_option_that_a_network_lacks_is_refused() -> None:
    model = tiny_model()
    model.parts["unet"] = nn.Linear(1, 1)
    with pytest.raises(Incompatible, match="Linear of tiny has no set_attention_slice"):
        model.placed("cpu", slicing=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_autoencoder_that_overflows_in_half_stays_in_single(dtype: torch.dtype) -> None:
    parts = {part: module.to(dtype) for part, module in tiny_parts().items()}
    parts["vae"].register_to_config(force_upcast=True)
    model = LatentModel("half", parts, tokenizer(), scheduler())
    kept = torch.float32 if dtype is torch.float16 else dtype
    assert model.parts["vae"].dtype == kept
    assert parts["vae"].dtype == dtype  # what was given stays as it is
    latents = model.encode(torch.rand(1, 3, 32, 32, generator=generator(0, "picture")))
    assert latents.dtype == dtype
    assert model.decode(latents).dtype == torch.float32


def test_half_precision_draws_nearly_the_same() -> None:
    """A tiny network in bfloat16 keeps two to three digits; what is drawn stays close to single precision."""
    single = tiny_model()
    half = LatentModel("half", {k: v.to(torch.bfloat16) for k, v in tiny_parts().items()}, tokenizer(), scheduler())
    x = noise(single.latent_shape, [0, 1])
    one = sample(single, x, single.condition(PROMPTS), steps=4)
    other = sample(half, x.to(torch.bfloat16), half.condition(PROMPTS), steps=4)
    assert other.dtype == torch.bfloat16
    gap = (one - other.float()).norm() / one.norm()
    assert 0 < gap < 0.05


def test_scopes_select_the_documented_counts_at_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stable Diffusion 1.4's exact configuration, without memory: 686 tensors, of which 32 are cross-attention's keys and values."""
    benchmark = script("benchmarks/full_size.py", monkeypatch)
    with torch.device("meta"):
        hollow = benchmark.model()
    sizes = {scope: [hollow.tensor(n).numel() for n in hollow.scope(scope)] for scope in ("unet", "cross-attention-kv", "attention")}
    assert {scope: len(size) for scope, size in sizes.items()} == {"unet": 686, "cross-attention-kv": 32, "attention": 128}
    assert sum(sizes["unet"]) == 859_520_964
    assert sum(sizes["cross-attention-kv"]) == 19_169_280
    # an adapter of rank 4 on all attention has the size that MemoRa's released adapters have
    shapes = [hollow.tensor(n).shape for n in hollow.scope("attention")]
    assert sum(4 * (rows + columns) for rows, columns in shapes) == 797_184


def test_a_shift_of_latents_is_left_out_as_the_pipelines_leave_it_out(model: LatentModel) -> None:
    shifted = frozen(model.parts["vae"])
    cast(Any, shifted).register_to_config(shift_factor=0.5)
    test_decoding_equals_diffusers_pipeline(LatentModel("shifted", {**model.parts, "vae": shifted}, model.tokenizers, model.scheduler))
    latents, pictures = noise(model.latent_shape, [1]), torch.rand(1, 3, *model.image_size, generator=generator(1))
    plain = LatentModel("plain", model.parts, model.tokenizers, model.scheduler)
    moved = LatentModel("shifted", {**model.parts, "vae": shifted}, model.tokenizers, model.scheduler)
    assert torch.equal(plain.decode(latents), moved.decode(latents)) and torch.equal(plain.encode(pictures), moved.encode(pictures))
