"""Stable Diffusion 1.4's exact structure on this machine: what each scope selects, and the time and memory of each kind of step.

    python benchmarks/full_size.py                    writes docs/results/full_size.md
    python benchmarks/full_size.py --only memora      one job, printed

The networks have the published configuration and random weights, so nothing here says anything about quality: it says that the code
runs at this size, how long a step takes, and what it needs. 256 x 256 pixels, float32, batch 1, on the CPU. Each job is a process
of its own; a step's time is the median over its repetitions, memory the peak of the process.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PIXELS = 256
SCOPES = ("unet", "cross-attention", "cross-attention-kv", "self-attention", "attention", "non-cross-attention", "compvis-noxattn")
# What a whole run of a method costs in steps, at the settings of its paper or released code where they are public.
RUNS = {
    "esd-x": ("1,000 training steps after 20 rollouts of 50 steps", {"rollout": 20 * 50, "train": 1000}),
    "uce": ("one solve", {"solve": 1}),
    "memora": ("6 inversions and 33 re-renderings of 35 steps, 500 LoRA steps of 4 pictures", {"invert": 39 * 35, "train": 2000}),
    "duge": ("100 steps of 4 pictures, our default (the paper's is not public)", {"train": 400}),
}


def model() -> Any:
    """A LatentModel of Stable Diffusion 1.4's configuration with random weights, at 256 pixels."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from vestige.data import folder
    from vestige.models.latent import LatentModel

    told = json.loads((folder() / "wardrobe/tokenizer/tokenizer.json").read_text("utf-8"))["model"]
    spare = {chr(0x20000 + i): i for i in range(len(told["vocab"]), 49408)}  # single characters up to the published vocabulary's size
    words = CLIPTokenizer(vocab={**told["vocab"], **spare}, merges=[tuple(pair) for pair in told["merges"]], model_max_length=77)
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    unet = UNet2DConditionModel(
        sample_size=PIXELS // 8,
        cross_attention_dim=768,
        attention_head_dim=8,
        block_out_channels=(320, 640, 1280, 1280),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )
    shape = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 49408}
    text = CLIPTextModel(CLIPTextConfig(projection_dim=768, **shape, **ends))
    shape = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    with torch.device("cpu"):  # also where the networks are hollow
        times = DDIMScheduler(**shape, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
        return LatentModel("sd-1.4-shaped", {"unet": unet, "vae": vae, "text_encoder": text}, words, times)


class Clock:
    """A watcher that notes when each stage advances."""

    def __init__(self) -> None:
        self.last, self.ticks = time.perf_counter(), dict[str, list[float]]()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.perf_counter()
        self.ticks.setdefault(stage, []).append(now - self.last)
        self.last = now

    def median(self, stage: str) -> float:
        """Of a stage's steps, the first left out, where there are more: it allocates."""
        seen = self.ticks[stage]
        return statistics.median(seen[1:] or seen)


def pictures(count: int) -> Any:
    """Noise in place of photographs."""
    import torch

    from vestige.concepts.images import PictureSet

    images = torch.rand(count, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0))
    return PictureSet(images, "noise", captions=tuple(("a picture of a bag",) for _ in range(count)))


def esd(variant: str) -> Callable[[Any], dict[str, float]]:
    def job(loaded: Any) -> dict[str, float]:
        from vestige import concepts
        from vestige.unlearners.esd import ESD

        clock = Clock()
        # lr as released for the shape of the cost alone: what the steps do to random weights means nothing
        ESD(variant=variant, steps=4, rollouts=1, rollout_steps=1)(loaded, concepts.load("sneaker"), seed=0, watch=clock)
        return {"train": clock.median("fit")} | {stage: clock.median(stage) for stage in clock.ticks if stage != "fit"}

    return job


def uce(loaded: Any) -> dict[str, float]:
    from vestige import concepts
    from vestige.unlearners.uce import UCE

    began = time.perf_counter()
    UCE()(loaded, concepts.load("sneaker"), seed=0)
    return {"solve": time.perf_counter() - began}


def memora(loaded: Any) -> dict[str, float]:
    import torch

    from vestige import concepts
    from vestige.attacks.memora import MemoRa
    from vestige.diffusion.sampling import invert
    from vestige.methods import Budget

    z, null, told = loaded.encode(pictures(1).images), loaded.condition([""]), loaded.condition(["a picture of a sneaker"])
    clock = Clock()
    invert(loaded, z, told, steps=4, guidance=7.5, null=null, watch=clock)
    inverting = clock.median("invert")
    attack, clock = MemoRa(sampling_steps=2, start=1, points=1, rank=4, batch=1), Clock()
    for _ in attack(
        loaded, concepts.load("sneaker"), Budget((0, 4)), seed=0, select=lambda x: torch.zeros(len(x)), pictures=pictures(2), watch=clock
    ):
        pass
    return {"invert": inverting, "train": clock.median("fit")}


def duge(loaded: Any) -> dict[str, float]:
    from vestige import concepts
    from vestige.methods import Data
    from vestige.unlearners.duge import DUGE

    clock, data = Clock(), Data(target=pictures(1), retain=pictures(2))
    method = DUGE(steps=4, batch=1, target_pictures=1, retain_pictures=2, related_pictures=0, related_weight=0.0, importance="uniform")
    method(loaded, concepts.load("sneaker"), seed=0, data=data, watch=clock)
    return {"train": clock.median("fit")}


