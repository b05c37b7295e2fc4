"""Selective Amnesia: Fisher information of per-sample squares, a pull that is the formula's sum, surrogates under the target's name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from oracles import Gaussian, scheduler, tiny_model, tiny_parts, tokenizer
from vestige.concepts import concept, load
from vestige.diffusion import Condition, Model, Prediction
from vestige.diffusion.sampling import Drawing
from vestige.methods import Data
from vestige.methods.objectives import denoising, dropped, noisy
from vestige.methods.training_data import Pairs, drawn, paired
from vestige.models.latent import LatentModel
from vestige.seeds import derive, generator
from vestige.unlearners import selective_amnesia
from vestige.unlearners.selective_amnesia import TIMES, SelectiveAmnesia, fisher

SNEAKER = load("sneaker")
SMALL: dict[str, Any] = {"steps": 3, "batch": 4, "lr": 1e-3, "surrogate_pictures": 5, "retain_pictures": 6}
SMALL |= {"fisher_pictures": 3, "fisher_times": 6}


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


@pytest.fixture(scope="module")
def exact() -> LatentModel:
    """The tiny model in float64."""
    return LatentModel("tiny64", {name: part.double() for name, part in tiny_parts().items()}, tokenizer(), scheduler())


class Slope(Gaussian):
    """Predicts the noise as w * x_t at one noise level; everything about its loss is known."""

    signal, level = 0.8, 0.6

    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = torch.tensor([w], dtype=torch.float64, requires_grad=True)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(t, self.signal), torch.full_like(t, self.level)

    def denoise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        signal, level = (v.reshape(-1, 1, 1, 1) for v in self.schedule(t))
        return Prediction(x_t, signal, level, self.w * x_t, "noise")

    def trainable(self, names: Sequence[str]) -> tuple[Model, dict[str, Tensor]]:
        return self, {"w": self.w}

    def draw_times(self, count: int, rng: Generator) -> Tensor:
        return torch.ones(count, dtype=torch.float64)


def test_fisher_is_the_mean_of_squares_not_the_square_of_the_mean() -> None:
    """Two samples whose gradients 2 (w (signal^2 x^2 + level^2) - level) are -0.84 and 0.84: they cancel, their squares do not."""
    model = Slope(0.5)
    latents = torch.tensor([0.0, 2.625**0.5], dtype=torch.float64).reshape(2, 1, 1, 1).expand(2, *model.latent_shape)
    pairs = Pairs(latents, model.condition(["0"]), ((0,), (0,)))
    found = fisher(model, {"w": model.w}, pairs, 2, 20_000, seed=0, batch=20_000)
    assert found["w"].item() / TIMES**2 == pytest.approx(0.84**2, rel=0.05)
    assert model.w.grad is None


def test_few_times_add_their_variance() -> None:
    """E F = g^2 + Var / times: what the docstring admits."""
    model = Slope(0.5)
    pairs = Pairs(torch.zeros(400, *model.latent_shape, dtype=torch.float64), model.condition(["0"]), ((0,),) * 400)
    few, many = (fisher(model, {"w": model.w}, pairs, 400, n, seed=0, batch=64)["w"].item() / TIMES**2 for n in (1, 50))
    # x_t = level eps: the gradient is 2 level (w level - 1) mean of 4 eps^2, whose variance is 2 / 4.
    slope = 2 * 0.6 * (0.5 * 0.6 - 1)
    assert few == pytest.approx(slope**2 * 1.5, rel=0.25)
    assert many == pytest.approx(slope**2 * (1 + 0.5 / 50), rel=0.05)


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_fisher_equals_a_loop_over_single_times(exact: LatentModel, batch: int) -> None:
    """However the times of a sample are batched: one gradient a time, summed within the sample, squared, averaged over samples."""
    pairs = paired(exact, Data().retained(exact, SNEAKER, 3, seed=0))
    view, leaves = exact.trainable(exact.scope("attention"))
    found = fisher(view, leaves, pairs, 2, 6, seed=5, batch=batch)
    expected = {n: torch.zeros_like(leaf) for n, leaf in leaves.items()}
    for i in range(2):
        rng, total = generator(5, "fisher", i), {n: torch.zeros_like(leaf) for n, leaf in leaves.items()}
        for start in range(0, 6, batch):
            size = min(batch, 6 - start)
            t, eps, x_t = noisy(exact, pairs.latents[[i]].repeat(size, 1, 1, 1), rng)
            for j in range(size):
                value = view.denoise(x_t[j : j + 1], t[j : j + 1], pairs.table[[pairs.rows[i][0]]]).value
                slopes = torch.autograd.grad((value - eps[j : j + 1]).square().mean(), list(leaves.values()))
                for name, slope in zip(leaves, slopes, strict=True):
                    total[name] += slope * TIMES / 6
        for name in leaves:
            expected[name] += total[name].square() / 2
    for name in leaves:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=1e-12)
        assert leaves[name].grad is None


def test_fisher_counts_no_more_samples_than_there_are(tiny: LatentModel) -> None:
    pairs = paired(tiny, Data().retained(tiny, SNEAKER, 3, seed=0))
    view, leaves = tiny.trainable(tiny.scope("cross-attention-kv"))
    three, many = (fisher(view, leaves, pairs, n, 2, seed=0, batch=2) for n in (3, 50))
    assert all(torch.equal(three[n], many[n]) for n in leaves)


def captured(model: Model, method: SelectiveAmnesia, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the method hands to the optimisation loop."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        selective_amnesia, "fit", lambda leaves, loss, training, **others: iter([seen.update(leaves=leaves, loss=loss, **others)])
    )
    method(model, SNEAKER, seed=0)
    return seen


def test_pull_is_the_formulas_sum_and_nothing_at_the_original(exact: LatentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """strength * sum F (theta - theta*)^2, its gradient 2 strength F (theta - theta*)."""
    found = captured(exact, SelectiveAmnesia(**SMALL, strength=7.0), monkeypatch)
    leaves, (pull,) = found["leaves"], found["pulls"]
    replay = paired(exact, Data().retained(exact, SNEAKER, 6, seed=0))
    view, own = exact.trainable(exact.scope("unet"))
    weight = fisher(view, own, replay, 3, 6, seed=0, batch=4)
    assert pull(leaves).item() == 0
    assert all(not g.any() for g in torch.autograd.grad(pull(leaves), list(leaves.values())))
    gap = {n: torch.randn(leaf.shape, dtype=leaf.dtype, generator=generator(1, n)) for n, leaf in leaves.items()}
    away = {n: (leaf.detach() + gap[n]).requires_grad_() for n, leaf in leaves.items()}
    expected = 7.0 * sum(float((weight[n] * gap[n] ** 2).sum()) for n in leaves)
    assert pull(away).item() == pytest.approx(expected, rel=1e-9)
    slopes = torch.autograd.grad(pull(away), list(away.values()))
    for name, slope in zip(away, slopes, strict=True):
        torch.testing.assert_close(slope, 14.0 * weight[name] * gap[name], rtol=1e-6, atol=1e-9)


def test_loss_is_the_formula(tiny: LatentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    method = SelectiveAmnesia(**SMALL, retain_weight=0.7, dropout=0.5)
    found = captured(tiny, method, monkeypatch)
    surrogates = paired(tiny, method.resolved(SNEAKER)._surrogates(tiny, SNEAKER, Data(), 0, lambda *_: None))
    replay, rng = paired(tiny, Data().retained(tiny, SNEAKER, 6, seed=0)), generator(3)
    with torch.no_grad():
        expected = denoising(tiny, *surrogates.draw(4, rng), rng)
        x, condition = replay.draw(4, rng)
        expected = expected + 0.7 * denoising(tiny, x, dropped(condition, tiny.condition([""]), 0.5, rng), rng)
    torch.testing.assert_close(found["loss"](generator(3)).detach(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("word", ["boot", "bag", ""])
def test_surrogates_are_the_words_pictures_under_the_targets_prompts(tiny: LatentModel, word: str) -> None:
    method = SelectiveAmnesia(**SMALL, surrogate=word)
    made = method._surrogates(tiny, SNEAKER, Data(), 0, lambda *_: None)
    asked = SNEAKER.spread(5, "training")
    assert [row[0] for row in made.captions] == [p.text for p in asked]
    plain = [concept.Prompt(p.text.replace("sneaker", word) if word else "", {}) for p in asked]
    assert torch.equal(made.images, drawn(tiny, plain, seed=derive(0, "surrogate"), protocol=Drawing()).images)


def test_auto_is_the_anchor() -> None:
    assert SelectiveAmnesia().resolved(SNEAKER) == SelectiveAmnesia(surrogate="boot")
    assert SelectiveAmnesia(surrogate="").resolved(SNEAKER) == SelectiveAmnesia(surrogate="")


def test_without_strength_no_fisher_information_is_computed(tiny: LatentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(selective_amnesia, "fisher")
    SelectiveAmnesia(**SMALL, strength=0.0)(tiny, SNEAKER, seed=0)


def test_strength_holds_what_the_fisher_information_weighs(tiny: LatentModel) -> None:
    """The stronger, the shorter the way in its own metric."""
    replay = paired(tiny, Data().retained(tiny, SNEAKER, 6, seed=0))
    view, leaves = tiny.trainable(tiny.scope("unet"))
    weight = fisher(view, leaves, replay, 3, 6, seed=0, batch=4)

    def way(strength: float) -> float:
        edit = SelectiveAmnesia(**{**SMALL, "steps": 20}, strength=strength)(tiny, SNEAKER, seed=0)
        return sum(float((weight[n] * (edit.tensors[n] - tiny.tensor(n)) ** 2).sum()) for n in edit.touched)

    free, held, tied = way(0.0), way(1.0), way(1e6)
    assert free > 2 * held
    assert held > tied


def test_training_teaches_the_surrogates(tiny: LatentModel) -> None:
    method = SelectiveAmnesia(**{**SMALL, "steps": 60}, strength=0.0, retain_weight=0.0).resolved(SNEAKER)
    pairs = paired(tiny, method._surrogates(tiny, SNEAKER, Data(), 0, lambda *_: None))

    def error(model: Model) -> float:
        condition = pairs.table[[rows[0] for rows in pairs.rows]].repeat(16)
        with torch.no_grad():
            return denoising(model, pairs.latents.repeat_interleave(16, 0), condition, generator(9)).item()

    assert error(tiny.edited(method(tiny, SNEAKER, seed=0))) < 0.8 * error(tiny)


def test_other_seeds_other_edits(tiny: LatentModel) -> None:
    one, other = (SelectiveAmnesia(**SMALL)(tiny, SNEAKER, seed=seed) for seed in (0, 1))
    assert any(not torch.equal(one.tensors[n], other.tensors[n]) for n in one.touched)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("steps", 0),
        ("batch", 0),
        ("surrogate_pictures", 0),
        ("retain_pictures", 0),
        ("fisher_pictures", 0),
        ("fisher_times", 0),
        ("lr", 0.0),
        ("strength", -1.0),
        ("retain_weight", -1.0),
        ("dropout", 1.1),
    ],
)
def test_senseless_settings_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{setting}.*; given.*{value}"):
        SelectiveAmnesia(**{setting: value})
