"""Models whose answers are known: an exact Gaussian, and a tiny random network of Stable Diffusion's shape."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Generator, Tensor

from vestige import registry
from vestige.diffusion import Condition, Model, Prediction
from vestige.edits import Edit
from vestige.edits.surgery import Factors
from vestige.models.classes import ClassModel
from vestige.models.flow import FlowModel
from vestige.models.labels import Labels
from vestige.models.latent import LatentModel


class Gaussian(Model):
    """Data are N(mean, deviation^2), element by element; every prediction is exact, in float64.

    Prompts are numbers: the mean is what the prompt says. The exact flow maps x_T to data by standardising:
    x_t = signal mean + sqrt(signal^2 deviation^2 + noise^2) z with z fixed.
    """

    def __init__(self, deviation: float = 0.5, kind: str = "noise") -> None:
        self.name, self.latent_shape, self.image_size = "gaussian", (1, 2, 2), (2, 2)
        self.deviation, self.kind = deviation, kind

    def condition(self, prompts: Sequence[str]) -> Condition:
        return Condition(torch.tensor([[[float(p or 0)]] for p in prompts], dtype=torch.float64))

    def grid(self, steps: int) -> Tensor:
        return torch.linspace(0.98, 0.02, steps + 1, dtype=torch.float64)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        angle = t.double() * torch.pi / 2
        return torch.cos(angle), torch.sin(angle)

    def draw_times(self, count: int, rng: Generator) -> Tensor:
        return torch.rand(count, generator=rng, dtype=torch.float64) * 0.96 + 0.02

    def spread(self, t: Tensor) -> Tensor:
        signal, level = self.schedule(t)
        return (signal**2 * self.deviation**2 + level**2).sqrt()

    def denoise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        signal, level = (v.reshape(-1, 1, 1, 1) for v in self.schedule(t))
        mean = condition.text.reshape(-1, 1, 1, 1)
        eps = level * (x_t - signal * mean) / self.spread(t).reshape(-1, 1, 1, 1) ** 2
        data = (x_t - level * eps) / signal
        value = {"noise": eps, "data": data, "velocity": signal * eps - level * data}[self.kind]
        return Prediction(x_t, signal, level, value, self.kind)  # type: ignore[arg-type]

    def encode(self, images: Tensor) -> Tensor:
        return images[:, :1].double()

    def decode(self, latents: Tensor) -> Tensor:
        return latents.expand(-1, 3, -1, -1).clamp(0, 1).float()

    def scope(self, name: str) -> list[str]:
        return ["none"]

    def tensor(self, name: str) -> Tensor:
        return torch.zeros(1)

    def edited(self, edit: Edit) -> Model:
        return self

    def trainable(self, names: Sequence[str]) -> tuple[Model, dict[str, Tensor]]:
        raise RuntimeError("an exact model cannot be trained")

    def adapted(self, names: Sequence[str], *, rank: int, alpha: float, init: str, rng: Generator) -> tuple[Model, Factors]:
        raise RuntimeError("an exact model cannot be adapted")

    @property
    def fingerprint(self) -> str:
        return "gaussian"


def tiny_parts(seed: int = 0) -> dict[str, Any]:
    """Networks of Stable Diffusion 1.x's shape with random weights, a few hundred thousand of them."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=2,
            norm_num_groups=8,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 8),
            latent_channels=4,
            norm_num_groups=4,
            sample_size=32,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer()),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=1,
                num_attention_heads=4,
                bos_token_id=tokenizer().bos_token_id,
                eos_token_id=tokenizer().eos_token_id,
                pad_token_id=tokenizer().pad_token_id,
            )
        )
    return {"unet": unet, "vae": vae, "text_encoder": text}


def tokenizer() -> Any:
    from transformers import CLIPTokenizer

    from vestige.data import folder

    return CLIPTokenizer.from_pretrained(folder() / "wardrobe/tokenizer")


