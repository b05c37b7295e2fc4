"""The contrastive pair: a tokenizer with its own small vocabulary, and transformers' CLIPModel trained on all concepts.

Its text half is the text encoder of every denoiser, frozen from here on.

    python -m worlds.text WORLD
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from worlds.loop import train
from worlds.pictures import Pictures
from worlds.prompts import SPARE_WORDS
from worlds.world import World, load

START, END = "<|startoftext|>", "<|endoftext|>"
WIDTH = 64
# What a caption names: both, the object, the style.
KINDS = torch.tensor([0.6, 0.25, 0.15])


def tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """Byte-pair encoding over the letters, grown until every one of the words is one token; other words still spell out."""
    words = set(words)
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


def kept_tokenizer(folder: Path, words: Iterable[str]) -> CLIPTokenizer:
    """The tokenizer of a build folder, made on the first run only: the order of equal merges is left to chance, and ids follow it."""
    if not (folder / "tokenizer_config.json").exists():
        tokenizer(words).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def words(world: World) -> set[str]:
    return {*world.prompts.words(), *world.all_objects, *world.all_styles, *SPARE_WORDS}


def build(made: CLIPTokenizer, patch: int = 8) -> CLIPModel:
    """A pair for the tokenizer; fewer, larger patches are quicker, and do where only the text half is used."""
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
        "patch_size": patch,
        "projection_dim": 48,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=48))


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


def main(world: World, size: int = 64) -> None:
    seed = world.seed + 1
    torch.manual_seed(seed)
    made = kept_tokenizer(world.build / "tokenizer", words(world))
    clip, pictures, said = build(made), Pictures.of(world, held=False), world.prompts
    banks = ((*said.both, *said.text_both), (*said.object, *said.text_object), (*said.style, *said.text_style))

    def loss(rng: torch.Generator, step: int) -> torch.Tensor:
        x, shown, style = pictures.sample(size, rng)
        kind = torch.multinomial(KINDS, size, replacement=True, generator=rng)
        choice = torch.randint(1 << 20, (size,), generator=rng)
        captions = [
            banks[k][c % len(banks[k])].format(object=world.all_objects[o], style=world.all_styles[s])
            for o, s, k, c in zip(shown.tolist(), style.tolist(), kind.tolist(), choice.tolist(), strict=True)
        ]
        ids = made(captions, padding="longest", return_tensors="pt").input_ids  # attention is causal: padding changes nothing
        return objective(clip, ids, x * 2 - 1, agreement(shown, style, kind))

    train(world.build, "clip", clip, loss, steps=world.steps.text, lr=1.5e-3, seed=seed, weight_decay=0.02, ema=0.99, every=100)
    clip.save_pretrained(world.build / "clip")


if __name__ == "__main__":
    main(load(sys.argv[1]))
