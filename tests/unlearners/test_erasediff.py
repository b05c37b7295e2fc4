"""EraseDiff: its direction is the bilevel formula's, inner loop and all, and its adaptive weights keep their promise."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import scheduler, tiny_model, tiny_parts, tokenizer
from vestige import concepts, registry
from vestige.diffusion import Model
from vestige.errors import BadSetting
from vestige.methods import Data
from vestige.methods.objectives import denoising, dropped, matching, noisy
from vestige.methods.training_data import Pairs, paired, renamed
from vestige.models.latent import LatentModel
from vestige.seeds import generator
from vestige.unlearners import erasediff
from vestige.unlearners.erasediff import EraseDiff

SNEAKER = concepts.load("sneaker")
SMALL: dict[str, Any] = {"steps": 3, "batch": 4, "lr": 1e-3, "target_pictures": 4, "retain_pictures": 6}


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


@pytest.fixture(scope="module")
def exact() -> LatentModel:
    """The tiny model in float64."""
    return LatentModel("tiny64", {name: part.double() for name, part in tiny_parts().items()}, tokenizer(), scheduler())


def sets(model: Model) -> tuple[Pairs, list[str], Pairs]:
    given = Data().targeted(model, SNEAKER, 4, seed=0)
    return paired(model, given), given.texts, paired(model, Data().retained(model, SNEAKER, 6, seed=0))


def captured(model: Model, method: EraseDiff, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the method hands to the optimisation loop."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(erasediff, "fit", lambda leaves, loss, training, **_: iter([seen.update(leaves=leaves, loss=loss)]))
    method(model, SNEAKER, seed=0)
    return seen


@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_direction_is_the_formulas_with_the_inner_loop_run(exact: LatentModel, monkeypatch: pytest.MonkeyPatch, weight: float) -> None:
    """grad L_r + w grad [L_f(theta) - L_f(theta_K)], theta_K from K real inner steps and then held constant."""
    found = captured(exact, EraseDiff(**SMALL, forget_weight=weight), monkeypatch)
    found["loss"](generator(3)).backward()
    target, texts, retain = sets(exact)
    rng, names = generator(3), exact.scope("unet")
    x, rows = target.pick(4, rng)
    t, _, x_t = noisy(exact, x, rng)
    given, wrong = target.table[rows], exact.condition(renamed([texts[row] for row in rows], SNEAKER, "boot"))

    def forget(model: Model) -> Tensor:
        return (model.denoise(x_t, t, given).value - model.denoise(x_t, t, wrong).value.detach()).square().mean()

    inner, weights = exact.trainable(names)
    for _ in range(2):
        slopes = torch.autograd.grad(forget(inner), list(weights.values()))
        with torch.no_grad():
            for leaf, slope in zip(weights.values(), slopes, strict=True):
                leaf -= 0.1 * slope
    outer, leaves = exact.trainable(names)
    value = forget(outer) - forget(inner).detach()
    assert value > 0  # the inner loop did lower its loss
    x, condition = retain.draw(4, rng)
    keep = denoising(outer, x, dropped(condition, exact.condition([""]), 0.1, rng), rng)
    expected = torch.autograd.grad(keep + weight * value, list(leaves.values()))
    for (name, leaf), slope in zip(found["leaves"].items(), expected, strict=True):
        torch.testing.assert_close(leaf.grad, slope, rtol=1e-6, atol=1e-9, msg=name)


def linear(seed: int) -> tuple[Tensor, Tensor, dict[str, Tensor], Tensor, Tensor]:
    """Two losses with known gradients a and b, over two leaves."""
    a, b = torch.randn(2, 5, dtype=torch.float64, generator=generator(seed))
    leaves = {"v": torch.zeros(2, dtype=torch.float64, requires_grad=True), "w": torch.zeros(3, dtype=torch.float64, requires_grad=True)}
    whole = torch.cat(list(leaves.values()))
    return a @ whole, b @ whole, leaves, a, b


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("margin", [0.0, 0.1, 2.0])
def test_bome_descends_the_forget_loss_by_its_margin_and_no_more_than_it_must(seed: int, margin: float) -> None:
    """The smallest w >= 0 with <a + w b, b> >= margin |b|^2."""
    keep, forget, leaves, a, b = linear(seed)
    w = EraseDiff(forget_weight="bome", margin=margin)._weight(keep, forget, leaves)
    along = ((a + w * b) @ b).item()
    assert w >= 0
    assert along >= margin * (b @ b).item() - 1e-9
    assert w == 0 or along == pytest.approx(margin * (b @ b).item(), abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_cosine_rule_is_its_formula(seed: int) -> None:
    keep, forget, leaves, a, b = linear(seed)
    w = EraseDiff(forget_weight="cosine", margin=0.4)._weight(keep, forget, leaves)
    assert w == pytest.approx(max(0.0, 0.4 - torch.cosine_similarity(a, b, dim=0).item()))


def test_both_rules_act_somewhere() -> None:
    for rule in ("cosine", "bome"):
        weights = [EraseDiff(forget_weight=rule)._weight(*linear(seed)[:3]) for seed in range(8)]  # type: ignore[arg-type]
        assert min(weights) == 0 < max(weights) < math.inf


@pytest.mark.parametrize("rule", ["cosine", "bome"])
def test_adaptive_weight_needs_a_forget_gradient(tiny: LatentModel, rule: Any) -> None:
    """A right label has none: only the retain term is left."""
    settings = {**SMALL, "towards": "sneaker"}
    one, other = (EraseDiff(**settings, forget_weight=w)(tiny, SNEAKER, seed=0) for w in (rule, 0.0))
    assert all(torch.equal(one.tensors[n], other.tensors[n]) for n in one.touched)


def test_adaptive_weight_lets_gradients_through(tiny: LatentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weight is a number in the loss: its gradient is that of the same number fixed."""
    adaptive = captured(tiny, EraseDiff(**SMALL, forget_weight="bome", margin=5.0), monkeypatch)
    weights: list[float] = []
    plain = EraseDiff._weight
    monkeypatch.setattr(EraseDiff, "_weight", lambda self, *given: weights.append(plain(self, *given)) or weights[-1])
    adaptive["loss"](generator(3)).backward()
    assert weights[0] > 0
    monkeypatch.undo()
    fixed = captured(tiny, EraseDiff(**SMALL, forget_weight=weights[0]), monkeypatch)
    fixed["loss"](generator(3)).backward()
    for name, leaf in adaptive["leaves"].items():
        torch.testing.assert_close(leaf.grad, fixed["leaves"][name].grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("weight", [10.0, "bome"])
def test_training_lowers_the_forget_loss(tiny: LatentModel, weight: Any) -> None:
    method = EraseDiff(**{**SMALL, "steps": 40}, forget_weight=weight, margin=1.0)
    target, texts, _ = sets(tiny)
    wrong, rows = tiny.condition(renamed(texts, SNEAKER, "boot")), [row[0] for row in target.rows] * 8

    def distance(model: Model) -> float:
        with torch.no_grad():
            return matching(model, target.latents.repeat(8, 1, 1, 1), target.table[rows], wrong[rows], generator(5)).item()

    assert distance(tiny.edited(method(tiny, SNEAKER, seed=0))) < 0.7 * distance(tiny)


def test_forget_weight_is_a_number_or_a_rule() -> None:
    for text, value in (("2.5", 2.5), ("cosine", "cosine"), ("bome", "bome")):
        assert registry.build("unlearners", "erasediff", {"forget_weight": text}).forget_weight == value
    with pytest.raises(BadSetting, match=r"erasediff\.forget_weight accepts"):
        registry.build("unlearners", "erasediff", {"forget_weight": "sine"})


def test_other_seeds_other_edits(tiny: LatentModel) -> None:
    one, other = (EraseDiff(**SMALL)(tiny, SNEAKER, seed=seed) for seed in (0, 1))
    assert any(not torch.equal(one.tensors[n], other.tensors[n]) for n in one.touched)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("steps", 0),
        ("batch", 0),
        ("target_pictures", 0),
        ("retain_pictures", 0),
        ("lr", 0.0),
        ("margin", -1.0),
        ("dropout", 1.1),
        ("forget_weight", -0.5),
    ],
)
def test_senseless_settings_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{setting}.*; given.*{value}"):
        EraseDiff(**{setting: value})
