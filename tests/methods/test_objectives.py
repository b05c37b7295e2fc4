"""Objectives: the forward process by formula, and losses against exact models, closed forms and what a network predicts."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from oracles import Gaussian, tiny_model, tiny_velocity
from vestige.diffusion import Prediction
from vestige.methods.objectives import denoising, distilling, matching, min_snr, noisy, stratified
from vestige.seeds import generator


def test_noisy_is_the_forward_process() -> None:
    model, data = tiny_model(), torch.randn(64, 4, 8, 8, generator=generator(1))
    t, eps, x_t = noisy(model, data, generator(0))
    signal, level = (v.reshape(-1, 1, 1, 1) for v in model.schedule(t))
    assert torch.equal(x_t, signal * data + level * eps)
    assert t.min() >= 0
    assert t.max() < 1000
    assert len(t.unique()) > 32
    torch.testing.assert_close(signal**2 + level**2, torch.ones(64, 1, 1, 1))
    assert abs(eps.mean()) < 4 / eps.numel() ** 0.5
    assert abs(eps.var() - 1) < 4 * (2 / eps.numel()) ** 0.5
    again = noisy(model, data, generator(0))
    assert all(torch.equal(a, b) for a, b in zip(again, (t, eps, x_t), strict=True))


@pytest.mark.parametrize("kind", ["noise", "velocity", "data"])
def test_denoising_loss_is_the_posterior_variance_on_an_exact_model(kind: str) -> None:
    """No predictor beats the conditional mean, whose error is Var(noise | x_t) = signal^2 dev^2 / spread^2, and so on by kind."""
    model, count = Gaussian(deviation=0.5, kind=kind), 4000
    data = 1.5 + 0.5 * torch.randn(count, *model.latent_shape, dtype=torch.float64, generator=generator(1))
    condition = model.condition(["1.5"] * count)
    loss = denoising(model, data, condition, generator(0)).item()
    t, _, _ = noisy(model, data, generator(0))
    (signal, level), spread = model.schedule(t), model.spread(t)
    variance = {"noise": signal**2 * 0.25, "data": level**2 * 0.25, "velocity": torch.full_like(t, 0.25)}[kind] / spread**2
    squares = 2 * variance**2 / (count * 4)  # variance of a mean of squares: 2 sigma^4 / n a draw, 4 elements each
    assert loss == pytest.approx(variance.mean().item(), abs=4 * squares.mean().sqrt().item())


@pytest.mark.parametrize("kind", ["noise", "velocity", "data"])
def test_denoising_loss_of_a_point_mass_is_zero(kind: str) -> None:
    model = Gaussian(deviation=0.0, kind=kind)
    data = torch.full((50, *model.latent_shape), 2.0, dtype=torch.float64)
    assert denoising(model, data, model.condition(["2"] * 50), generator(0)).item() < 1e-20


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_denoising_loss_measures_what_the_network_predicts(prediction: str) -> None:
    model, data = tiny_model(prediction_type=prediction), torch.randn(5, 4, 8, 8, generator=generator(1))
    condition = model.condition(["a bag"] * 5)
    t, eps, x_t = noisy(model, data, generator(0))
    with torch.no_grad():
        seen: Prediction = model.denoise(x_t, t, condition)
        loss = denoising(model, data, condition, generator(0))
    goal = {"epsilon": eps, "sample": data, "v_prediction": seen.signal * eps - seen.level * data}[prediction]
    torch.testing.assert_close(loss, (seen.value - goal).square().mean(), atol=1e-6, rtol=1e-6)


def test_denoising_loss_of_velocities_is_finite_where_no_signal_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rescaled schedule ends in nothing but noise, where the noisy latents do not hold the data any more."""
    model, data = tiny_velocity(), torch.randn(2, 4, 8, 8, generator=generator(1))
    last = torch.tensor([999, 999])
    monkeypatch.setattr(model, "draw_times", lambda count, rng: last)
    assert model.schedule(last)[0].abs().max() == 0
    condition = model.condition(["a bag"] * 2)
    x_t = noisy(model, data, generator(0))[2]
    with torch.no_grad():
        expected = (model.denoise(x_t, last, condition).value + data).square().mean()  # signal eps - level data, at level 1
        torch.testing.assert_close(denoising(model, data, condition, generator(0)), expected)


@pytest.mark.parametrize("kind", ["noise", "velocity", "data"])
def test_denoising_loss_has_its_minimum_at_the_truth(kind: str) -> None:
    """A model that believes in another mean does worse on the same draws."""
    model = Gaussian(deviation=0.3, kind=kind)
    data = 1 + 0.3 * torch.randn(500, *model.latent_shape, dtype=torch.float64, generator=generator(1))
    losses = [denoising(model, data, model.condition([mean] * 500), generator(0)).item() for mean in ("0.5", "1", "1.5")]
    assert losses[1] < min(losses[0], losses[2])


