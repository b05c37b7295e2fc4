"""Class-conditional diffusion: diffusers' UNet2DModel with class embeddings, or DiT, on pixels or on an autoencoder's latents.

The denoiser is told a class, not a prompt: every prompt that names the same class is the same condition, and whatever else it
says goes unheard.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from vestige.diffusion import Condition, Prediction
from vestige.edits.surgery import rebuild
from vestige.errors import BadInput, Incompatible
from vestige.models import configurations, surroundings
from vestige.models.labels import FILE, Labels, named, read
from vestige.models.modular import Modular, bias_or_gain
from vestige.models.reading import frozen, present, whole
from vestige.models.timesteps import Timesteps, scheduled

_LABEL = re.compile(r"\.class_embedd(ing|er)\.")
_BLOCK = re.compile(r"\.(attentions|transformer_blocks)\.(?!.*\.emb\.)")
_TIME = re.compile(r"\.(time_embedding|timestep_embedder)\.|^\w+\.(conv_out|conv_norm_out|proj_out_[12])\.")


def _is_norm(name: str) -> bool:
    return "norm" in name.rsplit(".", 2)[-2]


def _of_denoiser(chosen: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda name: not name.startswith("vae.") and chosen(name)


# Scope -> which weights, by qualified name; a name that the text-conditional families share means the same there. All attention
# is self-attention, which is told no class: `conditioned` is attention and the layers by which class and time enter a block.
# `non-cross-attention` is every linear and convolution: the class embedding is neither.
SCOPES: dict[str, Callable[[str], bool]] = {
    scope: _of_denoiser(chosen)
    for scope, chosen in {
        "self-attention": lambda n: re.search(r"\.to_([qkv]|out\.0)\.(weight|bias)$", n) is not None,
        "attention": lambda n: re.search(r"\.to_([qkv]|out\.0)\.weight$", n) is not None,
        "conditioned": lambda n: re.search(r"\.(to_([qkv]|out\.0)|time_emb_proj|norm1\.linear)\.weight$", n) is not None,
        "non-cross-attention": lambda n: not _is_norm(n) and not _LABEL.search(n),
        "compvis-noxattn": lambda n: not _TIME.search(n),
        "transformers": lambda n: _BLOCK.search(n) is not None and n.endswith(".weight") and not _is_norm(n),
        "class-embedding": lambda n: _LABEL.search(n) is not None,
        "without-class-embedding": lambda n: not _LABEL.search(n),
        "biases-and-gains": bias_or_gain,
        "unet": lambda n: True,
        "all": lambda n: True,
    }.items()
}
ABSENT = {"cross-attention": "cross-attention", "cross-attention-kv": "cross-attention", "text-encoder": "text encoder"}


class Lookup(nn.Embedding):
    """A table of class embeddings that is read by weights over its rows, (B, K) @ (K, D); by ids, as ever, where given integers."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return input @ self.weight if input.is_floating_point() else super().forward(input)


