"""What training costs in memory for each weight that is trained, in float32 and in bfloat16.

    python benchmarks/leaves.py

A U-Net of Stable Diffusion's kind with random weights, wide and at tiny pictures, so that weights outweigh activations. Every weight of
it is trained. Each row is a process of its own: the peak of its memory over two steps of AdamW, less what it held before.
"""

from __future__ import annotations

import resource
import subprocess
import sys


def measured(dtype: str) -> str:
    """A row of the table; for a process that has done nothing else."""
    import torch
    from diffusers import UNet2DConditionModel

    from vestige import models
    from vestige.methods import Training, fit
    from vestige.methods.objectives import denoising
    from vestige.models.latent import LatentModel
    from vestige.seeds import generator

    small = models.load("wardrobe", models.Placement(dtype=dtype, device="cpu"))
    config = {**small.parts["unet"].config, "block_out_channels": (256, 512), "sample_size": 8}  # type: ignore[attr-defined]
    blocks = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
    config = {key: value for key, value in {**config, **blocks}.items() if not key.startswith("_")}
    unet = UNet2DConditionModel.from_config(config).to(getattr(torch, dtype))
    model = LatentModel("wide", {**small.parts, "unet": unet}, small.tokenizer, small.scheduler)  # type: ignore[attr-defined]
    latents, condition = torch.zeros(1, *model.latent_shape, dtype=model.dtype), model.condition(["a bag"])
    denoising(model, latents, condition, generator(0))  # what a pass needs is there before
    before = _bytes()
    view, leaves = model.trainable(model.scope("unet"))
    list(fit(leaves, lambda rng: denoising(view, latents, condition, rng), Training(steps=2, lr=1e-5), seed=0))
    count = sum(leaf.numel() for leaf in leaves.values())
    return f"| {dtype} | {count / 1e6:.1f} | {(_bytes() - before) / 2**20:.0f} | {(_bytes() - before) / count:.1f} |"


def _bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Print the table."""
    print("| model | million weights trained | MiB more | bytes a weight |\n|---|---|---|---|")
    for dtype in ("float32", "bfloat16"):
        done = subprocess.run([sys.executable, __file__, dtype], capture_output=True, text=True, check=True)
        print(done.stdout.strip().splitlines()[-1], flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(measured(sys.argv[1]))
    else:
        main()