def test_matching_pulls_one_prompt_towards_the_models_own_answer_to_another() -> None:
    model, data = tiny_model(), torch.randn(3, 4, 8, 8, generator=generator(1))
    one, other = model.condition(["a bag"] * 3), model.condition(["a boot"] * 3)
    view, leaves = model.trainable(model.scope("cross-attention"))
    t, _, x_t = noisy(model, data, generator(0))
    loss = matching(view, data, one, other, generator(0))
    goal = model.denoise(x_t, t, other).value.detach()
    expected = (view.denoise(x_t, t, one).value - goal).square().mean()
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(v, list(leaves.values())) for v in (loss, expected))
    torch.testing.assert_close(found, wanted)
    assert matching(view, data, one, one, generator(0)).item() == 0


def test_stratified_times_are_the_models_and_evenly_spread() -> None:
    """Each is one of the model's own draws; a batch's mean hardly moves."""
    model = Gaussian()
    batches = torch.stack([stratified(model, 32, generator(k)) for k in range(200)])
    assert float(batches.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(batches.var()) == pytest.approx(0.96**2 / 12, rel=0.03)
    assert float(batches.mean(1).std()) < 0.5 * 0.96 / 12**0.5 / 32**0.5  # independent draws would have twice that
    assert float(batches[:, 0].std()) == pytest.approx(0.96 / 12**0.5, rel=0.15)  # shuffled: every place of a batch sees all times


def test_hints_are_every_states_distance_in_its_own_size() -> None:
    """By a second implementation, which reads the states of the U-Net by hooks of its own, by the names of its layers."""
    teacher, student = tiny_model(), tiny_model(seed=1)
    data = torch.randn(3, 4, 8, 8, generator=generator(1))
    asked, told = teacher.condition(["a bag"] * 3), teacher.condition(["a boot"] * 3)
    plain, hinted = (distilling(student, teacher, data, asked, told, generator(0), hints=weight).item() for weight in (0.0, 0.5))
    states: dict[str, dict[str, torch.Tensor]] = {}
    t, _, x_t = noisy(teacher, data, generator(0))
    named = re.compile(r"conv_in|time_embedding|conv_norm_out|conv_out|(\w+_blocks?\.)(\d+\.)?(resnets|attentions|(down|up)samplers)\.\d+")
    for name, model, condition in (("theirs", teacher, told), ("ours", student, asked)):
        heard = states.setdefault(name, {})
        for where, layer in model.parts["unet"].named_modules():
            if named.fullmatch(where):

                def keep(*called: Any, heard: dict[str, torch.Tensor] = heard, where: str = where) -> None:
                    heard[where] = called[-1] if isinstance(called[-1], torch.Tensor) else called[-1][0]

                layer.register_forward_hook(keep)
        model.denoise(x_t, t, condition)
    each = [float(((states["ours"][k] - b) ** 2).sum() / (b**2).sum()) for k, b in states["theirs"].items()]
    assert len(each) > 10 and hinted - plain == pytest.approx(0.5 * sum(each) / len(each), rel=1e-4)
    assert distilling(teacher, teacher, data, told, told, generator(0), hints=0.5).item() == 0


@pytest.mark.parametrize(("kind", "straight"), [("noise", False), ("data", False), ("velocity", False), ("flow", True)])
@pytest.mark.parametrize("gamma", [0.5, 5.0])
def test_min_snr_weighs_an_error_as_one_of_the_data_up_to_a_ratio(kind: Any, straight: bool, gamma: float) -> None:
    """By what the prediction itself says the data are, from no noise to nothing but noise, where no weight is infinite."""
    level = torch.linspace(0, 1, 11, dtype=torch.float64).reshape(-1, 1, 1, 1)
    signal = 1 - level if straight else (1 - level.square()).sqrt()
    x_t, value, error = (torch.randn(11, 4, 2, 2, generator=generator(k), dtype=torch.float64) for k in range(3))
    one, other = (Prediction(x_t, signal, level, v, kind) for v in (value, value + error))
    weights = min_snr(one, gamma)
    assert weights.shape == (11, 1, 1, 1) and bool(weights.isfinite().all())
    inner = slice(1, -1)
    expected = (signal / level).square().clamp(max=gamma) * (other.data - one.data).square()
    torch.testing.assert_close((weights * error.square())[inner], expected[inner])


def test_a_students_times_weigh_by_min_snr() -> None:
    """The whole loss, by hand; without a ratio every time weighs alike."""
    teacher, student = tiny_model(), tiny_model(seed=1)
    data, told = torch.randn(3, 4, 8, 8, generator=generator(1)), teacher.condition(["a bag"] * 3)
    t, _, x_t = noisy(teacher, data, generator(0))
    apart = (student.denoise(x_t, t, told).value - teacher.denoise(x_t, t, told).value).square()
    signal, level = (v.reshape(-1, 1, 1, 1) for v in teacher.schedule(t))
    loss = distilling(student, teacher, data, told, told, generator(0), snr_gamma=1.0)
    torch.testing.assert_close(loss, (apart * (level / signal).square().clamp(max=1)).mean())
    torch.testing.assert_close(distilling(student, teacher, data, told, told, generator(0)), apart.mean())
