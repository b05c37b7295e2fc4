"""Distances at equal seeds and unlearning accuracies, on pictures and judges that a test controls."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vestige.errors import BadInput
from vestige.metrics.locality import Pixels, accuracies, gap, shift
from vestige.seeds import generator


class Corner:
    """Features are a picture's first two values, its labels what they say."""

    name, version, weights_hash = "corner", "1", "h"

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :2]

    def labelled(self, images: Tensor) -> list[dict[str, str]]:
        words = {
            0: {},
            1: {"object": "bag", "style": "photo"},
            2: {"object": "hat", "style": "photo"},
            3: {"object": "hat", "style": "neon"},
        }
        return [words[int(image.flatten()[0] * 4)] for image in images]


def turned(*degrees: float) -> Tensor:
    angles = torch.tensor(degrees).deg2rad()
    return torch.cat([torch.stack([angles.cos(), angles.sin()], 1), torch.zeros(len(degrees), 10)], 1).reshape(-1, 3, 2, 2)


def test_distance_is_one_minus_the_cosine() -> None:
    found = shift(Corner(), turned(0, 0, 30), turned(60, 90, 30))
    assert found.each == pytest.approx((0.5, 1.0, 0.0), abs=1e-6)
    assert found.value == pytest.approx(0.5)
    assert found.high - found.value == pytest.approx(1.96 * 0.5 / math.sqrt(3))
    assert (found.name, found.weights_hash, found.note) == ("distance-corner", "h", "only 3 pairs")


def test_brightness_of_features_does_not_count() -> None:
    assert shift(Corner(), turned(10, 20), 0.5 * turned(10, 20)).value == pytest.approx(0, abs=1e-6)


def test_pictures_are_paired() -> None:
    a, b = turned(0, 90), turned(90, 0)
    assert shift(Corner(), a, b).value == pytest.approx(1)
    assert shift(Corner(), a, b.flip(0)).value == pytest.approx(0, abs=1e-6)
    assert shift(Corner(), a, b).value == shift(Corner(), b, a).value


@pytest.mark.parametrize(("a", "b"), [((0, 1), (0, 1, 2)), ((0,), (0,))])
def test_sets_that_are_no_pairs_are_refused(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    with pytest.raises(BadInput, match="pairs need two equal sets of at least 2 pictures"):
        shift(Corner(), turned(*a), turned(*b))


def test_a_local_edit_moves_the_target_farther() -> None:
    target, other = shift(Corner(), turned(0, 0, 10), turned(60, 70, 80)), shift(Corner(), turned(0, 0, 10), turned(5, 2, 10))
    found = gap(target, other)
    assert found.value == pytest.approx(target.value - other.value) and found.low > 0
    assert found.high - found.value == pytest.approx(math.hypot(target.high - target.value, other.high - other.value))
    with pytest.raises(BadInput, match="distances of different networks"):
        gap(target, shift(Pixels(), torch.rand(3, 3, 4, 4), torch.rand(3, 3, 4, 4)))


def test_pixels_need_no_network_and_name_their_size() -> None:
    a = torch.rand(40, 3, 16, 24, generator=generator(0))
    assert shift(Pixels(8), a, a).value == pytest.approx(0, abs=1e-6)
    found = shift(Pixels(8), a, a.flip(0))
    assert (found.name, found.note) == ("distance-pixels-8", "")
    assert found.value > 0


def seen(*codes: int) -> Tensor:
    return torch.tensor(codes)[:, None, None, None].expand(-1, 3, 2, 2) / 4


ASKED = [{"object": "bag"}, {"object": "bag"}, {"object": "bag"}, {"object": "hat", "style": "photo"}, {"object": "hat"}, {"style": "neon"}]


def test_unlearning_accuracies_of_constructed_pictures() -> None:
    """One bag of two that were judged is still there; hats are hats; of two styles one is right, and one could not be judged."""
    found = accuracies(Corner(), seen(1, 2, 0, 3, 2, 0), ASKED, ("object", "bag"))
    assert (found.unlearning.value, found.unlearning.count, found.unlearning.missing) == (0.5, 2, 1)
    assert (found.in_domain.value, found.in_domain.count) == (1.0, 2)
    assert (found.cross_domain.value, found.cross_domain.count, found.cross_domain.missing) == (0.0, 1, 1)
    assert found.in_domain.detector == "corner" and str(found).startswith("UA 50.0%")


def test_a_domain_without_pictures_is_undefined() -> None:
    found = accuracies(Corner(), seen(1, 2), ASKED[:2], ("object", "bag"))
    assert math.isnan(found.in_domain.value) and found.cross_domain.count == 0
    with pytest.raises(BadInput, match="one expectation a picture: 2 pictures, 1 expectations"):
        accuracies(Corner(), seen(1, 2), ASKED[:1], ("object", "bag"))


def test_pictures_of_one_prompt_are_one_piece_of_evidence() -> None:
    pictures, asked = seen(*([1] * 10 + [2] * 10) * 4), [{"object": "bag"}] * 80
    alone = accuracies(Corner(), pictures, asked, ("object", "bag")).unlearning
    clustered = accuracies(Corner(), pictures, asked, ("object", "bag"), units=[i // 10 for i in range(80)]).unlearning
    assert clustered.high - clustered.low > 1.5 * (alone.high - alone.low)
