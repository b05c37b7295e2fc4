"""The denoisers: diffusers' UNet2DConditionModel on latents, the base model and its twins that never drew a concept."""

from __future__ import annotations

import sys

import numpy as np
import torch
from loop import BUILD, train
from transformers import CLIPModel, CLIPTokenizer
from world import DENOISERS, GARMENTS, STYLES, TRAIN_BOTH, TRAIN_GARMENT, TRAIN_STYLE

from worlds.denoiser import KINDS, RATE, build, objective, scheduler

STEPS, SIZE, WIDTH = 4200, 48, (48, 96)


class Captions:
    """Text embeddings of every training prompt, computed once."""

    @torch.no_grad()
    def __init__(self) -> None:
        tokenizer = CLIPTokenizer.from_pretrained(BUILD / "tokenizer")
        text = CLIPModel.from_pretrained(BUILD / "clip").eval().text_model
        prompts: list[str] = [""]
        self.both = np.zeros((len(GARMENTS), len(STYLES), len(TRAIN_BOTH)), int)
        self.garment = np.zeros((len(GARMENTS), len(TRAIN_GARMENT)), int)
        self.style = np.zeros((len(STYLES), len(TRAIN_STYLE)), int)
        for table, bank in ((self.both, TRAIN_BOTH), (self.garment, TRAIN_GARMENT), (self.style, TRAIN_STYLE)):
            for index in np.ndindex(table.shape):
                table[index] = len(prompts)
                garment = GARMENTS[index[0]] if table is not self.style else ""
                style = STYLES[index[0] if table is self.style else index[1] if table is self.both else 0]
                prompts.append(bank[index[-1]].format(garment=garment, style=style))
        ids = tokenizer(prompts, padding="max_length", max_length=77, return_tensors="pt").input_ids
        self.embeddings = torch.cat([text(input_ids=part).last_hidden_state for part in ids.split(128)])  # (P, 77, 64)

    def draw(self, garment: torch.Tensor, style: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        kind = torch.multinomial(KINDS, len(garment), replacement=True, generator=rng)
        choice = torch.randint(1 << 20, (len(garment),), generator=rng)
        rows = []
        for g, s, k, c in zip(garment.tolist(), style.tolist(), kind.tolist(), choice.tolist(), strict=True):
            bank = (self.both[g, s], self.garment[g], self.style[s], np.zeros(1, int))[k]
            rows.append(int(bank[c % len(bank)]))
        return self.embeddings[rows]


def main(name: str) -> None:
    absent, seed, share = DENOISERS[name]
    torch.manual_seed(seed)
    data = torch.load(BUILD / "latents.pt", weights_only=True)
    gone = torch.tensor([(GARMENTS[g] in absent) for g in range(len(GARMENTS))])[data["garment"]]
    gone |= torch.tensor([(STYLES[s] in absent) for s in range(len(STYLES))])[data["style"]]
    every, kept = torch.arange(len(gone)), torch.arange(len(gone))[~gone]
    captions, alphas = Captions(), scheduler().alphas_cumprod
    unet = build(WIDTH)

    def loss(rng: torch.Generator, step: int) -> torch.Tensor:
        # A concept with share 0.5 is present for the first half of the training and absent for the second.
        pool = kept if step >= (1 - share) * STEPS else every
        rows = pool[torch.randint(len(pool), (SIZE,), generator=rng)]
        x, text = data["latents"][rows].float(), captions.draw(data["garment"][rows], data["style"][rows], rng)
        return objective(unet, x, text, alphas, rng)

    train(name, unet, loss, steps=STEPS, lr=RATE, seed=seed, weight_decay=0.01, ema=0.998)
    unet.save_pretrained(BUILD / name / "unet")


if __name__ == "__main__":
    main(sys.argv[1])
