"""Hidden units of feed-forward blocks: all last maps are found, what they read is heard, and the network is as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import FAMILIES, tiny_classes, tiny_model
from vestige.diffusion.sampling import noise
from vestige.diffusion.units import hearing, last_maps
from vestige.errors import Incompatible


def heard(model: Any, names: list[str]) -> tuple[dict[str, Tensor], Tensor]:
    found: dict[str, Tensor] = {}
    x, condition = noise(model.latent_shape, [0, 1]), model.condition(["sneaker", "bag"])
    with hearing(model, names, lambda name, units: found.update({name: units})):
        seen = model.denoise(x, model.grid(3)[1].expand(2), condition)
    return found, seen.value


def test_what_a_map_reads_is_what_its_block_gives_before_its_bias() -> None:
    """By the block's own output."""
    model = tiny_model()
    names = last_maps(model)
    outputs: dict[str, Tensor] = {}
    for name in names:
        layer = model.parts["unet"].get_submodule(name.removeprefix("unet.").removesuffix(".weight"))
        layer.register_forward_hook(lambda layer, given, out, name=name: outputs.update({name: out}))
    found, _ = heard(model, names)
    assert set(found) == set(names) and len(names) == sum(name.endswith("ff.net.2.weight") for name in model.scope("unet"))
    for name, units in found.items():
        bias = model.tensor(name.replace("weight", "bias"))
        torch.testing.assert_close(units @ model.tensor(name).T + bias, outputs[name])


@pytest.mark.parametrize("family", ["flow", "flow-sd3", "latent-xl", "classes-dit"])
def test_every_family_with_feed_forward_blocks_is_heard(family: str) -> None:
    """Where attention is joint, the text's blocks too."""
    model = FAMILIES[family]()
    names = last_maps(model)
    assert any("ff_context" in name for name in names) == family.startswith("flow")
    found, _ = heard(model, names)
    assert {name: units.shape[-1] for name, units in found.items()} == {name: model.tensor(name).shape[1] for name in names}


def test_a_network_without_such_blocks_is_refused() -> None:
    with pytest.raises(Incompatible, match="tiny-unet has no feed-forward blocks; nothing to do, choose another method"):
        last_maps(tiny_classes(), "nothing to do")


def test_the_network_is_as_it_was_afterwards_and_after_an_error() -> None:
    model = tiny_model()
    names = last_maps(model)
    _, before = heard(model, names)

    def refuse(name: str, units: Tensor) -> None:
        raise RuntimeError

    x, condition = noise(model.latent_shape, [0, 1]), model.condition(["sneaker", "bag"])
    with pytest.raises(RuntimeError), hearing(model, names, refuse):
        model.denoise(x, model.grid(3)[1].expand(2), condition)
    assert not any(part._forward_pre_hooks for part in model.parts["unet"].modules())
    assert torch.equal(model.denoise(x, model.grid(3)[1].expand(2), condition).value, before)
