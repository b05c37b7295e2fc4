"""The one optimisation loop.

`fit` runs any loss over named leaves, on accelerate: clipping, accumulation, schedules, mixed precision, pulls towards other
weights, projections of gradients, progress, stop and resume. Every step draws from a generator derived from (seed, step), so
a resumed run sees the numbers of an uninterrupted one, and a budget is a prefix of every longer run on a constant schedule.
Several processes (`accelerate launch`) share a step's micro-batches: n of them are one with n times the accumulation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vestige import files
from vestige.diffusion.model import Watch, silent
from vestige.edits.precision import low
from vestige.errors import Diverged, Incompatible
from vestige.methods import optimiser
from vestige.seeds import generator

Loss = Callable[[torch.Generator], Tensor]
Schedule = Literal["constant", "cosine"]
Precision = Literal["no", "fp16", "bf16"]


@dataclass(frozen=True)
class Pull:
    """Adds `weight * sum over names of mean(importance * (w - towards)^2)` to the loss; importance None counts every element alike."""

    weight: float
    towards: Mapping[str, Tensor]
    importance: Mapping[str, Tensor] | None = None

    def __call__(self, leaves: Mapping[str, Tensor]) -> Tensor:
        terms = []
        for name, goal in self.towards.items():
            gap = (leaves[name] - goal).square()
            terms.append((gap if self.importance is None else gap * self.importance[name]).mean())
        return self.weight * torch.stack(terms).sum()


@dataclass(frozen=True, kw_only=True)
class Training:
    """How `fit` optimises.

    Arguments:
        steps: Optimiser steps.
        lr: AdamW's (or Adam's, at weight decay 0) peak rate.
        accumulation: Micro-batches a step; gradients are averaged.
        schedule: "constant", or "cosine" to zero over `steps`.
        warmup: Steps of linear warm-up.
        clip: Largest norm of the whole gradient; 0 does not clip.
        weight_decay: AdamW's.
        betas: AdamW's.
        precision: Autocast of the forward pass; leaves are float32 or float64 whatever it is.
    """

    steps: int
    lr: float
    accumulation: int = 1
    schedule: Schedule = "constant"
    warmup: int = 0
    clip: float = 1.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    precision: Precision = "no"

    def rate(self, step: int) -> float:
        """The learning rate's factor at a step, counted from 0."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return warm * (0.5 * (1 + math.cos(math.pi * step / self.steps)) if self.schedule == "cosine" else 1.0)


