"""Two judges of object and style: transformers' own classifiers, of different architecture, seed and augmentation.

One network; its logits are the objects', then the styles', and each group is a softmax of its own. Half of what a judge
learns from are round trips through the autoencoder, some of them with noise in the latents: both judges are to see
drawn pictures equally well.

    python -m worlds.judges WORLD select|verify
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch.nn import functional as F
from transformers import ConvNextV2Config, ConvNextV2ForImageClassification, PreTrainedModel, ResNetConfig, ResNetForImageClassification

from worlds import autoencoder
from worlds.loop import generator, train
from worlds.pictures import Pictures
from worlds.world import World, load

NAMES = ("select", "verify")
ROUNDS = 9600  # pictures that went through the autoencoder, made once for both
NOISE = 0.25  # largest deviation of the noise in a round trip's latents, which have unit deviation


def build(name: str, labels: Sequence[str]) -> PreTrainedModel:
    told = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    if name == "select":
        return ConvNextV2ForImageClassification(
            ConvNextV2Config(patch_size=2, num_stages=3, hidden_sizes=[32, 64, 128], depths=[1, 2, 1], image_size=32, **told)
        )
    return ResNetForImageClassification(
        ResNetConfig(embedding_size=24, hidden_sizes=[32, 64, 128], depths=[1, 1, 1], layer_type="basic", **told)
    )


def prepare(name: str, pictures: torch.Tensor) -> torch.Tensor:
    """(N, 3, 32, 32) in [0, 1] -> what the judge reads; the ResNet's stem divides by four, so it reads pictures enlarged twice."""
    x = pictures * 2 - 1
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False) if name == "verify" else x


def blurred(name: str, x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Blur (select), or noise and contrast (verify), so that the two judges err differently."""
    amount = torch.rand(len(x), 1, 1, 1, generator=rng)
    if name == "select":
        return torch.lerp(x, F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1), 0.6 * amount)
    contrast = 0.85 + 0.3 * torch.rand(len(x), 1, 1, 1, generator=rng)
    return ((x - 0.5) * contrast + 0.5 + 0.06 * amount * torch.randn(x.shape, generator=rng)).clamp(0, 1)


def objective(logits: torch.Tensor, shown: torch.Tensor, style: torch.Tensor, objects: int) -> torch.Tensor:
    by_object = F.cross_entropy(logits[:, :objects], shown, label_smoothing=0.05)
    return by_object + 0.5 * F.cross_entropy(logits[:, objects:], style, label_smoothing=0.05)


@torch.no_grad()
def round_trips(world: World, pictures: Pictures) -> tuple[torch.Tensor, ...]:
    """Pictures as the autoencoder gives them back, uint8, and what they show; made once and then read from the build folder."""
    stored = world.build / "rounds.pt"
    if not stored.exists():
        vae, made = autoencoder.read(world), []
        for part in range(ROUNDS // 96):
            rng = generator(world.seed + 5, part)
            x, shown, style = pictures.sample(96, rng)
            noise = NOISE * torch.rand(96, 1, 1, 1, generator=rng) * torch.randn(96, 4, 8, 8, generator=rng)
            made.append(((autoencoder.round_trip(vae, x, noise) * 255).round().byte(), shown, style))
        torch.save(tuple(torch.cat(parts) for parts in zip(*made, strict=True)), stored.with_suffix(".tmp"))
        stored.with_suffix(".tmp").replace(stored)
    return torch.load(stored, weights_only=True)


def main(world: World, name: str, size: int = 64) -> None:
    seed = world.seed + 2 + NAMES.index(name)
    torch.manual_seed(seed)
    pictures = Pictures.of(world, held=False)
    rounds = round_trips(world, pictures)
    judge = build(name, (*world.all_objects, *world.all_styles))

    def loss(rng: torch.Generator, step: int) -> torch.Tensor:
        x, shown, style = pictures.sample(size - size // 2, rng)
        rows = torch.randint(len(rounds[0]), (size // 2,), generator=rng)
        x = torch.cat([x, rounds[0][rows] / 255])
        shown, style = torch.cat([shown, rounds[1][rows]]), torch.cat([style, rounds[2][rows]])
        logits = judge(prepare(name, blurred(name, x, rng))).logits
        return objective(logits, shown, style, len(world.all_objects))

    steps = getattr(world.steps, name)
    train(world.build, f"judge-{name}", judge, loss, steps=steps, lr=3e-3, seed=seed, weight_decay=0.02, ema=0.99)
    judge.save_pretrained(world.build / f"judge-{name}")


if __name__ == "__main__":
    main(load(sys.argv[1]), sys.argv[2])