@final
class ClassModel(Modular):
    """A class-conditional model behind the Model face.

    A condition's `text` (B, 1, K) holds weights over the K class embeddings in the denoiser's dtype: a single 1 is that class,
    exactly; mixtures are mixtures of embeddings, and gradients flow to them. Embeddings are looked up in `denoise`, so training
    the table works. Of a learned variance, the second half of the output, nothing is used.

    Arguments:
        parts: Modules by component name: "unet" (UNet2DModel) or "transformer" (DiTTransformer2DModel), and "vae" or none: pixels.
        labels: Names of the classes.
        scheduler: A diffusers scheduler; only its noise schedule and prediction type are read. Clipping and thresholding of
            predicted data, which many pixel-space schedulers ask for, are not done.
        hashes: Known hashes of weights by qualified name, shared between views.
    """

    def __init__(
        self, name: str, parts: Mapping[str, nn.Module], labels: Labels, scheduler: Any, hashes: dict[str, str] | None = None
    ) -> None:
        denoiser = _denoiser(parts, name)
        self.labels, self.rows, self._times = labels, _rows(parts[denoiser], name), Timesteps(scheduler)
        labels.check(self.rows, name)
        kept = {denoiser: _looking(parts[denoiser]), **{part: module for part, module in parts.items() if part == "vae"}}
        super().__init__(name, kept, denoiser, hashes)
        self.scheduler, self.kind = self._times.scheduler, self._times.kind
        self.latent_shape = _shape(cast(Any, kept[denoiser]).config, name)
        if denoiser == "unet":
            configurations.honour(cast(Any, kept[denoiser]).config, configurations.CLASS_UNET, f"unet of {name}")
        if "vae" in kept:
            configurations.autoencoder(cast(Any, kept["vae"]).config, self.latent_shape[0], name)
        if "vae" not in kept and self.latent_shape[0] not in (1, 3):
            raise Incompatible(f"{name} has {self.latent_shape[0]} channels and no autoencoder; pictures have 3, or 1 where they are grey")
        factor = 2 ** (len(cast(Any, kept["vae"]).config.block_out_channels) - 1) if "vae" in kept else 1
        self.image_size = (self.latent_shape[1] * factor, self.latent_shape[2] * factor)

    def condition(self, prompts: Sequence[str]) -> Condition:
        ids = torch.tensor([self.labels.find(prompt, self.name) for prompt in prompts])
        return Condition(F.one_hot(ids, self.rows)[:, None].to(self.device, self.dtype))  # (B, 1, K)

    def grid(self, steps: int) -> Tensor:
        return self._times.grid(steps)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._times.levels(t)

    def draw_times(self, count: int, rng: Generator) -> Tensor:
        return self._times.draw(count, rng)

    def denoise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        value = self.parts[self.denoiser](x_t, t, class_labels=condition.text[:, 0], return_dict=False)[0]
        signal, level = (v.to(x_t).reshape(-1, 1, 1, 1) for v in self.schedule(t))
        return Prediction(x_t, signal, level, value[:, : x_t.shape[1]], self.kind)

    def encode(self, images: Tensor) -> Tensor:
        if "vae" in self.parts:
            return self._encoded(images)
        pixels = images.to(self.device, self.dtype) * 2 - 1
        return pixels if self.latent_shape[0] == 3 else pixels.mean(1, keepdim=True)

    def decode(self, latents: Tensor) -> Tensor:
        if "vae" in self.parts:
            return self._decoded(latents)
        return (latents / 2 + 0.5).clamp(0, 1).float().expand(-1, 3, -1, -1)

    def scope(self, name: str) -> list[str]:
        if name in ABSENT:
            others = ", ".join(s for s in SCOPES if s not in ("unet", "compvis-noxattn"))
            raise Incompatible(f"{self.name} is told a class, not a prompt: it has no {ABSENT[name]}; its scopes are {others}")
        return self._chosen(name, SCOPES)

    def _identity(self) -> str:
        return f"{self._times.identity} {json.dumps(self.labels.as_dict())}"

    def _sampled(self) -> dict[str, Any]:
        return self._times.steps

    def _levels(self, folder: Path | None) -> dict[str, Any]:
        from diffusers import DDIMScheduler

        return (self._times if folder is None else Timesteps(DDIMScheduler.from_pretrained(folder))).told

    def _indexed(self, folder: Path) -> list[str]:
        try:
            there = read(folder, self.rows, str(folder)).as_dict()
        except BadInput:  # it names no classes
            return []
        return list(surroundings.differences(there, self.labels.as_dict(), "labels."))

    def save(self, folder: Path | str) -> Path:
        """Write the parts in diffusers' layout, with the classes' names; `vestige.load_model(folder)` reads it."""
        import diffusers

        folder = Path(folder)
        for part, module in {**self.parts, "scheduler": self.scheduler}.items():
            cast(Any, module).save_pretrained(folder / part)
        index: dict[str, Any] = {"_class_name": "DiTPipeline" if self.denoiser == "transformer" else "DDIMPipeline"}
        index |= {"_diffusers_version": diffusers.__version__, "scheduler": ["diffusers", type(self.scheduler).__name__]}
        index |= {part: ["diffusers", type(module).__name__] for part, module in self.parts.items()}
        classes = self.labels.as_dict()
        if self.denoiser == "transformer":
            index["id2label"] = classes["classes"]  # where DiTPipeline looks for them
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")
        (folder / FILE).write_text(json.dumps(classes, indent=1) + "\n", "utf-8")
        return folder

    @staticmethod
    def from_pipeline(pipe: Any, name: str = "pipeline", classes: Sequence[str] | None = None) -> ClassModel:
        """The model inside a diffusers pipeline around a class-conditional denoiser; shares its weights.

        Arguments:
            classes: Names of the classes in their order; the null class is the last embedding. None takes those of a DiTPipeline.
        """
        modules = {part: getattr(pipe, part, None) for part in ("unet", "transformer", "vae")}
        parts = {part: frozen(module) for part, module in modules.items() if isinstance(module, nn.Module)}
        texts = dict(enumerate(classes or ()))
        for word, label in {} if texts else getattr(pipe, "labels", {}).items():
            texts[label] = f"{texts[label]}, {word}" if label in texts else word
        labels = named(texts, _rows(parts[_denoiser(parts, name)], name) - 1)
        return ClassModel(name, parts, labels, pipe.scheduler)

    @staticmethod
    def from_folder(folders: Mapping[str, Path], name: str, dtype: torch.dtype = torch.float32) -> ClassModel:
        """Read component folders in diffusers' layout; every weight must be there, and no other.

        Arguments:
            folders: Component -> folder: unet or transformer, vae where there is one, scheduler, and labels: where the classes' names are.
        """
        from diffusers import AutoencoderKL, DiTTransformer2DModel, UNet2DModel

        present(folders, name)
        kinds: dict[str, Any] = {"unet": UNet2DModel, "transformer": DiTTransformer2DModel, "vae": AutoencoderKL}
        parts = {part: whole(kinds[part], folders[part], f"{part} of {name}", torch_dtype=dtype) for part in kinds if part in folders}
        labels = read(folders["labels"], _rows(parts[_denoiser(parts, name)], name), name)
        return ClassModel(name, parts, labels, scheduled(folders["scheduler"], name))


