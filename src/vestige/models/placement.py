"""Where models work, in which precision, and what they save memory by."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from vestige.errors import BadSetting

DTYPES, DEVICES = ("float32", "bfloat16", "float16"), ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a model works, in which precision, and what it saves memory by.

    Arguments:
        device: "cpu", "cuda", "cuda:1", "mps", or "auto": the fastest there is.
        dtype: "float32", "bfloat16" or "float16", of the weights; in bfloat16 what trains is float32, in float16 nothing trains.
        offload: Everything but the denoiser stays on the CPU while it has nothing to do.
        checkpointing: Activations are computed again in the backward pass instead of being kept.
        slicing: Attention is computed head by head.
    """

    device: str = "auto"
    dtype: str = "float32"
    offload: bool = False
    checkpointing: bool = False
    slicing: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise BadSetting(f"dtype is one of {', '.join(DTYPES)}; given {self.dtype!r}")
        if self.device.partition(":")[0] not in DEVICES:
            raise BadSetting(f"device is auto, cpu, cuda, cuda:N or mps; given {self.device!r}")

    def as_dict(self) -> dict[str, str]:
        """What of it changes numbers, plain data; empty for what is usual."""
        return {} if self.dtype == "float32" else {"dtype": self.dtype}

    @property
    def resolved(self) -> str:
        """The device, "auto" resolved; one that is not there is an error. Of several processes, each has a GPU of its own."""
        import torch

        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        kind = self.device.partition(":")[0]
        if kind == "auto":
            kind = next(device for device, found in there.items() if found)
            return f"cuda:{os.environ['LOCAL_RANK']}" if kind == "cuda" and "LOCAL_RANK" in os.environ else kind
        if not there[kind]:
            raise BadSetting(f"there is no {self.device} on this machine; choose {' or '.join(d for d, found in there.items() if found)}")
        return self.device


_USUAL = Placement()

_PLACED: ContextVar[Placement] = ContextVar("placed", default=_USUAL)


def current() -> Placement:
    """Where `load` puts models that it is not told otherwise about."""
    return _PLACED.get()


@contextmanager
def using(placement: Placement) -> Iterator[None]:
    """Let every model loaded inside be placed so."""
    token = _PLACED.set(placement)
    try:
        yield
    finally:
        _PLACED.reset(token)
