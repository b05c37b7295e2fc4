"""What a method sees of a model before it trains: a Fisher information, a saliency, the length of a gradient.

Such passes change nothing, so whoever holds a training back from outside has to tell them from those that do: nothing may be added to their
gradients, and they are no evidence of what the training loss depends on. What may not move has no gradient in them either.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_LOOKING: ContextVar[bool] = ContextVar("looking", default=False)


@contextmanager
def looking() -> Iterator[None]:
    """Backward passes inside only look: no step follows from them."""
    token = _LOOKING.set(True)
    try:
        yield
    finally:
        _LOOKING.reset(token)


def only_looks() -> bool:
    """Whether the present pass only looks."""
    return _LOOKING.get()
