"""What a command would do, said without doing it: its spec, its model calls, and how long they take here.

    seconds = sum over parts of calls x processor time of such a call / (processes x share of a core that each of them gets)

Calls that draw and calls that train take different times. On the embedded world both are measured on one thread, as an audit's processes
run, in processor time, which what else runs here does not lengthen; how much of the cores that leaves is read off the load instead.
Elsewhere a call is measured by the clock, with the threads or the device that it will have.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vestige.cli.frame import give
from vestige.engine import spoken

if TYPE_CHECKING:
    from vestige.diffusion import Model

TRAINING = frozenset({"attacks", "unlearning"})  # parts most of whose calls are trained through
ALONE = frozenset({"unlearning", "controls"})  # parts that are done before there is anything to share
BATCH = 64


@dataclass(frozen=True)
class Speed:
    """How fast a machine is.

    Arguments:
        drawn: Seconds of a call that draws, its part of decoding a picture included, and `trained`: of one that trains.
        processes: How many share the work, and `share`: of a core that each gets.
    """

    drawn: float
    trained: float
    processes: int = 1
    share: float = 1.0

    def seconds(self, calls: Mapping[str, int]) -> float:
        """How long calls take, by part."""
        each = {part: (self.trained if part in TRAINING else self.drawn) / (1 if part in ALONE else self.processes) for part in calls}
        return sum(each[part] * count for part, count in calls.items()) / self.share


def dry_run(
    spec: Mapping[str, Any],
    calls: Mapping[str, int],
    model: str,
    as_json: bool,
    remarks: Sequence[str] = (),
    most: Mapping[str, int] | None = None,
    *,
    picture: int,
    processes: int = 1,
) -> None:
    """Print it, and what there is to say of it.

    Arguments:
        most: Calls if no earlier look decides; None where there is but one.
        picture: Calls of one picture.
        processes: How many will share the work.
    """
    speed = speed_of(model, picture, processes)
    seconds, longest = (speed.seconds(parts) for parts in (calls, most or calls))
    data = {"spec": spec, "planned_calls": calls, "expected_seconds": round(seconds), **({"remarks": list(remarks)} if remarks else {})}
    data |= {"planned_calls_at_most": most, "expected_seconds_at_most": round(longest)} if most else {}
    text = json.dumps(data["spec"], indent=2)
    parts = ", ".join(f"{k} {v:,}" for k, v in calls.items())
    notes = "".join(f"\nnote: {remark}" for remark in remarks)
    took = f"expected time on this machine, nothing cached: about {spoken(seconds)}"
    took += f" if the first look decides, {spoken(longest)} if only the last one does" if most else ""
    took += f"; {processes} processes of one thread" if processes > 1 else ""
    took += f", beside other work that leaves each {speed.share:.0%} of a core" if speed.share < 0.95 else ""
    give(data, as_json, f"{text}\nplanned denoiser calls: {parts}\n{took}{notes}")


def speed_of(name: str, picture: int, processes: int) -> Speed:
    """Measured here and now: a denoiser call in a batch, decoding, and a training step where the model is small.

    Arguments:
        name: The model.
        picture: Calls of one picture.
        processes: How many will share the work.
    """
    import torch

    from vestige import models
    from vestige.models import placement

    model, small = models.load(name), bool(models.card(name).world) and placement.current().resolved == "cpu"
    condition = model.condition([""]).repeat(BATCH)
    x = torch.zeros(BATCH, *model.latent_shape).to(condition.text)
    t = model.grid(10)[:1].expand(BATCH).to(x.device)
    with _one_thread(small), torch.no_grad():
        clock = time.process_time if small else time.monotonic
        called = fastest(lambda: float(model.denoise(x, t, condition).value.flatten()[0]), clock) / BATCH
        shown = x if small else x[:1]
        decoded = fastest(lambda: float(model.decode(shown).flatten()[0]), clock, 1) / len(shown)
    drawn = called + decoded / max(1, picture)
    if not small:
        return Speed(drawn, drawn)
    with _one_thread(True):
        return Speed(drawn, seconds_trained(model), processes, _share(processes))


def seconds_trained(model: Model) -> float:
    """Processor time of a call in a training step, of which one that is trained through counts as several (`methods.contract.TRAINED`)."""
    import torch

    from vestige.methods.contract import TRAINED
    from vestige.methods.objectives import denoising
    from vestige.seeds import generator

    batch = 8
    view, leaves = model.trainable(model.scope("unet")[:1])
    latents, condition = torch.zeros(batch, *model.latent_shape), model.condition([""]).repeat(batch)

    def step() -> None:
        torch.autograd.grad(denoising(view, latents, condition, generator(0, "forecast")), list(leaves.values()))

    return fastest(step, time.process_time) / batch / TRAINED


def fastest(work: Callable[[], object], clock: Callable[[], float], times: int = 3) -> float:
    """Seconds of the fastest of a few times, after one that warms up."""
    work()
    found = []
    for _ in range(times):
        began = clock()
        work()
        found.append(clock() - began)
    return min(found)


@contextmanager
def _one_thread(wanted: bool) -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _share(processes: int) -> float:
    """Of a core that each of so many busy processes gets beside what runs here already; all of it where nobody tells the load."""
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return min(1.0, (os.cpu_count() or 1) / (processes + busy))
