"""Ours against what a user would pick instead: diffusers' way of training a LoRA, and the published algorithms of UCE and ESD.

    python benchmarks/rivals.py                 all, on the embedded model
    python benchmarks/rivals.py --only uce esd

Each way runs in a process of its own, one thread, ways in turn; times are of the processor, which other work on the machine
lengthens less than the clock; ratios are of the medians. Written from the algorithms, no code is theirs:

    lora   one optimiser step of a rank-4 adapter on all attention, batch 4, AdamW, gradients clipped at 1, float32. *diffusers*: the loop
           of its script for text-to-image LoRA: PEFT layers, picture and caption encoded in every step. *ours*: a step of MemoRa, whose
           pictures and captions are encoded once (which is counted to its preparation, not here). *network*: forward and backward of the
           frozen U-Net alone, with nothing to train: what no loop over this network can go below.
    uce    the whole edit. *published*: matrix by matrix and pair by pair, each pair's text encoded again, every matrix's values computed
           for every matrix, an inverse a matrix. *plain*: the same with the text encoded once and only the matrix's own values.
           *ours*: one factorisation for all. The prompts, rows and weights are ours in each; how far the results differ is a column.
    esd    the whole edit, 1,000 steps. *published*: each step draws a path of the student from noise to a random one of 50 steps with
           guidance 3, then three predictions and one way back; 60 steps are run, and their time is taken times 1,000 / 60. *ours*: paths
           of the original drawn beforehand in batches, with both predictions kept.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WAYS = {
    "lora": ("diffusers", "network", "ours"),
    "uce": ("published", "plain", "ours"),
    "esd": ("published", "ours"),
}
STEPS, WARM, ESD_STEPS = 60, 5, 60
MIB = 2**20


def peak() -> float:
    """Most memory that this process held so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# LoRA


def lora(way: str) -> dict[str, float]:
    """Processor time of a training step, and memory over what the loaded model held."""
    import torch

    from vestige import models
    from vestige.seeds import generator

    model = models.load("wardrobe")
    pictures = torch.rand(33, 3, *model_size(model), generator=generator(0, "pictures"))
    model.encode(pictures[:4])
    before = peak()
    step = {"diffusers": by_diffusers, "network": by_nobody, "ours": by_ours}[way](model, pictures)
    for _ in range(WARM):
        step()
    began = time.process_time()
    for _ in range(STEPS):
        step()
    return {"seconds": (time.process_time() - began) / STEPS, "memory": peak() / before}


def model_size(model: Any) -> tuple[int, int]:
    """Height and width of its pictures."""
    import torch

    return tuple(model.decode(torch.zeros(1, *model.latent_shape)).shape[-2:])


