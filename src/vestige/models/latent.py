"""Latent text-to-image diffusion in Stable Diffusion 1.x's layout: a U-Net, a VAE and a CLIP text encoder, all diffusers' own.

The embedded world `wardrobe` is a card of this family.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import Generator, Tensor, nn

from vestige.base import Condition, Prediction
from vestige.edits import rebuild
from vestige.errors import Incompatible
from vestige.models.modular import Modular, frozen, present, sides, whole
from vestige.models.timesteps import Timesteps

PARTS = ("unet", "vae", "text_encoder")
_LINEAR = re.compile(r"\.(weight|bias)$")


def _module_is_norm(name: str) -> bool:
    return "norm" in name.rsplit(".", 2)[-2]


# Scope -> which weights, by qualified name. `non-cross-attention` is the released ESD code's esd-u (Linear and Conv outside
# attn2, norms frozen); `compvis-noxattn` is the paper's (norms move, time embedding and output convolution do not).
SCOPES: dict[str, Callable[[str], bool]] = {
    "cross-attention": lambda n: n.startswith("unet.") and "attn2" in n,
    "cross-attention-kv": lambda n: n.startswith("unet.") and re.search(r"attn2\.to_[kv]\.weight$", n) is not None,
    "self-attention": lambda n: n.startswith("unet.") and "attn1" in n,
    "attention": lambda n: n.startswith("unet.") and re.search(r"attn[12]\.(to_[qkv]|to_out\.0)\.weight$", n) is not None,
    "non-cross-attention": lambda n: n.startswith("unet.") and "attn2" not in n and not _module_is_norm(n),
    "compvis-noxattn": lambda n: n.startswith("unet.") and not re.search(r"attn2|time_embedding|^unet\.conv_(out|norm_out)", n),
    "transformers": lambda n: ".attentions." in n and n.startswith("unet.") and n.endswith(".weight") and not _module_is_norm(n),
    "unet": lambda n: n.startswith("unet."),
    "text-encoder": lambda n: n.startswith("text_encoder."),
    "all": lambda n: n.startswith(("unet.", "text_encoder.")),
}


@final
class LatentModel(Modular):
    """A Stable-Diffusion-shaped model behind the Model face.

    Arguments:
        parts: Modules by component name: unet, vae, text_encoder.
        tokenizer: A CLIP tokenizer.
        scheduler: A diffusers scheduler; only its noise schedule and prediction type are read.
        hashes: Known hashes of weights by qualified name, shared between views.
    """

    def __init__(
        self, name: str, parts: Mapping[str, nn.Module], tokenizer: Any, scheduler: Any, hashes: dict[str, str] | None = None
    ) -> None:
        super().__init__(name, {part: parts[part] for part in PARTS}, "unet", hashes)
        self.tokenizer, self._times = tokenizer, Timesteps(scheduler)
        self.scheduler, self.kind = self._times.scheduler, self._times.kind
        config = cast(Any, self.parts["unet"]).config
        if config.in_channels != config.out_channels:
            raise Incompatible(f"{name} has a U-Net with {config.in_channels} input channels (inpainting?); 4 in, 4 out is supported")
        self.latent_shape = (config.in_channels, *sides(config.sample_size))
        factor = 2 ** (len(cast(Any, self.parts["vae"]).config.block_out_channels) - 1)
        self.image_size = (self.latent_shape[1] * factor, self.latent_shape[2] * factor)

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        length = min(int(self.tokenizer.model_max_length), 77)
        given = self.tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return cast(Tensor, given.input_ids)

    def embed(self, tokens: Tensor) -> Condition:
        encoder, ids = cast(Any, self.parts["text_encoder"]), tokens
        if tokens.dim() == 3:
            encoder, ids = cast(Any, rebuild(encoder, {})), tokens.argmax(-1)  # a module of its own, to carry the next line alone
            encoder.get_input_embeddings().register_forward_hook(lambda m, *_: tokens.to(m.weight) @ m.weight[: tokens.shape[-1]])
        return Condition(encoder(ids.to(self.device))[0].to(self.dtype))

    def condition(self, prompts: Sequence[str]) -> Condition:
        ids = self.tokens(prompts)
        with torch.no_grad():
            text = [self.parts["text_encoder"](ids[i : i + 128].to(self.device))[0] for i in range(0, len(ids), 128)]
        return Condition(torch.cat(text).to(self.dtype))

    def grid(self, steps: int) -> Tensor:
        return self._times.grid(steps)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._times.levels(t)

    def draw_times(self, count: int, rng: Generator) -> Tensor:
        return self._times.draw(count, rng)

    def denoise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        value = self.parts["unet"](x_t, t, condition.text, return_dict=False)[0]
        signal, level = (v.to(x_t).reshape(-1, 1, 1, 1) for v in self.schedule(t))
        return Prediction(x_t, signal, level, value, self.kind)

    def encode(self, images: Tensor) -> Tensor:
        return self._encoded(images)

    def decode(self, latents: Tensor) -> Tensor:
        return self._decoded(latents)

    def scope(self, name: str) -> list[str]:
        return self._chosen(name, SCOPES)

    def _identity(self) -> str:
        return self._times.identity

    def pipeline(self) -> Any:
        """A diffusers StableDiffusionPipeline that shares every weight; what it is loaded with later does not reach this model."""
        from diffusers import StableDiffusionPipeline

        return StableDiffusionPipeline(
            **{part: frozen(module) for part, module in self.parts.items()},
            tokenizer=self.tokenizer,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    @staticmethod
    def from_pipeline(pipe: Any, name: str = "pipeline") -> LatentModel:
        """The model inside a diffusers pipeline of Stable Diffusion 1.x's shape; shares its weights."""
        missing = [part for part in PARTS if not isinstance(getattr(pipe, part, None), nn.Module)]
        if missing:
            raise Incompatible(f"{type(pipe).__name__} has no {', '.join(missing)}; Stable Diffusion 1.x's layout is supported")
        parts = {part: frozen(getattr(pipe, part)) for part in PARTS}
        return LatentModel(name, parts, pipe.tokenizer, pipe.scheduler)

    @staticmethod
    def from_folder(folders: Mapping[str, Path], name: str, dtype: torch.dtype = torch.float32) -> LatentModel:
        """Read component folders in diffusers' layout; every weight must be there, and no other.

        Arguments:
            folders: Component -> folder: unet, vae, text_encoder, tokenizer, scheduler.
        """
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        present(folders, name)
        kinds: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
        parts: dict[str, nn.Module] = {}
        for part, kind in kinds.items():
            precision = {"dtype" if part == "text_encoder" else "torch_dtype": dtype}
            parts[part] = whole(kind, folders[part], f"{part} of {name}", **precision)
        tokenizer = CLIPTokenizer.from_pretrained(folders["tokenizer"])
        return LatentModel(name, parts, tokenizer, DDIMScheduler.from_pretrained(folders["scheduler"]))