@dataclass
class Trace:
    """What happened: the mean loss and the gradient's norm before clipping, a step."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def ends(self) -> dict[str, float | None]:
        """Mean loss of the first and of the last ten steps, None before the first: notes that JSON can hold."""
        first, last = (sum(part) / len(part) if part else None for part in (self.losses[:10], self.losses[-10:]))
        return {"loss_first": first, "loss_last": last}


def fit(
    leaves: Mapping[str, Tensor],
    loss: Loss,
    training: Training,
    *,
    seed: int,
    stops: Sequence[int] = (),
    pulls: Sequence[Pull] = (),
    projections: Sequence[Callable[[Mapping[str, Tensor]], None]] = (),
    checkpoint: Path | None = None,
    every: int = 100,
    watch: Watch = silent,
    trace: Trace | None = None,
) -> Iterator[int]:
    """Minimise `loss(rng)` over `leaves` in place; yields the step count at every stop, and at the end.

    Arguments:
        leaves: Named tensors that require gradients, in float32 or float64: in lower precision, steps round away.
        loss: Draws its batch from the generator that it is given; called `accumulation` times a step.
        stops: Rising step counts at which to pause, e.g. a budget's points; 0 pauses before the first step.
        pulls: Penalties on the leaves, added to the loss once a step.
        projections: Each may change the gradients in place, after clipping and before the step, e.g. a saliency mask.
        checkpoint: File for the state; if it exists, training continues from it and earlier stops are not repeated.
        every: Steps between checkpoints.
        trace: Filled with what happens; where training continues, with what happened before too.
    Errors:
        Diverged, where the loss is no number; Incompatible, for a leaf in lower precision.
    """
    _check(leaves)
    accelerator = _accelerator(training.precision, next(iter(leaves.values())).device)
    names, params = list(leaves), list(leaves.values())
    adam = accelerator.prepare(optimiser.adamw(params, lr=training.lr, betas=training.betas, weight_decay=training.weight_decay))
    trace = Trace() if trace is None else trace
    begin = _resume(checkpoint, leaves, adam, trace)
    began = time.monotonic() - trace.seconds
    pauses = sorted({*stops, training.steps})
    if begin == 0 and 0 in pauses:
        yield 0
    for step in range(begin, training.steps):
        total = _backward(accelerator, leaves, loss, training, pulls, seed, step)
        if not math.isfinite(total):
            raise Diverged(f"the loss is {total} at step {step}; lower lr ({training.lr})")
        trace.losses.append(total)
        trace.norms.append(float(accelerator.clip_grad_norm_(params, training.clip or math.inf)))
        for project in projections:
            project({name: leaf.grad for name, leaf in zip(names, params, strict=True) if leaf.grad is not None})
        for group in adam.param_groups:
            group["lr"] = training.lr * training.rate(step)
        adam.step()
        adam.zero_grad(set_to_none=True)
        trace.seconds = time.monotonic() - began
        watch("fit", step + 1, training.steps)
        if checkpoint is not None and accelerator.is_main_process and ((step + 1) % every == 0 or step + 1 in pauses):
            _save(checkpoint, leaves, adam, trace, step + 1)
        if step + 1 in pauses:
            yield step + 1


def _check(leaves: Mapping[str, Tensor]) -> None:
    for name, leaf in leaves.items():
        if low(leaf):
            kind = str(leaf.dtype).removeprefix("torch.")
            raise Incompatible(f"{name} is a leaf in {kind}, where small steps round away; train what Model.trainable or adapted gives")


def _backward(
    accelerator: Any, leaves: Mapping[str, Tensor], loss: Loss, training: Training, pulls: Sequence[Pull], seed: int, step: int
) -> float:
    """The gradient of a step's mean loss over its micro-batches, of which every process takes its share; returns that loss."""
    mine = training.accumulation * optimiser.current().accumulation
    processes, first = accelerator.num_processes, accelerator.process_index * mine
    total = 0.0
    for micro in range(first, first + mine):
        with accelerator.autocast():
            value = loss(generator(seed, "step", step, micro)) / (mine * processes)
            if micro == 0:
                value = sum((pull(leaves) for pull in pulls), value)
        accelerator.backward(value)
        total += value.item()
    if processes == 1:
        return total
    for leaf in leaves.values():
        leaf.grad = accelerator.reduce(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad, "sum")
    return float(accelerator.reduce(torch.tensor(total, device=accelerator.device), "sum"))


def _accelerator(precision: Precision, device: torch.device) -> Any:
    """An Accelerator of this precision. Accelerate keeps the first one's precision for the whole process; it is reset here."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    shared = AcceleratorState._shared_state
    if shared and shared.get("_mixed_precision") != precision:
        AcceleratorState._reset_state(reset_partial_state=False)
    return Accelerator(mixed_precision=precision, cpu=device.type == "cpu")


def _save(path: Path, leaves: Mapping[str, Tensor], adam: Any, trace: Trace, step: int) -> None:
    state = {"leaves": {k: v.detach() for k, v in leaves.items()}, "optimiser": adam.state_dict(), "step": step}
    with files.written(path) as part:
        torch.save({**state, "losses": trace.losses, "norms": trace.norms, "seconds": trace.seconds}, part)


def _resume(path: Path | None, leaves: Mapping[str, Tensor], adam: Any, trace: Trace) -> int:
    """Take over the state in a file; returns the steps that it has behind it, 0 where there is none."""
    if path is None or not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    with torch.no_grad():
        for name, leaf in leaves.items():
            leaf.copy_(state["leaves"][name])
    adam.load_state_dict(state["optimiser"])
    trace.losses, trace.norms, trace.seconds = state["losses"], state["norms"], state["seconds"]
    return int(state["step"])


def mean_over(leaves: Mapping[str, Tensor], steps: Iterator[int], decay: float) -> dict[str, Tensor]:
    """Run a `fit` to its end; the mean of the leaves over its stops, each weighing `decay` times what the next does. 0: the last ones."""
    if not decay:
        for _ in steps:
            pass
        return {name: leaf.detach().clone() for name, leaf in leaves.items()}
    mean = {name: leaf.detach().clone() for name, leaf in leaves.items()}
    for count, _ in enumerate(steps, 1):
        for name, leaf in leaves.items():
            mean[name].lerp_(leaf.detach(), (1 - decay) / (1 - decay**count))
    return mean
