"""Weights of low precision: leaves in float32 behind a cast, and factors that stay beside the weight."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from oracles import FAMILIES, small, tiny_model
from vestige import api, concepts, edits, registry
from vestige.continual import ledger
from vestige.continual.guards import Guarded, Guards, projection, protected, word_embeddings
from vestige.diffusion import Model, attention
from vestige.diffusion.sampling import noise
from vestige.edits import Edit, precision
from vestige.edits.merging import ties
from vestige.edits.surgery import folded, rebuild
from vestige.errors import Diverged, HalfPrecision, Incompatible, VestigeError
from vestige.methods import Training, fit, optimiser
from vestige.methods.objectives import denoising
from vestige.models import from_pipeline
from vestige.seeds import generator

SNEAKER = concepts.load("sneaker")
LOW = torch.bfloat16


def lowered(model: Any, dtype: torch.dtype = LOW) -> Any:
    """The model in another precision."""
    for part in model.parts.values():
        part.to(dtype)
    model._hashes.clear()
    return model


@pytest.fixture(scope="module", params=FAMILIES)
def low(request: pytest.FixtureRequest) -> Any:
    return lowered(FAMILIES[request.param]())


@pytest.fixture(scope="module")
def tiny() -> Any:
    return lowered(tiny_model())


def predicted(model: Model) -> Tensor:
    x = noise(model.latent_shape, [0, 1]).to(LOW)
    with torch.no_grad():
        return model.denoise(x, model.grid(4)[1].expand(2), model.condition(["sneaker", "bag"])).value


def moved(leaves: dict[str, Tensor], size: float) -> None:
    """Every leaf by Gaussian steps of this size."""
    rng = generator(7)
    with torch.no_grad():
        for leaf in leaves.values():
            leaf += size * torch.randn(leaf.shape, generator=rng)


def flat(factors: Any) -> dict[str, Tensor]:
    return {f"{name}:{side}": factor for name, pair in factors.items() for side, factor in enumerate(pair)}


def test_a_fresh_view_predicts_what_the_model_does_and_calls_itself_as_precise(low: Any) -> None:
    view, leaves = low.trainable(low.scope("unet"))
    adapted, factors = low.adapted(low.scope("attention"), rank=2, alpha=2, init="gaussian", rng=generator(0))
    assert {leaf.dtype for leaf in (*leaves.values(), *flat(factors).values())} == {torch.float32}
    assert view.dtype == adapted.dtype == LOW
    assert view.parts[low.denoiser].dtype == LOW  # networks cast by it on the way
    assert torch.equal(predicted(view), predicted(low))
    assert torch.equal(predicted(adapted), predicted(low))


def test_the_edited_model_predicts_what_its_leaves_did(low: Any) -> None:
    """Bit for bit: the view rounds its leaves as the edited model does."""
    view, leaves = low.trainable(low.scope("unet"))
    moved(leaves, 1e-3)
    edit = Edit(low.fingerprint, "trained", tensors={name: leaf.detach().clone() for name, leaf in leaves.items()})
    edited = low.edited(edit)
    assert torch.equal(predicted(edited), predicted(view))
    assert not torch.equal(predicted(edited), predicted(low))
    assert all(edited.tensor(name).dtype == LOW for name in leaves)


def test_the_edited_model_predicts_what_its_adapters_did(low: Any) -> None:
    """The scale is a power of two, so that it makes no difference where it is multiplied."""
    names = low.scope("attention")
    view, leaves = low.adapted(names, rank=2, alpha=4, init="gaussian", rng=generator(0))
    moved(flat(leaves), 1e-2)
    edited = low.edited(Edit(low.fingerprint, "adapted", factors=folded(leaves, rank=2, alpha=4)))
    assert torch.equal(predicted(edited), predicted(view))
    assert not torch.equal(predicted(edited), predicted(low))


def test_gradients_reach_the_leaves_in_single_precision(tiny: Any) -> None:
    """Tied to nothing: a leaf's gradient is that of the same loss in the rounded weight, kept in float32."""
    view, leaves = tiny.trainable(["unet.conv_in.weight"])
    x = noise(tiny.latent_shape, [0]).to(LOW)
    denoising(view, x, tiny.condition(["bag"]), generator(0)).backward()
    (leaf,) = leaves.values()
    assert leaf.grad is not None and leaf.grad.dtype == torch.float32
    assert leaf.grad.abs().max() > 0
    assert all(p.grad is None for part in tiny.parts.values() for p in part.parameters())


