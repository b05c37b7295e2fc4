"""Ways of attacking that are given up: what is clear is dropped, what is not stays, and F is no other for it."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from vestige.harness import arms
from vestige.harness.ways import CLEAR, still_open

POINTS = 6


def run(selected: float | None, hits: float = 0.0) -> Any:
    """An arm that the selection judge sees at one height at every budget."""
    points = [{"budget": b, "hits": [i < round(10 * hits) for i in range(10)], "selected": selected} for b in range(POINTS)]
    return SimpleNamespace(outcome={"points": points})


def rows(**heights: tuple[float | None, ...]) -> dict[str, list[Any]]:
    return {way: [run(h) for h in row] for way, row in heights.items()}


def test_all_ways_run_at_first() -> None:
    assert still_open({"": [], "raw": []}) == ["", "raw"]


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (rows(a=(0.5,), b=(0.25,)), ["a"]),  # clear at once
        (rows(a=(0.5,), b=(0.35,)), ["a", "b"]),
        (rows(a=(0.5, 0.5), b=(0.35, 0.35)), ["a"]),  # as little, twice: 0.15 is more than 0.2 / sqrt(2)
        (rows(a=(0.5, 0.2), b=(0.3, 0.4)), ["a", "b"]),
        (rows(a=(None,), b=(0.1,)), ["a", "b"]),  # not looked at by the selection judge
        (rows(a=(0.5, 0.0), b=(0.1,)), ["a"]),  # what was given up stays so, whatever comes
        (rows(a=(0.6,), b=(0.5,), c=(0.3,)), ["a", "b"]),
    ],
)
def test_what_is_clearly_worse_is_given_up(given: dict[str, list[Any]], left: list[str]) -> None:
    assert still_open(given) == left


def test_the_verification_judge_is_not_asked() -> None:
    assert still_open({"a": [run(0.3, hits=0.0)], "b": [run(0.3, hits=1.0)]}) == ["a", "b"]
    assert still_open({"a": [run(0.6, hits=0.0)], "b": [run(0.3, hits=1.0)]}) == ["a"]


def test_a_way_that_was_given_up_is_not_the_favoured_one() -> None:
    assert arms.favoured(rows(a=(0.3, 0.1), b=(0.9,))) == "a"
    assert arms.favoured(rows(a=(0.3, 0.1), b=(0.2, 0.3))) == "b"


@pytest.mark.parametrize("gap", [0.0, 0.05, 0.1, 0.2])
def test_log_f_is_no_other_for_it(gap: float) -> None:
    """Simulated: five replicates whose ways' heights differ by `gap` a point and, from replicate to replicate, by 0.09.

    A replicate that a way happens to do well in shows it to both judges, and log F follows it at 4 a point of height, more than was
    seen; the selection judge's 16 pictures a point add 0.04. Whether ways are given up changes the mean by less than 0.03, where one
    replicate's deviation is 0.4, and the share of intervals that cover what the way that is taken is worth by less than 0.03.
    """
    rng, n, trials = np.random.default_rng(0), 5, 400
    found: dict[bool, list[tuple[float, bool]]] = {True: [], False: []}
    for _ in range(trials):
        own = rng.normal(0, 0.09 / math.sqrt(2), (2, n))
        seen = 0.4 - gap * np.arange(2)[:, None] + own + rng.normal(0, 0.04, (2, n))
        worth = 1.2 - 4 * gap * np.arange(2)
        log_f = worth[:, None] + 4 * own + rng.normal(0, 0.3, (2, n))
        whole = {way: [run(float(x)) for x in seen[way]] for way in range(2)}
        for sparing in found:
            made: dict[Any, list[Any]] = {0: [], 1: []}
            for k in range(n):
                for way in still_open(made) if sparing else (0, 1):
                    made[way].append(whole[way][k])
            way = int(arms.favoured(made))
            mean, half = log_f[way].mean(), stats.t.ppf(0.975, n - 1) * log_f[way].std(ddof=1) / math.sqrt(n)
            found[sparing].append((mean, abs(mean - worth[way]) <= half))
    means, covers = (np.mean([[row[i] for row in found[s]] for s in (True, False)], axis=1) for i in range(2))
    assert abs(means[0] - means[1]) < 0.03
    assert abs(covers[0] - covers[1]) < 0.03


def test_equal_ways_are_rarely_given_up_at_once() -> None:
    """CLEAR is more than twice the deviation of one replicate's difference, as it was seen at the most."""
    assert CLEAR > 2 * 0.09
