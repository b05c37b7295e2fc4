"""Rectified flow: our sampling equals diffusers' pipelines, its inverse is one, packing and guidance mean what they mean there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oracles import flow_scheduler, scheduler, tiny_flow, tiny_flux, tiny_parts, tiny_t5, tiny_words, tokenizer
from vestige import models
from vestige.checkpoints import exports
from vestige.diffusion import Condition, Prediction
from vestige.diffusion.sampling import invert, noise, predict, sample
from vestige.edits import Edit
from vestige.edits.surgery import folded
from vestige.errors import BadInput, Incompatible
from vestige.methods.objectives import denoising, noisy
from vestige.models.flow import FlowModel
from vestige.models.packing import flat, packed, square, unpacked
from vestige.models.sigmas import Sigmas
from vestige.seeds import generator

KINDS = ("dev", "schnell", "free", "sd3")
PROMPTS = ["a neon picture of a bag", "a zebra"]
SAME = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> FlowModel:
    return tiny_flow(request.param)


@pytest.fixture(scope="module")
def free() -> FlowModel:
    return tiny_flow()


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def theirs(model: FlowModel, x: Tensor, steps: int, guidance: float, kind: str) -> Tensor:
    """What diffusers' pipeline call makes of these latents."""
    how: dict[str, Any] = {"prompt": PROMPTS, "num_inference_steps": steps, "output_type": kind, "height": 32, "width": 32}
    how["max_sequence_length"] = 16
    pipe = quiet(model.pipeline())
    if model.name == "tiny-sd3":
        return pipe(**how, latents=x, guidance_scale=guidance).images
    more = {"guidance_scale": guidance} if model.distilled else {"true_cfg_scale": guidance, "negative_prompt": ["", ""]}
    made = pipe(**how, latents=flat(packed(x)), **more).images
    return unpacked(square(made, 4, 4)) if kind == "latent" else made


@pytest.mark.parametrize("steps", [1, 5])
def test_sampling_equals_the_pipelines_call(model: FlowModel, steps: int) -> None:
    x = noise(model.latent_shape, [0, 1])
    ours = sample(model, x, model.condition(PROMPTS), steps=steps, guidance=3.5, null=model.condition([""]))
    torch.testing.assert_close(ours, theirs(model, x, steps, 3.5, "latent"), **SAME)
    torch.testing.assert_close(model.decode(ours), theirs(model, x, steps, 3.5, "pt"), **SAME)


def test_guidance_is_heard_where_the_model_hears_it(model: FlowModel) -> None:
    x, condition, null = noise(model.latent_shape, [0, 1]), model.condition(PROMPTS), model.condition([""])
    weak, strong = (sample(model, x, condition, steps=3, guidance=g, null=null) for g in (1.0, 6.0))
    assert torch.equal(weak, sample(model, x, condition, steps=3))
    assert torch.equal(weak, strong) == (model.name == "tiny-schnell")


def test_a_distilled_model_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = tiny_flow("dev"), []
    plain = FlowModel.denoise
    monkeypatch.setattr(FlowModel, "denoise", lambda self, x, t, c: rows.append(len(x)) or plain(self, x, t, c))
    predict(model, noise(model.latent_shape, [0, 1]), torch.tensor(0.5), model.condition(PROMPTS), model.condition([""]), 4.0)
    assert rows == [2]


def test_guidance_that_is_not_told_counts_as_one() -> None:
    model = tiny_flow("dev")
    x, t, condition = noise(model.latent_shape, [0, 1]), torch.tensor([0.3, 0.8]), model.condition(PROMPTS)
    with torch.no_grad():
        untold = model.denoise(x, t, condition).value
        told = model.denoise(x, t, Condition(condition.text, condition.pooled, torch.ones(2))).value
        other = model.denoise(x, t, Condition(condition.text, condition.pooled, torch.tensor([1.0, 4.0]))).value
    assert torch.equal(untold, told)
    assert torch.equal(untold[0], other[0])
    assert not torch.allclose(untold[1], other[1], atol=1e-5)