def small_factors(model: Any, size: float) -> dict[str, tuple[Tensor, Tensor]]:
    """Rank-one changes, every entry of which is `size` of the weights' mean."""
    rng, made = generator(1), {}
    for name in model.scope("attention"):
        weight = model.tensor(name)
        down = torch.randn(1, weight[0].numel(), generator=rng).sign()
        made[name] = down, torch.full((len(weight), 1), size * float(weight.abs().mean()))
    return made


def test_changes_that_folding_would_lose_reach_the_prediction(tiny: Any) -> None:
    """A thousandth of a weight is less than half the spacing of nearly all weights; beside the weight it is there, and adds up."""
    edit = Edit(tiny.fingerprint, "small", factors=small_factors(tiny, 1e-3))
    single = lowered(lowered(tiny_model()), torch.float32)
    wanted = single.edited(Edit(single.fingerprint, "small", factors=edit.factors))
    edited = tiny.edited(edit)
    names = list(edit.factors)
    rounded = [edit.weight(n, tiny.tensor(n)).to(LOW) != tiny.tensor(n) for n in names]
    assert sum(int(r.sum()) for r in rounded) < 0.5 * sum(r.numel() for r in rounded)
    for name in names:
        assert torch.allclose(edited.tensor(name), wanted.tensor(name), atol=1e-7)
    folded_in = tiny._with({n: edit.weight(n, tiny.tensor(n)) for n in names})
    x = torch.randn(200, tiny.tensor(names[0]).shape[1], generator=generator(2)).to(LOW)

    def given(model: Model) -> Tensor:
        layer = model.parts["unet"].get_submodule(names[0].removeprefix("unet.").removesuffix(".weight"))  # type: ignore[attr-defined]
        with torch.no_grad():
            found: Tensor = layer(x.to(model.dtype)).float()  # type: ignore[attr-defined]
        return found

    true = given(wanted) - given(single)
    beside, within = (float(((given(m) - given(tiny)) * true).sum() / true.square().sum()) for m in (edited, folded_in))
    assert beside > 1.5 * within  # not all of it: what a layer gives is rounded too


def test_factors_on_factors_are_their_sum_in_one_edit(tiny: Any) -> None:
    """Bit for bit, the fingerprint too, so a chain of such edits is one edit of the original."""
    one = Edit(tiny.fingerprint, "one", factors=small_factors(tiny, 0.1))
    first = tiny.edited(one)
    two = Edit(first.fingerprint, "two", factors=small_factors(tiny, 0.03))
    second = first.edited(two)
    chain = tiny.edited(ledger.chained(tiny, second, [one, two]))
    assert torch.equal(predicted(chain), predicted(second))
    assert chain.fingerprint == second.fingerprint
    assert len({tiny.fingerprint, first.fingerprint, second.fingerprint}) == 3
    names = list(one.factors)
    whole = Edit(second.fingerprint, "three", tensors={names[0]: torch.zeros_like(tiny.tensor(names[0]))})
    third = second.edited(whole)
    assert third.tensor(names[0]).abs().max() == 0  # a whole value takes the place of what lay beside the old one
    final = tiny.edited(ledger.chained(tiny, third, [one, two, whole]))
    assert final.fingerprint == third.fingerprint
    assert torch.equal(predicted(final), predicted(third))


def test_adapters_and_leaves_can_be_put_on_what_has_factors(tiny: Any) -> None:
    """An attack on an edited model begins where that model is; leaves hold the factors folded in, in float32."""
    first = tiny.edited(Edit(tiny.fingerprint, "one", factors=small_factors(tiny, 0.1)))
    names = first.scope("attention")
    view, factors = first.adapted(names, rank=2, alpha=2, init="gaussian", rng=generator(0))
    assert torch.equal(predicted(view), predicted(first))
    moved(flat(factors), 1e-2)
    edited = first.edited(Edit(first.fingerprint, "two", factors=folded(factors, rank=2, alpha=2)))
    # The view rounds what comes out of a layer twice, the edited model once.
    assert torch.allclose(predicted(edited).float(), predicted(view).float(), atol=0.02 * float(predicted(view).abs().max()))
    _, leaves = first.trainable(names)
    assert all(torch.equal(leaves[n].detach(), first.tensor(n)) for n in names)


def test_a_pipeline_holds_factors_folded(tiny: Any) -> None:
    """Outside, weights are all that there is."""
    edit = Edit(tiny.fingerprint, "one", factors=small_factors(tiny, 0.1))
    inside = tiny.edited(edit)
    outside = from_pipeline(inside.pipeline())
    for name in edit.factors:
        assert torch.equal(outside.tensor(name), inside.tensor(name).to(LOW))
        assert type(outside.parts["unet"].get_submodule(name[5:-7])) is torch.nn.Linear
    given = edit.to_pipeline(tiny.pipeline())
    assert torch.equal(from_pipeline(given).tensor(name), inside.tensor(name).to(LOW))


