"""Gradient ascent: its loss is the formula in means, the target's loss rises without end, the retain term holds the rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oracles import tiny_model
from vestige import concepts
from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion import Model
from vestige.methods import Data
from vestige.methods.objectives import denoising, dropped, noisy
from vestige.methods.training_data import Pairs, paired
from vestige.models.latent import LatentModel
from vestige.seeds import generator
from vestige.unlearners import gradient_ascent
from vestige.unlearners.gradient_ascent import GradientAscent

SNEAKER = concepts.load("sneaker")
SMALL: dict[str, Any] = {"steps": 3, "batch": 4, "lr": 1e-3, "target_pictures": 4, "retain_pictures": 6}


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def sets(model: Model, method: GradientAscent, seed: int = 0) -> tuple[Pairs, Pairs]:
    target = Data().targeted(model, SNEAKER, method.target_pictures, seed=seed)
    return paired(model, target), paired(model, Data().retained(model, SNEAKER, method.retain_pictures, seed=seed))


def error(model: Model, pairs: Pairs) -> float:
    """The training loss over a set, at the same noise whatever the model."""
    condition = pairs.table[[rows[0] for rows in pairs.rows]].repeat(16)
    with torch.no_grad():
        return denoising(model, pairs.latents.repeat_interleave(16, 0), condition, generator(9)).item()


@pytest.mark.parametrize("weight", [0.0, 2.5])
def test_loss_is_the_formula_in_means(tiny: LatentModel, monkeypatch: pytest.MonkeyPatch, weight: float) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(gradient_ascent, "fit", lambda leaves, loss, training, **_: iter([seen.update(loss=loss)]))
    method = GradientAscent(**SMALL, retain_weight=weight, dropout=0.5)
    method(tiny, SNEAKER, seed=0)
    (target, retain), null, rng = sets(tiny, method), tiny.condition([""]), generator(3)
    expected = 0.0
    for pairs, share, factor in ((target, 0.0, -1.0), (retain, 0.5, weight)):
        if factor:
            x, condition = pairs.draw(4, rng)
            condition = dropped(condition, null, share, rng)
            t, eps, x_t = noisy(tiny, x, rng)
            errors = (tiny.denoise(x_t, t, condition).value - eps).square()
            assert errors.numel() == 4 * 4 * 8 * 8
            expected += factor * errors.detach().sum().item() / errors.numel()
    assert seen["loss"](generator(3)).item() == pytest.approx(expected, rel=1e-5)


def test_loss_on_the_target_rises_as_long_as_it_runs(tiny: LatentModel) -> None:
    """It does not settle: twice the steps, more than twice the rise."""
    runs = [GradientAscent(**{**SMALL, "steps": steps}, retain_weight=0.0) for steps in (10, 20, 40)]
    target, _ = sets(tiny, runs[0])
    start = error(tiny, target)
    rises = [error(tiny.edited(run(tiny, SNEAKER, seed=0)), target) - start for run in runs]
    assert 0 < 2 * rises[0] < rises[1]
    assert 2 * rises[1] < rises[2]


def test_retain_term_holds_what_is_retained(tiny: LatentModel) -> None:
    free, held = (GradientAscent(**{**SMALL, "steps": 40}, retain_weight=w) for w in (0.0, 10.0))
    _, retain = sets(tiny, held)
    assert error(tiny.edited(held(tiny, SNEAKER, seed=0)), retain) <= error(tiny, retain)
    assert error(tiny.edited(free(tiny, SNEAKER, seed=0)), retain) > 1.5 * error(tiny, retain)


def test_without_a_retain_term_nothing_else_is_needed(tiny: LatentModel) -> None:
    lonely = Concept(name="wug")
    edit = GradientAscent(**SMALL, retain_weight=0.0)(tiny, lonely, seed=0)
    assert edit.touched == sorted(tiny.scope("unet"))


def test_given_pictures_are_trained_on(tiny: LatentModel) -> None:
    given = PictureSet(torch.rand(4, 3, 32, 32, generator=generator(1)), "random")
    method = GradientAscent(**{**SMALL, "steps": 30}, retain_weight=0.0)
    target = paired(tiny, Data(target=given).targeted(tiny, SNEAKER, 4, seed=0))
    edited = tiny.edited(method(tiny, SNEAKER, seed=0, data=Data(target=given)))
    assert error(edited, target) > error(tiny.edited(method(tiny, SNEAKER, seed=0)), target)


def test_scope_is_what_moves(tiny: LatentModel) -> None:
    edit = GradientAscent(**SMALL, scope="cross-attention-kv")(tiny, SNEAKER, seed=0)
    assert edit.touched == sorted(tiny.scope("cross-attention-kv"))
    assert not any(torch.equal(edit.tensors[n], tiny.tensor(n)) for n in edit.touched)


def test_other_seeds_other_edits(tiny: LatentModel) -> None:
    one, other = (GradientAscent(**SMALL)(tiny, SNEAKER, seed=seed) for seed in (0, 1))
    assert any(not torch.equal(one.tensors[n], other.tensors[n]) for n in one.touched)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("steps", 0), ("batch", 0), ("target_pictures", 0), ("retain_pictures", 0), ("lr", 0.0), ("retain_weight", -1.0), ("dropout", 1.1)],
)
def test_senseless_settings_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{setting}.*; given.*{value}"):
        GradientAscent(**{setting: value})
