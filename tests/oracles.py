"""Models whose answers are known: an exact Gaussian, and a tiny random network of Stable Diffusion's shape."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Generator, Tensor

from vestige import registry
from vestige.base import Condition, Factors, Model, Prediction
from vestige.edits import Edit
from vestige.models.classes import ClassModel
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

    from vestige.models import data_folder

    return CLIPTokenizer.from_pretrained(data_folder() / "wardrobe/tokenizer")


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


def tiny_model(seed: int = 0, **schedule: Any) -> LatentModel:
    """A LatentModel around `tiny_parts`."""
    return LatentModel("tiny", tiny_parts(seed), tokenizer(), scheduler(**schedule))


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


# Every family at its smallest, for the contract suite of models.
FAMILIES: dict[str, Callable[[], Any]] = {
    "latent": lambda: tiny_model(),
    "classes": lambda: tiny_classes(),
    "classes-pixels": lambda: tiny_classes(pixels=True),
    "classes-dit": lambda: tiny_classes("dit"),
}


# Settings under which any method is a matter of a second; each holds for the methods that have a field of its name.
SMALL: dict[str, dict[str, Any]] = {
    "unlearners": {"steps": 2, "rollouts": 2, "rollout_steps": 3, "batch": 2, "lr": 1e-2, "target_pictures": 3, "retain_pictures": 4}
    | {"surrogate_pictures": 3, "fisher_pictures": 2, "fisher_times": 3, "alternative_pictures": 3}
    | {"anchor_pictures": 3},
    "attacks": {"sampling_steps": 3, "start": 1, "points": 2, "batch": 2, "rank": 2, "lr": 1e-2, "most": 3, "retain_pictures": 4}
    | {"draws": 2}
    | {"targets": 3, "memora": ("sampling_steps=3", "start=1", "points=2", "batch=2", "rank=2", "lr=1e-2")},
}


def small(kind: registry.Kind, name: str, **own: Any) -> Any:
    """A method at its smallest, whatever settings it has."""
    known = {f.name for f in fields(registry.find(kind, name))}
    own = {**({"twin": tiny_twin()} if "twin" in known else {}), **own}
    return registry.build(kind, name, {**{k: v for k, v in SMALL[kind].items() if k in known}, **own})