def test_conditions_carry_guidance() -> None:
    text, pooled = torch.rand(2, 3, 4), torch.rand(2, 5)
    told, untold = Condition(text, pooled, torch.tensor([2.0, 3.0])), Condition(text, pooled)
    assert told[[1]].guidance.tolist() == [3.0]  # type: ignore[union-attr]
    assert told.repeat(2).guidance.tolist() == [2, 2, 3, 3]  # type: ignore[union-attr]
    assert told.join(untold).guidance.tolist() == [2, 3, 1, 1]  # type: ignore[union-attr]
    assert untold.join(untold).guidance is None


def test_encoding_equals_the_autoencoders(model: FlowModel) -> None:
    """Also with a shift and a scale, both ways."""
    vae: Any = tiny_parts()["vae"]
    vae.register_to_config(shift_factor=0.3, scaling_factor=0.7)
    moved = FlowModel("moved", {**model.parts, "vae": vae}, model.tokenizers, model.scheduler)
    pictures = torch.rand(2, 3, 32, 32, generator=generator(0, "pictures"))
    pipe = moved.pipeline()
    with torch.no_grad():
        wanted = (pipe.vae.encode(pipe.image_processor.preprocess(pictures)).latent_dist.mode() - 0.3) * 0.7
    torch.testing.assert_close(moved.encode(pictures), wanted, **SAME)
    torch.testing.assert_close(moved.decode(wanted), theirs_decoded(pipe, wanted / 0.7 + 0.3), **SAME)


def theirs_decoded(pipe: Any, latents: Tensor) -> Tensor:
    with torch.no_grad():
        made: Tensor = pipe.image_processor.postprocess(pipe.vae.decode(latents).sample, output_type="pt")
    return made


def test_prompts_are_read_as_the_pipeline_reads_them(model: FlowModel) -> None:
    pipe = model.pipeline()
    words = {"prompt": PROMPTS, "prompt_2": None, "max_sequence_length": 16}
    seen = pipe.encode_prompt(**words, **({"prompt_3": None} if model.name == "tiny-sd3" else {}))
    text, pooled = (seen[0], seen[2]) if model.name == "tiny-sd3" else seen[:2]
    own = model.condition(PROMPTS)
    torch.testing.assert_close(own.text, text, **SAME)
    torch.testing.assert_close(own.pooled, pooled, **SAME)
    again = model.embed(model.tokens(PROMPTS))
    assert torch.equal(again.text, own.text)


def test_embedding_tokens_carries_gradients_to_every_table(model: FlowModel) -> None:
    view, leaves = model.trainable(list(model.tables()))
    made = view.embed(view.tokens(["a bag"]))
    (made.text.square().sum() + made.pooled.square().sum()).backward()  # type: ignore[union-attr]
    assert all(leaf.grad is not None and (leaf.grad != 0).any() for leaf in leaves.values())
    ends = [columns.stop for columns in model.tables().values()]
    assert ends[-1] == model.tokens([""]).shape[1]
    with pytest.raises(Incompatible, match="weights over one vocabulary mean nothing"):
        model.embed(torch.rand(1, 4, 10))


def test_stable_diffusion_3_without_t5_reads_zeros_in_its_place() -> None:
    model = tiny_flow("sd3")
    parts = {k: v for k, v in model.parts.items() if k != "text_encoder_3"}
    words = {k: v for k, v in model.tokenizers.items() if k != "text_encoder_3"}
    bare = FlowModel("bare", parts, words, model.scheduler)
    pipe = bare.pipeline()
    text, _, pooled, _ = pipe.encode_prompt(prompt=PROMPTS, prompt_2=None, prompt_3=None)
    torch.testing.assert_close(bare.condition(PROMPTS).text, text, **SAME)
    torch.testing.assert_close(bare.condition(PROMPTS).pooled, pooled, **SAME)
    assert not text[:, 77:].any()


def test_packing_is_diffusers() -> None:
    from diffusers import FluxPipeline

    x = torch.rand(2, 4, 6, 8)
    tokens = FluxPipeline._pack_latents(x, 2, 4, 6, 8)
    assert torch.equal(flat(packed(x)), tokens)
    assert torch.equal(unpacked(square(tokens, 3, 4)), x)