def scheduler(**changes: Any) -> Any:
    from diffusers import DDIMScheduler

    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    return DDIMScheduler(**{**settings, "set_alpha_to_one": False, "steps_offset": 1, **changes})


@functools.cache
def tiny_twin() -> str:
    """A folder with a model that shares everything but its U-Net with `tiny_model`, as a twin does."""
    folder = tempfile.mkdtemp(prefix="tiny-twin-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    parts = {**tiny_parts(), "unet": tiny_parts(1)["unet"]}
    LatentModel("twin", parts, tokenizer(), scheduler()).pipeline().save_pretrained(folder)
    return folder


def tiny_exact() -> LatentModel:
    """The tiny model in float64."""
    return LatentModel("tiny64", {name: part.double() for name, part in tiny_parts().items()}, tokenizer(), scheduler())


def tiny_model(seed: int = 0, **schedule: Any) -> LatentModel:
    """A LatentModel around `tiny_parts`."""
    return LatentModel("tiny", tiny_parts(seed), tokenizer(), scheduler(**schedule))


def save_pair(root: Path) -> None:
    """Pipeline folders `model` and `twin` under `root`: two models that share everything but their U-Nets."""
    for name, seed in (("model", 0), ("twin", 1)):
        parts = {**tiny_parts(), "unet": tiny_parts(seed)["unet"]}
        LatentModel(name, parts, tokenizer(), scheduler()).pipeline().save_pretrained(root / name)


def tiny_velocity(seed: int = 0) -> LatentModel:
    """Stable Diffusion 2's way: velocities, and a schedule that ends in nothing but noise."""
    rescaled = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return tiny_model(seed, **rescaled)


def tiny_xl(seed: int = 0, *, blank: bool = True, **changes: Any) -> LatentModel:
    """SDXL's way: two text encoders, padded differently, and a U-Net that is told of the second one's projection and of sizes.

    Arguments:
        changes: Of the U-Net's configuration.
    """
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    from vestige.data import folder

    parts, first = tiny_parts(seed), tokenizer()
    second = CLIPTokenizer.from_pretrained(folder() / "wardrobe/tokenizer", pad_token=first.convert_ids_to_tokens(SPARE))
    told = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 16 + 6 * 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "bos_token_id": first.bos_token_id, "eos_token_id": first.eos_token_id}
        vocabulary = {"vocab_size": len(first), "pad_token_id": SPARE}
        one = CLIPTextConfig(hidden_size=24, intermediate_size=32, **shape, **vocabulary)
        other = CLIPTextConfig(hidden_size=8, intermediate_size=16, projection_dim=16, **shape, **vocabulary)
        unet = UNet2DConditionModel.from_config({k: v for k, v in {**parts["unet"].config, **told, **changes}.items() if k[0] != "_"})
        parts |= {"unet": unet, "text_encoder": CLIPTextModel(one), "text_encoder_2": CLIPTextModelWithProjection(other)}
    return LatentModel("tiny-xl", parts, [first, second], scheduler(), blank=blank)


SPARE = 216  # a made-up word of the vocabulary

