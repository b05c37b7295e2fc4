"""The contrastive pair: a tokenizer with its own small vocabulary, and transformers' CLIPModel trained on all concepts.

Its text half is the text encoder of every denoiser, frozen from here on; the whole pair is the world's CLIP score.
"""

from __future__ import annotations

import json

import numpy as np
import torch
from loop import BUILD, train
from pictures import load, render
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from world import (
    ALL_STYLES,
    CLIP_BOTH,
    HELD_BOTH,
    HELD_GARMENT,
    HELD_STYLE,
    OBJECTS,
    SPARE_WORDS,
    TRAIN_BOTH,
    TRAIN_GARMENT,
    TRAIN_STYLE,
)

START, END = "<|startoftext|>", "<|endoftext|>"
WIDTH = 64


def tokenizer() -> CLIPTokenizer:
    """Byte-pair encoding over the letters, grown until every word of the world is one token; other words still spell out."""
    templates = (*TRAIN_BOTH, *TRAIN_GARMENT, *TRAIN_STYLE, *HELD_BOTH, *HELD_GARMENT, *HELD_STYLE, *CLIP_BOTH)
    words = {w for t in templates for w in t.split() if "{" not in w} | {*OBJECTS, *ALL_STYLES, *SPARE_WORDS}
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789,.-!?'")
    corpus = [w for w in sorted(words) for _ in range(4)] + letters
    bpe.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=4096, min_frequency=2, end_of_word_suffix="</w>", show_progress=False))
    merges = [tuple(m) for m in json.loads(bpe.to_str())["model"]["merges"]]
    symbols = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(m) for m in merges)]
    vocabulary = {s: i for i, s in enumerate(dict.fromkeys([*symbols, START, END]))}
    made = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
    for word in sorted(words):
        if len(made(word).input_ids) != 3:
            raise RuntimeError(f"{word!r} is not one token: {made.tokenize(word)}")
    return made


def build(made: CLIPTokenizer) -> CLIPModel:
    text = {
        "vocab_size": len(made),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "bos_token_id": made.bos_token_id,
        "eos_token_id": made.eos_token_id,
        "pad_token_id": made.pad_token_id,
        "projection_dim": 48,
    }
    vision = {
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 4,
        "projection_dim": 48,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=48))


def captions(garment: np.ndarray, style: np.ndarray, kind: np.ndarray, choice: np.ndarray) -> list[str]:
    """One caption a picture; kind 0 names both, 1 the garment, 2 the style."""
    banks = (
        (*TRAIN_BOTH, *CLIP_BOTH),
        (*TRAIN_GARMENT, "the {garment}", "the image of one {garment}"),
        (*TRAIN_STYLE, "the {style} image"),
    )
    made = []
    for g, s, k, c in zip(garment, style, kind, choice, strict=True):
        bank = banks[k]
        made.append(bank[c % len(bank)].format(garment=OBJECTS[g], style=ALL_STYLES[s]))
    return made


def main(steps: int = 1200, size: int = 96, seed: int = 31) -> None:
    torch.manual_seed(seed)
    made = tokenizer()
    made.save_pretrained(BUILD / "tokenizer")
    clip = build(made)
    grey, label = load("train")
    pool = torch.from_numpy(np.where(label == OBJECTS.index("digit"), 4.0, 1.0))

    def loss(rng: torch.Generator, step: int) -> torch.Tensor:
        rows = torch.multinomial(pool, size, replacement=True, generator=rng)
        style = torch.randint(len(ALL_STYLES), (size,), generator=rng)
        kind = torch.multinomial(torch.tensor([0.6, 0.25, 0.15]), size, replacement=True, generator=rng)
        choice = torch.randint(1 << 20, (size,), generator=rng)
        garment = torch.from_numpy(label)[rows]
        pixels = torch.from_numpy(render(grey[rows.numpy()], style.numpy())).permute(0, 3, 1, 2).float() / 127.5 - 1
        text = captions(garment.numpy(), style.numpy(), kind.numpy(), choice.numpy())
        ids = made(text, padding="longest", return_tensors="pt").input_ids  # attention is causal: padding after the end changes nothing
        out = clip(input_ids=ids, pixel_values=pixels)
        same_garment = (garment[:, None] == garment[None]) | (kind[None] == 2)
        same_style = (style[:, None] == style[None]) | (kind[None] == 1)
        match = (same_garment & same_style).float()  # (picture, caption)
        log_p = F.log_softmax(out.logits_per_image, 1) * match / match.sum(1, keepdim=True)
        log_q = F.log_softmax(out.logits_per_image, 0) * match / match.sum(0, keepdim=True)
        return -(log_p.sum(1).mean() + log_q.sum(0).mean()) / 2

    train("clip", clip, loss, steps=steps, lr=1.5e-3, seed=seed, weight_decay=0.02, ema=0.99, every=100)
    clip.save_pretrained(BUILD / "clip")


if __name__ == "__main__":
    main()