def test_one_step_is_the_schedulers(model: FlowModel) -> None:
    """The Euler step of FlowMatchEulerDiscreteScheduler, and the grid it walks."""
    grid, x, condition = model.grid(4), noise(model.latent_shape, [0, 1]), model.condition(PROMPTS)
    step = type(model.scheduler).from_config(model.scheduler.config)
    step.set_timesteps(sigmas=None if model.name == "tiny-sd3" else [1.0, 0.75, 0.5, 0.25], num_inference_steps=4, mu=mu_of(model))
    torch.testing.assert_close(grid, step.sigmas)
    for i in range(4):
        with torch.no_grad():
            seen = model.denoise(x, grid[i].expand(2), condition)
        wanted = step.step(seen.value, step.timesteps[i], x).prev_sample
        x = sample(model, x, condition, steps=4, start=i, stop=i + 1)
        torch.testing.assert_close(x, wanted, **SAME)


def mu_of(model: FlowModel) -> float:
    """The line of FLUX's pipeline: shift 0.5 at 256 picture tokens, 1.15 at 4096; here there are 16."""
    assert model.latent_shape == (4, 8, 8)
    return 0.5 + (1.15 - 0.5) / (4096 - 256) * (16 - 256)


def test_dynamic_shift_follows_the_size_and_the_static_one_does_not() -> None:
    model = tiny_flow("free")
    large = FlowModel("large", model.parts, model.tokenizers, model.scheduler, size=64)
    assert (large.image_size, large.latent_shape) == ((64, 64), (4, 16, 16))
    assert (large.grid(4)[1:-1] > model.grid(4)[1:-1]).all()
    still = tiny_flow("sd3")
    assert torch.equal(FlowModel("large", still.parts, still.tokenizers, still.scheduler, size=(64, 32)).grid(4), still.grid(4))
    assert large.fingerprint != model.fingerprint
    with pytest.raises(BadInput, match="multiples of 8"):
        FlowModel("odd", model.parts, model.tokenizers, model.scheduler, size=36)


@pytest.mark.parametrize("stop", [0, 2])
def test_inversion_comes_back_and_the_better_for_every_refinement(model: FlowModel, stop: int) -> None:
    latents, condition = noise(model.latent_shape, [3, 4]) * 0.5, model.condition(PROMPTS)
    gaps = []
    for refine in (0, 2, 9):
        deep = invert(model, latents, condition, steps=4, stop=stop, refine=refine)
        gaps.append(float((sample(model, deep, condition, steps=4, start=stop) - latents).norm() / latents.norm()))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-2 * gaps[0]


def test_one_inverse_step_is_eulers_backwards(free: FlowModel) -> None:
    x, grid, condition = noise(free.latent_shape, [0, 1]), free.grid(5), free.condition(PROMPTS)
    with torch.no_grad():
        for i in (0, 3):  # from pure noise, and in between
            there = invert(free, x, condition, steps=5, stop=i)
            upper = x if i == 4 else invert(free, x, condition, steps=5, stop=i + 1)
            value = free.denoise(upper, grid[i].expand(2), condition).value
            torch.testing.assert_close(there, upper + (grid[i] - grid[i + 1]) * value, **SAME)


def test_views_of_a_flow_agree_everywhere() -> None:
    data, eps, t = (torch.rand(3, 2, 2, 2, dtype=torch.float64) for _ in range(3))
    for level in (t, torch.zeros_like(t), torch.ones_like(t)):  # also where one of the levels vanishes
        seen = Prediction((1 - level) * data + level * eps, 1 - level, level, eps - data, "flow")
        torch.testing.assert_close(seen.data, data)
        torch.testing.assert_close(seen.noise, eps)
        torch.testing.assert_close(seen.velocity, (1 - level) * eps - level * data)
    other = Prediction(0.4 * data + 0.6 * eps, torch.tensor(0.4), torch.tensor(0.6), eps, "noise")
    torch.testing.assert_close(other.flow, eps - data)


def test_training_loss_is_that_of_rectified_flow(free: FlowModel) -> None:
    data, condition = noise(free.latent_shape, [5, 6]), free.condition(PROMPTS)
    t, eps, x_t = noisy(free, data, generator(0, "loss"))
    level = t.reshape(-1, 1, 1, 1)
    torch.testing.assert_close(x_t, (1 - level) * data + level * eps)
    with torch.no_grad():
        value = free.denoise(x_t, t, condition).value
        loss = denoising(free, data, condition, generator(0, "loss"))
    torch.testing.assert_close(loss, (value - (eps - data)).square().mean())


