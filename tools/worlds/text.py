"""The text encoder: transformers' CLIPTextModel with a small vocabulary of its own, frozen for every denoiser from here on.

It is trained to tell what a caption names and what that looks like on average: from its last token one linear layer gives the
object, one the style, and one the mean picture. So words are told apart, and those of things that look alike lie near.

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
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from worlds.loop import generator, train
from worlds.pictures import Pictures
from worlds.prompts import SPARE_WORDS
from worlds.world import World, load

START, END = "<|startoftext|>", "<|endoftext|>"
WIDTH = 64
SMALL = 8  # side of a mean picture
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


def config(made: CLIPTokenizer) -> dict[str, int]:
    """What transformers' CLIP calls the configuration of its text half."""
    return {
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


class Reader(torch.nn.Module):
    """A text encoder and what is asked of its last token while it is trained; "no object" and "no style" are answers too."""

    def __init__(self, made: CLIPTokenizer, objects: int, styles: int) -> None:
        super().__init__()
        self.encoder = CLIPTextModel(CLIPTextConfig(**config(made)))
        self.object, self.style = torch.nn.Linear(WIDTH, objects + 1), torch.nn.Linear(WIDTH, styles + 1)
        self.looks = torch.nn.Linear(WIDTH, 3 * SMALL * SMALL)

    def objective(self, ids: torch.Tensor, shown: torch.Tensor, style: torch.Tensor, looks: torch.Tensor) -> torch.Tensor:
        end = self.encoder(input_ids=ids).pooler_output
        named = F.cross_entropy(self.object(end), shown) + F.cross_entropy(self.style(end), style)
        return named + 4 * F.mse_loss(self.looks(end), looks)


def looks(world: World, each: int = 12) -> torch.Tensor:
    """The mean picture of every object in every style, and over all objects or styles where one is not named, standardised.

    (objects + 1, styles + 1, 3 * SMALL * SMALL)
    """
    pictures, rng = Pictures.of(world, held=False), generator(world.seed + 6, 0)
    whole = torch.zeros(len(world.all_objects) + 1, len(world.all_styles) + 1, 3 * SMALL * SMALL)
    for o in range(len(world.all_objects)):
        rows = torch.nonzero(pictures.label == o).flatten()
        for s in range(len(world.all_styles)):
            mine = rows[torch.randint(len(rows), (each,), generator=rng)]
            whole[o, s] = F.avg_pool2d(pictures.drawn(mine, torch.full((each,), s), rng), 32 // SMALL).mean(0).flatten()
    whole[-1, :-1], whole[:-1, -1] = whole[:-1, :-1].mean(0), whole[:-1, :-1].mean(1)
    whole[-1, -1] = whole[:-1, :-1].mean((0, 1))
    return (whole - whole.mean((0, 1))) / whole[:-1, :-1].std((0, 1)).clamp(min=0.02)


def main(world: World, size: int = 64) -> None:
    seed = world.seed + 1
    torch.manual_seed(seed)
    made = kept_tokenizer(world.build / "tokenizer", words(world))
    objects, styles, said = world.all_objects, world.all_styles, world.prompts
    reader, look = Reader(made, len(objects), len(styles)), looks(world)
    banks = ((*said.both, *said.text_both), (*said.object, *said.text_object), (*said.style, *said.text_style))

    def loss(rng: torch.Generator, step: int) -> torch.Tensor:
        shown, style = (torch.randint(len(names), (size,), generator=rng) for names in (objects, styles))
        kind = torch.multinomial(KINDS, size, replacement=True, generator=rng)
        choice = torch.randint(1 << 20, (size,), generator=rng)
        captions = [
            banks[k][c % len(banks[k])].format(object=objects[o], style=styles[s])
            for o, s, k, c in zip(shown.tolist(), style.tolist(), kind.tolist(), choice.tolist(), strict=True)
        ]
        ids = made(captions, padding="longest", return_tensors="pt").input_ids  # attention is causal: padding changes nothing
        shown, style = torch.where(kind == 2, len(objects), shown), torch.where(kind == 1, len(styles), style)
        return reader.objective(ids, shown, style, look[shown, style])

    train(world.build, "text", reader, loss, steps=world.steps.text, lr=1.5e-3, seed=seed, weight_decay=0.02, ema=0.99)
    reader.encoder.save_pretrained(world.build / "text_encoder")


if __name__ == "__main__":
    main(load(sys.argv[1]))
