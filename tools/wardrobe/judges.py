"""Two judges of garment and style: transformers' own classifiers, of different architecture, seed and augmentation.

One network, twenty logits: eleven objects, then nine styles; each group is a softmax of its own.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from loop import BUILD, train
from pictures import load, render
from torch.nn import functional as F
from world import ALL_STYLES, OBJECTS

from worlds.judges import blurred, build, objective, prepare


def augment(name: str, x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Flips, shifts, and blur (select) or noise and contrast (verify), so that the two judges err differently."""
    n = len(x)
    flip = torch.rand(n, generator=rng) < 0.5
    x = torch.where(flip[:, None, None, None], x.flip(3), x)
    shift = torch.randint(-2, 3, (n, 2), generator=rng).float() / 16
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 if name == "select" else 0.94 + 0.12 * torch.rand(n, generator=rng)
    theta[:, :, 2] = shift
    x = F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), padding_mode="border", align_corners=False)
    return blurred(name, x, rng)


def main(name: str) -> None:
    seed, steps = {"select": (21, 2600), "verify": (22, 3400)}[name]
    torch.manual_seed(seed)
    grey, label = load("train")
    weight = np.where(label == OBJECTS.index("digit"), 3.0, 1.0)  # 1,200 digits among 60,000 garments
    pool = torch.from_numpy(weight / weight.sum())
    judge = build(name, (*OBJECTS, *ALL_STYLES))

    def loss(rng: torch.Generator, step: int) -> torch.Tensor:
        rows = torch.multinomial(pool, 64, replacement=True, generator=rng)
        style = torch.randint(len(ALL_STYLES), (64,), generator=rng)
        x = torch.from_numpy(render(grey[rows.numpy()], style.numpy())).permute(0, 3, 1, 2).float() / 255
        logits = judge(prepare(name, augment(name, x, rng))).logits  # (64, 20)
        return objective(logits, torch.from_numpy(label)[rows], style, len(OBJECTS))

    train(f"judge-{name}", judge, loss, steps=steps, lr=3e-3, seed=seed, weight_decay=0.02, ema=0.99)
    judge.save_pretrained(BUILD / f"judge-{name}")
    test, truth = load("test")
    style = np.arange(len(test)) % len(ALL_STYLES)
    x = torch.from_numpy(render(test, style)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        logits = torch.cat([judge(prepare(name, part)).logits for part in x.split(256)]).numpy()
    hit = logits[:, : len(OBJECTS)].argmax(1) == truth
    print({o: round(hit[truth == i].mean(), 3) for i, o in enumerate(OBJECTS)}, "all", hit.mean())
    print("style", (logits[:, len(OBJECTS) :].argmax(1) == style).mean())


if __name__ == "__main__":
    main(sys.argv[1])
