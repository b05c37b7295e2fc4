"""Where and how models work: told to another process, and noted beside what was computed, as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from vestige.methods import optimiser
from vestige.models import Placement, placement


def means() -> dict[str, Any]:
    """What holds here and now."""
    return {"placement": asdict(placement.current()), "options": asdict(optimiser.current())}


@contextmanager
def working(how: Mapping[str, Any]) -> Iterator[None]:
    """Let it hold in this process, which works in one thread from now on."""
    torch.set_num_threads(1)
    with placement.using(Placement(**how["placement"])), optimiser.using(optimiser.FitOptions(**how["options"])):
        yield


def computed_by() -> dict[str, Any]:
    """What numbers of one spec may differ by in rounding: the kind of device, its instruction set or name, threads, and torch."""
    kind = placement.current().resolved.partition(":")[0]
    which = torch.cuda.get_device_name() if kind == "cuda" else torch.backends.cpu.get_cpu_capability() if kind == "cpu" else ""
    threads = {"threads": torch.get_num_threads()} if kind == "cpu" else {}
    return {"device": kind, "which": which, **threads, "torch": torch.__version__}
