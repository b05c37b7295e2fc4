"""Weights made afresh, wholly or in part: nothing of the old ones or their share, and what architectures begin with."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from oracles import Gaussian, tiny_classes, tiny_flow, tiny_model
from vestige.diffusion import Model
from vestige.errors import Incompatible
from vestige.methods.fresh import fresh, scrambled
from vestige.seeds import generator

FAMILIES = {
    "latent": tiny_model,
    "unet": tiny_classes,
    "dit": lambda: tiny_classes("dit"),
    "flux": tiny_flow,
    "sd3": lambda: tiny_flow("sd3"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_of_the_old_weights_is_left(family: str) -> None:
    """Every weight of the denoiser gets a value of its shape; those that are drawn do not correlate with the old ones."""
    model: Model = FAMILIES[family]()
    names = model.scope("unet")
    made = fresh(model, names, generator(0))
    assert list(made) == names
    assert all(made[n].shape == model.tensor(n).shape for n in names)
    drawn = [n for n in names if made[n].std(unbiased=False) > 0]
    old, new = (torch.cat([(x - x.mean()).flatten() / x.std(unbiased=False) for x in rows]) for rows in _both(model, made, drawn))
    assert abs(float((old * new).mean())) < 4 / len(old) ** 0.5
    rest = [made[n] for n in names if n not in drawn]
    assert all(bool(((x == 0) | (x == 1)).all()) for x in rest)


def _both(model: Model, made: dict[str, torch.Tensor], names: list[str]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    return [model.tensor(n) for n in names], [made[n] for n in names]


def test_only_shapes_are_read_of_the_old_weights() -> None:
    """Two models of one architecture and other weights begin alike; another seed begins otherwise."""
    one, other = tiny_model(0), tiny_model(1)
    names = one.scope("unet")
    first, second, third = (fresh(m, names, generator(k)) for m, k in ((one, 0), (other, 0), (one, 1)))
    assert all(torch.equal(first[n], second[n]) for n in names)
    assert not torch.equal(first["unet.conv_in.weight"], third["unet.conv_in.weight"])


def test_matrices_and_kernels_begin_as_torch_begins_them() -> None:
    model = tiny_model()
    name = "unet.mid_block.resnets.0.conv1.weight"
    value = fresh(model, [name], generator(0))[name]
    own = nn.Conv2d(value.shape[1], value.shape[0], value.shape[2]).weight.detach()
    bound = own[0].numel() ** -0.5
    assert float(value.abs().max()) <= bound
    assert float(value.std()) == pytest.approx(bound / 3**0.5, rel=0.05)
    assert float(own.std()) == pytest.approx(float(value.std()), rel=0.05)


def test_norms_begin_with_gain_one_and_every_bias_with_zero() -> None:
    made = fresh(tiny_model(), ["unet.conv_norm_out.weight", "unet.conv_norm_out.bias", "unet.conv_in.bias"], generator(0))
    assert [set(x.flatten().tolist()) for x in made.values()] == [{1.0}, {0.0}, {0.0}]


def test_a_weight_of_an_unknown_kind_is_refused_by_its_name() -> None:
    model = tiny_model()
    model.parts["unet"].conv_in.register_parameter("gate", nn.Parameter(torch.ones(3)))
    with pytest.raises(Incompatible, match=r"unet\.conv_in\.gate of tiny"):
        fresh(model, model.scope("unet"), generator(0))


def test_a_model_without_modules_is_refused() -> None:
    with pytest.raises(Incompatible, match="not made of torch modules"):
        fresh(Gaussian(), ["none"], generator(0))


KERNEL, GAIN, BIAS = "unet.conv_in.weight", "unet.conv_norm_out.weight", "unet.conv_in.bias"


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_scrambled_weights_have_the_moments_of_their_sum(share: float) -> None:
    """Mean (1 - share) w and deviation share k / sqrt(3) over seeds, k the bound of fresh kernels; gains and biases stay no lottery."""
    tiny = tiny_model()
    draws = [scrambled(tiny, [KERNEL, GAIN, BIAS], generator(k), share=share) for k in range(64)]
    old, seen = tiny.tensor(KERNEL), torch.stack([draw[KERNEL] for draw in draws])
    deviation = share * old[0].numel() ** -0.5 / 3**0.5
    z = (seen.mean(0) - (1 - share) * old) / (deviation / 8)
    assert float(z.square().mean()) == pytest.approx(1, abs=0.25)  # 576 of them: the deviation of that mean is 0.06
    assert float(seen.std(0).square().mean()) == pytest.approx(deviation**2, rel=0.05)  # 36,864 draws
    for name, goal in ((GAIN, 1.0), (BIAS, 0.0)):
        torch.testing.assert_close(draws[0][name], (1 - share) * tiny.tensor(name) + share * goal)


def test_a_whole_share_is_afresh_and_none_is_the_old_weight_bit_for_bit() -> None:
    model = tiny_model()
    names = model.scope("unet")
    begun, gone, same = fresh(model, names, generator(0)), *(scrambled(model, names, generator(0), share=s) for s in (1.0, 0.0))
    assert all(torch.equal(gone[n], begun[n]) and torch.equal(same[n], model.tensor(n)) for n in names)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_weights_can_be_scrambled(family: str) -> None:
    model: Model = FAMILIES[family]()
    names = model.scope("unet")
    found = scrambled(model, names, generator(0), share=0.5)
    assert all(found[n].shape == model.tensor(n).shape and found[n].isfinite().all() for n in names)