def _denoiser(parts: Mapping[str, Any], name: str) -> str:
    """Which component predicts."""
    found = [part for part in ("unet", "transformer") if part in parts]
    if len(found) != 1:
        what = " and ".join(found) if found else "neither unet nor transformer"
        raise Incompatible(f"{name} has {what}; a class-conditional model has one of the two")
    return found[0]


def _shape(config: Any, name: str) -> tuple[int, int, int]:
    channels, made = config.in_channels, config.out_channels or config.in_channels
    if made not in (channels, 2 * channels):
        raise Incompatible(f"{name} reads {channels} channels and predicts {made}; as many, or twice as many (a variance), are supported")
    return (channels, *configurations.sides(config.sample_size, name))


def _tables(denoiser: nn.Module) -> dict[str, nn.Embedding]:
    """Every table of class embeddings by its module's name; DiT has one a block."""
    found = ((f".{n}.", n, m) for n, m in denoiser.named_modules() if isinstance(m, nn.Embedding))
    return {name: module for dotted, name, module in found if _LABEL.search(dotted)}


def _rows(denoiser: nn.Module, name: str) -> int:
    rows = {table.num_embeddings for table in _tables(denoiser).values()}
    if len(rows) != 1:
        what = "tables of different sizes" if rows else "no table of class embeddings (num_class_embeds)"
        raise Incompatible(f"{name} is not class-conditional in a known way: its denoiser has {what}")
    return rows.pop()


def _looking(denoiser: nn.Module) -> nn.Module:
    """A view of the denoiser that reads its class embeddings by weights."""
    view = rebuild(denoiser, {})
    for name, table in _tables(view).items():
        parent, _, leaf = name.rpartition(".")
        reader = copy.copy(table)
        reader.__class__ = Lookup
        view.get_submodule(parent)._modules[leaf] = reader
    return view
