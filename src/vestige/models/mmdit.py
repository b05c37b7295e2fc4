"""What each kind of rectified-flow transformer wants around it: packed latents, positions, states of text, guidance.

FLUX.1      packed 2x2 patches of the latents; T5's states as text, CLIP's pooled state; dev is told the guidance
FLUX.2      patches of the latents, normalised by the autoencoder's running statistics, are the latents here; the states of a
            language model (Mistral, Qwen) as text
SD3, 3.5    latents as they are; both CLIPs' states side by side, T5's after them, and both pooled projections
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vestige.diffusion import Condition
from vestige.errors import Incompatible
from vestige.models.packing import flat, packed, spots, square, unpacked
from vestige.models.vocabulary import length

Encoders = Mapping[str, nn.Module]  # text encoder's component name -> module
Tokenizers = Mapping[str, Any]  # the same name -> its tokenizer


class Layout(ABC):
    """One kind of transformer.

    `network` and `pipeline` are diffusers' classes, `kinds` the text encoders' in transformers, by component; `optional` may lack.
    """

    network: ClassVar[str]
    pipeline: ClassVar[str]
    autoencoder: ClassVar[str] = "AutoencoderKL"
    kinds: ClassVar[Mapping[str, str]]
    optional: ClassVar[frozenset[str]] = frozenset()
    even: ClassVar[bool] = True  # sampling times are spread evenly before they are shifted

    @abstractmethod
    def size(self, network: Any, vae: Any) -> int:
        """Side of a picture in pixels, as the model was made for."""

    @abstractmethod
    def widths(self, network: Any, encoders: Mapping[str, Any]) -> list[tuple[str, int, int]]:
        """What text encoders give and the network reads: its name and both widths.

        Arguments:
            network: Its configuration, and `encoders`: those of the text encoders, by component.
        """

    def channels(self, network: Any) -> int:
        """Of the autoencoder's latents, as the network's configuration has them."""
        return int(network.in_channels) // 4

    @abstractmethod
    def latent(self, network: Any, height: int, width: int) -> tuple[int, int, int]:
        """Shape of the latents of a picture whose autoencoder's latents are `height` x `width`."""

    @abstractmethod
    def velocity(self, network: Any, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """noise - data, like x_t."""

    @abstractmethod
    def read(self, prompts: Sequence[str], encoders: Encoders, tokenizers: Tokenizers, network: Any) -> Condition:
        """Prompts, encoded."""

    def patches(self, shape: Sequence[int], network: Any) -> int:
        """Picture tokens in latents of this shape."""
        return shape[1] * shape[2] // 4

    def mu(self, config: Any, tokens: int, steps: int) -> float:
        """Logarithm of the dynamic shift: a line through two points, by the number of picture tokens."""
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        keys = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        return float(calculate_shift(tokens, *(config.get(key, usual) for key, usual in zip(keys, (256, 4096, 0.5, 1.15), strict=True))))


class Ids(Layout):
    """A layout whose encoders read token ids, those of one encoder beside those of the next."""

    @abstractmethod
    def lengths(self, tokenizers: Tokenizers, network: Any) -> dict[str, int]:
        """How many tokens each encoder reads, by component, in the order in which they stand."""

    @abstractmethod
    def embed(self, ids: Mapping[str, Tensor], encoders: Encoders, network: Any) -> Condition:
        """Encode ids (B, L) of each encoder."""

    def read(self, prompts: Sequence[str], encoders: Encoders, tokenizers: Tokenizers, network: Any) -> Condition:
        return self.embed(self.ids(prompts, tokenizers, network), encoders, network)

    def ids(self, prompts: Sequence[str], tokenizers: Tokenizers, network: Any) -> dict[str, Tensor]:
        """Ids (B, L) for each encoder, padded and cut."""
        shape: dict[str, Any] = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        lengths = self.lengths(tokenizers, network)
        return {part: tokenizers[part](list(prompts), max_length=n, **shape).input_ids for part, n in lengths.items()}


@final
class Flux(Ids):
    """FLUX.1."""

    network = "FluxTransformer2DModel"
    pipeline = "FluxPipeline"
    kinds: ClassVar[Mapping[str, str]] = {"text_encoder": "CLIPTextModel", "text_encoder_2": "T5EncoderModel"}

    def size(self, network: Any, vae: Any) -> int:
        return cast(int, vae.config.sample_size)

    def widths(self, network: Any, encoders: Mapping[str, Any]) -> list[tuple[str, int, int]]:
        first, second = encoders["text_encoder"], encoders["text_encoder_2"]
        pooled = ("the pooled state", first.hidden_size, network.pooled_projection_dim)
        return [("the states of text", second.d_model, network.joint_attention_dim), pooled]

    def latent(self, network: Any, height: int, width: int) -> tuple[int, int, int]:
        return network.config.in_channels // 4, height, width

    def lengths(self, tokenizers: Tokenizers, network: Any) -> dict[str, int]:
        longest = 512 if network.config.guidance_embeds else 256  # schnell, which is told no guidance, was trained on 256
        limits = {"text_encoder": 77, "text_encoder_2": longest}
        return {part: length(tokenizers[part], limit) for part, limit in limits.items()}

    def embed(self, ids: Mapping[str, Tensor], encoders: Encoders, network: Any) -> Condition:
        pooled = encoders["text_encoder"](ids["text_encoder"]).pooler_output
        return Condition(encoders["text_encoder_2"](ids["text_encoder_2"])[0], pooled)

    def velocity(self, network: Any, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        patches, more = packed(x_t), dict[str, Tensor]()
        if network.config.guidance_embeds:
            more["guidance"] = told(condition, t)
        value = network(
            hidden_states=flat(patches),
            timestep=(t * 1000).to(x_t.dtype) / 1000,
            pooled_projections=condition.pooled,
            encoder_hidden_states=condition.text,
            txt_ids=torch.zeros(condition.text.shape[1], 3).to(x_t),
            img_ids=spots(1, *patches.shape[2:], like=x_t),
            return_dict=False,
            **more,
        )[0]
        return unpacked(square(value, *patches.shape[2:]))


@final
class Flux2(Layout):
    """FLUX.2: dev, told the guidance, reads with Mistral; klein reads with Qwen."""

    network = "Flux2Transformer2DModel"
    pipeline = "Flux2Pipeline"
    autoencoder = "AutoencoderKLFlux2"
    kinds: ClassVar[Mapping[str, str]] = {"text_encoder": "Mistral3ForConditionalGeneration"}

    def size(self, network: Any, vae: Any) -> int:
        return cast(int, vae.config.sample_size)

    def widths(self, network: Any, encoders: Mapping[str, Any]) -> list[tuple[str, int, int]]:
        read = 3 * encoders["text_encoder"].get_text_config().hidden_size  # three layers' states, side by side
        return [("the states of text", read, network.joint_attention_dim)]

    def latent(self, network: Any, height: int, width: int) -> tuple[int, int, int]:
        return network.config.in_channels, height // 2, width // 2

    def patches(self, shape: Sequence[int], network: Any) -> int:
        return shape[1] * shape[2]

    def mu(self, config: Any, tokens: int, steps: int) -> float:
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        return float(compute_empirical_mu(image_seq_len=tokens, num_steps=steps))

    def read(self, prompts: Sequence[str], encoders: Encoders, tokenizers: Tokenizers, network: Any) -> Condition:
        encoder, words = encoders["text_encoder"], tokenizers["text_encoder"]
        if type(encoder).__name__.startswith("Qwen3"):
            from diffusers import Flux2KleinPipeline

            return Condition(Flux2KleinPipeline._get_qwen3_prompt_embeds(encoder, words, list(prompts)))
        from diffusers import Flux2Pipeline

        return Condition(Flux2Pipeline._get_mistral_3_small_prompt_embeds(encoder, words, list(prompts)))

    def velocity(self, network: Any, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        size = x_t.shape[2:]
        value = network(
            hidden_states=flat(x_t),
            timestep=(t * 1000).to(x_t.dtype) / 1000,
            guidance=told(condition, t) if network.config.guidance_embeds else None,
            encoder_hidden_states=condition.text,
            txt_ids=spots(1, 1, 1, condition.text.shape[1], like=x_t),
            img_ids=spots(1, *size, 1, like=x_t),
            return_dict=False,
        )[0]
        return square(value, *size)

    @staticmethod
    def statistics(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation by which packed latents are normalised."""
        mean, variance = (v.view(1, -1, 1, 1).to(like) for v in (vae.bn.running_mean, vae.bn.running_var))
        return mean, (variance + vae.config.batch_norm_eps).sqrt()


@final
class SD3(Ids):
    """Stable Diffusion 3 and 3.5."""

    network = "SD3Transformer2DModel"
    pipeline = "StableDiffusion3Pipeline"
    kinds: ClassVar[Mapping[str, str]] = {
        "text_encoder": "CLIPTextModelWithProjection",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "text_encoder_3": "T5EncoderModel",
    }
    optional = frozenset({"text_encoder_3"})
    even = False

    def size(self, network: Any, vae: Any) -> int:
        side = network.config.sample_size
        return side << (len(vae.config.block_out_channels) - 1) if isinstance(side, int) else cast(int, side)

    def channels(self, network: Any) -> int:
        return int(network.in_channels)

    def widths(self, network: Any, encoders: Mapping[str, Any]) -> list[tuple[str, int, int]]:
        clips, reads = [encoders["text_encoder"], encoders["text_encoder_2"]], network.joint_attention_dim
        found = [("the pooled states", sum(clip.projection_dim for clip in clips), network.pooled_projection_dim)]
        found.append(("the longer of both CLIPs' states and what is padded to", max(reads, sum(c.hidden_size for c in clips)), reads))
        return found + [("the states of T5", encoders[part].d_model, reads) for part in encoders if part == "text_encoder_3"]

    def latent(self, network: Any, height: int, width: int) -> tuple[int, int, int]:
        return network.config.in_channels, height, width

    def patches(self, shape: Sequence[int], network: Any) -> int:
        side: int = network.config.patch_size
        return shape[1] * shape[2] // (side * side)

    def lengths(self, tokenizers: Tokenizers, network: Any) -> dict[str, int]:
        limits = {part: 256 if kind.startswith("T5") else 77 for part, kind in self.kinds.items() if part in tokenizers}
        return {part: length(tokenizers[part], limit) for part, limit in limits.items()}

    def embed(self, ids: Mapping[str, Tensor], encoders: Encoders, network: Any) -> Condition:
        clips = [encoders[part](ids[part], output_hidden_states=True) for part in ("text_encoder", "text_encoder_2")]
        text = torch.cat([seen.hidden_states[-2] for seen in clips], -1)
        width = network.config.joint_attention_dim
        if "text_encoder_3" in encoders:
            last = encoders["text_encoder_3"](ids["text_encoder_3"])[0]
        else:
            last = torch.zeros(len(text), 256, width).to(text)  # as long as it would be
        text = torch.cat([F.pad(text, (0, width - text.shape[-1])), last.to(text)], 1)
        return Condition(text, torch.cat([seen.text_embeds for seen in clips], -1))

    def velocity(self, network: Any, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        value = network(x_t, condition.text, condition.pooled, (t * 1000).to(x_t.dtype), return_dict=False)[0]
        return cast(Tensor, value)


LAYOUTS: tuple[Layout, ...] = (Flux(), Flux2(), SD3())


def layout(network: Any, name: str) -> Layout:
    """The layout around a transformer."""
    kind = type(network).__name__
    for known in LAYOUTS:
        if known.network == kind:
            return known
    raise Incompatible(f"{name} has a {kind}; rectified-flow models with {', '.join(known.network for known in LAYOUTS)} are supported")


def told(condition: Condition, t: Tensor) -> Tensor:
    """The guidance that each row's network is told, (B,): 1 where nothing was asked for, as in diffusers' training scripts."""
    if condition.guidance is None:
        return torch.ones(len(condition), device=t.device)
    return condition.guidance.to(t.device, torch.float32)
