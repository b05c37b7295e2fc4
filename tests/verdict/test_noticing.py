"""The smallest drop that would have been noticed: by simulation of the very rule that raises the flag."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vestige.verdict.intervals import fell
from vestige.verdict.noticing import noticeable


def seen(count: int, gains: int = 0, wrong: int = 0) -> tuple[list[bool | None], list[bool | None]]:
    """`count` pictures, of which `wrong` were wrong before, and `gains` of these right after; nothing was lost."""
    before: list[bool | None] = [i >= wrong for i in range(count)]
    return before, [hit or i < gains for i, hit in enumerate(before)]


@pytest.mark.parametrize("allowed", [0.10, 0.25])
@pytest.mark.parametrize(("count", "gains"), [(96, 0), (240, 0), (240, 12)])
def test_a_drop_of_that_size_raises_the_flag_in_four_of_five_audits(allowed: float, count: int, gains: int) -> None:
    least = noticeable(*seen(count, gains, gains), allowed)
    rng, fired, tries = np.random.default_rng(0), 0, 2000
    lost, won = least + gains / count, gains / count
    for _ in range(tries):
        draw = rng.uniform(size=count)
        before = [bool(x >= won) for x in draw]
        after = [bool(x < won or x >= won + lost) for x in draw]
        fired += fell(before, after)[1] > allowed
    assert 0.74 < fired / tries < 0.88


def test_more_pictures_notice_less() -> None:
    few, many = (noticeable(*seen(count), 0.1) for count in (48, 240))
    assert 0.25 < few < 0.32 and 0.1 < many <= 0.2


def test_noise_hides_a_drop() -> None:
    assert noticeable(*seen(240, 24, 24), 0.1) > noticeable(*seen(240, 0, 24), 0.1)


def test_what_was_never_right_cannot_be_lost() -> None:
    assert noticeable(*seen(240, 0, 220), 0.1) == math.inf
    assert noticeable([True], [True], 0.1) == math.inf == noticeable([], [], 0.1)


@pytest.mark.parametrize(("allowed", "power"), [(-0.1, 0.8), (1.0, 0.8), (0.1, 0.5), (0.1, 1.0)])
def test_what_makes_no_sense_is_refused(allowed: float, power: float) -> None:
    with pytest.raises(ValueError, match="a drop is allowed within"):
        noticeable([True] * 9, [True] * 9, allowed, power)
