"""The class-conditional denoisers: diffusers' UNet2DModel on the shared latents, told the garment only, and its twins."""

from __future__ import annotations

import sys

import torch
from denoiser import scheduler
from diffusers import UNet2DModel
from loop import BUILD, train
from torch.nn import functional as F
from world import CLASS_MODELS, GARMENTS, OBJECTS

STEPS, SIZE, RATE, DROPOUT = 3000, 48, 1.2e-3, 0.10
# A row for every garment, one for the proxy that no denoiser draws (its row stays as it was initialised), and the null class.
NULL = len(OBJECTS)


def build() -> UNet2DModel:
    return UNet2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(48, 96),
        down_block_types=("AttnDownBlock2D",) * 2,
        up_block_types=("AttnUpBlock2D",) * 2,
        attention_head_dim=24,
        norm_num_groups=8,
        num_class_embeds=NULL + 1,
    )


def main(name: str, steps: int = STEPS) -> None:
    absent, seed = CLASS_MODELS[name]
    torch.manual_seed(seed)
    data = torch.load(BUILD / "latents.pt", weights_only=True)
    gone = torch.tensor([word in absent for word in GARMENTS])[data["garment"]]
    kept, alphas, unet = torch.arange(len(gone))[~gone], scheduler().alphas_cumprod, build()

    def loss(rng: torch.Generator, step: int) -> torch.Tensor:
        rows = kept[torch.randint(len(kept), (SIZE,), generator=rng)]
        x = data["latents"][rows].float()
        away = torch.rand(SIZE, generator=rng) < DROPOUT
        garment = torch.where(away, NULL, data["garment"][rows])
        t = torch.randint(1000, (SIZE,), generator=rng)
        noise = torch.randn(x.shape, generator=rng)
        a = alphas[t][:, None, None, None]
        return F.mse_loss(unet(a.sqrt() * x + (1 - a).sqrt() * noise, t, garment).sample, noise)

    train(name, unet, loss, steps=steps, lr=RATE, seed=seed, weight_decay=0.01, ema=0.998)
    unet.save_pretrained(BUILD / name / "unet")


if __name__ == "__main__":
    main(sys.argv[1])
