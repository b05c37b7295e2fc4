"""The states between layers: of every family, of a view as of a model, and no hook stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oracles import Gaussian, tiny_flow, tiny_model
from vestige import models
from vestige.diffusion import Model
from vestige.diffusion.layers import handed_on, readable
from vestige.errors import Incompatible
from vestige.seeds import generator


def told(model: Model) -> tuple[Any, ...]:
    x = torch.randn(2, *model.latent_shape, generator=generator(0))
    return x, model.draw_times(2, generator(1)), model.condition(["a sneaker"] * 2)


@pytest.mark.parametrize(("made", "count"), [(tiny_model, None), (tiny_flow, None), (lambda: models.load("wardrobe-classes"), 22)])
def test_states_are_heard_within_and_nothing_stays(made: Any, count: int | None) -> None:
    model = made()
    given = told(model)
    plain = model.denoise(*given).value
    with handed_on(model) as heard:
        assert torch.equal(model.denoise(*given).value, plain)
        once = len(heard)
        model.denoise(*given)
    assert once == (count or once) > 1 and len(heard) == 2 * once
    assert all(state.shape[0] == 2 for state in heard)
    model.denoise(*given)
    assert len(heard) == 2 * once


def test_a_view_is_heard_apart_from_its_model_and_with_gradients() -> None:
    model = tiny_model()
    view, leaves = model.trainable(model.scope("cross-attention"))
    given = told(model)
    with handed_on(view) as ours, handed_on(model) as theirs:
        view.denoise(*given)
        assert ours and not theirs
        model.denoise(*given)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    torch.autograd.grad(ours[-1].square().sum(), next(iter(leaves.values())))


def test_a_denoiser_that_is_no_network_says_so() -> None:
    with pytest.raises(Incompatible, match="no denoiser made of layers"), handed_on(Gaussian()):
        raise AssertionError("nothing can be heard")
    with pytest.raises(Incompatible, match="hints=0 teaches its prediction alone"):
        readable(Gaussian())
    readable(tiny_model())
