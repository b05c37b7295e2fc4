"""What a machine with little memory, or with several processes, changes about every fit of every method."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vestige.errors import BadSetting, Incompatible

LARGE = 10**8  # weights, above which a CPU's memory counts for more than its time


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Options of every fit.

    Arguments:
        accumulation: Multiplies a method's own micro-batches a step. With n processes, each takes its share of n times as many.
        eight_bit: AdamW keeps its two moments in 8 bits (bitsandbytes, on a GPU).
    """

    accumulation: int = 1
    eight_bit: bool = False

    def __post_init__(self) -> None:
        if self.accumulation < 1:
            raise BadSetting(f"accumulation is at least 1; given {self.accumulation}")

    def as_dict(self) -> dict[str, Any]:
        """What of it changes numbers, plain data; empty for what is usual."""
        batches = self.accumulation * processes()
        return ({"accumulation": batches} if batches > 1 else {}) | ({"optimiser": "adamw8bit"} if self.eight_bit else {})


_USUAL = FitOptions()
_THRIFT: ContextVar[FitOptions] = ContextVar("thrift", default=_USUAL)


def current() -> FitOptions:
    """What holds now."""
    return _THRIFT.get()


@contextmanager
def using(chosen: FitOptions) -> Iterator[None]:
    """Let it hold for every fit inside."""
    token = _THRIFT.set(chosen)
    try:
        yield
    finally:
        _THRIFT.reset(token)


def processes() -> int:
    """How many processes `accelerate launch` or torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def adamw(params: Sequence[Tensor], *, lr: float, betas: tuple[float, float], weight_decay: float) -> torch.optim.Optimizer:
    """The optimiser of every fit.

    Many tensors at a time, which is faster, but for large ones on the CPU: it holds whole copies of them while it steps.
    """
    if not current().eight_bit:
        room = params[0].device.type != "cpu" or sum(p.numel() for p in params) <= LARGE
        return torch.optim.AdamW(params, lr=lr, betas=betas, weight_decay=weight_decay, foreach=len(params) > 8 and room)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise Incompatible(f"8-bit Adam needs bitsandbytes ({error}); pip install bitsandbytes, or leave the option out") from error
    made: torch.optim.Optimizer = AdamW8bit(params, lr=lr, betas=betas, weight_decay=weight_decay)
    return made
