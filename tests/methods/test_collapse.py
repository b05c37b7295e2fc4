"""Damped gradients: what is left of each singular direction is its formula's, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vestige.methods.collapse import collapsed
from vestige.seeds import generator


@pytest.fixture(params=[(12, 9), (9, 12), (8, 3, 2, 2)], ids=["tall", "wide", "kernel"])
def gradient(request: pytest.FixtureRequest) -> Tensor:
    return torch.randn(request.param, generator=generator(0), dtype=torch.float64)


@pytest.mark.parametrize(("how", "power"), [("soft", 1), ("quadratic", 2), ("hard", None)])
def test_each_direction_keeps_what_its_formula_leaves(gradient: Tensor, how: Any, power: int | None) -> None:
    """Both sides multiply: S_k (S_q / S_k)^(2 power) on the first q, and every other singular value as it was."""
    count = 3
    u, s, vh = torch.linalg.svd(gradient.flatten(1), full_matrices=False)
    left = s.clone()
    left[:count] = 0 if power is None else s[:count] * (s[count - 1] / s[:count]) ** (2 * power)
    torch.testing.assert_close(collapsed(gradient, count, how).flatten(1), u @ torch.diag(left) @ vh)


def test_at_most_half_of_the_smaller_side(gradient: Tensor) -> None:
    half = min(gradient.flatten(1).shape) // 2
    assert torch.equal(collapsed(gradient, 512), collapsed(gradient, half))
    assert not torch.equal(collapsed(gradient, half), collapsed(gradient, half - 1))


def test_what_is_left_as_it_is_bit_for_bit(gradient: Tensor) -> None:
    assert collapsed(gradient, 0) is gradient
    vector, nothing = torch.randn(5, generator=generator(1)), torch.zeros(4, 6)
    assert collapsed(vector, 3) is vector
    assert collapsed(nothing, 3) is nothing


def test_of_few_ranks_nothing_becomes_infinite() -> None:
    """S_q is zero where the gradient has fewer directions; those that it has are damped away."""
    a, b = (torch.randn(n, 1, generator=generator(n), dtype=torch.float64) for n in (8, 6))
    assert collapsed(a @ b.T, 3).abs().max() < 1e-12


def test_an_unknown_way_is_told() -> None:
    with pytest.raises(ValueError, match="how is one of soft, quadratic, hard; given 'firm'"):
        collapsed(torch.eye(4), 1, "firm")  # type: ignore[arg-type]