def test_training_times_are_those_of_the_scripts() -> None:
    """Half the times below the logistic function of 0, under SD3's shift below the shifted one; a sixth beyond one deviation."""
    for kind, shift in (("dev", 1.0), ("schnell", 1.0), ("sd3", 3.0)):
        t = Sigmas(flow_scheduler(kind), "any").draw(20000, generator(0, "times"))
        assert t.min() > 0
        assert t.max() < 1
        for deviation, share in ((0.0, 0.5), (1.0, 0.8413), (-1.0, 0.1587)):
            u = torch.tensor(deviation).sigmoid()
            assert (t < shift * u / (1 + (shift - 1) * u)).float().mean().item() == pytest.approx(share, abs=0.01)


def test_a_pipeline_gives_and_takes_the_same_weights(model: FlowModel) -> None:
    pipe = model.pipeline()
    back = FlowModel.from_pipeline(pipe, model.name, distilled=model.distilled)
    assert back.fingerprint == model.fingerprint
    assert back.tensor(back.scope("unet")[0]).data_ptr() == model.tensor(model.scope("unet")[0]).data_ptr()
    assert isinstance(models.from_pipeline(pipe), FlowModel)
    name = model.scope("attention")[0]
    edit = Edit(model.fingerprint, "shift", tensors={name: model.tensor(name) + 0.5})
    edited = FlowModel.from_pipeline(edit.to_pipeline(pipe), distilled=model.distilled)
    assert torch.equal(edited.tensor(name), model.tensor(name) + 0.5)
    assert edited.tensor(model.scope("unet")[-1]).data_ptr() == model.tensor(model.scope("unet")[-1]).data_ptr()


def test_a_saved_pipeline_loads_as_it_was(model: FlowModel, tmp_path: Path) -> None:
    model.pipeline().save_pretrained(tmp_path)
    back = models.load(str(tmp_path))
    assert isinstance(back, FlowModel)
    assert (back.fingerprint, back.distilled, back.image_size) == (model.fingerprint, model.distilled, model.image_size)
    assert torch.equal(back.condition(PROMPTS).text, model.condition(PROMPTS).text)


