"""What must stay, by pictures: the share that was lost, where it is known what share was."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vestige.metrics.losses import Array, LostShare, by_kernel, by_score

RNG = np.random.default_rng


def mixed(before: Array, nothing: Array, share: float, seed: int) -> Array:
    """The original's, a share of them become what is drawn for no prompt."""
    away = RNG(seed).random(len(before)) < share
    return np.where(away.reshape(-1, *[1] * (before.ndim - 1)), nothing, before)


def scores(count: int, seed: int) -> tuple[Array, Array]:
    rng = RNG(seed)
    seeds = rng.normal(0, 1, count)
    return 28 + seeds + rng.normal(0, 1, count), 18 + seeds + rng.normal(0, 1, count)


def features(count: int, seed: int, width: int = 16) -> tuple[Array, Array]:
    rng = RNG(seed)
    return rng.normal(0, 1, (count, width)), rng.normal(0, 1, (count, width)) + 0.8


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_a_share_of_pictures_that_became_unprompted_is_the_share_lost(share: float) -> None:
    """By either measure; 400 pictures, within what chance allows."""
    for found in (
        by_score(*_three(scores(400, 1), share)),
        by_kernel(*_three(features(400, 2), share)),
    ):
        assert found.share.value == pytest.approx(share, abs=0.06)
        assert found.share.low <= share <= found.share.high + 0.02


def _three(sides: tuple[Array, Array], share: float, seed: int = 3) -> tuple[Array, Array, Array]:
    before, nothing = sides
    return before, mixed(before, nothing, share, seed), nothing


@pytest.mark.parametrize("measure", ["score", "kernel"])
def test_the_interval_covers_the_truth_at_its_rate(measure: str) -> None:
    inside = 0
    for k in range(200):
        sides = scores(80, k) if measure == "score" else features(80, k)
        found = (by_score if measure == "score" else by_kernel)(*_three(sides, 0.3, 1000 + k))
        inside += found.share.low <= 0.3 <= found.share.high
    assert inside / 200 >= 0.91  # 95 %, three standard errors below


@pytest.mark.parametrize("found", [by_score, by_kernel])
def test_an_equal_model_lost_nothing_and_nothing_is_known_where_captions_do_not_matter(found: type) -> None:
    before, nothing = scores(60, 0) if found is by_score else features(60, 0)
    equal: LostShare = found(before, before.copy(), nothing)
    assert (equal.share.value, equal.share.low) == (0.0, 0.0) and equal.known
    blind: LostShare = found(before, nothing, before.copy())
    assert not blind.known and blind.noticeable(0.1, 0.8) == math.inf
    assert not found(before[:2], before[:2], nothing[:2]).known


def test_what_would_have_been_noticed_is_noticed_four_times_in_five() -> None:
    """A true loss of the size that the page names rises above what is allowed in that share of trials."""
    found = by_score(*_three(scores(150, 5), 0.2))
    least = found.noticeable(0.1, 0.8)
    rises = [by_score(*_three(scores(150, k), least, k)).share.low > 0.1 for k in range(100, 400)]
    assert 0.1 < least < 0.4 and 0.7 <= np.mean(rises) <= 0.9