def test_factors_that_do_not_fit_are_refused(tiny: Any) -> None:
    name = tiny.scope("attention")[0]
    with pytest.raises(Incompatible, match=r"is \(32, 32\) as a matrix; the edit's factors are"):
        tiny.edited(Edit(tiny.fingerprint, "bad", factors={name: (torch.zeros(1, 3), torch.zeros(5, 1))}))
    with pytest.raises(Incompatible, match="no weight named"):
        tiny.edited(Edit(tiny.fingerprint, "bad", factors={"unet.nothing.weight": (torch.zeros(1, 3), torch.zeros(5, 1))}))


def test_tied_weights_stay_tied() -> None:
    table, head = torch.nn.Embedding(5, 3, dtype=LOW), torch.nn.Linear(3, 5, bias=False, dtype=LOW)
    head.weight = table.weight
    both = torch.nn.ModuleDict({"table": table, "head": head})
    view = rebuild(both, {"table.weight": torch.ones(5, 3)}, leaves=True)
    leaf = precision.leaf(view, "head.weight")
    assert leaf is precision.leaf(view, "table.weight")
    view["head"](view["table"](torch.tensor([1]))).sum().backward()
    assert leaf.grad is not None and leaf.grad.dtype == torch.float32
    assert leaf.grad[1].tolist() == [6.0] * 3  # 5 as the row that is read, 1 as a row of the head
    assert leaf.grad[0].tolist() == [1.0] * 3


def test_arithmetic_keeps_what_rounding_would_lose(tiny: Any) -> None:
    """Half of a small change and half again is the change."""
    name = "unet.conv_in.weight"
    base = tiny.tensor(name).float()
    step = Edit(tiny.fingerprint, "step", tensors={name: base + 1e-5})
    half = edits.scale(tiny, step, 0.5)
    both = edits.combine(tiny, [(half, 1.0), (half, 1.0)])
    merged = ties(tiny, [step], share=1.0)
    for edit, size in ((half, 0.5e-5), (both, 1e-5), (merged, 1e-5)):
        assert torch.allclose(edit.tensors[name] - base, torch.tensor(size), atol=1e-7)
    assert sum(change.norm for change in edits.measure(tiny, step)) < 0.5 * (base.numel() ** 0.5) * 1e-5  # what the model has of it


@pytest.mark.parametrize("guards", [Guards(pull=10.0), Guards(share=0.3), Guards(project=True)], ids=["pull", "share", "project"])
def test_guards_hold_in_low_precision(tiny: Any, guards: Guards) -> None:
    own = registry.settings(small("unlearners", "esd", variant="x", lr=1e-3))
    words = protected(SNEAKER, [])
    views: list[Any] = []
    plain = attention.innermost

    def seen(model: Any) -> Any:
        views.append(plain(model))
        return views[-1]

    with patch.object(attention, "innermost", seen):
        edit = Guarded(method="esd", settings=own, guards=vars(guards), protected=words)(tiny, SNEAKER, seed=0)
    changes = {n: value - tiny.tensor(n).float() for n, value in edit.tensors.items()}
    assert all(value.dtype == torch.float32 for value in edit.tensors.values())
    assert sum(float(c.abs().sum()) for c in changes.values()) > 0
    assert torch.equal(predicted(tiny.edited(edit)), predicted(views[-1])) or guards.share < 1  # the mask is of the edit alone
    if guards.share < 1:
        assert sum(int((c != 0).sum()) for c in changes.values()) <= round(guards.share * sum(c.numel() for c in changes.values()))
    if guards.project:
        held = word_embeddings(tiny, words)
        for name in tiny.scope("cross-attention-kv"):
            leak = changes[name].double() @ held.double()
            free = changes[name].double() @ (torch.eye(len(held)).double() - projection(held))
            assert leak.norm() < 1e-3 * changes[name].norm() * held.double().norm()
            assert free.norm() < 1e-3 * changes[name].norm()


