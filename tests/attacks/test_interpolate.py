"""The line through the original and the edited weights: its ends, its middle, and who has none."""

from __future__ import annotations

import pytest
import torch

from oracles import tiny_model
from vestige import concepts, edits
from vestige.attacks.interpolate import Interpolate
from vestige.edits import Edit
from vestige.methods import Budget, Candidate
from vestige.methods.stock import Stock
from vestige.models.latent import LatentModel

BAG = concepts.load("bag")


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def run(model: LatentModel, original: LatentModel, *places: float) -> list[Candidate]:
    budget = Budget(tuple(range(len(places) + 1)))
    return list(Interpolate(places=places)(model, BAG, budget, seed=0, select=torch.zeros_like, stock=Stock(original)))


def test_places_are_the_edit_at_other_strengths(tiny: LatentModel) -> None:
    """Against an edit that is scaled as a value; at 0 the original itself, bit for bit."""
    name = tiny.scope("cross-attention-kv")[0]
    edit = Edit(tiny.fingerprint, "shift", tensors={name: tiny.tensor(name) + 0.5})
    edited = tiny.edited(edit)
    _, back, half, beyond = run(edited, tiny, 0.0, 0.5, 1.5)
    for candidate, place in ((half, 0.5), (beyond, 1.5)):
        assert candidate.edit is not None
        assert candidate.edit.touched == [name]
        view, scaled = edited.edited(candidate.edit), tiny.edited(edits.scale(tiny, edit, place))
        torch.testing.assert_close(view.tensor(name), scaled.tensor(name), atol=1e-6, rtol=0)
    assert back.edit is not None
    assert edited.edited(back.edit).fingerprint == tiny.fingerprint


def test_who_is_the_original_has_nowhere_to_go(tiny: LatentModel) -> None:
    assert [c.edit for c in run(tiny, tiny, 0.5, 1.5)] == [None, None, None]
    with pytest.raises(ValueError, match="other than 1"):
        Interpolate(places=(1.0, 0.5))
