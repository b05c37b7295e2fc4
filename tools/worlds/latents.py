"""Latents of training pictures, once for all denoisers of a world, every object and style equally often.

python -m worlds.latents WORLD
"""

from __future__ import annotations

import sys

import torch

from worlds import autoencoder
from worlds.loop import generator
from worlds.pictures import Pictures
from worlds.world import World, load

PART = 240


@torch.no_grad()
def main(world: World) -> None:
    vae, pictures, seed = autoencoder.read(world), Pictures.of(world, held=False, proxy=False), world.seed + 4
    latents, shown, styles = [], [], []
    for part in range(-(-world.steps.latents // PART)):
        rng = generator(seed, part)
        rows = pictures.balanced(PART, rng)
        style = torch.randint(len(world.styles), (PART,), generator=rng)
        x = pictures.drawn(rows, style, rng) * 2 - 1
        latents.append(vae.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist.mean.half())
        shown.append(pictures.label[rows])
        styles.append(style)
    data = {"latents": torch.cat(latents).contiguous(), "object": torch.cat(shown), "style": torch.cat(styles)}
    torch.save(data, world.build / "latents.pt")
    z = data["latents"].float()
    print(len(z), "mean", z.mean((0, 2, 3)), "std", z.std((0, 2, 3)))


if __name__ == "__main__":
    main(load(sys.argv[1]))
