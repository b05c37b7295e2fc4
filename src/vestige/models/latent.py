"""Latent text-to-image diffusion in Stable Diffusion 1.x's layout: a U-Net, a VAE and a CLIP text encoder, all diffusers' own.

The embedded world `wardrobe` is a card of this family. Times are training timesteps; -1 stands for the clean end of the
sampling grid, whose signal level is the scheduler's final one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast, final

import torch
from torch import Generator, Tensor, nn

from vestige.base import Condition, Factors, Model, Prediction
from vestige.edits import Edit, attach, hooked, rebuild
from vestige.errors import BadInput, Incompatible, UnknownName

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
    "unet": lambda n: n.startswith("unet."),
    "text-encoder": lambda n: n.startswith("text_encoder."),
    "all": lambda n: n.startswith(("unet.", "text_encoder.")),
}


@final
class LatentModel(Model):
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
        from diffusers import DDIMScheduler

        self.name, self.parts, self.tokenizer = name, dict(parts), tokenizer
        self.scheduler = DDIMScheduler.from_config(scheduler.config)
        config = cast(Any, self.parts["unet"]).config
        if config.in_channels != config.out_channels:
            raise Incompatible(f"{name} has a U-Net with {config.in_channels} input channels (inpainting?); 4 in, 4 out is supported")
        size = config.sample_size
        self.latent_shape = (config.in_channels, *((size, size) if isinstance(size, int) else size))
        factor = 2 ** (len(cast(Any, self.parts["vae"]).config.block_out_channels) - 1)
        self.image_size = (self.latent_shape[1] * factor, self.latent_shape[2] * factor)
        kinds = {"epsilon": "noise", "sample": "data", "v_prediction": "velocity"}
        self.kind = cast(Literal["noise", "data", "velocity"], kinds[self.scheduler.config.prediction_type])
        final_alpha = torch.as_tensor(self.scheduler.final_alpha_cumprod, dtype=torch.float32)
        self._alphas = torch.cat([self.scheduler.alphas_cumprod.float(), final_alpha.reshape(1)])  # index -1 is the clean end
        self._hashes = {} if hashes is None else hashes
        for part in self.parts.values():
            part.requires_grad_(False)
            part.eval()

    @property
    def device(self) -> torch.device:
        return next(self.parts["unet"].parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parts["unet"].parameters()).dtype

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
        self.scheduler.set_timesteps(steps)
        return torch.cat([self.scheduler.timesteps.cpu(), torch.tensor([-1])])

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha = self._alphas.to(t.device)[t]
        return alpha.sqrt(), (1 - alpha).sqrt()

    def draw_times(self, count: int, rng: Generator) -> Tensor:
        return torch.randint(len(self._alphas) - 1, (count,), generator=rng)

    def denoise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        value = self.parts["unet"](x_t, t, condition.text, return_dict=False)[0]
        signal, level = (v.to(x_t).reshape(-1, 1, 1, 1) for v in self.schedule(t))
        return Prediction(x_t, signal, level, value, self.kind)

    def encode(self, images: Tensor) -> Tensor:
        vae = cast(Any, self.parts["vae"])
        with torch.no_grad():
            mean = vae.encode(images.to(self.device, self.dtype) * 2 - 1).latent_dist.mean
        return cast(Tensor, mean * vae.config.scaling_factor)

    def decode(self, latents: Tensor) -> Tensor:
        vae = cast(Any, self.parts["vae"])
        with torch.no_grad():
            images = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        return cast(Tensor, (images / 2 + 0.5).clamp(0, 1).float())

    def scope(self, name: str) -> list[str]:
        if name not in SCOPES:
            raise UnknownName("scope", name, SCOPES)
        chosen = [n for n in self._names() if SCOPES[name](n)]
        if not chosen:
            raise Incompatible(f"scope {name!r} selects no weight of {self.name}")
        return chosen

    def _names(self) -> list[str]:
        return [f"{part}.{n}" for part in PARTS for n, _ in self.parts[part].named_parameters()]

    def tensor(self, name: str) -> Tensor:
        part, _, rest = name.partition(".")
        try:
            return self.parts[part].get_parameter(rest).detach()
        except (KeyError, AttributeError):
            raise Incompatible(f"{self.name} has no weight named {name!r}") from None

    def edited(self, edit: Edit) -> Model:
        edit.check(self)
        return hooked(self._with({n: edit.weight(n, self.tensor(n)) for n in edit.touched}), edit.hooks)

    def trainable(self, names: Sequence[str]) -> tuple[Model, dict[str, Tensor]]:
        view = self._with({n: self.tensor(n).clone() for n in names}, leaves=True)
        return view, {n: view._parameter(n) for n in names}

    def adapted(self, names: Sequence[str], *, rank: int, alpha: float, init: str, rng: Generator) -> tuple[Model, Factors]:
        short = [n.removeprefix("unet.") for n in names]
        unet, leaves = attach(self.parts["unet"], short, rank=rank, alpha=alpha, init=init, rng=rng)
        return self._view({**self.parts, "unet": unet}, {}), {f"unet.{n}": pair for n, pair in leaves.items()}

    def _parameter(self, name: str) -> Tensor:
        part, _, rest = name.partition(".")
        return self.parts[part].get_parameter(rest)

    def _with(self, values: Mapping[str, Tensor], *, leaves: bool = False) -> LatentModel:
        parts = dict(self.parts)
        for part in parts:
            mine = {n[len(part) + 1 :]: v for n, v in values.items() if n.startswith(part + ".")}
            if mine:
                parts[part] = rebuild(parts[part], mine, leaves=leaves)
        unknown = [n for n in values if n.partition(".")[0] not in parts]
        if unknown:
            raise Incompatible(f"{self.name} has no component {unknown[0].partition('.')[0]!r}")
        return self._view(parts, {n: h for n, h in self._hashes.items() if n not in values})

    def _view(self, parts: Mapping[str, nn.Module], hashes: dict[str, str]) -> LatentModel:
        view = object.__new__(LatentModel)
        vars(view).update({**vars(self), "parts": dict(parts), "_hashes": hashes})
        return view

    @property
    def fingerprint(self) -> str:
        levels = hashlib.blake2b(self._alphas.numpy().tobytes(), digest_size=16).hexdigest()
        digest = hashlib.sha256(f"{self.kind} {levels}\n".encode())
        for name in self._names():
            if name not in self._hashes:
                raw = self._parameter(name).detach().float().cpu().contiguous().numpy()
                self._hashes[name] = hashlib.blake2b(raw.tobytes(), digest_size=16).hexdigest()
            digest.update(f"{name} {self._hashes[name]}\n".encode())
        return digest.hexdigest()

    def pipeline(self) -> Any:
        """A diffusers StableDiffusionPipeline that shares every weight; what it is loaded with later does not reach this model."""
        from diffusers import StableDiffusionPipeline

        return StableDiffusionPipeline(
            **{part: _frozen(module) for part, module in self.parts.items()},
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
        # Sharing modules would switch off their gradients; a view has its own parameters' flags but the same storage.
        parts = {part: _frozen(getattr(pipe, part)) for part in PARTS}
        return LatentModel(name, parts, pipe.tokenizer, pipe.scheduler)

    @staticmethod
    def from_folder(folders: Mapping[str, Path], name: str, dtype: torch.dtype = torch.float32) -> LatentModel:
        """Read component folders in diffusers' layout; every weight must be there, and no other.

        Arguments:
            folders: Component -> folder: unet, vae, text_encoder, tokenizer, scheduler.
        """
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
        from safetensors import SafetensorError
        from transformers import CLIPTextModel, CLIPTokenizer

        for part, folder in folders.items():
            if not folder.is_dir():
                raise BadInput(f"{name} has no folder {part} at {folder}; give a folder in diffusers' layout")
        kinds: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
        parts: dict[str, nn.Module] = {}
        for part, kind in kinds.items():
            precision = {"dtype" if part == "text_encoder" else "torch_dtype": dtype}
            try:
                made, report = kind.from_pretrained(folders[part], output_loading_info=True, local_files_only=True, **precision)
            except (OSError, ValueError, RuntimeError, SafetensorError) as error:
                raise BadInput(f"{part} of {name} cannot be read from {folders[part]} ({error})") from error
            wrong = [f"{key} {sorted(report[key])[:3]}" for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[key]]
            if wrong:
                raise BadInput(f"{part} of {name} does not load whole: {'; '.join(wrong)}")
            parts[part] = made
        tokenizer = CLIPTokenizer.from_pretrained(folders["tokenizer"])
        return LatentModel(name, parts, tokenizer, DDIMScheduler.from_pretrained(folders["scheduler"]))


def _frozen(module: nn.Module) -> nn.Module:
    return rebuild(module, {n: p.data for n, p in module.named_parameters()})
