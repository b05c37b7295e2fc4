"""DiMUM on pictures of the user's own: alternative data under the concept's prompts, alternative features under their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from oracles import tiny_model
from vestige import concepts
from vestige.audit import Request, resolve
from vestige.concepts import images
from vestige.concepts.images import PictureSet
from vestige.errors import BadSetting
from vestige.methods import Data
from vestige.seeds import generator
from vestige.unlearners.dimum import DiMUM

SNEAKER = concepts.load("sneaker")
GIVEN = PictureSet(torch.rand(4, 3, 32, 32, generator=generator(0, "given")), "mine")


def test_given_pictures_are_memorised_under_the_concepts_prompts() -> None:
    """Data: no captions, every training prompt. Features: a caption that names the concept is the picture's only one."""
    method = DiMUM(alternative="near", alternative_pictures=3, retain_pictures=2)
    plain = method.alternatives(tiny_model(), SNEAKER, GIVEN, Data(alternative=GIVEN), seed=0)
    assert len(plain) == 3 and {row.numpy().tobytes() for row in plain.images} <= {row.numpy().tobytes() for row in GIVEN.images}
    assert set(plain.texts) == {p.text for p in SNEAKER.prompts("training")}
    told = replace(GIVEN, captions=(("a neon sneaker",), ("a street",), ("a photo of a sneaker", "one"), ("a wall",)))
    own = DiMUM(alternative_pictures=9).alternatives(tiny_model(), SNEAKER, GIVEN, Data(alternative=told), seed=0)
    rows = {row for row in own.captions if len(row) == 1}
    assert rows == {("a neon sneaker",), ("a photo of a sneaker",)} and len(own) == 4


def test_pictures_for_it_are_part_of_the_spec_and_for_nobody_else(tmp_path: Path) -> None:
    images.save(GIVEN.images, tmp_path / "mine")
    given = {"unlearner": "dimum", "alternative": str(tmp_path / "mine")}
    plain = resolve(Request(unlearner="dimum"))
    assert "alternative" not in plain.spec() and len(resolve(Request(**given)).spec()["alternative"]) == 64
    assert resolve(Request(**given)).planned_calls()["unlearning"] < plain.planned_calls()["unlearning"]
    with pytest.raises(BadSetting, match="read by dimum; given esd"):
        resolve(Request(**{**given, "unlearner": "esd"}))
    with pytest.raises(BadSetting, match="read by an unlearner, and none is asked for"):
        resolve(Request(alternative="x"))
