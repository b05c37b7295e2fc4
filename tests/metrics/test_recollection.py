"""Coverage of real pictures that were not shown: against a second implementation, and on sets whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vestige.errors import BadInput
from vestige.metrics.recollection import covered, of_the_concept, unshown
from vestige.seeds import generator


def points(name: str, count: int, width: int = 6) -> torch.Tensor:
    return torch.randn(count, width, generator=generator(0, name))


@pytest.mark.parametrize("nearest", [1, 3, 5])
def test_coverage_by_a_second_implementation(nearest):
    real, drawn = points("real", 40), points("drawn", 25)
    apart = np.linalg.norm(real.numpy()[:, None] - real.numpy()[None], axis=-1)
    radius = np.sort(apart, axis=1)[:, nearest]  # the 0th is itself
    near = np.linalg.norm(real.numpy()[:, None] - drawn.numpy()[None], axis=-1).min(axis=1)
    assert covered(real, drawn, nearest) == (near <= radius).tolist()


def test_a_model_that_draws_every_real_picture_covers_all_and_a_copyist_what_he_was_shown():
    real = points("real", 48)
    given = [i < 8 for i in range(48)]
    assert unshown(covered(real, real + 1e-6), given) == 1.0
    copied = unshown(covered(real, real[:8].repeat(6, 1)), given)
    fresh = unshown(covered(real, points("another", 48)), given)
    assert copied < 0.5 < fresh  # as many pictures, and those of the shown ones cover what lies beside them alone


def test_more_pictures_of_the_same_kind_cover_more():
    """Why the number has to be equal everywhere."""
    real, drawn = points("real", 60), points("drawn", 120)
    shares = [sum(covered(real, drawn[:n])) / 60 for n in (0, 10, 40, 120)]
    assert shares[0] == 0 and shares == sorted(shares) and shares[-1] > shares[1]


def test_what_the_judge_does_not_recognise_covers_nothing():
    features = points("drawn", 6)
    kept = of_the_concept(features, [True, None, False, True, True, False], 2)
    assert torch.equal(kept, features[[0, 3]])
    assert covered(points("real", 9), of_the_concept(features, [False] * 6, 4)) == [False] * 9


def test_too_few_real_pictures_and_nothing_unshown_are_refused():
    with pytest.raises(BadInput, match="3 real pictures are given"):
        covered(points("real", 3), points("drawn", 4))
    with pytest.raises(BadInput, match="every real picture was shown"):
        unshown([True, False], [True, True])