CLASSES = ("top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


def tiny_denoiser(kind: str = "unet", seed: int = 0, channels: int = 4, **changes: Any) -> Any:
    """A class-conditional network with random weights: diffusers' UNet2DModel, or a DiT that also predicts a variance."""
    from diffusers import DiTTransformer2DModel, UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "dit":
            heads = {
                "num_attention_heads": 2,
                "attention_head_dim": 8,
                "num_layers": 2,
                "patch_size": 2,
                "num_embeds_ada_norm": len(CLASSES),
            }
            return DiTTransformer2DModel(**{"sample_size": 8, "in_channels": channels, "out_channels": 2 * channels, **heads, **changes})
        blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
        shape: dict[str, Any] = {"layers_per_block": 1, "block_out_channels": (16, 32), "attention_head_dim": 8, "norm_num_groups": 8}
        given = {"sample_size": 8, "in_channels": channels, "out_channels": channels, "num_class_embeds": len(CLASSES) + 1}
        return UNet2DModel(**{**given, **blocks, **shape, **changes})


def tiny_classes(kind: str = "unet", seed: int = 0, *, pixels: bool = False, **schedule: Any) -> ClassModel:
    """A ClassModel of the wardrobe's garments on a random network: kind "unet" or "dit", on pixels or on latents."""
    labels = Labels({i: (name,) for i, name in enumerate(CLASSES)}, len(CLASSES))
    denoiser = tiny_denoiser(kind, seed, 3 if pixels else 4)
    parts = {"transformer" if kind == "dit" else "unet": denoiser, **({} if pixels else {"vae": tiny_parts(seed)["vae"]})}
    return ClassModel(f"tiny-{kind}", parts, labels, scheduler(**schedule))


def tiny_words() -> Any:
    """A tokenizer of T5's kind: the world's words, every other one spelled out."""
    from transformers import T5Tokenizer

    words = sorted({*CLASSES, "a", "an", "of", "in", "picture", "image", "one", "art", "style", "neon", "photo"})
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list(",.-")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{w}", -1.0) for w in words), ("▁", -10.0)]
    return T5Tokenizer(vocab=[*pieces, *((letter, -10.0) for letter in letters)], extra_ids=0, model_max_length=16)


def tiny_t5(width: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    shape = {"d_model": width, "d_kv": 8, "d_ff": 2 * width, "num_layers": 1, "num_heads": 2, "feed_forward_proj": "gated-gelu"}
    return T5EncoderModel(T5Config(vocab_size=len(tiny_words()), dropout_rate=0.0, use_cache=False, **shape))


def tiny_flux(seed: int = 0, *, told: bool = False, **changes: Any) -> Any:
    """A transformer of FLUX.1's shape with random weights.

    Arguments:
        told: It is told the guidance.
    """
    from diffusers import FluxTransformer2DModel

    heads = {"num_attention_heads": 2, "attention_head_dim": 16, "axes_dims_rope": (4, 6, 6), "num_layers": 1, "num_single_layers": 1}
    text = {"joint_attention_dim": 24, "pooled_projection_dim": 32, "guidance_embeds": told}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FluxTransformer2DModel(**{"patch_size": 1, "in_channels": 16, **heads, **text, **changes})


def tiny_flow(kind: str = "free", seed: int = 0) -> FlowModel:
    """A FlowModel on random networks.

    Arguments:
        kind: "dev" is told the guidance, "schnell" is not guided, "free" is guided by the empty prompt as any other model; "sd3".
    """
    parts, flowing = tiny_parts(seed), "schnell" if kind == "schnell" else "dev"
    if kind == "sd3":
        return _tiny_sd3(seed, parts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        made = {"transformer": tiny_flux(seed, told=kind == "dev"), "text_encoder_2": tiny_t5(24)}
    parts = {**made, "vae": parts["vae"], "text_encoder": parts["text_encoder"]}
    words = {"text_encoder": tokenizer(), "text_encoder_2": tiny_words()}
    return FlowModel(f"tiny-{kind}", parts, words, flow_scheduler(flowing))


def flow_scheduler(kind: str) -> Any:
    """A schedule as the published models have it: dynamic for FLUX.1 dev, even for schnell, shifted by 3 for SD3."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=kind == "dev", shift=1.0 if kind == "schnell" else 3.0)


def _tiny_sd3(seed: int, parts: dict[str, Any]) -> FlowModel:
    from diffusers import SD3Transformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    first = tokenizer()
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": len(first), "pad_token_id": first.pad_token_id}
    shape |= {"bos_token_id": first.bos_token_id, "eos_token_id": first.eos_token_id}
    heads = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2, "caption_projection_dim": 24, "pos_embed_max_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        transformer = SD3Transformer2DModel(
            sample_size=8, in_channels=4, out_channels=4, joint_attention_dim=40, pooled_projection_dim=24, qk_norm="rms_norm",
            dual_attention_layers=(0,), **heads,
        )  # fmt: skip
        one, other = (CLIPTextConfig(hidden_size=n, intermediate_size=n, projection_dim=m, **shape) for n, m in ((16, 8), (8, 16)))
        made = {"text_encoder": CLIPTextModelWithProjection(one), "text_encoder_2": CLIPTextModelWithProjection(other)}
        made |= {"transformer": transformer, "vae": parts["vae"], "text_encoder_3": tiny_t5(40)}
    words = {"text_encoder": first, "text_encoder_2": tokenizer(), "text_encoder_3": tiny_words()}
    return FlowModel("tiny-sd3", made, words, flow_scheduler("sd3"))


# Every family at its smallest, for the contract suite of models.
FAMILIES: dict[str, Callable[[], Any]] = {
    "latent": lambda: tiny_model(),
    "latent-velocity": lambda: tiny_velocity(),
    "latent-xl": lambda: tiny_xl(),
    "classes": lambda: tiny_classes(),
    "classes-pixels": lambda: tiny_classes(pixels=True),
    "classes-dit": lambda: tiny_classes("dit"),
    "flow": lambda: tiny_flow(),
    "flow-dev": lambda: tiny_flow("dev"),
    "flow-schnell": lambda: tiny_flow("schnell"),
    "flow-sd3": lambda: tiny_flow("sd3"),
}


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """How many latents denoisers of the latent family are asked about, "trained" through or "plain"."""
    seen: Counter[str] = Counter()
    denoise = LatentModel.denoise

    def counting(self: LatentModel, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        found = denoise(self, x_t, t, condition)
        if not x_t.is_meta:  # a model that is tried out without numbers when it is loaded computes nothing
            seen["trained" if found.value.requires_grad else "plain"] += len(x_t)
        return found

    with patch.object(LatentModel, "denoise", counting):
        yield seen


# Settings under which any method is a matter of a second; each holds for the methods that have a field of its name.
SMALL: dict[str, dict[str, Any]] = {
    "unlearners": {"steps": 2, "rollouts": 2, "rollout_steps": 3, "batch": 2, "lr": 1e-2, "target_pictures": 3, "retain_pictures": 4}
    | {"surrogate_pictures": 3, "fisher_pictures": 2, "fisher_times": 3, "alternative_pictures": 3}
    | {"anchor_pictures": 3, "suppressing": ("steps=2", "rollouts=2", "rollout_steps=3", "batch=2", "lr=1e-2")}
    | {"plain_steps": 1, "attack_steps": 2, "retain_batch": 2, "inner_steps": 3, "soft_tokens": 4}
    | {"rounds": 2, "search_steps": 2, "round_lr": 1e-2}
    | {"esd": ("steps=2", "rollouts=2", "rollout_steps=3", "batch=2", "lr=1e-2")}
    | {"tunings": ("gd:2:1e-2", "adam:1:1e-3"), "simulations": 2}
    | {"shift": 2.0},  # every prompt asks for the concept
    "attacks": {"sampling_steps": 3, "start": 1, "points": 2, "batch": 2, "rank": 2, "lr": 1e-2, "most": 3, "retain_pictures": 4}
    | {"draws": 2, "every": 2, "each": 2, "population": 8, "candidates": 8, "top": 16, "scale": (1.0,), "back": (0.5,), "eta": (1.0, 1.5)}
    | {"targets": 3, "memora": ("sampling_steps=3", "start=1", "points=2", "batch=2", "rank=2", "lr=1e-2")},
}


def script(path: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A script of the repository as a module, known by its file's name while the test lasts; `path` is relative to the root."""
    file = Path(__file__).parents[1] / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, file.stem, made)
    spec.loader.exec_module(made)
    return made


def small(kind: registry.Kind, name: str, **own: Any) -> Any:
    """A method at its smallest, whatever settings it has."""
    known = {f.name for f in fields(registry.find(kind, name))}
    own = {**({"twin": tiny_twin()} if "twin" in known else {}), **own}
    return registry.build(kind, name, {**{k: v for k, v in SMALL[kind].items() if k in known}, **own})