def by_diffusers(model: Any, pictures: Any) -> Any:
    """A step as diffusers' script takes it."""
    import torch
    from peft import LoraConfig

    unet, vae, text, tokenizer, scheduler = (
        model.parts["unet"],
        model.parts["vae"],
        model.parts["text_encoder"],
        model.tokenizer,
        model.scheduler,
    )
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=["to_k", "to_q", "to_v", "to_out.0"]))
    trained = [p for p in unet.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4, weight_decay=1e-2)
    unet.train()

    def step() -> None:
        rows = torch.randint(len(pictures), (4,))
        ids = tokenizer(["a picture of a sneaker"] * 4, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            latents = vae.encode(2 * pictures[rows] - 1).latent_dist.sample() * vae.config.scaling_factor
            states = text(ids)[0]
        noise = torch.randn_like(latents)
        times = torch.randint(scheduler.config.num_train_timesteps, (4,))
        seen = unet(scheduler.add_noise(latents, noise, times), times, states, return_dict=False)[0]
        torch.nn.functional.mse_loss(seen.float(), noise.float()).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return step


def by_nobody(model: Any, pictures: Any) -> Any:
    """The network's two passes alone."""
    import torch

    unet, x = model.parts["unet"], model.encode(pictures[:4]).requires_grad_()
    unet.requires_grad_(False)
    times, states = torch.full((4,), 500), model.condition(["a picture of a sneaker"] * 4).text

    def step() -> None:
        unet(x, times, states, return_dict=False)[0].square().mean().backward()
        x.grad = None

    return step


def by_ours(model: Any, pictures: Any) -> Any:
    """A step as MemoRa takes it, by the same functions."""
    import itertools

    import torch

    from vestige.methods import Training, fit
    from vestige.methods.objectives import denoising
    from vestige.methods.training_data import Pairs
    from vestige.seeds import generator

    latents = torch.cat([model.encode(part) for part in pictures.split(16)])
    pairs = Pairs(latents, model.condition(["a picture of a sneaker"]), ((0,),) * len(latents))
    view, leaves = model.adapted(model.scope("attention"), rank=4, alpha=4.0, init="gaussian", rng=generator(0))
    flat = {f"{name}:{side}": leaf for name, pair in leaves.items() for side, leaf in zip(("down", "up"), pair, strict=True)}
    training = Training(steps=STEPS + WARM + 1, lr=1e-4, clip=1.0, weight_decay=1e-2)
    steps = iter(fit(flat, lambda rng: denoising(view, *pairs.draw(4, rng), rng), training, seed=0, stops=range(1, STEPS + WARM)))
    return lambda: next(itertools.islice(steps, 1))


# UCE


def uce(way: str) -> dict[str, float]:
    """Processor time of the whole edit, memory over what the loaded model held, and how far it is from ours."""
    from vestige import concepts, models, registry

    model, concept = models.load("wardrobe"), concepts.load("sneaker", "wardrobe")
    method = registry.build("unlearners", "uce").resolved(concept)
    model.condition([""])
    before, began = peak(), time.process_time()
    made = dict(method(model, concept, seed=0).tensors) if way == "ours" else by_pairs(model, concept, method, way == "published")
    found = {"seconds": time.process_time() - began, "memory": peak() / before}
    if way != "ours":
        ours = method(model, concept, seed=0).tensors
        moved = sum(float((ours[name] - model.tensor(name)).double().square().sum()) for name in made)
        found["apart"] = (sum(float((ours[name] - made[name]).double().square().sum()) for name in made) / moved) ** 0.5
    return found


def by_pairs(model: Any, concept: Any, method: Any, published: bool) -> dict[str, Any]:
    """The closed form as published: sums of outer products a matrix, in float32, and an inverse a matrix."""
    import torch

    names = model.scope("cross-attention-kv")
    weights = {name: model.tensor(name).clone() for name in names}
    texts, anchors = [p.text for p in concept.prompts("training")], concept.others(concept.anchor)
    kept = ["", *dict.fromkeys(p.text for word in (*concept.neighbours, *concept.unrelated) for p in concept.prompts("training", word))]
    pairs = [(text, anchor, method.erase) for text, anchor in zip(texts, anchors, strict=True)] + [
        (t, t, float(method.preserve)) for t in kept
    ]
    once = None if published else [_rows(model, concept, text, anchor) for text, anchor, _ in pairs]
    made = {}
    for name in names:
        left, right = method.ridge * weights[name], method.ridge * torch.eye(weights[name].shape[1])
        for i, (text, anchor, weight) in enumerate(pairs):
            rows, goals = _rows(model, concept, text, anchor) if once is None else once[i]
            values = {other: goals @ weights[other].T for other in (names if published else [name])}[name]
            left = left + weight * (values[:, :, None] @ rows[:, None, :]).sum(0)
            right = right + weight * (rows[:, :, None] @ rows[:, None, :]).sum(0)
        made[name] = left @ torch.inverse(right)
    return made


def _rows(model: Any, concept: Any, text: str, anchor: str) -> tuple[Any, Any]:
    """From the last word to the end, of both; every row of what is kept."""
    from vestige.methods.closed_form import last_word

    own, other = model.condition([text, anchor]).text
    if text == anchor:
        return own, other
    start, stop = last_word(model, text, concept.target), last_word(model, anchor, concept.anchor)
    length = len(own) - max(start, stop)
    return own[start : start + length], other[stop : stop + length]


# ESD


def esd(way: str) -> dict[str, float]:
    """Processor time of 1,000 steps, and memory over what the loaded model held."""
    from vestige import concepts, models, registry

    model, concept = models.load("wardrobe"), concepts.load("sneaker", "wardrobe")
    method = registry.build("unlearners", "esd", {"variant": "x"})
    model.condition([""])
    before, began = peak(), time.process_time()
    if way == "ours":
        method(model, concept, seed=0)
        return {"seconds": time.process_time() - began, "memory": peak() / before}
    seconds = by_student_paths(model, concept, method)
    return {"seconds": seconds, "memory": peak() / before}


def by_student_paths(model: Any, concept: Any, method: Any) -> float:
    """The published loop, with a frozen copy beside the student; seconds of all its steps by those of a few."""
    import copy

    import torch

    from vestige.diffusion.sampling import sample
    from vestige.seeds import generator

    frozen = copy.deepcopy(model.parts["unet"])
    student, leaves = model.trainable(model.scope("cross-attention"))
    optimiser = torch.optim.Adam(leaves.values(), lr=method.lr)
    condition, null = model.condition(concept.plain()[:1]), model.condition([""])
    grid = model.grid(50)
    began = 0.0
    for step in range(WARM + ESD_STEPS):
        began = time.process_time() if step == WARM else began
        rng = generator(0, "path", step)
        stop = int(torch.randint(50, (1,), generator=rng))
        with torch.no_grad():
            x = torch.randn(1, *model.latent_shape, generator=rng)
            if stop:
                x = sample(student, x, condition, steps=50, guidance=3.0, null=null, stop=stop)
            t = grid[stop][None]
            told, free = (frozen(x, t, one.text).sample for one in (condition, null))
        loss = (student.denoise(x, t, condition).value - (free - (told - free))).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return (time.process_time() - began) / ESD_STEPS * method.steps


# The page


def measured(what: str, way: str) -> dict[str, float]:
    """One way, in this process."""
    return {"lora": lora, "uce": uce, "esd": esd}[what](way)


def table(what: str, repeats: int) -> list[str]:
    """Ways side by side."""
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS[what]}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for _ in range(repeats):
        for way in rows:
            done = subprocess.run(
                [sys.executable, __file__, "--one", what, way], capture_output=True, text=True, check=True, env=environment
            )
            rows[way].append(json.loads(done.stdout.splitlines()[-1]))
    middle = {way: {key: statistics.median(r[key] for r in found) for key in found[0]} for way, found in rows.items()}
    lines = ["| way | seconds | ours is faster by | peak memory over the loaded model | apart from ours |", "|---|---|---|---|---|"]
    for way, m in middle.items():
        spread = f"{min(r['seconds'] for r in rows[way]):.3g} to {max(r['seconds'] for r in rows[way]):.3g}"
        apart = f"{m['apart']:.1e}" if "apart" in m else ""
        lines.append(
            f"| {way} | {m['seconds']:.3g} ({spread}) | {m['seconds'] / middle['ours']['seconds']:.1f}x | {m['memory']:.2f}x | {apart} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "WAY"), help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--page", type=Path, default=None)
    options = parser.parse_args()
    if options.one:
        sys.stdout.write(json.dumps(measured(*options.one)) + "\n")
        return
    import torch

    machine = f"{platform.machine()}, one thread, torch {torch.__version__}, Python {platform.python_version()}"
    command = f"python benchmarks/rivals.py --page {options.page}"
    parts = ["# What a user would pick instead", f"`{command}`; {machine}; medians of {options.repeats} runs."]
    parts += [(__doc__ or "").split("\n\n", 2)[2].strip()]
    for what in options.only:
        parts += [f"## {what}", "\n".join(table(what, options.repeats))]
        sys.stderr.write("\n".join(parts[-2:]) + "\n")
    text = "\n\n".join(parts) + "\n"
    if options.page:
        options.page.write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
