"""Detectors around a function: what cannot be judged is missing, never absent, and rates say how many that were."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from vestige.errors import Incompatible, UnknownName
from vestige.metrics import Detector
from vestige.metrics.judge import scored
from vestige.metrics.pixels import as_read
from vestige.metrics.score import crossed, score
from vestige.seeds import generator
from vestige.verdict.intervals import judged, share, wilson

NAMES = ("church, church building", "garbage truck, dustcart", "tench, Tinca tinca")


def means(images: Tensor) -> Tensor:
    """One score a channel."""
    return images.mean((2, 3))


def detector(**own: Any) -> Detector:
    fields = {"name": "means", "version": "1", "weights_hash": "none", "labels": NAMES, "look": means}
    return Detector(**{**fields, **own})


def pictures(*rows: tuple[float, float, float]) -> Tensor:
    return torch.tensor(rows)[:, :, None, None].expand(-1, -1, 4, 4).contiguous()


def fails_on_dark(images: Tensor) -> Tensor:
    """As a face detector that stumbles: one dark picture, and the whole batch raises."""
    if (images.mean((1, 2, 3)) < 0.1).any():
        raise RuntimeError("too dark")
    return means(images)


SHOWN = pictures((0.9, 0.1, 0.2), (0.0, 0.0, 0.0), (0.2, 0.8, 0.1))


def test_a_picture_that_fails_is_missing_and_its_batch_is_not(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        raw = detector(look=fails_on_dark).raw(SHOWN)
    assert torch.equal(raw[[0, 2]], means(SHOWN)[[0, 2]])
    assert raw[1].isnan().all()
    assert [r.message for r in caplog.records] == ["means could not judge 1 of 3 pictures; the last one: RuntimeError: too dark"]


@pytest.mark.parametrize(
    "look",
    [
        lambda images: None,
        lambda images: means(images)[:, :2],
        lambda images: means(images)[0],
        lambda images: torch.full((len(images), 3), math.nan),
    ],
)
def test_what_is_no_score_is_missing(look: Any) -> None:
    broken = detector(look=look)
    assert broken.raw(SHOWN).isnan().all() and broken.raw(SHOWN).shape == (3, 3)
    found = scored(broken, SHOWN, "church")
    assert (found.count, found.missing) == (0, 3)
    assert math.isnan(found.value) and "undefined of 0, 3 missing" in str(found)


def test_interrupts_are_no_failed_detections() -> None:
    def stop(images: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        detector(look=stop).raw(SHOWN)


def test_rates_are_over_what_was_judged() -> None:
    found = scored(detector(look=fails_on_dark), SHOWN, "church")
    assert (found.value, found.count, found.missing) == (0.5, 2, 1)
    assert (found.low, found.high) == pytest.approx((wilson(1, 2).low, wilson(1, 2).high))
    assert (found.detector, found.version, found.weights_hash, found.threshold) == ("means", "1", "none", 0.5)
    assert "1 missing" in str(found)


def test_missing_is_neither_hit_nor_miss() -> None:
    assert crossed(torch.tensor([0.5, math.nan, 0.2]), 0.5) == [True, None, False]
    assert judged([True, None, False]) == [True, False]
    assert share([True, None, False]) == 0.5
    assert math.isnan(share([None])) and math.isnan(share([]))


@pytest.mark.parametrize("label", ["church, church building", "church", "Church_Building", "0"])
def test_labels_are_found_by_name_synonym_or_number(label: str) -> None:
    assert torch.equal(detector().shows(SHOWN, label), means(SHOWN)[:, 0])


def test_unknown_and_ambiguous_labels_are_refused() -> None:
    with pytest.raises(UnknownName, match="unknown label of means 'tensh'"):
        detector().shows(SHOWN, "tensh")
    with pytest.raises(UnknownName, match="several have the name 'crane'"):
        detector(labels=("crane, bird", "crane, machine", "dog")).columns("crane")


def test_a_set_shows_where_any_of_its_labels_does() -> None:
    sets = {"both": ("church", "tench")}
    assert torch.equal(detector(sets=sets).shows(SHOWN, "both"), means(SHOWN)[:, [0, 2]].amax(1))
    rivals = detector(sets=sets, group="object")  # probabilities of labels that exclude each other add up
    torch.testing.assert_close(rivals.shows(SHOWN, "both"), means(SHOWN)[:, [0, 2]].sum(1))


def test_told_of_a_concept() -> None:
    told = detector(group="x").told("building", ("church",), level=0.3, group="object", asked=("tench", "castle"))
    assert (told.threshold("building"), told.group) == (0.3, "object")
    assert told.labelled(SHOWN) == [{"object": "building"}, {"object": "building"}, {"object": "garbage truck, dustcart"}]
    assert [told.knows(word) for word in ("building", "tench", "castle")] == [True, True, False]
    assert told.identity("building")["labels"] == ["church, church building"]
    with pytest.raises(UnknownName):
        detector().told("building", ())
    with pytest.raises(ValueError, match="between 0 and 1"):
        detector().told("church", (), level=1.5)


def test_labels_that_do_not_compete_tell_nothing_else() -> None:
    assert detector().labelled(SHOWN) == [{}, {}, {}]
    assert not detector().knows("church")


def test_a_missing_picture_has_no_label() -> None:
    assert detector(look=fails_on_dark, group="object").labelled(SHOWN)[1] == {}


def test_table_of_sets_and_thresholds() -> None:
    both = detector(sets={"both": ("church", "tench")})
    raw = torch.tensor([[0.7, 0.1, 0.3], [0.5, 0.9, 0.1], [math.nan] * 3])
    table = both.table(raw)
    assert {t: (c["rate"].value, c["rate"].missing, c["labels"]) for t, c in table["both"].items()} == {
        0.2: (1.0, 1, 3),
        0.45: (1.0, 1, 2),
        0.6: (0.5, 1, 1),
    }
    assert table["both"][0.6]["rate"].detector == "means both"


def test_intervals_of_pictures_that_share_prompts_are_wider() -> None:
    """Ten prompts of twenty equal pictures are ten pieces of evidence, not two hundred."""
    hits = [i < 4 for i in range(10) for _ in range(20)]
    units = [i for i in range(10) for _ in range(20)]
    alone, clustered = score(hits), score(hits, units=units)
    assert alone.value == clustered.value == 0.4
    assert clustered.high - clustered.low > 3 * (alone.high - alone.low)
    assert clustered == score(hits, units=units)
    none = score([False] * 20, units=[0, 1] * 10)
    assert none.high == pytest.approx(wilson(0, 2).high)
    assert score(hits, units=[0] * 200) == alone  # of one prompt its pictures are all the evidence
    few = score([True, False] * 10, units=[0, 1] * 10)
    assert few.low <= score([True, False] * 10).low
    with pytest.raises(ValueError, match="one unit a picture"):
        score(hits, units=[0])


def test_clustered_interval_covers_the_truth() -> None:
    """Prompts with rates of their own: 95 % intervals hold the mean of 0.5 in most of 200 draws; intervals over pictures do not."""
    rng = generator(0, "cluster")
    covered = [0, 0]
    for _ in range(200):
        rates = torch.rand(40, generator=rng).repeat_interleave(5)
        hits = (torch.rand(200, generator=rng) < rates).tolist()
        found = (score(hits, units=[i // 5 for i in range(200)]), score(hits))
        covered = [c + (f.low <= 0.5 <= f.high) for c, f in zip(covered, found, strict=True)]
    assert covered[0] > 180
    assert covered[1] < covered[0]


def test_no_features_is_said() -> None:
    with pytest.raises(Incompatible, match="means gives scores and no features"):
        detector().features(SHOWN)
    assert torch.equal(detector(embed=means).features(SHOWN), means(SHOWN))


def test_senseless_detectors_are_refused() -> None:
    for own in ({"labels": ()}, {"labels": ("a", "a")}, {"level": 0.0}):
        with pytest.raises(ValueError):
            detector(**own)


def test_prepared_leaves_a_picture_of_the_right_size_alone() -> None:
    images = torch.rand(2, 3, 8, 8, generator=generator(0))
    assert torch.equal(as_read(images, (8, 8), (0, 0, 0), (1, 1, 1)), images)
    assert as_read(torch.rand(1, 3, 30, 20), (8, 8), (0.5,) * 3, (0.5,) * 3, short=10).shape == (1, 3, 8, 8)
