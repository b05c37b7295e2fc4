"""RepSelect: one gradient, taken where the concept was elicited; how far it is followed is what the budget allows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oracles import small, tiny_model
from vestige import concepts
from vestige.diffusion import Model
from vestige.edits import Edit
from vestige.methods import Data
from vestige.methods.collapse import collapsed
from vestige.methods.objectives import denoising, noisy
from vestige.methods.training_data import paired, renamed
from vestige.models.latent import LatentModel
from vestige.seeds import derive, generator
from vestige.unlearners.rep_select import RepSelect, farthest, kept_loss, norm

SNEAKER = concepts.load("sneaker")


def method(**own: Any) -> RepSelect:
    made: RepSelect = small("unlearners", "rep_select", **own)
    return made


def change(model: Model, edit: Edit) -> dict[str, torch.Tensor]:
    return {name: value - model.tensor(name) for name, value in edit.tensors.items()}


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


@pytest.mark.parametrize("aim", ["anchor", "away"])
def test_step_follows_the_gradient_of_its_formula(tiny: LatentModel, aim: Any) -> None:
    """Written out for one batch, without an adapter and nothing damped: the edit lies on the line through the base along -G."""
    own = method(aim=aim, steps=0, directions=0, target_pictures=4, batch=4, budget=10.0)
    given = Data().targeted(tiny, SNEAKER, 4, seed=0)
    pairs, wrong = paired(tiny, given), tiny.condition(renamed(given.texts, SNEAKER, SNEAKER.anchor))
    rows = [r[0] for r in pairs.rows]
    edit = own(tiny, SNEAKER, seed=0)
    view, leaves = tiny.trainable(list(edit.tensors))
    if aim == "away":
        loss = -denoising(view, pairs.latents, pairs.table[rows], generator(0, "gather", 0))
    else:
        t, _, x_t = noisy(view, pairs.latents, generator(0, "gather", 0))
        with torch.no_grad():
            goal = tiny.denoise(x_t, t, wrong[rows]).value
        loss = (view.denoise(x_t, t, pairs.table[rows]).value - goal).square().mean()
    slopes = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), allow_unused=True), strict=True))
    told = {name: torch.zeros_like(leaves[name]) if slope is None else slope for name, slope in slopes.items()}
    moved, length = change(tiny, edit), edit.notes["length"]
    assert length > 0
    weights = norm({name: tiny.tensor(name) for name in told})
    for name, slope in told.items():
        torch.testing.assert_close(moved[name], -length * weights / norm(told) * slope, rtol=1e-3, atol=1e-6)


def test_what_leads_is_damped_in_every_matrix(tiny: LatentModel) -> None:
    """The two edits' directions differ by the damping, matrix by matrix."""
    plain, damped = (change(tiny, method(steps=0, directions=n, budget=10.0)(tiny, SNEAKER, seed=0)) for n in (0, 4))
    for name, step in plain.items():
        if not step.any():
            continue
        wanted = collapsed(step, 4)
        similar = torch.nn.functional.cosine_similarity(damped[name].flatten(), wanted.flatten(), dim=0)
        assert similar > 0.99, name


def test_no_budget_is_no_change_and_more_goes_further(tiny: LatentModel) -> None:
    none, some, more = (method(budget=share, looks=8)(tiny, SNEAKER, seed=0) for share in (0.0, 0.05, 0.5))
    lengths = [edit.notes["length"] for edit in (none, some, more)]
    assert lengths == sorted(lengths)
    assert lengths[2] > lengths[0]
    for share, edit in zip((0.0, 0.05, 0.5), (none, some, more), strict=True):
        start, end = edit.notes["retain_loss"]
        assert end <= start * (1 + share)


def test_budget_is_the_loss_on_what_must_stay(tiny: LatentModel) -> None:
    """Measured again on the edited model, with the pictures, times and noise that the method had."""
    own = method(budget=0.5)
    edit = own(tiny, SNEAKER, seed=3)
    kept = paired(tiny, Data().retained(tiny, SNEAKER, own.retain_pictures, seed=3))
    found = [kept_loss(model, kept, own.batch, derive(3, "budget")) for model in (tiny, tiny.edited(edit))]
    assert edit.notes["retain_loss"] == pytest.approx(found, rel=1e-5)


def test_halving_finds_where_the_budget_ends() -> None:
    length, (start, there) = farthest(lambda s: 1 + s**2, budget=0.09, reach=2.0, looks=20)
    assert length == pytest.approx(0.3, abs=1e-5)
    assert (start, there) == (1.0, pytest.approx(1.09, abs=1e-4))
    assert farthest(lambda s: 1.0, budget=0.0, reach=2.0, looks=20)[0] == pytest.approx(2.0, abs=1e-5)


def test_eliciting_changes_where_the_gradient_is_taken(tiny: LatentModel) -> None:
    """And leaves no adapter in the edit: what moves are the base's own matrices."""
    first, second = (method(steps=n, budget=10.0, lr=1e-2)(tiny, SNEAKER, seed=0) for n in (0, 3))
    assert not second.factors
    assert any(not torch.equal(first.tensors[n], second.tensors[n]) for n in first.tensors)


def test_vectors_stay(tiny: LatentModel) -> None:
    edit = method(scope="unet", budget=10.0)(tiny, SNEAKER, seed=0)
    assert all(value.dim() > 1 for value in edit.tensors.values())
    assert len(edit.tensors) < len(tiny.scope("unet"))
