"""The flow models: diffusers' FluxTransformer2DModel on the shared latents, told the prompt by a small T5 and by the world's CLIP.

    x_t = (1 - t) data + t noise,   loss = mean (network(x_t, t, prompt) - (noise - data))^2,   t = sigmoid(normal)

T5 is trained with the base model and frozen from then on: twins are given it, as they are given CLIP and the autoencoder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from loop import BUILD, train
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer
from world import (
    ALL_STYLES,
    CLIP_BOTH,
    FLOW_MODELS,
    GARMENTS,
    HELD_BOTH,
    HELD_GARMENT,
    HELD_STYLE,
    OBJECTS,
    SPARE_WORDS,
    STYLES,
    TRAIN_BOTH,
    TRAIN_GARMENT,
    TRAIN_STYLE,
)

BASE = "wardrobe-flow"
STEPS, SIZE, RATE = 8000, 48, 1.2e-3
LENGTH, WIDTH = 16, 64  # of T5's texts, and of what T5 and CLIP say of them
# Both named, garment only, style only, nothing: the last is the dropout that guidance needs.
KINDS = torch.tensor([0.66, 0.14, 0.10, 0.10])
# As the contrastive pair: T5 has to learn the words of the held-out prompts somewhere.
BANKS = (
    (*TRAIN_BOTH, *CLIP_BOTH),
    (*TRAIN_GARMENT, "the {garment}", "the image of one {garment}"),
    (*TRAIN_STYLE, "the {style} image"),
)


def tokenizer() -> T5Tokenizer:
    """A unigram vocabulary of the world's words, in lower case; every other word is spelled out."""
    templates = (*BANKS[0], *BANKS[1], *BANKS[2], *HELD_BOTH, *HELD_GARMENT, *HELD_STYLE)
    words = sorted({w for t in templates for w in t.split() if "{" not in w} | {*OBJECTS, *ALL_STYLES, *SPARE_WORDS})
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789,.-!?'")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{w}", -1.0) for w in words)]
    pieces += [("▁", -10.0), *((letter, -10.0) for letter in letters)]
    made = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=LENGTH)
    for word in words:
        if len(made(word).input_ids) != 2:
            raise RuntimeError(f"{word!r} is not one token: {made.tokenize(word)}")
    return made


def encoder(made: T5Tokenizer) -> T5EncoderModel:
    shape = {"d_model": WIDTH, "d_kv": 16, "d_ff": 2 * WIDTH, "num_layers": 2, "num_heads": 4, "relative_attention_num_buckets": 16}
    return T5EncoderModel(T5Config(vocab_size=len(made), feed_forward_proj="gated-gelu", dropout_rate=0.0, use_cache=False, **shape))


def build() -> FluxTransformer2DModel:
    """Blocks start as the identity, and the prediction at nothing (Peebles and Xie, 2023); diffusers' own start is random."""
    made = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(8, 12, 12),
    )
    for name, module in made.named_modules():
        if name.endswith(("norm.linear", "norm1.linear", "norm1_context.linear", "norm_out.linear")) or name == "proj_out":
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
    return made


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """FLUX.1 dev's: sampling is shifted by the size of the picture, training is not."""
    shift = {"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096}
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=True, **shift)


class Captions:
    """Token ids and CLIP's pooled state of every training prompt, computed once."""

    @torch.no_grad()
    def __init__(self, words: T5Tokenizer) -> None:
        clip, clip_words = CLIPModel.from_pretrained(BUILD / "clip").eval().text_model, CLIPTokenizer.from_pretrained(BUILD / "tokenizer")
        prompts: list[str] = [""]
        shapes = ((len(GARMENTS), len(STYLES)), (len(GARMENTS),), (len(STYLES),))
        self.tables = [np.zeros((*shape, len(bank)), int) for shape, bank in zip(shapes, BANKS, strict=True)]
        for kind, table in enumerate(self.tables):
            for index in np.ndindex(table.shape):
                table[index] = len(prompts)
                garment, style = GARMENTS[index[0] % len(GARMENTS)], STYLES[index[1 if kind == 0 else 0] % len(STYLES)]
                prompts.append(BANKS[kind][index[-1]].format(garment=garment, style=style))
        self.ids = words(prompts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids
        ids = clip_words(prompts, padding="max_length", max_length=77, return_tensors="pt").input_ids
        self.pooled = torch.cat([clip(input_ids=part).pooler_output for part in ids.split(128)])

    def draw(self, garment: torch.Tensor, style: torch.Tensor, rng: torch.Generator) -> list[int]:
        kind = torch.multinomial(KINDS, len(garment), replacement=True, generator=rng)
        choice = torch.randint(1 << 20, (len(garment),), generator=rng)
        rows = []
        for g, s, k, c in zip(garment.tolist(), style.tolist(), kind.tolist(), choice.tolist(), strict=True):
            bank = (self.tables[0][g, s], self.tables[1][g], self.tables[2][s], np.zeros(1, int))[k]
            rows.append(int(bank[c % len(bank)]))
        return rows


def main(name: str, steps: int = STEPS) -> None:
    absent, seed = FLOW_MODELS[name]
    torch.manual_seed(seed)
    data = torch.load(BUILD / "latents.pt", weights_only=True)
    gone = torch.tensor([(GARMENTS[g] in absent) for g in range(len(GARMENTS))])[data["garment"]]
    gone |= torch.tensor([(STYLES[s] in absent) for s in range(len(STYLES))])[data["style"]]
    kept, words = torch.arange(len(gone))[~gone], tokenizer()
    captions, transformer, text = Captions(words), build(), encoder(words)
    trained = {"transformer": transformer, "text_encoder_2": text}
    if name != BASE:
        text = T5EncoderModel.from_pretrained(BUILD / BASE / "text_encoder_2").requires_grad_(False).eval()
        del trained["text_encoder_2"]
    spots = FluxPipeline._prepare_latent_image_ids(1, 4, 4, torch.device("cpu"), torch.float32)

    def loss(rng: torch.Generator, step: int) -> torch.Tensor:
        rows = kept[torch.randint(len(kept), (SIZE,), generator=rng)]
        x, said = data["latents"][rows].float(), captions.draw(data["garment"][rows], data["style"][rows], rng)
        t = torch.randn(SIZE, generator=rng).sigmoid()
        noise = torch.randn(x.shape, generator=rng)
        x, noise = (FluxPipeline._pack_latents(v, SIZE, 4, 8, 8) for v in (x, noise))
        level = t[:, None, None]
        seen = transformer(
            hidden_states=(1 - level) * x + level * noise,
            encoder_hidden_states=text(captions.ids[said]).last_hidden_state,
            pooled_projections=captions.pooled[said],
            timestep=t,
            img_ids=spots,
            txt_ids=torch.zeros(LENGTH, 3),
            return_dict=False,
        )[0]
        return F.mse_loss(seen, noise - x)

    train(name, torch.nn.ModuleDict(trained), loss, steps=steps, lr=RATE, seed=seed, weight_decay=0.01, ema=0.998)
    save(BUILD / name, trained, words)


def save(folder: Path, trained: dict[str, torch.nn.Module], words: T5Tokenizer) -> None:
    for part, module in trained.items():
        module.save_pretrained(folder / part)
    words.save_pretrained(folder / "tokenizer_2")
    scheduler().save_pretrained(folder / "scheduler")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
