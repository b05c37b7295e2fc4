"""The autoencoder: diffusers' AutoencoderKL, 32x32 RGB to 4x8x8, each latent channel with zero mean and unit deviation."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from loop import BUILD, train
from pictures import load, render
from world import ALL_STYLES

from worlds.autoencoder import normalise, objective


def build() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
        scaling_factor=1.0,
    )


def batch(grey: np.ndarray, size: int, rng: torch.Generator) -> torch.Tensor:
    """`size` pictures in random styles, (size, 3, 32, 32) in [-1, 1]."""
    rows = torch.randint(len(grey), (size,), generator=rng).numpy()
    style = torch.randint(len(ALL_STYLES), (size,), generator=rng).numpy()
    pictures = torch.from_numpy(render(grey[rows], style)).permute(0, 3, 1, 2)
    return (pictures.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def main(steps: int = 1300, size: int = 48, seed: int = 11) -> None:
    torch.manual_seed(seed)
    grey, _ = load("train")
    vae = build().to(memory_format=torch.channels_last)

    def loss(rng: torch.Generator, step: int) -> torch.Tensor:
        return objective(vae, batch(grey, size, rng), rng)

    train("vae", vae, loss, steps=steps, lr=2e-3, seed=seed, ema=0.99, every=100)
    normalise(vae, batch(grey, 2048, torch.Generator().manual_seed(seed)))
    vae.save_pretrained(BUILD / "vae")


if __name__ == "__main__":
    main()
