"""Diagnostics: against autograd by hand, on edits whose answers are known, and on a loss whose line is a parabola."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import small, tiny_model
from vestige import concepts
from vestige.diffusion import Condition, Prediction
from vestige.diffusion.sampling import Drawing, noise
from vestige.edits import Edit, Hook
from vestige.harness.diagnostics import LINE, diagnose, measured
from vestige.harness.unlearning import unlearned
from vestige.methods import Data
from vestige.methods.objectives import denoising
from vestige.methods.training_data import Pairs
from vestige.models.latent import LatentModel
from vestige.seeds import generator

SNEAKER = concepts.load("sneaker")
SIZES: dict[str, int] = {"draws": 2, "batch": 4}


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def pairs(model: LatentModel, word: str, seeds: range) -> Pairs:
    return Pairs(noise(model.latent_shape, seeds), model.condition([f"a {word}"]), ((0,),) * len(seeds))


def moved(model: LatentModel, size: float) -> Edit:
    names = model.scope("cross-attention-kv")
    values = {n: model.tensor(n) + size * torch.randn(model.tensor(n).shape, generator=generator(0, n)) for n in names}
    return Edit(model.fingerprint, "moved", {}, "cross-attention-kv", values)


def found(model: LatentModel, edit: Edit, **own: Any) -> dict[str, Any]:
    return diagnose(model, edit, pairs(model, "boot", range(6)), pairs(model, "sneaker", range(6, 9)), **{"seed": 1, **SIZES, **own})


@pytest.mark.parametrize("edit", ["nothing", "a weight as it is"])
def test_nothing_changed_is_nothing_found(tiny: LatentModel, edit: str) -> None:
    name = tiny.scope("unet")[0]
    made = Edit(tiny.fingerprint, "none", {}, "unet", {} if edit == "nothing" else {name: tiny.tensor(name).clone()})
    out = found(tiny, made)
    assert out["excess_retain_loss"] == 0
    assert out["distance"] == 0
    assert len(set(out["forget_loss_on_line"])) == 1


def test_gradients_against_autograd_by_hand(tiny: LatentModel) -> None:
    """One gradient of the whole loss, over flattened weights."""
    edit = moved(tiny, 0.2)
    view, flat = tiny.edited(edit), {}
    student, leaves = view.trainable(tiny.scope("unet"))
    for name, given in (("retain", pairs(tiny, "boot", range(6))), ("forget", pairs(tiny, "sneaker", range(6, 9)))):
        losses = []
        for i in range(2):
            rng = generator(1, "diagnose", name, i)
            losses.append(denoising(student, *given.draw(4, rng), rng))
        slopes = torch.autograd.grad(torch.stack(losses).mean(), list(leaves.values()))
        flat[name] = torch.cat([s.flatten() for s in slopes]).double()
    out = found(tiny, edit)
    assert out["retain_gradient"] == pytest.approx(float(flat["retain"].norm()), rel=1e-4)
    assert out["forget_gradient"] == pytest.approx(float(flat["forget"].norm()), rel=1e-4)
    cosine = torch.nn.functional.cosine_similarity(flat["retain"], flat["forget"], dim=0)
    assert out["gradient_cosine"] == pytest.approx(float(cosine), abs=1e-4)
    assert abs(out["gradient_cosine"]) < 1


def test_distance_is_that_of_the_whole_denoiser(tiny: LatentModel) -> None:
    edit = moved(tiny, 0.2)
    gap = sum(float((edit.tensors[n] - tiny.tensor(n)).double().square().sum()) for n in edit.tensors)
    size = sum(float(tiny.tensor(n).double().square().sum()) for n in tiny.scope("unet"))
    assert found(tiny, edit)["distance"] == pytest.approx(math.sqrt(gap / size), rel=1e-5)


def test_a_damaged_model_has_an_excess_and_the_line_ends_at_both_models(tiny: LatentModel) -> None:
    out = found(tiny, moved(tiny, 0.5))
    assert out["excess_retain_loss"] != 0
    line = out["forget_loss_on_line"]
    assert len(line) == len(LINE)
    assert line[0] == found(tiny, Edit(tiny.fingerprint, "none"))["forget_loss_on_line"][0]
    assert line[-1] != line[0]


class Shift:
    """A denoiser that predicts `weight` everywhere: its loss is mean (weight - eps)^2, a parabola in the weight."""

    def __init__(self, weight: Tensor) -> None:
        self.weight, self.fingerprint, self.name = weight, f"shift {weight.tolist()}", "shift"

    def scope(self, name: str) -> list[str]:
        return ["w"]

    def tensor(self, name: str) -> Tensor:
        return self.weight.detach()

    def edited(self, edit: Edit) -> Shift:
        return Shift(edit.weight("w", self.weight))

    def trainable(self, names: list[str]) -> tuple[Shift, dict[str, Tensor]]:
        leaf = self.weight.detach().clone().requires_grad_()
        return Shift(leaf), {"w": leaf}

    def draw_times(self, count: int, rng: torch.Generator) -> Tensor:
        return torch.rand(count, generator=rng)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cos(t), torch.sin(t)

    def denoise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        signal, level = (v.reshape(-1, 1, 1, 1) for v in self.schedule(t))
        return Prediction(x_t, signal, level, self.weight.expand_as(x_t), "noise")


def test_parabola() -> None:
    """With eps of mean 0 and deviation 1: L(w) = w^2 + 1, its slope 2 w, the same for both sets, so that the cosine is 1."""
    start, end = 1.0, 3.0
    model: Any = Shift(torch.tensor(start))
    edit = Edit(model.fingerprint, "shift", {}, "w", {"w": torch.tensor(end)})
    given = Pairs(torch.zeros(4, 1, 8, 8), Condition(torch.zeros(1, 1, 1)), ((0,),) * 4)
    out = diagnose(model, edit, given, given, seed=0, draws=8, batch=64)
    assert out["retain_loss"] == pytest.approx(end**2 + 1, rel=0.02)
    assert out["excess_retain_loss"] == pytest.approx(end**2 - start**2, rel=0.02)
    assert out["retain_gradient"] == pytest.approx(2 * end, rel=0.02)
    assert out["gradient_cosine"] == pytest.approx(1.0)
    assert out["distance"] == pytest.approx((end - start) / start)
    assert out["forget_loss_on_line"] == pytest.approx([(start + a * (end - start)) ** 2 + 1 for a in LINE], rel=0.02)


def test_other_seeds_other_draws_and_equal_seeds_equal_numbers(tiny: LatentModel) -> None:
    edit = moved(tiny, 0.2)
    assert found(tiny, edit) == found(tiny, edit)
    assert found(tiny, edit)["retain_loss"] != found(tiny, edit, seed=2)["retain_loss"]


def test_an_edit_that_acts_by_a_hook_has_no_line(tiny: LatentModel) -> None:
    hook = Hook("unlearners", "remap", {"words": "sneaker", "towards": "boot"})
    out = found(tiny, Edit(tiny.fingerprint, "remap", {}, "prompts", hooks=(hook,)))
    assert out["forget_loss_on_line"] == []
    assert out["distance"] == 0


def test_measured_on_other_pictures_than_the_method_trains_on(monkeypatch: pytest.MonkeyPatch, tiny: LatentModel) -> None:
    from vestige.harness import diagnostics

    monkeypatch.setattr(diagnostics, "COUNT", 4)
    seeds: list[int] = []
    real = Data.drawn

    def spy(self: Data, *arguments: Any, **named: Any) -> Any:
        seeds.append(named["seed"])
        return real(self, *arguments, **named)

    monkeypatch.setattr(Data, "drawn", spy)
    data = Data(protocol=Drawing(steps=1))
    data.retained(tiny, SNEAKER, 4, seed=0)
    data.targeted(tiny, SNEAKER, 4, seed=0)
    out = measured(tiny, SNEAKER, moved(tiny, 0.2), data, seed=0)
    assert out["distance"] > 0
    assert len(set(seeds)) == 4


@pytest.mark.parametrize(("name", "there"), [("dimum", True), ("uce", False)])
def test_unlearning_runs_store_them_where_there_is_a_retain_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny: LatentModel, name: str, there: bool
) -> None:
    from vestige.harness import diagnostics

    monkeypatch.setattr(diagnostics, "COUNT", 3)
    data = Data(protocol=Drawing(steps=1))
    run = unlearned(tmp_path, tiny, SNEAKER, name, small("unlearners", name), 0, data=data)
    assert set(run.outcome) == ({"seconds", "diagnostics"} if there else {"seconds"})
    if there:
        edit = Edit.load(run.path("edit.safetensors"))
        assert run.outcome["diagnostics"] == measured(tiny, SNEAKER, edit, data, seed=0)
