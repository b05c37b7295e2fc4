"""What edits took from the rest: paired with the original, over edits and pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vestige.edits import Edit
from vestige.errors import BadInput


def test_pictures_pair_and_what_was_not_judged_leaves(study: Callable[[str], Any]) -> None:
    found = study("kept").differences([[True, False, None, True], [True, True, True, False]], [True, True, True, False])
    assert found.tolist() == [[0.0, -1.0, 1.0], [0.0, 0.0, 0.0]]


def test_the_interval_holds_the_spread_of_edits_and_of_pictures(study: Callable[[str], Any]) -> None:
    """By hand; and over made-up edits it holds the truth about as often as it says."""
    interval = study("kept").interval
    found = interval(np.array([[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, -1.0]]))
    means, between = (-0.25, -0.5), np.var([0.0, -0.5, -0.5, -0.5], ddof=1)
    one, other = np.var(means, ddof=1) / 2, between / 4
    assert (one + other) ** 2 / (one**2 / 1 + other**2 / 3) == pytest.approx(3.0)  # of which the 0.975 quantile of t is 3.182446305
    half = 3.182446305 * (one + other) ** 0.5
    assert (found.value, found.low, found.high) == pytest.approx((-37.5, -37.5 - 100 * half, -37.5 + 100 * half))
    rng, inside = np.random.default_rng(0), 0
    for _ in range(400):
        hard, shift = rng.uniform(0, 0.2, 200), rng.normal(0, 0.02, 5)
        lost = rng.random((5, 200)) < np.clip(hard[None] + shift[:, None], 0, 1)
        inside += abs(interval(-lost.astype(float)).value + 10) <= interval(-lost.astype(float)).high - interval(-lost.astype(float)).value
    assert 0.93 < inside / 400 <= 1


def test_one_edit_has_no_interval(study: Callable[[str], Any]) -> None:
    kept = study("kept")
    assert list(kept.rows({"made": {"unrelated": [[True, False]]}}, {"unrelated": [True, True]})) == [
        ["made", "unrelated", "2", "1.000", "-50.0", "-50.0"]
    ]


def test_edits_of_other_concepts_and_models_are_passed_over(study: Callable[[str], Any], tmp_path: Path) -> None:
    names = {
        "a": ("one", "sneaker", 1),
        "b": ("one", "bag", 0),
        "c": ("other", "sneaker", 0),
        "d": ("one", "sneaker", 0),
        "e": ("one", "sneaker", 1),
    }
    files = []
    for name, (base, concept, seed) in names.items():
        files.append(tmp_path / f"{name}.safetensors")
        Edit(base, "uce", {}, "cross-attention", {}, notes={"concept": concept, "seed": seed}).save(files[-1])
    found = study("kept").given(files, "sneaker", "one")
    assert [edit.notes["seed"] for edit in found["uce"]] == [0, 1]
    with pytest.raises(BadInput, match="none of 5 files is an edit of coat"):
        study("kept").given(files, "coat", "one")


def test_edits_of_one_method_with_other_settings_stand_apart(study: Callable[[str], Any], tmp_path: Path) -> None:
    files = []
    for steps, seed in ((900, 0), (450, 0), (450, 1)):
        files.append(tmp_path / f"{steps}-{seed}.safetensors")
        Edit("one", "redistil", {"steps": steps, "share": 0.8}, "all", {}, notes={"concept": "sneaker", "seed": seed}).save(files[-1])
    found = study("kept").given(files, "sneaker", "one")
    assert {name: len(edits) for name, edits in found.items()} == {"redistil (steps 450)": 2, "redistil (steps 900)": 1}