def test_what_a_trained_weight_costs(tiny: Any) -> None:
    """16 bytes beside the model: the leaf, its gradient and two moments, in float32 each; docs/cost.md says so."""
    view, leaves = tiny.trainable(tiny.scope("unet"))
    made: list[torch.optim.Optimizer] = []
    build = optimiser.adamw

    def keep(*given: Any, **named: Any) -> Any:
        made.append(build(*given, **named))
        return made[-1]

    x, told = noise(tiny.latent_shape, [0]).to(LOW), tiny.condition(["bag"])
    held = 0
    with patch.object(optimiser, "adamw", keep):
        for _ in fit(leaves, lambda rng: denoising(view, x, told, rng), Training(steps=1, lr=1e-4), seed=0):
            moments = [v for state in made[0].state.values() for v in state.values() if torch.is_tensor(v) and v.dim()]
            held = sum(v.numel() * v.element_size() for v in (*leaves.values(), *moments))
    gradients = [torch.autograd.grad(denoising(view, x, told, generator(0)), list(leaves.values()), materialize_grads=True)]
    held += sum(v.numel() * v.element_size() for v in gradients[0])
    assert held == 16 * sum(leaf.numel() for leaf in leaves.values())


def test_leaves_of_low_precision_are_refused() -> None:
    leaf = torch.zeros(3, dtype=LOW, requires_grad=True)
    with pytest.raises(Incompatible, match="w is a leaf in bfloat16, where small steps round away"):
        next(fit({"w": leaf}, lambda rng: leaf.sum(), Training(steps=1, lr=0.1), seed=0))


def test_a_loss_that_is_no_number_is_an_error_in_one_line() -> None:
    assert issubclass(Diverged, VestigeError)


def test_half_precision_draws_and_solves_but_does_not_train() -> None:
    half = lowered(tiny_model(), torch.float16)
    names = half.scope("attention")
    for train in (lambda: half.trainable(names), lambda: half.adapted(names, rank=1, alpha=1, init="gaussian", rng=generator(0))):
        with pytest.raises(HalfPrecision, match=r"tiny cannot train in float16.*bfloat16"):
            train()
    edit = registry.build("unlearners", "uce")(half, SNEAKER, seed=0)
    x = noise(half.latent_shape, [0]).half()
    with torch.no_grad():
        assert half.edited(edit).denoise(x, half.grid(2)[1].expand(1), half.condition(["bag"])).value.isfinite().all()
    factors = small_factors(half, 0.1)
    assert half.edited(Edit(half.fingerprint, "lora", factors=factors)).tensor(names[0]).dtype == torch.float32


def test_a_pipeline_in_half_precision_is_refused_before_anything_is_drawn() -> None:
    half = lowered(tiny_model(), torch.float16)
    drawn = patch.object(type(half), "denoise", side_effect=AssertionError("something was drawn"))
    with drawn, pytest.raises(HalfPrecision, match="esd cannot train in float16"):
        api.unlearn(half.pipeline(), "sneaker", "esd")


LOW_PAIRS = [(torch.float16, torch.bfloat16), (torch.bfloat16, torch.float16)]


def spread() -> Tensor:
    """Numbers of every size that weights have, subnormal ones of float16 and zeros among them."""
    rng = generator(0, "spread")
    return torch.randn(20_000, generator=rng) * torch.exp(8 * torch.rand(20_000, generator=rng) - 12) * (torch.arange(20_000) % 7 > 0)


@pytest.mark.parametrize("pair", LOW_PAIRS, ids=str)
def test_two_roundings_of_one_tensor_are_known(pair: tuple[torch.dtype, torch.dtype]) -> None:
    value = spread()
    one, other = (value.to(kind) for kind in pair)
    assert not torch.equal(one.to(other.dtype), other), "one is not the other's rounding"
    assert precision.roundings(one, other, (pair[0],), (pair[1],))
    assert precision.roundings(one.float(), value, (pair[0],), ()) and precision.roundings(value, one.float(), (), (pair[0],))


@pytest.mark.parametrize("pair", LOW_PAIRS, ids=str)
def test_a_change_beyond_both_steps_is_no_rounding(pair: tuple[torch.dtype, torch.dtype]) -> None:
    value = spread()
    coarse = value.to(torch.bfloat16).float()
    place = int(value.abs().argmax())
    changed = value.clone()
    changed[place] = coarse[place] * (1 + 2.0**-7)  # a step of bfloat16 away
    assert not precision.roundings(value.to(pair[0]), changed.to(pair[1]), (pair[0],), (pair[1],))
    assert not precision.roundings(value, changed, (), ())


def test_a_precision_that_holds_everything_exactly_is_found() -> None:
    value = spread()
    assert precision.exact_in([value]) == () == precision.exact_in([])
    assert precision.exact_in([value.half().float(), torch.ones(3)]) == (torch.float16,)
    assert precision.exact_in([value.bfloat16().float(), value.half().float()]) == ()
