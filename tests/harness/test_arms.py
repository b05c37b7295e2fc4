"""Arms and flags: arithmetic on constructed scores."""

from __future__ import annotations

import math
from typing import Any

import pytest

from vestige.audit.flags import relative_speed
from vestige.harness.arms import curve
from vestige.verdict.intervals import drop, fell


def points(*rows: tuple[float, float | None]) -> list[dict[str, Any]]:
    """Verification rate (in tenths) and selection rate of every point."""
    return [{"hits": [i < round(score * 10) for i in range(10)], "selected": chosen} for score, chosen in rows]


def test_best_so_far_is_chosen_by_the_selection_judge_alone() -> None:
    rows = points((0.1, 0.0), (0.9, 0.2), (0.4, 0.6), (1.0, 0.5))
    scores, taken = curve(rows, best_so_far=True)
    assert scores == (0.1, 0.9, 0.4, 0.4)  # the last point is better, but the selection judge does not say so
    assert taken == [0, 1, 2, 2]


def test_of_equals_the_latest_counts() -> None:
    assert curve(points((0.1, 0.5), (0.3, 0.5)), best_so_far=True)[0] == (0.1, 0.3)


def test_without_best_so_far_the_curve_is_what_was_scored() -> None:
    rows = points((0.1, 0.9), (0.9, 0.2), (0.4, 0.1))
    assert curve(rows, best_so_far=False)[0] == (0.1, 0.9, 0.4)
    assert curve(points((0.1, None), (0.9, None)), best_so_far=True)[0] == (0.1, 0.9)


def test_paired_drop_of_constructed_pairs() -> None:
    """20 of 100 pictures went wrong, none came right: the drop is 0.2 and its standard error known."""
    before, after = [True] * 100, [False] * 20 + [True] * 80
    found = drop({"": before}, {"": after}) or {}
    assert found["value"] == pytest.approx(0.2)
    assert found["low"] == pytest.approx(0.2 - 1.96 * math.sqrt(0.2 * 0.8 * 100 / 99 / 100), abs=1e-9)
    same = drop({"": before}, {"": before}) or {}
    assert (same["value"], same["low"]) == (0.0, 0.0)
    assert (drop({"": [True]}, {"": [False]}) or {"low": 0.0})["low"] is None
    assert fell([True], [False]) == (0.0, -math.inf)


def test_relative_speed_of_a_model_against_itself_is_one() -> None:
    curves = ((0.0, 0.4, 0.8), (0.1, 0.5, 0.9))
    assert relative_speed(curves, curves, (0.0, 0.1), 1.0, (0, 5, 20)) == pytest.approx(1.0)


def test_relative_speed_of_one_that_learns_nothing() -> None:
    """Recall 1 against 0 from the first step on: the whole integral counts."""
    fast, slow = ((1.0, 1.0, 1.0),), ((0.0, 0.0, 0.0),)
    assert relative_speed(slow, fast, (0.0,), 1.0, (0, 5, 20)) == pytest.approx(1 / 21)
