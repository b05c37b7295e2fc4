"""Speed and memory of MemoRa's recovery: ours, the public way, and a batched reference, in one run on the same machine.

    python benchmarks/memora.py            the embedded model (minutes)
    python benchmarks/memora.py --full     also single calls on a random-weight U-Net of Stable Diffusion 1.4's exact shape

Equal work everywhere: the same references, guidance 7.5 in inversion and re-rendering, 33 training pictures, effective batch 4,
rank 4, the same number of steps. What differs is how it is done:

    public     inversion and re-rendering one picture at a time; pictures decoded to 8 bits; every micro-batch of one picture
               encodes picture and caption again; gradient accumulation 4. (The public code also draws four validation
               pictures after every epoch, which is counted apart.)
    batched    a careful rewrite of the same script: everything batched, still encodes picture and caption in every step
    ours       `vestige.attacks.memora.MemoRa`: batched; latents and text embeddings computed once

Each way runs in a process of its own, in turn; ratios are of the medians.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WAYS = ("public", "batched", "ours")
STEPS = 50
RECIPE = {"sampling_steps": 50, "start": 15, "guidance": 7.5, "render_guidance": 7.5, "points": 10, "batch": 4, "lr": 1e-4}


def _references(model: Any) -> Any:
    from vestige import data
    from vestige.concepts import images

    sheet = data.folder() / "wardrobe/pictures/references"
    return images.shipped(sheet, {"object": "sneaker"}).draw(6, 0).images


def _regenerate(model: Any, references: Any, size: int) -> Any:
    """Inversion, slerp and re-rendering in batches of `size`, by the same functions: what differs is the batch alone."""
    import torch

    from vestige.diffusion.sampling import invert, sample, slerp

    condition, null = model.condition(["a picture of a sneaker"]), model.condition([""])
    common = {"steps": RECIPE["sampling_steps"], "null": null}
    deep = []
    for part in references.split(size):
        z = model.encode(part)
        deep.append(invert(model, z, condition.repeat(len(z)), guidance=RECIPE["guidance"], stop=RECIPE["start"], **common))
    deep = torch.cat(deep)
    points = torch.stack([slerp(deep[i], deep[i + 1], j / 10) for i in range(0, 6, 2) for j in range(11)])
    made = []
    for part in points.split(size):
        made.append(sample(model, part, condition.repeat(len(part)), guidance=RECIPE["render_guidance"], start=RECIPE["start"], **common))
    return (model.decode(torch.cat(made)) * 255).round() / 255


def _train(model: Any, pictures: Any, micro: int, accumulation: int) -> float:
    """LoRA steps that encode picture and caption every time; seconds a step."""
    import torch

    from vestige.methods.objectives import denoising
    from vestige.seeds import generator

    view, leaves = model.adapted(model.scope("attention"), rank=4, alpha=4.0, init="gaussian", rng=generator(0))
    params = [leaf for pair in leaves.values() for leaf in pair]
    optimiser = torch.optim.AdamW(params, lr=RECIPE["lr"], weight_decay=1e-2)
    began = time.perf_counter()
    for step in range(STEPS):
        for part in range(accumulation):
            rng = generator(0, step, part)
            rows = torch.randint(len(pictures), (micro,), generator=rng)
            latents, condition = model.encode(pictures[rows]), model.condition(["a picture of a sneaker"] * micro)
            (denoising(view, latents, condition, rng) / accumulation).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return (time.perf_counter() - began) / STEPS


def run_one(way: str) -> dict[str, float]:
    """One way, measured inside its own process."""
    import torch

    from vestige import concepts, models
    from vestige.attacks.memora import MemoRa
    from vestige.concepts.images import PictureSet
    from vestige.methods import Budget

    model, concept = models.load("wardrobe"), concepts.load("sneaker")
    references = _references(model)
    model.condition([""])  # first calls allocate
    began = time.perf_counter()
    if way == "ours":
        attack = MemoRa(**RECIPE)
        marks = []
        select = lambda x: torch.zeros(len(x))  # noqa: E731  the judge is not part of the comparison
        for _ in attack(model, concept, Budget((0, STEPS)), seed=0, select=select, pictures=PictureSet(references, "references")):
            marks.append(time.perf_counter())
        prepare, step = marks[0] - began, (marks[1] - marks[0]) / STEPS
    else:
        size = 1 if way == "public" else 64
        pictures = _regenerate(model, references, size)
        prepare = time.perf_counter() - began
        step = _train(model, pictures, 1 if way == "public" else 4, 4 if way == "public" else 1)
    whole = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"prepare": prepare, "step": step, "whole": whole, "memory": memory, "validation": _validation(model)}


def _validation(model: Any) -> float:
    """Four pictures of 30 steps one at a time: what the public script draws after every epoch."""
    from vestige.diffusion.sampling import Drawing, pictures

    began = time.perf_counter()
    pictures(model, ["a picture of a sneaker"] * 4, range(4), Drawing(steps=30, guidance=7.5, batch=1))
    return time.perf_counter() - began


def compare(repeats: int) -> list[str]:
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way in WAYS:
            done = subprocess.run([sys.executable, __file__, "--way", way], capture_output=True, text=True, check=True)
            rows[way].append(json.loads(done.stdout.splitlines()[-1]))
    middle = {way: {k: statistics.median(r[k] for r in runs) for k in runs[0]} for way, runs in rows.items()}
    ours = middle["ours"]
    lines = [
        "| way | regenerate, s | one step, ms | whole recovery, s | ours is faster by | peak memory, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for way in WAYS:
        m = middle[way]
        spread = f"{min(r['whole'] for r in rows[way]):.1f}-{max(r['whole'] for r in rows[way]):.1f}"
        cells = f"{m['prepare']:.2f} | {1000 * m['step']:.1f} | {m['whole']:.1f} ({spread}) | {m['whole'] / ours['whole']:.1f}x"
        lines.append(f"| {way} | {cells} | {m['memory']:.0f} |")
    epochs = -(-STEPS * 4 // 33)
    extra = epochs * middle["public"]["validation"]
    lines.append("")
    lines.append(
        f"Validation pictures that the public script would add: {epochs} epochs x {middle['public']['validation']:.2f} s = {extra:.1f} s."
    )
    return lines


def full_size() -> list[str]:
    """Single calls on Stable Diffusion 1.4's exact U-Net with random weights, 256 px; whole runs are computed from them."""
    import torch
    from diffusers import UNet2DConditionModel

    from vestige.edits.surgery import attach
    from vestige.seeds import generator

    unet = UNet2DConditionModel(
        sample_size=64,
        cross_attention_dim=768,
        attention_head_dim=8,
        block_out_channels=(320, 640, 1280, 1280),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    ).eval()
    unet.requires_grad_(False)
    count, tensors = sum(p.numel() for p in unet.parameters()), len(unet.state_dict())
    x, text, t = torch.randn(1, 4, 32, 32), torch.randn(1, 77, 768), torch.tensor([500])

    def timed(call: Any) -> float:
        call()
        marks = []
        for _ in range(3):
            began = time.perf_counter()
            call()
            marks.append(time.perf_counter() - began)
        return statistics.median(marks)

    with torch.no_grad():
        forward = timed(lambda: unet(x, t, text))
        guided = timed(lambda: unet(x.repeat(2, 1, 1, 1), t.repeat(2), text.repeat(2, 1, 1)))
    names = [n for n, _ in unet.named_parameters() if any(n.endswith(f"{p}.weight") for p in ("to_q", "to_k", "to_v", "to_out.0"))]
    view, leaves = attach(unet, names, rank=4, alpha=4.0, init="gaussian", rng=generator(0))
    trained = sum(leaf.numel() for pair in leaves.values() for leaf in pair)

    def step() -> None:
        view(x, t, text).sample.square().mean().backward()

    lora = timed(step)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    calls = 6 * 35 + 33 * 35
    computed = (calls * guided + 500 * 4 * lora) / 3600
    return [
        f"{tensors} tensors, {count / 1e6:.1f} M weights, {trained:,} trained by the adapter; random weights, 256 px, batch 1, float32.",
        "",
        "| single call | seconds (median of 3) |",
        "|---|---|",
        f"| one forward pass | {forward:.2f} |",
        f"| one inversion step with guidance (two passes) | {guided:.2f} |",
        f"| one LoRA micro-step, forward and backward | {lora:.2f} |",
        "",
        f"Peak memory {memory:.1f} GiB. *Computed, never run*: 6 inversions and 33 re-renderings of 35 guided steps, and 500 steps of 4 "
        f"pictures: {calls} x {guided:.2f} s + 2,000 x {lora:.2f} s = {computed:.1f} h on this machine.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("docs/results/benchmark_memora.md"))
    options = parser.parse_args()
    if options.way:
        sys.stdout.write(json.dumps(run_one(options.way)) + "\n")
        return
    import torch

    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}"
    command = "python benchmarks/memora.py" + (" --full" if options.full else "")
    parts = [
        "# MemoRa: speed and memory",
        f"`{command}`; {machine}; medians of {options.repeats} runs, ways in turn.",
        (__doc__ or "").split("\n\n", 2)[2].strip(),
    ]
    parts += ["## The embedded model", "\n".join(compare(options.repeats))]
    if options.full:
        parts += ["## Stable Diffusion 1.4's exact shape, random weights", "\n".join(full_size())]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n\n".join(parts) + "\n")
    sys.stdout.write(f"{options.out}\n")


if __name__ == "__main__":
    main()
