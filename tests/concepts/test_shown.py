"""What a user's pictures show: labels beside them, one of each kind dealt to every replicate, and captions in the style of each."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from oracles import small
from vestige.concepts import Concept, images
from vestige.concepts.captions import METADATA, labels, read
from vestige.errors import BadInput
from vestige.methods.regeneration import captions_for

STYLES = ("ink", "neon", "chalk", "wool")


def told(place: Path, rows: list[dict[str, Any]]) -> list[str]:
    files = images.save(torch.rand(len(rows), 3, 8, 8, generator=torch.Generator().manual_seed(0)), place)
    (place / METADATA).write_text("\n".join(json.dumps({"file_name": f.name, **row}) for f, row in zip(files, rows, strict=True)))
    return [file.name for file in files]


def test_every_replicate_gets_one_of_each_style(tmp_path: Path) -> None:
    """Sixteen pictures, four styles in blocks as a folder has them: each of four replicates sees all; without labels chance decides."""
    told(tmp_path, [{"labels": {"style": STYLES[i // 4]}} for i in range(16)])
    found = images.folder(tmp_path, (8, 8))
    assert found.captions == ()
    dealt = [Counter(row["style"] for row in found.draw(4, k).labels) for k in range(4)]
    assert dealt == [Counter(STYLES)] * 4
    assert found.draw(4, 0).told == {"labels": [dict(row) for row in found.draw(4, 0).labels]}
    unlabelled = replace(found, labels=())
    assert unlabelled.told == {}
    assert [unlabelled.draw(4, k).content for k in range(4)] != [found.draw(4, k).content for k in range(4)]


def test_labels_and_captions_stand_beside_each_other(tmp_path: Path) -> None:
    names = told(tmp_path, [{"text": f"a {style} boat", "labels": {"style": style}} for style in STYLES])
    assert read(tmp_path, names) == tuple((f"a {style} boat",) for style in STYLES)
    assert labels(tmp_path, names) == tuple({"style": style} for style in STYLES)


def test_without_captions_a_picture_is_trained_on_prompts_in_its_own_style(tmp_path: Path) -> None:
    """Also where the concept's detector tells no styles, so that no group of contexts is named."""
    told(tmp_path, [{"labels": {"style": style}} for style in STYLES])
    concept = Concept(name="boat", contexts=STYLES, templates=("a {context} picture of a {concept}", "a {concept}"))
    how = small("attacks", "memora", captions="templates", regenerate=False)
    texts, rows = captions_for(concept, images.folder(tmp_path, (8, 8)), how, 4)
    assert [{texts[r] for r in row} for row in rows] == [{f"a {style} picture of a boat", "a boat"} for style in STYLES]
    grouped = replace(concept, context_group="style")
    assert captions_for(grouped, images.folder(tmp_path, (8, 8)), how, 4) == (texts, rows)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"labels": {"style": "ink"}}, {"text": "a boat"}], "gives no text for|gives no labels for"),
        ([{"labels": ["ink"]}, {"labels": {"style": "ink"}}], "labels should be a table of texts"),
        ([{"labels": {"style": 3}}, {"labels": {"style": "ink"}}], "labels should be a table of texts"),
        ([{}, {}], "it should hold lines like"),
    ],
)
def test_labels_in_part_are_refused(rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    told(tmp_path, rows)
    with pytest.raises(BadInput, match=message):
        images.folder(tmp_path, (8, 8))
