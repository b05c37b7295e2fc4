"""Cross-attention: maps are the definition's, the output is what it was, and nothing stays behind."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import Gaussian, scheduler, tiny_model, tiny_parts, tokenizer
from vestige.diffusion import Model, attention
from vestige.diffusion.attention import columns, endings, layers, recording
from vestige.diffusion.views import hooked
from vestige.edits import Hook
from vestige.errors import BadInput, Incompatible, UnknownName
from vestige.models.latent import LatentModel


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


@pytest.fixture(scope="module")
def exact() -> LatentModel:
    """The tiny model in float64."""
    return LatentModel("tiny64", {name: part.double() for name, part in tiny_parts().items()}, tokenizer(), scheduler())


def inputs(model: Model, count: int = 3) -> tuple[Tensor, Tensor, Any]:
    condition = model.condition(["a neon sneaker", "a bag", ""][:count])
    x = torch.randn(count, *model.latent_shape, generator=torch.Generator().manual_seed(0)).to(condition.text)
    return x, torch.arange(count) * 300 + 50, condition


def naive(model: LatentModel, x: Tensor, t: Tensor, condition: Any) -> dict[str, Tensor]:
    """softmax(Q K' / sqrt(d)) from what goes into each layer and its weights, head by head; the network itself stays fused."""
    unet, found, handles = model.parts["unet"], {}, []

    def keep(name: str) -> Any:
        def hook(module: Any, arguments: Any, named: Any) -> None:
            hidden = arguments[0] if arguments else named["hidden_states"]
            wq, wk = (model.tensor(f"unet.{name}.to_{side}.weight") for side in "qk")
            queries, keys = hidden @ wq.T, named["encoder_hidden_states"] @ wk.T
            width = queries.shape[-1] // module.heads
            parts = [slice(h * width, (h + 1) * width) for h in range(module.heads)]
            scores = [queries[..., p] @ keys[..., p].transpose(1, 2) / width**0.5 for p in parts]
            found[name] = torch.stack([torch.exp(s) / torch.exp(s).sum(-1, keepdim=True) for s in scores], dim=1)

        return hook

    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            handles.append(module.register_forward_pre_hook(keep(name), with_kwargs=True))
    with torch.no_grad():
        model.denoise(x, t, condition)
    for handle in handles:
        handle.remove()
    return found


def traces(model: LatentModel) -> list[Any]:
    """Everything that a recording could leave in the network."""
    return [(n, type(vars(m).get("processor")), "get_attention_scores" in vars(m)) for n, m in model.parts["unet"].named_modules()] + [
        (n, key, len(value))
        for n, m in model.parts["unet"].named_modules()
        for key, value in vars(m).items()
        if key.endswith("_hooks") and value
    ]


def test_maps_are_the_definitions(exact: LatentModel) -> None:
    x, t, condition = inputs(exact)
    with torch.no_grad(), recording(exact) as maps:
        exact.denoise(x, t, condition)
    expected = naive(exact, x, t, condition)
    assert maps.keys() == expected.keys()
    assert len(maps) == 4
    for name in maps:
        assert maps[name].shape == (3, 2, 16, 77)
        torch.testing.assert_close(maps[name], expected[name], atol=1e-12, rtol=1e-10)
        torch.testing.assert_close(maps[name].sum(-1), torch.ones(3, 2, 16, dtype=torch.float64))


def test_output_is_unchanged(tiny: LatentModel) -> None:
    x, t, condition = inputs(tiny)
    with torch.no_grad():
        plain = tiny.denoise(x, t, condition).value
        with recording(tiny):
            stepwise = tiny.denoise(x, t, condition).value
        again = tiny.denoise(x, t, condition).value
    torch.testing.assert_close(stepwise, plain, atol=1e-5, rtol=1e-5)
    assert torch.equal(again, plain)


def test_nothing_stays_behind_also_after_an_error(tiny: LatentModel) -> None:
    before = traces(tiny)
    processors = [m.processor for m in tiny.parts["unet"].modules() if hasattr(m, "processor")]
    with recording(tiny):
        assert traces(tiny) != before
    with pytest.raises(RuntimeError, match="half-way"), recording(tiny), recording(tiny, ("mid_block",)):
        raise RuntimeError("half-way")
    assert traces(tiny) == before
    after = [m.processor for m in tiny.parts["unet"].modules() if hasattr(m, "processor")]
    assert all(a is b for a, b in zip(after, processors, strict=True))


def test_a_network_that_cannot_be_read_is_left_alone() -> None:
    """Refused at its last layer, with the earlier ones already prepared."""
    model = tiny_model()
    last = model.parts["unet"].get_submodule(layers(model)[-1])
    last.processor = type("Odd", (), {})()
    before = traces(model)
    with pytest.raises(Incompatible, match="computes its attention by Odd"), recording(model):
        pass
    assert traces(model) == before


def test_recordings_nest(tiny: LatentModel) -> None:
    x, t, condition = inputs(tiny)
    with torch.no_grad(), recording(tiny) as outer, recording(tiny, ("mid_block",)) as inner:
        tiny.denoise(x, t, condition)
    (name,) = inner
    assert len(outer) == 4
    assert torch.equal(inner[name], outer[name])


def test_a_view_and_its_base_are_recorded_apart(tiny: LatentModel) -> None:
    x, t, condition = inputs(tiny)
    view, leaves = tiny.trainable(tiny.scope("cross-attention"))
    with torch.no_grad():
        for leaf in leaves.values():
            leaf.mul_(1.5)
    with recording(view) as mine, recording(tiny) as base:
        view.denoise(x, t, condition)
        assert mine
        assert not base
        tiny.denoise(x, t, condition)
    assert all(not torch.allclose(mine[n], base[n]) for n in base)


def test_gradients_are_the_differences(exact: LatentModel) -> None:
    """Of a function of the maps, along a direction in the leaves; and they reach all but the last layer's value and output."""
    view, leaves = exact.trainable(exact.scope("cross-attention"))
    x, t, condition = inputs(exact)

    def value() -> Tensor:
        with recording(view) as maps:
            view.denoise(x, t, condition)
        return torch.stack([m[..., 2].square().sum() for m in maps.values()]).sum()

    rng = torch.Generator().manual_seed(1)
    direction = {n: torch.randn(leaf.shape, generator=rng, dtype=leaf.dtype) for n, leaf in leaves.items()}
    grads = dict(zip(leaves, torch.autograd.grad(value(), list(leaves.values()), allow_unused=True), strict=True))
    slope = sum(float((g * direction[n]).sum()) for n, g in grads.items() if g is not None)
    ends = []
    with torch.no_grad():
        for step in (1e-5, -2e-5):
            for n, leaf in leaves.items():
                leaf.add_(step * direction[n])
            ends.append(float(value()))
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)
    reached = {n for n, g in grads.items() if g is not None and g.abs().max() > 0}
    last = "unet.up_blocks.0.attentions.1.transformer_blocks.0.attn2"  # the network's order is down, middle, up; its forward pass too
    assert set(leaves) - reached == {f"{last}.to_v.weight", f"{last}.to_out.0.weight", f"{last}.to_out.0.bias"}


