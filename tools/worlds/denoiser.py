"""The denoisers: diffusers' UNet2DConditionModel on latents, the base model and its twins that never drew a concept.

python -m worlds.denoiser WORLD NAME
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from worlds.loop import train
from worlds.world import World, load

RATE = 1.2e-3
# Both named, object only, style only, nothing: the last is the dropout that guidance needs.
KINDS = torch.tensor([0.66, 0.14, 0.10, 0.10])


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def build(width: tuple[int, int]) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=width,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=2,
        norm_num_groups=8,
    )


def objective(unet: UNet2DConditionModel, x: torch.Tensor, text: torch.Tensor, alphas: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Mean squared error of the predicted noise at random times."""
    t = torch.randint(1000, (len(x),), generator=rng)
    noise = torch.randn(x.shape, generator=rng)
    a = alphas[t][:, None, None, None]
    return F.mse_loss(unet(a.sqrt() * x + (1 - a).sqrt() * noise, t, text).sample, noise)


class Captions:
    """Text embeddings of every training prompt, computed once."""

    @torch.no_grad()
    def __init__(self, world: World) -> None:
        tokenizer = CLIPTokenizer.from_pretrained(world.build / "tokenizer")
        text = CLIPTextModel.from_pretrained(world.build / "text_encoder").eval()
        said, prompts = world.prompts, [""]
        self.both = np.zeros((len(world.objects), len(world.styles), len(said.both)), int)
        self.object = np.zeros((len(world.objects), len(said.object)), int)
        self.style = np.zeros((len(world.styles), len(said.style)), int)
        for table, bank in ((self.both, said.both), (self.object, said.object), (self.style, said.style)):
            for index in np.ndindex(table.shape):
                table[index] = len(prompts)
                words = {"object": world.objects[index[0]] if table is not self.style else ""}
                words["style"] = world.styles[index[0] if table is self.style else index[1] if table is self.both else 0]
                prompts.append(bank[index[-1]].format(**words))
        ids = tokenizer(prompts, padding="max_length", max_length=77, return_tensors="pt").input_ids
        # half the memory; rounded by a thousandth, as it will be where the weights are shipped in float16
        self.embeddings = torch.cat([text(input_ids=part).last_hidden_state.half() for part in ids.split(128)])  # (P, 77, 64)

    def draw(self, shown: torch.Tensor, style: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        kind = torch.multinomial(KINDS, len(shown), replacement=True, generator=rng)
        choice = torch.randint(1 << 20, (len(shown),), generator=rng)
        rows = []
        for o, s, k, c in zip(shown.tolist(), style.tolist(), kind.tolist(), choice.tolist(), strict=True):
            bank = (self.both[o, s], self.object[o], self.style[s], np.zeros(1, int))[k]
            rows.append(int(bank[c % len(bank)]))
        return self.embeddings[rows].float()


def kept(world: World, name: str, data: dict[str, torch.Tensor]) -> torch.Tensor:
    """Rows of the latents that a denoiser may see."""
    absent = world.denoisers[name].absent
    gone = torch.tensor([word in absent for word in world.objects])[data["object"]]
    gone |= torch.tensor([word in absent for word in world.styles])[data["style"]]
    return torch.arange(len(gone))[~gone]


def main(world: World, name: str) -> None:
    seed = world.denoisers[name].seed
    torch.manual_seed(seed)
    data = torch.load(world.build / "latents.pt", weights_only=True)
    pool, captions, alphas, unet = kept(world, name, data), Captions(world), scheduler().alphas_cumprod, build(world.width)

    def loss(rng: torch.Generator, step: int) -> torch.Tensor:
        rows = pool[torch.randint(len(pool), (world.steps.batch,), generator=rng)]
        text = captions.draw(data["object"][rows], data["style"][rows], rng)
        return objective(unet, data["latents"][rows].float(), text, alphas, rng)

    train(world.build, name, unet, loss, steps=world.steps.denoiser, lr=RATE, seed=seed, weight_decay=0.01, ema=0.998)
    unet.save_pretrained(world.build / name / "unet")


if __name__ == "__main__":
    main(load(sys.argv[1]), sys.argv[2])
