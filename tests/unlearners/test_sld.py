"""SLD: every sampler's step is its formula, written out once more; without strength nothing changes, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import scheduler, tiny_classes, tiny_flow, tiny_model, tiny_parts, tokenizer
from vestige import concepts
from vestige.concepts.joint import joint
from vestige.diffusion import Model
from vestige.diffusion.sampling import invert, noise, predict, sample
from vestige.edits import Edit
from vestige.errors import Incompatible
from vestige.models.latent import LatentModel
from vestige.unlearners.remap import Remap
from vestige.unlearners.sld import SLD

SNEAKER, BAG = concepts.load("sneaker"), concepts.load("bag")
PROMPTS = ["a sneaker", "neon"]
SETTINGS: dict[str, Any] = {"strength": 40.0, "threshold": 0.02, "momentum": 0.3, "decay": 0.4, "warmup": 0.3}


@pytest.fixture(scope="module")
def exact() -> LatentModel:
    """The tiny model in float64."""
    return LatentModel("tiny64", {name: part.double() for name, part in tiny_parts().items()}, tokenizer(), scheduler())


def edited(model: Model, **settings: Any) -> Model:
    return model.edited(SLD(**settings)(model, SNEAKER, seed=0))


def draw(model: Model, guidance: float = 3.0, steps: int = 6, start: int = 0) -> Tensor:
    x, null = noise(model.latent_shape, [0, 1]), model.condition([""])
    text = model.condition(PROMPTS)
    return sample(model, x.to(text.text), text, steps=steps, guidance=guidance, null=null, start=start)


def by_hand(model: LatentModel, guidance: float, steps: int) -> Tensor:
    """DDIM, a latent at a time, with the safety term as the paper's algorithm has it."""
    s_s, lam, s_m, beta = (SETTINGS[k] for k in ("strength", "threshold", "momentum", "decay"))
    grid, rows = model.grid(steps), []
    for row, prompt in enumerate(PROMPTS):
        x, nu = noise(model.latent_shape, [row]).double(), torch.zeros(1, *model.latent_shape, dtype=torch.float64)
        for i in range(steps):
            t = grid[i].expand(1)
            with torch.no_grad():
                given, free, unsafe = (model.denoise(x, t, model.condition([p])).noise for p in (prompt, "", "sneaker"))
            mu = torch.minimum(torch.ones_like(given), s_s * (given - unsafe).abs()) * (given - unsafe < lam)
            gamma = mu * (unsafe - free) + s_m * nu
            nu = beta * nu + (1 - beta) * gamma
            eps = free + guidance * (given - free - (gamma if i >= 0.3 * steps else 0))
            (a, s), (b, r) = ([v.double() for v in model.schedule(grid[k].expand(1))] for k in (i, i + 1))
            x = b * (x - s * eps) / a + r * eps
        rows.append(x)
    return torch.cat(rows)


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_sampling_is_the_formula(exact: LatentModel, guidance: float) -> None:
    view = edited(exact, **SETTINGS)
    torch.testing.assert_close(draw(view, guidance), by_hand(exact, guidance, 6), atol=1e-9, rtol=1e-9)
    assert not torch.allclose(draw(exact, guidance), by_hand(exact, guidance, 6), atol=1e-6)


def test_no_strength_is_no_change_bit_for_bit() -> None:
    model = tiny_model()
    edit = SLD(strength=0.0)(model, SNEAKER, seed=0)
    assert model.edited(edit).fingerprint == model.fingerprint
    assert torch.equal(draw(model.edited(edit)), draw(model))
    x, t, c, null = noise(model.latent_shape, [0, 1]), torch.tensor(500), model.condition(PROMPTS), model.condition([""])
    with torch.no_grad():
        plain = predict(model, x, t, c, null, 3.0).value
        silent = predict(model, x, t, c, null, 3.0, steers=[lambda step: torch.zeros_like(step.given.value)]).value
    assert torch.equal(plain, silent)


def test_warmup_of_the_whole_path_is_no_change() -> None:
    model = tiny_model()
    assert torch.equal(draw(edited(model, warmup=1.0)), draw(model))


def test_no_path_remembers_another() -> None:
    view = edited(tiny_model(), **SETTINGS)
    assert torch.equal(draw(view), draw(view))


def test_every_sampler_is_steered() -> None:
    """Drawing from half-way, and inverting."""
    model = tiny_model()
    view = edited(model, **{**SETTINGS, "warmup": 0.0})
    assert not torch.equal(draw(view, start=3), draw(model, start=3))
    x, c, null = noise(model.latent_shape, [0]), model.condition(["a sneaker"]), model.condition([""])
    up = [invert(m, x, c, steps=4, guidance=2.0, null=null) for m in (view, model)]
    assert not torch.equal(*up)


def test_hooks_around_and_within_stay() -> None:
    """With another concept's hook what is taken off adds up, and a hook on words outside of it changes what is given alone."""
    model = tiny_model()
    one, other = (SLD(**SETTINGS)(model, concept, seed=0) for concept in (SNEAKER, BAG))
    both = model.edited(replace(one, hooks=(*one.hooks, *other.hooks)))
    x, t, c, null = noise(model.latent_shape, [0, 1]), torch.tensor(500), model.condition(PROMPTS), model.condition([""])

    def taken(view: Model) -> Tensor:
        with torch.no_grad():
            return predict(model, x, t, c, null, 3.0).value - predict(view, x, t, c, null, 3.0, done=0.9).value

    torch.testing.assert_close(taken(both), taken(model.edited(one)) + taken(model.edited(other)), atol=1e-5, rtol=1e-4)
    view = model.edited(one)
    around = view.edited(replace(Remap()(model, SNEAKER, seed=0), base=view.fingerprint))
    assert len(around.steers()) == 1
    assert not torch.equal(draw(around), draw(view))


def test_an_edit_of_weights_keeps_the_hook() -> None:
    model = tiny_model()
    view, name = edited(model, **SETTINGS), model.scope("attention")[0]
    more = view.edited(Edit(view.fingerprint, "x", tensors={name: model.tensor(name) + 0.5}))
    assert len(more.steers()) == 1


def test_settings_are_the_released_ones() -> None:
    made = SLD().resolved(SNEAKER)
    assert (made.strength, made.threshold, made.momentum, made.decay, made.warmup) == (1000, 0.01, 0.3, 0.4, 0.2)
    assert SLD(level="max", momentum=0.1).resolved(joint([SNEAKER, BAG])).words == "sneaker, bag"
    assert SLD(level="max", momentum=0.1).resolved(SNEAKER).momentum == 0.1


@pytest.mark.parametrize("family", [tiny_classes, tiny_flow, lambda: tiny_classes("dit")])
def test_families_that_are_guided_are_steered(family: Any) -> None:
    model: Model = family()
    view = model.edited(SLD(**{**SETTINGS, "warmup": 0.0})(model, BAG, seed=0))
    x, c, null = noise(model.latent_shape, [0]), model.condition(["a boot"]), model.condition([""])
    drawn = [sample(m, x, c, steps=2, guidance=2.0, null=null) for m in (view, model)]
    assert not torch.equal(*drawn)


def test_a_model_that_is_told_its_guidance_is_refused() -> None:
    with pytest.raises(Incompatible, match="tiny-dev is told its guidance"):
        SLD()(tiny_flow("dev"), BAG, seed=0)


@pytest.mark.parametrize("bad", [{"strength": -1.0}, {"decay": 1.5}, {"warmup": 2.0}])
def test_settings_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least 0|lies in \[0, 1\]"):
        SLD(**bad)
