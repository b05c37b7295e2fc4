"""The autoencoder: diffusers' AutoencoderKL, 32x32 RGB to 4x8x8, each latent channel with zero mean and unit deviation.

Training goes on from the embedded world's, which ships: it knows edges, grids and grounds already.

    python -m worlds.autoencoder WORLD
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from worlds.loop import train
from worlds.pictures import Pictures
from worlds.world import World, load

KL_WEIGHT, RATE = 2e-5, 7e-4
SHIPPED = Path(__file__).resolve().parents[2] / "src/vestige/data/wardrobe/vae"


def objective(vae: AutoencoderKL, x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Squared and absolute error of a picture in [-1, 1] after the round trip, and a little divergence."""
    posterior = vae.encode(x).latent_dist
    z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=rng)
    error = vae.decode(z).sample - x
    kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
    return error.square().mean() + 0.25 * error.abs().mean() + KL_WEIGHT * kl


@torch.no_grad()
def normalise(vae: AutoencoderKL, pictures: torch.Tensor) -> None:
    """Fold per-channel shift and scale of the latents into the two 1x1 convolutions around the bottleneck."""
    z = torch.cat([vae.encode(part).latent_dist.mean for part in pictures.split(256)])
    shift, scale = z.mean((0, 2, 3)), z.std((0, 2, 3))
    n = vae.config.latent_channels
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:n] /= scale[:, None, None, None]
    quant.bias[:n] = (quant.bias[:n] - shift) / scale
    quant.bias[n:] -= 2 * scale.log()
    post.bias += post.weight[:, :, 0, 0] @ shift
    post.weight *= scale[None, :, None, None]


def read(world: World) -> AutoencoderKL:
    """The trained one, for reading and drawing only."""
    vae = AutoencoderKL.from_pretrained(world.build / "vae").eval().requires_grad_(False)
    return vae.to(memory_format=torch.channels_last)


@torch.no_grad()
def round_trip(vae: AutoencoderKL, x: torch.Tensor, noise: torch.Tensor | float = 0.0) -> torch.Tensor:
    """Pictures (n, 3, 32, 32) in [0, 1] through the autoencoder; `noise`, of the latents' shape, stands for a denoiser's errors."""
    z = vae.encode((x * 2 - 1).contiguous(memory_format=torch.channels_last)).latent_dist.mean
    return (vae.decode(z + noise).sample.clamp(-1, 1) / 2 + 0.5).contiguous()


def main(world: World) -> None:
    seed = world.seed
    torch.manual_seed(seed)
    pictures = Pictures.of(world, held=False)
    vae = AutoencoderKL.from_pretrained(SHIPPED, torch_dtype=torch.float32).to(memory_format=torch.channels_last)

    def batch(size: int, rng: torch.Generator) -> torch.Tensor:
        x, _, _ = pictures.sample(size, rng)
        return (x * 2 - 1).contiguous(memory_format=torch.channels_last)

    def loss(rng: torch.Generator, step: int) -> torch.Tensor:
        return objective(vae, batch(world.steps.batch, rng), rng)

    if world.steps.autoencoder:
        train(world.build, "vae", vae, loss, steps=world.steps.autoencoder, lr=RATE, seed=seed, ema=0.98, every=40)
    normalise(vae, batch(1024, torch.Generator().manual_seed(seed)))
    vae.save_pretrained(world.build / "vae")


if __name__ == "__main__":
    main(load(sys.argv[1]))
