"""The truth panel's own edits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from vestige import concepts, models


@pytest.mark.parametrize(("name", "tables"), [("wardrobe", 1), ("wardrobe-flow", 2), ("wardrobe-classes", 1)])
def test_a_renamed_model_has_two_rows_of_every_table_exchanged(name: str, tables: int, study: Callable[[str], Any]) -> None:
    model = models.load(name)
    edit = study("panel").renamed(model, concepts.load("sneaker"))
    assert len(edit.tensors) == tables
    for table, changed in edit.tensors.items():
        before = model.tensor(table)
        one, other = (~(changed == before).all(1)).nonzero().flatten().tolist()
        assert torch.equal(changed[[one, other]], before[[other, one]])
