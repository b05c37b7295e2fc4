"""Rectified-flow text-to-image transformers: FLUX.1 (dev, schnell), FLUX.2 (dev, klein), Stable Diffusion 3 and 3.5.

    x_t = (1 - t) data + t noise;   the network predicts noise - data, and an Euler step in t is a sampling step

All modules are diffusers' and transformers' own; `mmdit` holds what each kind of transformer wants around it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import Generator, Tensor, nn

from vestige.diffusion import Condition, Prediction
from vestige.errors import BadInput, Incompatible
from vestige.models import configurations, sigmas, sources, vocabulary
from vestige.models.mmdit import Flux2, Ids, Layout, layout
from vestige.models.modular import Modular
from vestige.models.packing import packed, unpacked
from vestige.models.reading import class_in, frozen, present, whole
from vestige.models.sigmas import Sigmas
from vestige.models.streams import SCOPES

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
PARTS = ("transformer", "vae", *ENCODERS)


@final
class FlowModel(Modular):
    """A rectified-flow transformer behind the Model face.

    Latents are the autoencoder's, (B, C, h, w), for FLUX.2 its normalised 2x2 patches; packing happens on the way to the network.
    A distilled model (FLUX.1 dev and schnell, FLUX.2 dev, distilled klein) is never guided by a second prediction: its network is told
    the guidance, or, where it listens to none, draws as it draws. Any other is guided as ever.

    Arguments:
        parts: Modules by component name: transformer, vae, text_encoder, text_encoder_2, text_encoder_3, as far as the kind has them.
        tokenizers: Text encoder's component name -> its tokenizer.
        scheduler: A flow-matching scheduler of diffusers; only its times are read.
        hashes: Known hashes of weights by qualified name, shared between views.
        size: Side of a picture in pixels, or height and width; None takes what the model was made for.
        distilled: None says so of a network that is told the guidance, and of FLUX.1 on a schedule without a shift (schnell). Other
            few-step models (SD3.5 turbo) do not say so in their files.
    """

    shifts = True

    def __init__(
        self,
        name: str,
        parts: Mapping[str, nn.Module],
        tokenizers: Mapping[str, Any],
        scheduler: Any,
        hashes: dict[str, str] | None = None,
        *,
        size: int | Sequence[int] | None = None,
        distilled: bool | None = None,
    ) -> None:
        self.layout = layout(parts.get("transformer"), name)
        _complete(parts, self.layout, name)
        super().__init__(name, {part: parts[part] for part in PARTS if part in parts}, "transformer", hashes)
        self.tokenizers, self._times = dict(tokenizers), Sigmas(scheduler, name)
        self.scheduler, self.kind = self._times.scheduler, "flow"
        self._matching_words()
        told = bool(self._network.config.get("guidance_embeds"))
        quick = self.layout.pipeline == "FluxPipeline" and not self._times.shifted
        self.distilled = told or quick if distilled is None else distilled
        vae = cast(Any, self.parts["vae"])
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        asked = self.layout.size(self._network, vae) if size is None else size
        self.image_size = configurations.sides(asked, name)
        if any(side % (2 * factor) for side in self.image_size):
            raise BadInput(f"pictures of {name} have sides that are multiples of {2 * factor}; given {self.image_size}")
        self.latent_shape = self.layout.latent(self._network, *(side // factor for side in self.image_size))

    def _matching_words(self) -> None:
        """Refuse tokenizers that do not belong to the text encoders."""
        for part, encoder in self._encoders.items():
            what = f"{part.replace('text_encoder', 'tokenizer')} of {self.name}"
            if part not in self.tokenizers:
                raise Incompatible(f"{self.name} has a {part} and no {what}; each needs one")
            vocabulary.fits(self.tokenizers[part], encoder, what)
            if type(encoder).__name__.startswith("CLIP"):
                vocabulary.room(self.tokenizers[part], encoder, what)
                vocabulary.ends(self.tokenizers[part], encoder, what)

    @property
    def _network(self) -> Any:
        return self.parts["transformer"]

    @property
    def _encoders(self) -> dict[str, nn.Module]:
        return {part: self.parts[part] for part in ENCODERS if part in self.parts}

    @property
    def tokenizer(self) -> Any:
        """There is no single one."""
        raise Incompatible(
            f"{self.name} reads prompts with {len(self._encoders)} text encoders whose vocabularies differ; a method that looks for "
            "words among the tokens of one encoder needs a model with one"
        )

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Ids of every encoder, one encoder's beside the next one's, (B, L1 + L2 + ...)."""
        return torch.cat(list(self._ids.ids(prompts, self.tokenizers, self._network).values()), 1)

    def unread(self, prompts: Sequence[str]) -> list[str]:
        if not isinstance(self.layout, Ids):
            return []  # what is put around a prompt is its language model's; so is the room for it
        lengths = self._ids.lengths(self.tokenizers, self._network)
        return vocabulary.longer(prompts, {self.tokenizers[part]: length for part, length in lengths.items()})

    def embed(self, tokens: Tensor) -> Condition:
        if tokens.dim() != 2:
            raise Incompatible(
                f"{self.name} reads ids of {len(self._encoders)} vocabularies; weights over one vocabulary mean nothing to it"
            )
        lengths = self._ids.lengths(self.tokenizers, self._network)
        ids = dict(zip(lengths, tokens.to(self.device).split(list(lengths.values()), 1), strict=True))
        with self._awake(*self._encoders):
            return self._typed(self._ids.embed(ids, self._encoders, self._network))

    def tables(self) -> dict[str, slice]:
        lengths, found, start = self._ids.lengths(self.tokenizers, self._network), dict[str, slice](), 0
        for part, length in lengths.items():
            found |= {name: slice(start, start + length) for name in super().tables() if name.startswith(f"{part}.")}
            start += length
        return found

    def condition(self, prompts: Sequence[str]) -> Condition:
        made = []
        for i in range(0, len(prompts), 32):
            with torch.no_grad(), self._awake(*self._encoders):
                made.append(self._read(prompts[i : i + 32]))
        pooled = None if made[0].pooled is None else torch.cat([cast(Tensor, c.pooled) for c in made])
        return Condition(torch.cat([c.text for c in made]), pooled)

    @property
    def _ids(self) -> Ids:
        if not isinstance(self.layout, Ids):
            raise Incompatible(f"{self.name} reads prompts as a conversation with a language model; its tokens are not offered")
        return self.layout

    def _read(self, prompts: Sequence[str]) -> Condition:
        if isinstance(self.layout, Ids):
            return self.embed(self.tokens(prompts))
        return self._typed(self.layout.read(prompts, self._encoders, self.tokenizers, self._network))

    def _typed(self, condition: Condition) -> Condition:
        return condition._each(lambda part: part.to(self.device, self.dtype))

    def grid(self, steps: int) -> Tensor:
        count = self.layout.patches(self.latent_shape, self._network)
        mu = self.layout.mu(self.scheduler.config, count, steps)
        return self._times.grid(steps, mu, even=self.layout.even)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._times.levels(t)

    def draw_times(self, count: int, rng: Generator) -> Tensor:
        return self._times.draw(count, rng)

    def denoise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        told = t * (int(self.scheduler.config.num_train_timesteps) / 1000)  # layouts count a thousand times
        value = self.layout.velocity(self._network, x_t, told, condition)
        signal, level = (v.to(x_t).reshape(-1, 1, 1, 1) for v in self.schedule(t))
        return Prediction(x_t, signal, level, value, "flow")

    def encode(self, images: Tensor) -> Tensor:
        if not isinstance(self.layout, Flux2):
            return self._encoded(images)
        vae = cast(Any, self.parts["vae"])
        with torch.no_grad(), self._awake("vae"):
            patches = packed(vae.encode(images.to(self.device, vae.dtype) * 2 - 1).latent_dist.mean)
            mean, deviation = self.layout.statistics(vae, patches)
        return ((patches - mean) / deviation).to(self.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        if not isinstance(self.layout, Flux2):
            return self._decoded(latents)
        vae = cast(Any, self.parts["vae"])
        with torch.no_grad(), self._awake("vae"):
            patches = latents.to(vae.dtype)
            mean, deviation = self.layout.statistics(vae, patches)
            images = vae.decode(unpacked(patches * deviation + mean), return_dict=False)[0]
        return cast(Tensor, (images / 2 + 0.5).clamp(0, 1).float())

    def scope(self, name: str) -> list[str]:
        if name == "compvis-noxattn":
            raise Incompatible(f"{self.name} is a transformer with joint attention; {name} is of CompVis's U-Net; see {', '.join(SCOPES)}")
        return self._chosen(name, SCOPES)

    def _identity(self) -> str:
        return f"{self._times.identity} {list(self.image_size)} {self.distilled}"

    def _words(self) -> dict[str, Any]:
        return {part.replace("text_encoder", "tokenizer"): words for part, words in self.tokenizers.items() if words is not None}

    def _levels(self, folder: Path | None) -> dict[str, Any]:
        from diffusers import FlowMatchEulerDiscreteScheduler

        return (self._times if folder is None else Sigmas(FlowMatchEulerDiscreteScheduler.from_pretrained(folder), str(folder))).told

    def _indexed(self, folder: Path) -> list[str]:
        told = sources.index(folder).get("is_distilled")
        return [] if told in (None, self.distilled) else [f"is_distilled is {told} there and {self.distilled} here"]

    def pipeline(self) -> Any:
        """A diffusers pipeline that shares every weight; what it is loaded with later does not reach this model."""
        import diffusers

        parts = {part: frozen(module) for part, module in self.parts.items()}
        parts["vae"] = _unshifted(parts["vae"])
        words = {part.replace("text_encoder", "tokenizer"): copy.deepcopy(self.tokenizers.get(part)) for part in self.layout.kinds}
        shared = {**dict.fromkeys(self.layout.kinds), **parts, **words}
        shared["scheduler"] = type(self.scheduler).from_config(self.scheduler.config)
        if _is_klein(self.parts):
            return diffusers.Flux2KleinPipeline(**shared, is_distilled=self.distilled)
        return getattr(diffusers, self.layout.pipeline)(**shared)

    @staticmethod
    def from_pipeline(
        pipe: Any, name: str = "pipeline", *, size: int | Sequence[int] | None = None, distilled: bool | None = None
    ) -> FlowModel:
        """The model inside a diffusers pipeline around a rectified-flow transformer; shares its weights.

        Arguments:
            size: As the class's.
            distilled: As the class's; None also believes a klein pipeline that says so.
        """
        modules = {part: getattr(pipe, part, None) for part in PARTS}
        parts = {part: frozen(module) for part, module in modules.items() if isinstance(module, nn.Module)}
        words = {part: getattr(pipe, part.replace("text_encoder", "tokenizer"), None) for part in ENCODERS if part in parts}
        known = pipe.config.get("is_distilled") if distilled is None else distilled
        return FlowModel(name, parts, words, pipe.scheduler, size=size, distilled=known)

    @staticmethod
    def from_folder(
        folders: Mapping[str, Path],
        name: str,
        dtype: torch.dtype = torch.float32,
        *,
        size: int | Sequence[int] | None = None,
        distilled: bool | None = None,
    ) -> FlowModel:
        """Read component folders in diffusers' layout; every weight must be there, and no other.

        Arguments:
            folders: Component -> folder: transformer, vae, scheduler, and the text encoders with their tokenizers.
        """
        import diffusers
        import transformers

        present(folders, name)
        wanted = class_in(folders["transformer"] / "config.json", "_class_name")
        if not hasattr(diffusers, wanted):
            raise Incompatible(f"{name} has a {wanted}, which diffusers {diffusers.__version__} does not have; a newer one may")
        parts = {"transformer": whole(getattr(diffusers, wanted), folders["transformer"], f"transformer of {name}", torch_dtype=dtype)}
        kind = layout(parts["transformer"], name)
        parts["vae"] = whole(getattr(diffusers, kind.autoencoder), folders["vae"], f"vae of {name}", torch_dtype=dtype)
        words = {}
        for part in (part for part in kind.kinds if part in folders):
            reader = kind.kinds[part] if kind.pipeline != "Flux2Pipeline" else class_in(folders[part] / "config.json", "architectures")
            parts[part] = whole(getattr(transformers, reader), folders[part], f"{part} of {name}", dtype=dtype)
            told = part.replace("text_encoder", "tokenizer")
            words[part] = vocabulary.load(vocabulary.reads(reader), folders[told], f"{told} of {name}")
        return FlowModel(name, parts, words, sigmas.scheduled(folders["scheduler"], name), size=size, distilled=distilled)


def _complete(parts: Mapping[str, nn.Module], kind: Layout, name: str) -> None:
    """Refuse what lacks a component, and what reads more than it predicts."""
    missing = [part for part in ("vae", *kind.kinds) if part not in parts and part not in kind.optional]
    if missing:
        raise Incompatible(f"{name} has no {', '.join(missing)}; {kind.pipeline} with its text encoders and autoencoder is supported")
    config = cast(Any, parts["transformer"]).config
    made = config.out_channels or config.in_channels
    if made != config.in_channels:
        raise Incompatible(f"{name} reads {config.in_channels} channels and predicts {made} (inpainting, control?); give the base model")
    configurations.autoencoder(cast(Any, parts["vae"]).config, kind.channels(config), name)
    for what, gives, reads in kind.widths(config, {part: cast(Any, parts[part]).config for part in kind.kinds if part in parts}):
        configurations.equal(gives, reads, f"text encoders and transformer of {name} do not fit, {what}")


def _is_klein(parts: Mapping[str, nn.Module]) -> bool:
    return type(parts["text_encoder"]).__name__.startswith("Qwen3")


def _unshifted(vae: nn.Module) -> nn.Module:
    """The autoencoder with a shift of 0 where it has none: these pipelines add it unasked. The view is given its own configuration."""
    if getattr(cast(Any, vae).config, "shift_factor", 0.0) is None:
        cast(Any, vae).register_to_config(shift_factor=0.0)
    return vae
