"""Arms of made-up scores."""

from __future__ import annotations

from typing import Any

import numpy as np

from vestige.verdict import Arms

DOUBLINGS = (0, 1, 3, 7, 15, 31, 63, 127)  # evenly spaced in log(1 + b)


def rows(values: Any) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, np.asarray(values, dtype=float).tolist()))


def arms(edited: Any, never: Any, budgets: tuple[int, ...] = DOUBLINGS, floor: Any = 0.0, ceiling: Any = 1.0, **proxy: Any) -> Arms:
    return Arms(budgets, rows(edited), rows(never), floor, ceiling, **proxy)


def random_arms(seed: int, n: int = 4, **levels: Any) -> Arms:
    edited, never = np.random.default_rng(seed).uniform(0.2, 0.7, (2, n, len(DOUBLINGS)))
    return arms(edited, never, **levels)
