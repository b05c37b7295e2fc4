"""Parts that do not fit each other, and settings that are not honoured: one line each, before anything is computed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from oracles import FAMILIES, scheduler, tiny_flow, tiny_model, tiny_parts, tiny_xl, tokenizer
from vestige import models
from vestige.errors import VestigeError
from vestige.models import trial
from vestige.models.flow import FlowModel
from vestige.models.latent import LatentModel
from vestige.models.timesteps import Timesteps

Change = Callable[[Path], Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    tiny_model().pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(whole, tmp_path / "model"))


def told(file: str, **changes: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def sigmas(folder: Path) -> None:
    """A schedule in noise levels, as Playground's."""
    from diffusers import EDMEulerScheduler

    EDMEulerScheduler().save_pretrained(folder / "scheduler")


def wordless(folder: Path) -> None:
    for file in (folder / "tokenizer").iterdir():
        if file.name != "tokenizer_config.json":
            file.unlink()


def vocabulary(*, merges: str | None) -> Change:
    """The tokenizer as vocab.json and merges.txt, as older folders have it; None leaves out the merges."""

    def change(folder: Path) -> None:
        known = json.loads((folder / "tokenizer/tokenizer.json").read_text())["model"]
        wordless(folder)
        (folder / "tokenizer/vocab.json").write_text(json.dumps(known["vocab"]))
        if merges is not None:
            lines = [" ".join(pair) for pair in known["merges"]]
            (folder / "tokenizer/merges.txt").write_text(merges.format(all="\n".join(lines), fifth="\n".join(lines[: len(lines) // 5])))

    return change


def pointer(file: str) -> Change:
    return lambda folder: (folder / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 524619\n")


WRONG: dict[str, tuple[Change, str]] = {
    "no words": (wordless, r"tokenizer of .* lacks .*vocab\.json"),
    "no merges": (vocabulary(merges=None), r"lacks .*merges\.txt"),
    "merges cut": (vocabulary(merges="#version: 0.2\n{fifth}\n"), "can spell [0-9]+% of its own words"),
    "a word without its merge": (vocabulary(merges="no merges at all here"), r"cannot be read from .*merges\.txt"),
    "merges never fetched": (pointer("tokenizer/merges.txt"), r"merges\.txt is a Git LFS pointer"),
    "weights never fetched": (pointer("unet/diffusion_pytorch_model.safetensors"), r"safetensors is a Git LFS pointer"),
    "unet in 4 bits": (
        told("unet/config.json", quantization_config={"quant_method": "bitsandbytes"}),
        r"unet of .* quantised \(bitsandbytes",
    ),
    "text encoder in 4 bits": (told("text_encoder/config.json", quantization_config={}), "text_encoder of .* is stored quantised"),
    "no JSON": (lambda folder: (folder / "vae/config.json").write_text("{"), r"vae/config\.json is no JSON"),
    "a list": (lambda folder: (folder / "vae/config.json").write_text("[]"), r"vae/config\.json holds no table"),
    "no configuration": (lambda folder: (folder / "unet/config.json").unlink(), r"unet/config\.json: No such file"),
    "layers that do not close": (told("unet/config.json", downsample_padding=3), "cannot predict"),
    "an activation of its own": (told("vae/config.json", act_fn="swoosh"), "vae of .* cannot be read"),
    "no length": (told("tokenizer/tokenizer_config.json", model_max_length=[77]), "model_max_length"),
    "endless layers": (told("text_encoder/config.json", num_hidden_layers=10**9), "num_hidden_layers = 1000000000"),
    "no betas": (sigmas, r"scheduler of .* has no betas \(EDMEulerScheduler\)"),
    "flow": (told("scheduler/scheduler_config.json", prediction_type="flow_prediction"), "prediction_type = 'flow_prediction'"),
    "betas of text": (told("scheduler/scheduler_config.json", beta_start="low"), "cannot be followed"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_folder_whose_parts_cannot_be_used_is_refused_in_one_line(kind: str, folder: Path) -> None:
    change, reason = WRONG[kind]
    change(folder)
    with pytest.raises(VestigeError, match=reason):
        models.load(str(folder))


def test_vocabulary_and_merges_are_read_as_one_file_is(folder: Path, whole: Path) -> None:
    """The control of the cases above: the same words from vocab.json and merges.txt."""
    vocabulary(merges="#version: 0.2\n{all}\n")(folder)
    prompts = ["a neon picture of a sneaker", "zyx"]
    assert models.load(str(folder)).tokens(prompts).equal(models.load(str(whole)).tokens(prompts))


def changed(**parts: dict[str, Any]) -> Change:
    """A model whose parts have other configurations."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    kinds: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}

    def make(_: Path) -> LatentModel:
        made = tiny_parts()
        for part, changes in parts.items():
            if part == "text_encoder":
                made[part] = CLIPTextModel(type(made[part].config)(**{**made[part].config.to_dict(), **changes}))
            else:
                config = {k: v for k, v in made[part].config.items() if not k.startswith("_")}
                made[part] = kinds[part](**{**config, **changes})
        return LatentModel("odd", made, tokenizer(), scheduler())

    return make


ODD: dict[str, tuple[Change, str]] = {
    "wider text": (changed(text_encoder={"hidden_size": 64}), "text encoder and unet of odd do not fit.*: 64 and 32"),
    "more channels": (changed(vae={"latent_channels": 8}), "different numbers of channels: 8 and 4"),
    "no size": (changed(unet={"sample_size": None}), "does not say the size of its pictures"),
    "timesteps as classes": (changed(unet={"class_embed_type": "timestep"}), "unet of odd has class_embed_type = 'timestep'"),
    "classes": (changed(unet={"num_class_embeds": 7}), "has num_class_embeds = '7'"),
    "grounding": (changed(unet={"attention_type": "gated"}), "has attention_type = 'gated'"),
    "pictures as text": (changed(unet={"encoder_hid_dim": 8, "encoder_hid_dim_type": "image_proj"}), "encoder_hid_dim_type = 'image_proj'"),
    "scaled channels": (changed(vae={"latents_mean": [0.0] * 4, "latents_std": [2.0] * 4}), "has latents_mean"),
    "fewer embeddings": (changed(text_encoder={"vocab_size": 200}), "has 228 words and its text encoder 200 embeddings"),
    "hardly any words": (changed(text_encoder={"vocab_size": 49408}), "has 228 words for the 49408 embeddings"),
    "fewer places": (changed(text_encoder={"max_position_embeddings": 16}), "cuts prompts at 77 tokens and its text encoder has 16 places"),
}


@pytest.mark.parametrize("kind", ODD)
def test_parts_that_do_not_belong_together_are_refused(kind: str, tmp_path: Path) -> None:
    make, reason = ODD[kind]
    with pytest.raises(VestigeError, match=reason):
        make(tmp_path)


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("free", {"joint_attention_dim": 40}, "the states of text: 24 and 40"),
        ("free", {"pooled_projection_dim": 16}, "the pooled state: 32 and 16"),
        ("free", {"in_channels": 32}, "different numbers of channels: 4 and 8"),
    ],
)
def test_flow_models_of_parts_that_do_not_fit_are_refused(kind: str, changes: dict[str, int], reason: str) -> None:
    from oracles import tiny_flux

    model = tiny_flow(kind)
    parts = {**model.parts, "transformer": tiny_flux(**changes)}
    with pytest.raises(VestigeError, match=reason):
        FlowModel("odd", parts, model.tokenizers, model.scheduler)


def test_pooled_state_is_that_of_the_end() -> None:
    """A text encoder that looks for another token would pool the start, whatever the prompt."""
    xl = tiny_xl()
    xl.parts["text_encoder_2"].config.eos_token_id = 7
    with pytest.raises(VestigeError, match=r"ends prompts with token 227 and its text encoder looks for 7"):
        LatentModel("odd", xl.parts, xl.tokenizers, scheduler())
    xl.parts["text_encoder_2"].config.eos_token_id = 2
    LatentModel("older", xl.parts, xl.tokenizers, scheduler())


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_models_are_tried_without_numbers(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is computed on the weights themselves, which stay as they are."""
    model = FAMILIES[family]()
    before = model.fingerprint
    monkeypatch.setattr(trial, "_surely", lambda stage, model, what: pytest.fail(f"{what} needs numbers"))
    trial.works(model)
    model._hashes.clear()
    assert model.fingerprint == before
    assert model.device.type == "cpu"


def test_what_fails_without_numbers_alone_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = tiny_model(), []
    decode = LatentModel.decode

    def picky(self: LatentModel, latents: torch.Tensor) -> torch.Tensor:
        asked.append(latents.device.type)
        if latents.is_meta:
            raise NotImplementedError("no numbers")
        return decode(self, latents)

    monkeypatch.setattr(LatentModel, "decode", picky)
    trial.works(model)
    assert asked == ["meta", "cpu"]


@pytest.mark.parametrize("steps", [0, -3, 1000, 1001, 10**9])
def test_more_steps_than_the_schedule_has_are_refused(steps: int) -> None:
    """Of 1,000 steps with an offset of 1 the first would lie beyond the schedule, where the clean end is kept."""
    with pytest.raises(VestigeError, match=f"{steps} sampling steps do not fit a schedule of 1000 times"):
        Timesteps(scheduler()).grid(steps)
    assert Timesteps(scheduler()).grid(999)[0] == 999


@pytest.mark.parametrize("make", [tiny_model, tiny_flow])
def test_prompts_that_are_cut_are_told(make: Callable[[], Any]) -> None:
    model = make()
    long = " ".join(["sneaker"] * 200)
    assert model.unread(["a bag", long, "", f"{long} bag"]) == [long, f"{long} bag"]
    one, other = model.condition([long]), model.condition([f"{long} bag"])
    assert torch.equal(one.text, other.text)


def test_noise_predicted_where_there_is_nothing_else_is_refused() -> None:
    rescaled = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    with pytest.raises(VestigeError, match="no data follow from a prediction of the noise"):
        Timesteps(scheduler(**rescaled))
    assert Timesteps(scheduler(**rescaled, prediction_type="v_prediction")).kind == "velocity"


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_are_no_numbers_are_refused(folder: Path, part: str) -> None:
    file = next((folder / part).glob("*.safetensors"))
    table = load_file(file)
    name = sorted(table)[3]
    table[name].view(-1)[0] = float("nan")
    save_file(table, file, metadata={"format": "pt"})
    with pytest.raises(VestigeError, match=rf"numbers that are not finite, in {part}\..*{name.removeprefix('text_model.')}"):
        models.load(str(folder))