def test_maps_of_an_adapted_and_of_a_hooked_view(tiny: LatentModel) -> None:
    x, t, condition = inputs(tiny)
    adapted, _ = tiny.adapted(tiny.scope("cross-attention-kv"), rank=2, alpha=2.0, init="gaussian", rng=torch.Generator().manual_seed(0))
    wrapped = hooked(tiny, [Hook("unlearners", "remap", {"words": "sneaker", "towards": "boot"})])
    tables = []
    for model in (tiny, adapted, wrapped):
        with torch.no_grad(), recording(model) as maps:
            model.denoise(x, t, condition)
        tables.append(maps)
    for other in tables[1:]:
        assert all(torch.equal(other[n], tables[0][n]) for n in tables[0])  # an adapter starts at zero


def test_layers_by_name_and_by_resolution() -> None:
    parts = tiny_parts()
    from diffusers import UNet2DConditionModel

    parts["unet"] = UNet2DConditionModel(
        sample_size=(8, 12),
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16, 16),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    model = LatentModel("three", parts, tokenizer(), scheduler())
    every = layers(model)
    assert [n.split(".attentions")[0] for n in every] == [
        *("down_blocks.0", "down_blocks.1", "up_blocks.1", "up_blocks.1", "up_blocks.2", "up_blocks.2", "mid_block")
    ]
    assert layers(model, (every[1],)) == [every[1]]
    assert layers(model, ("mid_block", "down_blocks.0")) == [every[0], every[-1]]
    x, t, condition = inputs(model)
    seen = []
    for size, pixels in (("8x12", 96), ("4x6", 24), ("2x3", 6)):
        with torch.no_grad(), recording(model, (size,)) as maps:
            model.denoise(x, t, condition)
        assert sorted(maps) == sorted(layers(model, (size,)))
        assert all(m.shape == (3, 2, pixels, 77) for m in maps.values())
        seen += list(maps)
    assert sorted(seen) == sorted(every)