def test_adapters_leave_as_diffusers_lora(model: FlowModel, tmp_path: Path) -> None:
    _, leaves = model.adapted(model.scope("attention"), rank=2, alpha=2.0, init="gaussian", rng=generator(0, "adapter"))
    for _, up in leaves.values():
        up.data.copy_(torch.randn(up.shape, generator=generator(0, "up")))
    edit = Edit(model.fingerprint, "adapter", factors=folded(leaves, rank=2, alpha=2.0))
    exports.adapter(edit, model, tmp_path)
    pipe = quiet(model.pipeline())
    pipe.load_lora_weights(tmp_path)
    x, t, condition = noise(model.latent_shape, [0, 1]), torch.tensor([0.3, 0.8]), model.condition(PROMPTS)
    adapted = FlowModel("adapted", {**model.parts, "transformer": pipe.transformer}, model.tokenizers, model.scheduler)
    with torch.no_grad():
        wanted = adapted.denoise(x, t, condition).value
        seen = model.edited(edit).denoise(x, t, condition).value
        plain = model.denoise(x, t, condition).value
    torch.testing.assert_close(seen, wanted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(seen, plain, atol=1e-2)


def test_scopes_are_the_documented_targets() -> None:
    free, third = tiny_flow(), tiny_flow("sd3")
    double = "transformer.transformer_blocks.0.attn."
    kv = [f"{double}add_k_proj.weight", f"{double}add_v_proj.weight"]
    assert sorted(free.scope("cross-attention-kv")) == kv
    assert {n.removeprefix(double).split(".")[0] for n in free.scope("cross-attention")} == {
        *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    }
    linear = [
        f"transformer.{n}.weight"
        for n, m in free.parts["transformer"].named_modules()
        if isinstance(m, nn.Linear) and ".attn." in f".{n}."  # esd-x of the released trainer for FLUX
    ]
    assert sorted(free.scope("attention")) == sorted(linear)
    for model in (free, third):
        every, text = set(model.scope("unet")), set(model.scope("cross-attention"))
        assert not text & set(model.scope("self-attention"))
        assert set(model.scope("biases-and-gains")) == {n for n in every if model.tensor(n).dim() == 1}
        assert not text & set(model.scope("non-cross-attention"))
        left = every - text - set(model.scope("non-cross-attention"))
        assert left
        assert all(".norm" in name for name in left)
        assert set(model.scope("attention")) <= text | set(model.scope("self-attention"))
    assert any(".attn2." in name for name in third.scope("self-attention"))  # SD3.5's second attention of the picture
    with pytest.raises(Incompatible, match="transformer with joint attention"):
        free.scope("compvis-noxattn")


def test_tied_tables_move_together(free: FlowModel) -> None:
    """T5's table of tokens stands under two names; an edit of the one that counts has to reach the other."""
    (name,) = (n for n in free.scope("text-encoder") if n.endswith("shared.weight"))
    view = free.edited(Edit(free.fingerprint, "shift", tensors={name: free.tensor(name) + 1}))
    assert not torch.allclose(view.condition(["a bag"]).text, free.condition(["a bag"]).text, atol=1e-3)
    assert torch.equal(view.condition(["a bag"]).pooled, free.condition(["a bag"]).pooled)  # type: ignore[arg-type]


def made(**parts: Any) -> FlowModel:
    given = {
        "transformer": tiny_flux(),
        "vae": tiny_parts()["vae"],
        "text_encoder": tiny_parts()["text_encoder"],
        "text_encoder_2": tiny_t5(24),
    }
    words = {"text_encoder": tokenizer(), "text_encoder_2": tiny_words()}
    flowing = parts.pop("scheduler", flow_scheduler("dev"))
    return FlowModel("odd", {k: v for k, v in {**given, **parts}.items() if v is not None}, words, flowing)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"text_encoder_2": None}, "odd has no text_encoder_2; FluxPipeline with its text encoders"),
        ({"vae": None}, "odd has no vae"),
        ({"transformer": nn.Linear(2, 2)}, "odd has a Linear; rectified-flow models with FluxTransformer2DModel, .* are supported"),
        ({"transformer": tiny_flux(in_channels=32, out_channels=16)}, r"reads 32 channels and predicts 16 \(inpainting, control\?\)"),
        ({"scheduler": scheduler()}, "comes with a DDIMScheduler; rectified flow needs"),
    ],
)
def test_what_is_no_whole_flow_model_is_refused(parts: dict[str, Any], reason: str) -> None:
    with pytest.raises(Incompatible, match=reason):
        made(**parts)


def test_other_transformers_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer/config.json").write_text(json.dumps({"_class_name": "Flux9Transformer2DModel"}))
    (tmp_path / "model_index.json").write_text(json.dumps({"transformer": ["diffusers", "Flux9Transformer2DModel"]}))
    with pytest.raises(Incompatible, match=r"Flux9Transformer2DModel, which diffusers [\d.]+ does not have"):
        models.load(str(tmp_path))


# FLUX.2


def tiny_flux2(*, told: bool, reader: Sequence[Any]) -> FlowModel:
    """A FLUX.2 on random networks, with a text encoder and its tokenizer."""
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        heads = {
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "axes_dims_rope": (4, 4, 4, 4),
            "num_layers": 1,
            "num_single_layers": 1,
        }
        network = Flux2Transformer2DModel(
            patch_size=1, in_channels=16, joint_attention_dim=24, timestep_guidance_channels=16, guidance_embeds=told, **heads
        )
        blocks = {
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "block_out_channels": (8, 8),
        }
        vae = AutoencoderKLFlux2(latent_channels=4, norm_num_groups=4, layers_per_block=1, sample_size=16, **blocks)
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 2)
        encoder = reader[0]()
    parts = {"transformer": network, "vae": vae, "text_encoder": encoder}
    return FlowModel("tiny-flux2", parts, {"text_encoder": reader[1]}, flow_scheduler("dev"))


def spelling() -> Any:
    """Qwen's tokenizer with a vocabulary of bytes."""
    from tokenizers import pre_tokenizers
    from transformers import Qwen2TokenizerFast

    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    talk = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    return Qwen2TokenizerFast(vocab={**letters, "<|endoftext|>": len(letters)}, merges=[], chat_template=talk, model_max_length=512)


