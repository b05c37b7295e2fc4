"""What a sequence is compared with: what became of the original otherwise, by a merge or by another model."""

from __future__ import annotations

from pathlib import Path

import pytest

from chains import Nudge, go, small_world  # noqa: F401
from vestige import models
from vestige.continual import Order, compared
from vestige.edits import Edit, merging
from vestige.errors import RunConflict


def test_a_merge_is_measured_like_a_sequence(tmp_path: Path) -> None:
    go(tmp_path / "alone", mode="independent")
    original = models.load("")
    parts = [Edit.load(file) for file in sorted((tmp_path / "alone/edits").iterdir())]
    merged = merging.ties(original, parts, share=0.5)
    order = Order(requests=("bag", "dress"), suite="smoke")
    result = compared(order, merged, tmp_path / "merged")
    assert (result["method"]["name"], result["mode"], result["memory"]) == ("ties", "simultaneous", None)
    last = result["steps"][-1]
    assert last["fingerprint"] == original.edited(merged).fingerprint[:16]
    assert list(last["unlearning_accuracies"]) == ["bag", "dress"]
    assert last["drift"]["original"] > 0
    assert compared(order, merged, tmp_path / "merged") == result
    with pytest.raises(RunConflict):
        compared(order, merging.ties(original, parts, share=0.1), tmp_path / "merged")
    assert Nudge.told


def test_no_edit_is_the_original(tmp_path: Path) -> None:
    original = models.load("")
    name = original.scope("cross-attention-kv")[0]
    same = Edit(original.fingerprint, "twin", tensors={name: original.tensor(name)})
    first, last = compared(Order(requests=("bag", "dress"), suite="smoke"), same, tmp_path / "out")["steps"]
    assert first["rates"] == last["rates"]
    assert last["drift"]["original"] == 0
    assert last["erosion"]["kid"]["value"] == 0