@pytest.mark.parametrize("item", ["block", "9x9", "mid_blok", ""])
def test_unknown_layers_are_refused(tiny: LatentModel, item: str) -> None:
    with pytest.raises(UnknownName, match=r"cross-attention layer of tiny.*4x4"):
        layers(tiny, ("mid_block", item))


def test_models_without_cross_attention_are_refused() -> None:
    from diffusers import UNet2DModel

    parts = tiny_parts()
    parts["unet"] = UNet2DModel(
        8, 4, 4, block_out_channels=(8, 8), norm_num_groups=4, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2
    )
    for model in (Gaussian(), LatentModel("unconditional", parts, tokenizer(), scheduler())):
        with pytest.raises(Incompatible, match=f"{model.name} has no U-Net with cross-attention"), recording(model):
            pass
    with pytest.raises(Incompatible, match="no tokenizer"):
        columns(Gaussian(), "a bag", "bag")


def test_columns_are_the_words_tokens(tiny: LatentModel) -> None:
    assert columns(tiny, "a neon picture of a sneaker", "sneaker") == [6]  # the start token is column 0
    assert columns(tiny, "bag a BAG", "bag") == [1, 3]
    assert columns(tiny, "a neon bag", "neon bag") == [2, 3]
    assert columns(tiny, "anything", "") == []
    count = len(tiny.tokenizer("Van Gogh").input_ids) - 2
    assert columns(tiny, "a Van Gogh in neon", "Van Gogh") == list(range(2, 2 + count))
    wrapped = hooked(tiny, [Hook("unlearners", "remap", {"words": "sneaker", "towards": "boot"})])
    assert columns(wrapped, "a bag", "bag") == [2]


def test_columns_of_absent_or_cut_off_words_are_an_error(tiny: LatentModel) -> None:
    for text in ("a bag", "", "a " * 80 + "bag"):
        with pytest.raises(BadInput, match="does not hold the words 'sneaker'"):
            columns(tiny, text, "sneaker")
    with pytest.raises(Incompatible, match="is cut after 76 tokens, before 'sneaker' ends"):
        columns(tiny, "a " * 80 + "sneaker", "sneaker")


def test_endings_are_the_end_token_and_what_looks_like_it(tiny: LatentModel) -> None:
    assert endings(tiny, "a neon bag") == [4]
    assert endings(tiny, "a neon bag", padding=True) == list(range(4, 77))
    other = tokenizer()
    other.pad_token = other.convert_ids_to_tokens(other("neon").input_ids[1])
    apart = LatentModel("apart", tiny.parts, other, scheduler())
    assert endings(apart, "a neon bag", padding=True) == [4]


def test_columns_point_into_the_maps(exact: LatentModel) -> None:
    """Another embedding in the word's row moves the scores of its columns alone: their ratios within the rest stay."""
    x, t, condition = inputs(exact, 1)
    (column,) = columns(exact, "a neon sneaker", "sneaker")
    tables = []
    for scale in (1.0, 2.0):
        text = condition.text.clone()
        text[:, column] *= scale
        with torch.no_grad(), recording(exact) as maps:
            exact.denoise(x, t, type(condition)(text))
        tables.append(maps[attention.layers(exact)[0]])  # the first layer, whose queries do not depend on the text
    others = [i for i in range(77) if i != column]
    rest = [m[..., others] / m[..., others].sum(-1, keepdim=True) for m in tables]
    torch.testing.assert_close(rest[0], rest[1], atol=1e-12, rtol=1e-9)
    assert all(not torch.allclose(a[..., column], b[..., column]) for a, b in itertools.pairwise(tables))
