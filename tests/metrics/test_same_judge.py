"""One network under two names is one judge, and a word that must stay is spelled as its judge has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vestige.concepts import load
from vestige.errors import BadInput
from vestige.metrics import loading

LOOKS = """
import torch

def _net(images, by):
    x = images.mean((1, 2, 3)) * by
    return torch.stack([x, 1 - x], 1)

def one(images):
    return _net(images, 0.9)

def again(pictures):
    return 1 * _net(pictures, 0.9)

def another(images):
    return _net(images, 0.8)

def sure(images):
    return torch.stack([torch.ones(len(images)), torch.zeros(len(images))], 1)

def certain(images):
    return sure(images)

for function in (one, again, another, sure, certain):
    function.labels = ["sandal", "boot"]
"""


def concept(home: Path, **own: Any) -> Any:
    (home / "looks.py").write_text(LOOKS)
    told = {"name": '"sandal"', "detector": '"looks.py:one"', **{key: repr(value).replace("'", '"') for key, value in own.items()}}
    (home / "sandal.toml").write_text("\n".join(f"{key} = {value}" for key, value in told.items()))
    return load(str(home / "sandal.toml"))


@pytest.mark.parametrize(
    ("detector", "selector", "one"),
    [("one", "again", True), ("one", "another", False), ("one", "one", True), ("sure", "certain", False)],
)
def test_two_functions_of_one_network_are_one_judge(detector: str, selector: str, one: bool, tmp_path: Path) -> None:
    """Told by what they say of noise; two that are sure of everything say nothing by which to tell."""
    pair = loading.pair(concept(tmp_path, detector=f"looks.py:{detector}", selector=f"looks.py:{selector}"), "")
    assert loading.same(*pair) == one


def test_a_misspelt_word_is_refused_and_a_strange_one_is_told(tmp_path: Path) -> None:
    verify, _ = loading.pair(concept(tmp_path, neighbours=["boot", "umbrella"]), "")
    assert loading.unknown_words(verify, load(str(tmp_path / "sandal.toml"))) == ["umbrella"]
    (tmp_path / "own.toml").write_text('name = "boot"\nneighbours = ["sandel"]\ndetector = "looks.py:one"\n')
    with pytest.raises(BadInput, match=r"boot is to leave 'sandel'.*did you mean 'sandal'"):
        loading.pair(load(str(tmp_path / "own.toml")), "")
