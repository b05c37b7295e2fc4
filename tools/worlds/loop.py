"""One training loop for every network of a world: one-cycle AdamW, EMA, resumable, curves written down.

A unit is one network. Killing it and running the same command again continues from its newest checkpoint, with the
numbers an uninterrupted run would see: each step draws from a generator seeded by (seed, step).
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path

import torch


def generator(seed: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def train(
    folder: Path,
    name: str,
    module: torch.nn.Module,
    loss: Callable[[torch.Generator, int], torch.Tensor],
    *,
    steps: int,
    lr: float,
    seed: int,
    weight_decay: float = 0.01,
    ema: float = 0.0,
    clip: float = 1.0,
    every: int = 200,
) -> torch.nn.Module:
    """Minimise `loss(rng, step)` over `module`; returns it holding its EMA weights (the last ones if `ema` is 0).

    Arguments:
        folder: Where `NAME.state.pt`, the newest checkpoint, and `NAME.csv`, the curve, are written.
        every: Steps between two checkpoints.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state_file, curve_file = folder / f"{name}.state.pt", folder / f"{name}.csv"
    optimiser = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.08)
    mean = {k: v.clone().float() for k, v in module.state_dict().items()}
    start, spent = 0, 0.0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        mean, start, spent = state["mean"], state["step"], state["seconds"]
        print(f"{name}: resumed at step {start}", flush=True)
    elif curve_file.exists():
        curve_file.unlink()
    began, window = time.monotonic() - spent, []
    module.train()
    for step in range(start, steps):
        value = loss(generator(seed, step), step)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimiser.step()
        schedule.step()
        window.append(value.item())
        _average(mean, module, min(ema, (1 + step) / (10 + step)))
        if (step + 1) % every == 0 or step + 1 == steps:
            seconds = time.monotonic() - began
            average = sum(window) / len(window)
            window = []
            with curve_file.open("a", newline="") as file:
                writer = csv.writer(file)
                if file.tell() == 0:
                    writer.writerow(["step", "loss", "lr", "seconds"])
                writer.writerow([step + 1, f"{average:.6f}", f"{schedule.get_last_lr()[0]:.2e}", f"{seconds:.0f}"])
            left = seconds / (step + 1) * (steps - step - 1)
            print(f"{name}: {step + 1}/{steps} loss {average:.5f} {seconds:.0f} s, {left:.0f} s left", flush=True)
            state = {
                "module": module.state_dict(),
                "optimiser": optimiser.state_dict(),
                "schedule": schedule.state_dict(),
                "mean": mean,
                "step": step + 1,
                "seconds": seconds,
            }
            torch.save(state, state_file.with_suffix(".tmp"))
            state_file.with_suffix(".tmp").replace(state_file)
    module.load_state_dict({k: v.to(module.state_dict()[k].dtype) for k, v in mean.items()})
    return module.eval()


@torch.no_grad()
def _average(mean: dict[str, torch.Tensor], module: torch.nn.Module, decay: float) -> None:
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            mean[key].lerp_(tensor.float(), 1 - decay)
        else:
            mean[key] = tensor.clone()
