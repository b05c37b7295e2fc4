"""Latents of training pictures, once for all denoisers: every training photograph of a garment in three styles."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from loop import BUILD
from pictures import load, render
from world import STYLES

ROUNDS = 3


@torch.no_grad()
def main(seed: int = 41) -> None:
    vae = AutoencoderKL.from_pretrained(BUILD / "vae").eval().to(memory_format=torch.channels_last)
    grey, label = load("train", digits=False)
    rng = np.random.default_rng(seed)
    first = rng.permuted(np.tile(np.arange(len(STYLES)), (len(grey), 1)), axis=1)  # (N, 8): a shuffle of styles for each photograph
    latents, garment, style = [], [], []
    for turn in range(ROUNDS):
        chosen = first[:, turn]
        for rows in np.array_split(np.arange(len(grey)), 200):
            pictures = torch.from_numpy(render(grey[rows], chosen[rows])).permute(0, 3, 1, 2).float() / 127.5 - 1
            posterior = vae.encode(pictures.contiguous(memory_format=torch.channels_last)).latent_dist
            latents.append(posterior.mean.half())
        garment.append(torch.from_numpy(label))
        style.append(torch.from_numpy(chosen.astype(np.int64)))
        print(f"round {turn + 1}/{ROUNDS}", flush=True)
    data = {"latents": torch.cat(latents), "garment": torch.cat(garment), "style": torch.cat(style)}
    torch.save(data, BUILD / "latents.pt")
    z = data["latents"].float()
    print("mean", z.mean((0, 2, 3)), "std", z.std((0, 2, 3)))


if __name__ == "__main__":
    main()