def two_networks(loaded: Any) -> dict[str, float]:
    """ESD-x as the released loop does it: a second whole network is the teacher."""
    import torch

    teacher = copy.deepcopy(loaded.parts["unet"])
    names = list(loaded.scope("cross-attention"))
    view, leaves = loaded.trainable(names)
    optimiser, told, marks = torch.optim.AdamW(leaves.values(), lr=1e-5), loaded.condition(["a sneaker"]), []
    x, t = torch.randn(1, 4, PIXELS // 8, PIXELS // 8), torch.tensor([500])
    for _ in range(4):
        began = time.perf_counter()
        with torch.no_grad():
            goal = teacher(x, t, told.text, return_dict=False)[0]
        (view.denoise(x, t, told).value - goal).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        marks.append(time.perf_counter() - began)
    return {"train": statistics.median(marks[1:])}


def training(loaded: Any) -> dict[str, float]:
    """A step of training the denoiser itself: what the model was made by, a million times."""
    import torch

    view, leaves = loaded.trainable(list(loaded.scope("unet")))
    optimiser, told, marks = torch.optim.Adam(leaves.values(), lr=1e-5), loaded.condition(["a sneaker"]), []
    x, noise, t = (*(torch.randn(1, 4, PIXELS // 8, PIXELS // 8) for _ in range(2)), torch.tensor([500]))
    for _ in range(4):
        began = time.perf_counter()
        (view.denoise(x, t, told).value - noise).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        marks.append(time.perf_counter() - began)
    return {"step": statistics.median(marks[1:])}


def redistil(loaded: Any) -> dict[str, float]:
    from vestige import concepts
    from vestige.methods import Data
    from vestige.unlearners.redistil import Redistil

    clock = Clock()
    Redistil(steps=4, batch=1, retain_pictures=2)(loaded, concepts.load("sneaker"), seed=0, data=Data(retain=pictures(2)), watch=clock)
    return {"train": clock.median("fit")}


def base(loaded: Any) -> dict[str, float]:
    """Loaded, and one forward pass."""
    import torch

    x, t, told, marks = torch.randn(1, 4, PIXELS // 8, PIXELS // 8), torch.tensor([500]), loaded.condition(["a sneaker"]), []
    with torch.no_grad():
        for _ in range(4):
            began = time.perf_counter()
            loaded.denoise(x, t, told)
            marks.append(time.perf_counter() - began)
    return {"forward": statistics.median(marks[1:])}


JOBS: dict[str, tuple[str, Callable[[Any], dict[str, float]]]] = {
    "base": ("the model, one forward pass", base),
    "esd-x": ("ESD-x, a rollout of one step", esd("x")),
    "two networks": ("the same step with a second whole network as the teacher", two_networks),
    "esd-u": ("ESD-u, likewise", esd("u")),
    "training": ("training the denoiser itself, all weights", training),
    "redistil": ("redistil, all weights taught by the original, hints too", redistil),
    "uce": ("UCE, all 32 matrices", uce),
    "memora": ("MemoRa: a guided inversion step (two passes); a LoRA step at rank 4", memora),
    "duge": ("DUGE, default scope, all losses but importance measured", duge),
}


def measured(name: str) -> dict[str, Any]:
    """One job, inside its own process."""
    loaded = model()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = JOBS[name][1](loaded)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "loaded": before / 2**20, "peak": after / 2**20}


def structure(loaded: Any) -> list[str]:
    lines = ["| scope | tensors | weights, M |", "|---|---|---|"]
    for scope in SCOPES:
        chosen = loaded.scope(scope)
        lines.append(f"| `{scope}` | {len(chosen)} | {sum(loaded.tensor(n).numel() for n in chosen) / 1e6:.1f} |")
    return lines


def table(found: dict[str, dict[str, Any]]) -> list[str]:
    lines = ["| job | seconds | peak memory, GiB |", "|---|---|---|"]
    for name, row in found.items():
        times = ", ".join(f"{stage} {value:.2f}" for stage, value in row["seconds"].items())
        lines.append(f"| {JOBS[name][0]} | {times} | {row['peak']:.1f} |")
    return lines


def computed(found: dict[str, dict[str, Any]]) -> list[str]:
    lines = ["| method | a whole run | computed hours on this machine |", "|---|---|---|"]
    for name, (about, calls) in RUNS.items():
        seconds = found[name]["seconds"]
        cost = {"rollout": 2 * found["base"]["seconds"]["forward"], **seconds}
        lines.append(f"| {name} | {about} | {sum(n * cost[stage] for stage, n in calls.items()) / 3600:.1f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=JOBS, help="measure one job and print it")
    parser.add_argument("--out", type=Path, default=Path("docs/results/full_size.md"))
    options = parser.parse_args()
    if options.only:
        sys.stdout.write(json.dumps(measured(options.only)) + "\n")
        return
    import torch

    found = {}
    for name in JOBS:
        done = subprocess.run([sys.executable, __file__, "--only", name], capture_output=True, text=True, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        sys.stderr.write(f"{name}: {found[name]}\n")
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}"
    with torch.device("meta"):
        hollow = model()
    parts = [
        "# Stable Diffusion 1.4's structure, full size",
        f"`python benchmarks/full_size.py`; {machine}. **Random weights**: this has never run on real ones.",
        (__doc__ or "").split("\n\n")[2].strip(),
        "## What the scopes select",
        "\n".join(structure(hollow)),
        "## Time and memory of a step",
        "\n".join(table(found)),
        "A view shares every tensor that its edit leaves alone, so the original is the teacher: beside a second network, ESD-x needs "
        f"{found['two networks']['peak'] - found['esd-x']['peak']:.1f} GiB less here.",
        "## Whole runs: computed, never run",
        "Calls times the seconds above; encoding, decoding and judging are left out.",
        "\n".join(computed(found)),
    ]
    options.out.write_text("\n\n".join(parts) + "\n", "utf-8")
    sys.stdout.write(f"{options.out}\n")


if __name__ == "__main__":
    main()
