"""Latent text-to-image diffusion of Stable Diffusion's kind: a U-Net, a VAE and one CLIP text encoder (1.x, 2.x) or two (SDXL).

All modules are diffusers' and transformers' own. The embedded world `wardrobe` is a card of this family.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import Generator, Tensor, nn

from vestige.diffusion import Condition, Prediction
from vestige.edits.surgery import rebuild
from vestige.errors import Incompatible
from vestige.models import configurations, sources, vocabulary
from vestige.models.modular import Modular, bias_or_gain
from vestige.models.reading import frozen, present, whole
from vestige.models.timesteps import Timesteps, guidance_features, scheduled

PARTS = ("unet", "vae", "text_encoder")
SECOND = "text_encoder_2"  # with it, a model reads as SDXL does
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
    "compvis-noxattn": lambda n: n.startswith("unet.") and not re.search(r"attn2|(time|add)_embedding|^unet\.conv_(out|norm_out)", n),
    "transformers": lambda n: ".attentions." in n and n.startswith("unet.") and n.endswith(".weight") and not _module_is_norm(n),
    "biases-and-gains": lambda n: n.startswith("unet.") and bias_or_gain(n),
    "unet": lambda n: n.startswith("unet."),
    "text-encoder": lambda n: n.startswith(("text_encoder.", "text_encoder_2.")),
    "all": lambda n: n.startswith(("unet.", "text_encoder.", "text_encoder_2.")),
}


@final
class LatentModel(Modular):
    """A Stable-Diffusion-shaped model behind the Model face.

    With one encoder, a prompt is its last hidden state. With two (SDXL), `text` is both encoders' last hidden states but one, side
    by side, `pooled` the second one's projection, and the U-Net is also told the picture's size, whole and uncropped.

    Arguments:
        parts: Modules by component name: unet, vae, text_encoder, and text_encoder_2 where there are two.
        tokenizer: A CLIP tokenizer, or one for each encoder; two differ in nothing but the padding token.
        scheduler: A diffusers scheduler; only its noise schedule and prediction type are read.
        hashes: Known hashes of weights by qualified name, shared between views.
        blank: The empty prompt is all zeros, as SDXL's pipeline draws without a negative prompt; else it is encoded like any other.
    """

    def __init__(
        self,
        name: str,
        parts: Mapping[str, nn.Module],
        tokenizer: Any,
        scheduler: Any,
        hashes: dict[str, str] | None = None,
        *,
        blank: bool = False,
    ) -> None:
        super().__init__(name, {part: parts[part] for part in (*PARTS, SECOND) if part in parts}, "unet", hashes)
        self.tokenizers = tuple(tokenizer) if isinstance(tokenizer, (list, tuple)) else (tokenizer,)
        self.blank, self._times = blank, Timesteps(scheduler)
        self.scheduler, self.kind = self._times.scheduler, self._times.kind
        configs = {part: cast(Any, module).config for part, module in self.parts.items()}
        readers = [configs[part] for part in self._encoders]
        configurations.latent(configs["unet"], configs["vae"], readers, name)
        self._matching_words()
        self.distilled = configs["unet"].get("time_cond_proj_dim") is not None
        height, width = configurations.sides(configs["unet"].sample_size, name)
        self.latent_shape = (configs["unet"].in_channels, height, width)
        self.factor = 2 ** (len(configs["vae"].block_out_channels) - 1)
        self.image_size = (self.latent_shape[1] * self.factor, self.latent_shape[2] * self.factor)

    def _matching_words(self) -> None:
        """Refuse tokenizers that do not belong to the text encoders, or to each other."""
        if len(self.tokenizers) != len(self._encoders):
            raise Incompatible(f"{self.name} has {len(self._encoders)} text encoders and {len(self.tokenizers)} tokenizers; each needs one")
        if len({tuple(sorted(tokenizer.get_vocab().items())) for tokenizer in self.tokenizers}) > 1:
            raise Incompatible(f"{self.name} has two tokenizers with different vocabularies; SDXL's two differ in padding alone")
        for part, tokenizer in zip(self._encoders, self.tokenizers, strict=True):
            what = f"{part.replace('text_encoder', 'tokenizer')} of {self.name}"
            vocabulary.fits(tokenizer, self.parts[part], what)
            vocabulary.room(tokenizer, self.parts[part], what)
            if part == SECOND:  # of the first, no pooled state is read
                vocabulary.ends(tokenizer, self.parts[part], what)

    @property
    def tokenizer(self) -> Any:
        """The first encoder's."""
        return self.tokenizers[0]

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        return vocabulary.ids(self.tokenizer, prompts, vocabulary.length(self.tokenizer))

    def unread(self, prompts: Sequence[str]) -> list[str]:
        return vocabulary.longer(prompts, {self.tokenizer: vocabulary.length(self.tokenizer)})

    def embed(self, tokens: Tensor) -> Condition:
        told = [self._padded(tokens, part) for part in self._encoders]
        if tokens.dim() == 2:
            return self._read(told, self.parts)
        encoders = {part: rebuild(self.parts[part], {}) for part in self._encoders}  # modules of their own, to carry the hooks alone
        for weights, encoder in zip(told, encoders.values(), strict=True):
            cast(Any, encoder).get_input_embeddings().register_forward_hook(_softly(weights))
        return self._read([weights.argmax(-1) for weights in told], encoders)

    def condition(self, prompts: Sequence[str]) -> Condition:
        ids = [vocabulary.ids(tokenizer, prompts, vocabulary.length(tokenizer)) for tokenizer in self.tokenizers]
        with torch.no_grad():
            read = [self._read([part[i : i + 128] for part in ids], self.parts) for i in range(0, len(prompts), 128)]
        pooled = None if read[0].pooled is None else torch.cat([cast(Tensor, r.pooled) for r in read])
        return _without(Condition(torch.cat([r.text for r in read]), pooled), [self.blank and not prompt for prompt in prompts])

    @property
    def _encoders(self) -> list[str]:
        return [part for part in ("text_encoder", SECOND) if part in self.parts]

    def _read(self, ids: Sequence[Tensor], encoders: Mapping[str, nn.Module]) -> Condition:
        """Encode each encoder's ids (B, L)."""
        told = {part: row.to(self.device) for part, row in zip(self._encoders, ids, strict=True)}
        with self._awake(*told):
            if len(told) == 1:
                return Condition(encoders["text_encoder"](told["text_encoder"])[0].to(self.dtype))
            seen = [encoders[part](row, output_hidden_states=True) for part, row in told.items()]
        text = torch.cat([s.hidden_states[-2] for s in seen], -1)
        return Condition(text.to(self.dtype), seen[-1].text_embeds.to(self.dtype))

    def _padded(self, tokens: Tensor, part: str) -> Tensor:
        """Tokens, ids (B, L) or weights (B, L, V), as this encoder's tokenizer pads them: what follows the first end is its padding."""
        if part != SECOND:
            return tokens
        ids = tokens if tokens.dim() == 2 else tokens.argmax(-1)
        ends = (ids == self.tokenizer.eos_token_id).int()
        after = (ends.cumsum(1) - ends) > 0  # an end before it
        pad = torch.tensor(self.tokenizers[1].pad_token_id, device=tokens.device)
        if tokens.dim() == 2:
            return torch.where(after, pad, tokens)
        return torch.where(after[..., None], nn.functional.one_hot(pad, tokens.shape[-1]).to(tokens), tokens)

    def grid(self, steps: int) -> Tensor:
        return self._times.grid(steps)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._times.levels(t)

    def draw_times(self, count: int, rng: Generator) -> Tensor:
        return self._times.draw(count, rng)

    def denoise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        more: dict[str, Any] = {}
        if self.distilled:
            told = torch.ones(len(x_t)) if condition.guidance is None else condition.guidance
            more["timestep_cond"] = guidance_features(told, cast(Any, self.parts["unet"]).config.time_cond_proj_dim).to(x_t)
        if condition.pooled is not None:
            height, width = (side * self.factor for side in x_t.shape[2:])
            sizes = torch.tensor([[height, width, 0, 0, height, width]]).to(x_t)
            more["added_cond_kwargs"] = {"text_embeds": condition.pooled, "time_ids": sizes.expand(len(x_t), -1)}
        value = self.parts["unet"](x_t, t, condition.text, return_dict=False, **more)[0]
        signal, level = (v.to(x_t).reshape(-1, 1, 1, 1) for v in self.schedule(t))
        return Prediction(x_t, signal, level, value, self.kind)

    def encode(self, images: Tensor) -> Tensor:
        return self._encoded(images)

    def decode(self, latents: Tensor) -> Tensor:
        return self._decoded(latents)

    def scope(self, name: str) -> list[str]:
        return self._chosen(name, SCOPES)

    def _identity(self) -> str:
        return f"{self._times.identity}{' blank' if self.blank else ''}"

    def _words(self) -> dict[str, Any]:
        return dict(zip(("tokenizer", "tokenizer_2"), self.tokenizers, strict=False))

    def _sampled(self) -> dict[str, Any]:
        return self._times.steps

    def _levels(self, folder: Path | None) -> dict[str, Any]:
        from diffusers import DDIMScheduler

        return (self._times if folder is None else Timesteps(DDIMScheduler.from_pretrained(folder))).told

    def _indexed(self, folder: Path) -> list[str]:
        zeros = bool(sources.index(folder).get("force_zeros_for_empty_prompt", True)) and SECOND in self.parts
        return [] if zeros == self.blank else [f"force_zeros_for_empty_prompt is {zeros} there and {self.blank} here"]

    def pipeline(self) -> Any:
        """A diffusers pipeline that shares every weight; what it is loaded with later does not reach this model."""
        from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

        shared = {part: frozen(module) for part, module in self.parts.items()}
        if SECOND in self.parts:
            first, second = copy.deepcopy(self.tokenizers)
            return StableDiffusionXLPipeline(
                **shared,
                tokenizer=first,
                tokenizer_2=second,
                scheduler=self.scheduler,
                force_zeros_for_empty_prompt=self.blank,
                add_watermarker=False,
            )
        return StableDiffusionPipeline(
            **shared,
            tokenizer=copy.deepcopy(self.tokenizer),
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    @staticmethod
    def from_pipeline(pipe: Any, name: str = "pipeline") -> LatentModel:
        """The model inside a diffusers pipeline of Stable Diffusion's shape; shares its weights."""
        parts = {part: getattr(pipe, part, None) for part in (*PARTS, SECOND)}
        found = {part: frozen(module) for part, module in parts.items() if isinstance(module, nn.Module)}
        missing = [part for part in PARTS if part not in found]
        if missing:
            refiner = " (a refiner? give the base model)" if SECOND in found else ""
            raise Incompatible(f"{type(pipe).__name__} has no {', '.join(missing)}{refiner}; Stable Diffusion's layout is supported")
        tokenizers = [pipe.tokenizer, pipe.tokenizer_2] if SECOND in found else pipe.tokenizer
        blank = SECOND in found and bool(pipe.config.get("force_zeros_for_empty_prompt", True))
        return LatentModel(name, found, tokenizers, pipe.scheduler, blank=blank)

    @staticmethod
    def from_folder(folders: Mapping[str, Path], name: str, dtype: torch.dtype = torch.float32, *, blank: bool = False) -> LatentModel:
        """Read component folders in diffusers' layout; every weight must be there, and no other.

        Arguments:
            folders: Component -> folder: unet, vae, text_encoder, tokenizer, scheduler; for SDXL text_encoder_2 and tokenizer_2.
            dtype: Of the weights; an autoencoder that overflows in half precision (its `force_upcast`) stays in single.
            blank: As in the model's `model_index.json`, `force_zeros_for_empty_prompt`.
        """
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        present(folders, name)
        kinds: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
        kinds |= {SECOND: CLIPTextModelWithProjection} if SECOND in folders else {}
        parts: dict[str, nn.Module] = {}
        for part, kind in kinds.items():
            precision = {"dtype" if part.startswith("text_encoder") else "torch_dtype": dtype}
            parts[part] = whole(kind, folders[part], f"{part} of {name}", **precision)
        words = [part for part in ("tokenizer", "tokenizer_2") if part in folders]
        tokenizers = [vocabulary.load(CLIPTokenizer, folders[part], f"{part} of {name}") for part in words]
        return LatentModel(name, parts, tokenizers, scheduled(folders["scheduler"], name), blank=blank)


def _softly(weights: Tensor) -> Callable[..., Tensor]:
    """A forward hook on a table of embeddings: rows by these weights (B, L, V) instead of by ids."""
    return lambda table, *_: weights.to(table.weight) @ table.weight[: weights.shape[-1]]


def _without(condition: Condition, blank: Sequence[bool]) -> Condition:
    """The condition with zeros in the rows that are blank."""
    if not any(blank):
        return condition
    empty = torch.tensor(blank, device=condition.text.device)
    text = condition.text.masked_fill(empty[:, None, None], 0)
    return Condition(text, None if condition.pooled is None else condition.pooled.masked_fill(empty[:, None], 0))