class Conversation:
    """Stands for Mistral's processor: the user's words alone, spelled."""

    def __init__(self) -> None:
        self.words = spelling()

    def apply_chat_template(self, batch: Any, **_: Any) -> Any:
        texts = ["".join(c["text"] for turn in talk[1:] for c in turn["content"]) for talk in batch]
        return self.words(texts, padding="max_length", max_length=32, truncation=True, return_tensors="pt")


def qwen() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = {"num_hidden_layers": 28, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4}
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=257, hidden_size=8, intermediate_size=16, **shape))


def mistral() -> Any:
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration, MistralConfig, PixtralVisionConfig

    shape = {"num_hidden_layers": 31, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4}
    text = MistralConfig(vocab_size=257, hidden_size=8, intermediate_size=16, **shape)
    eyes = PixtralVisionConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, head_dim=8, image_size=16, patch_size=8
    )
    return Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=eyes))


@pytest.mark.parametrize("kind", ["klein", "dev"])
def test_flux2_draws_as_its_pipeline(kind: str, tmp_path: Path) -> None:
    model = tiny_flux2(told=kind == "dev", reader=(qwen, spelling()) if kind == "klein" else (mistral, Conversation()))
    assert (model.latent_shape, model.distilled) == ((16, 4, 4), kind == "dev")
    pipe, x = quiet(model.pipeline()), noise(model.latent_shape, [0, 1])
    assert type(pipe).__name__ == ("Flux2KleinPipeline" if kind == "klein" else "Flux2Pipeline")
    ours = sample(model, x, model.condition(PROMPTS), steps=4, guidance=3.0, null=model.condition([""]))
    made = pipe(prompt=PROMPTS, num_inference_steps=4, guidance_scale=3.0, latents=x, height=16, width=16, output_type="pt").images
    torch.testing.assert_close(model.decode(ours), made, **SAME)
    pictures = torch.rand(2, 3, 16, 16, generator=generator(0, "pictures"))
    with torch.no_grad():
        torch.testing.assert_close(model.encode(pictures), pipe._encode_vae_image(pictures * 2 - 1, None), **SAME)
    assert set(model.scope("attention")) < set(model.scope("unet"))
    with pytest.raises(Incompatible, match="as a conversation with a language model"):
        model.tokens(["a bag"])
    if kind == "klein":
        pipe.save_pretrained(tmp_path)
        back = models.load(str(tmp_path))
        assert back.fingerprint == model.fingerprint
        assert torch.equal(back.condition(PROMPTS).text, model.condition(PROMPTS).text)


def test_a_distilled_klein_says_so() -> None:
    model = tiny_flux2(told=False, reader=(qwen, spelling()))
    pipe = model.pipeline()
    pipe.register_to_config(is_distilled=True)
    told = FlowModel.from_pipeline(pipe)
    assert told.distilled
    assert told.pipeline().config.is_distilled
    assert not model.distilled


@pytest.mark.parametrize("kind", ["dev", "sd3"])
def test_times_are_counted_as_the_schedule_counts_them(kind: str) -> None:
    """Of a schedule of 100 times the network is told those of its pipeline, which counts by the schedule's own number."""
    given = tiny_flow(kind)
    counted = {**{k: v for k, v in given.scheduler.config.items() if k[0] != "_"}, "num_train_timesteps": 100}
    short = type(given.scheduler).from_config(counted)
    model = FlowModel("short", given.parts, given.tokenizers, short)
    pipe, x = model.pipeline(), noise(model.latent_shape, [1])
    pipe.set_progress_bar_config(disable=True)
    told = {"num_inference_steps": 4, "guidance_scale": 1.0, "max_sequence_length": 16, "output_type": "latent"}
    latents = flat(packed(x)) if kind == "dev" else x
    theirs = pipe(prompt="a bag", latents=latents, height=model.image_size[0], width=model.image_size[1], **told).images
    ours = sample(model, x, model.condition(["a bag"]), steps=4, guidance=1.0)
    torch.testing.assert_close(flat(packed(ours)) if kind == "dev" else ours, theirs, **SAME)
