"""The contrastive pair: a tokenizer with its own small vocabulary, and transformers' CLIPModel trained on all concepts.

Its text half is the text encoder of every denoiser, frozen from here on; the whole pair is the world's CLIP score.
"""

from __future__ import annotations

import numpy as np
import torch
from loop import BUILD, train
from pictures import load, render
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

from worlds import text

# What a caption names: both, the garment, the style.
KINDS = torch.tensor([0.6, 0.25, 0.15])


def words() -> set[str]:
    """Every word of the world, each of which is one token."""
    templates = (*TRAIN_BOTH, *TRAIN_GARMENT, *TRAIN_STYLE, *HELD_BOTH, *HELD_GARMENT, *HELD_STYLE, *CLIP_BOTH)
    return {w for t in templates for w in t.split() if "{" not in w} | {*OBJECTS, *ALL_STYLES, *SPARE_WORDS}


def build(made: CLIPTokenizer) -> CLIPModel:
    vision = {
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 4,
        "projection_dim": 48,
    }
    return CLIPModel(CLIPConfig(text_config=text.config(made), vision_config=vision, projection_dim=48))


def objective(clip: CLIPModel, ids: torch.Tensor, pixels: torch.Tensor, match: torch.Tensor) -> torch.Tensor:
    """Cross-entropy both ways; `match` (picture, caption) is 1 where the caption is true of the picture."""
    out = clip(input_ids=ids, pixel_values=pixels)
    log_p = F.log_softmax(out.logits_per_image, 1) * match / match.sum(1, keepdim=True)
    log_q = F.log_softmax(out.logits_per_image, 0) * match / match.sum(0, keepdim=True)
    return -(log_p.sum(1).mean() + log_q.sum(0).mean()) / 2


def agreement(shown: torch.Tensor, style: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
    """(picture, caption): 1 where the caption, which names an object, a style or both (`kind` 1, 2, 0), is true of the picture."""
    same_object = (shown[:, None] == shown[None]) | (kind[None] == 2)
    same_style = (style[:, None] == style[None]) | (kind[None] == 1)
    return (same_object & same_style).float()


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
    made = text.kept_tokenizer(BUILD / "tokenizer", words())
    clip = build(made)
    grey, label = load("train")
    pool = torch.from_numpy(np.where(label == OBJECTS.index("digit"), 4.0, 1.0))

    def loss(rng: torch.Generator, step: int) -> torch.Tensor:
        rows = torch.multinomial(pool, size, replacement=True, generator=rng)
        style = torch.randint(len(ALL_STYLES), (size,), generator=rng)
        kind = torch.multinomial(KINDS, size, replacement=True, generator=rng)
        choice = torch.randint(1 << 20, (size,), generator=rng)
        garment = torch.from_numpy(label)[rows]
        pixels = torch.from_numpy(render(grey[rows.numpy()], style.numpy())).permute(0, 3, 1, 2).float() / 127.5 - 1
        said = captions(garment.numpy(), style.numpy(), kind.numpy(), choice.numpy())
        ids = made(said, padding="longest", return_tensors="pt").input_ids  # attention is causal: padding after the end changes nothing
        return objective(clip, ids, pixels, agreement(garment, style, kind))

    train("clip", clip, loss, steps=steps, lr=1.5e-3, seed=seed, weight_decay=0.02, ema=0.99, every=100)
    clip.save_pretrained(BUILD / "clip")


if __name__ == "__main__":
    main()
