"""Multi-MemoRa: what one adapter alone is, what several sum to, and what it refuses."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from oracles import tiny_model
from vestige import concepts
from vestige.attacks.memora import MemoRa
from vestige.attacks.multimemora import MultiMemoRa, dealt_to
from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.concepts.joint import joint
from vestige.edits import Edit
from vestige.errors import BadInput, BadSetting
from vestige.methods import Budget, Candidate
from vestige.models.latent import LatentModel
from vestige.seeds import generator

BAG, DRESS, SNEAKER = (concepts.load(name) for name in ("bag", "dress", "sneaker"))
SETTINGS = ("sampling_steps=2", "start=1", "points=1", "batch=2", "rank=2", "lr=1e-2")
MEMORA = MemoRa(sampling_steps=2, start=1, points=1, batch=2, rank=2, lr=1e-2)
POINTS = (0, 1, 2)


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def given(count: int) -> PictureSet:
    return PictureSet(torch.rand(count, 3, 32, 32, generator=generator(0, "given")), "random")


def everything(images: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(images))


@functools.cache  # runs are compared in several tests
def multi(model: LatentModel, parts: tuple[Concept, ...] = (BAG, DRESS), **own: Any) -> list[Candidate]:
    method = MultiMemoRa(memora=SETTINGS, **own)
    return list(method(model, joint(parts), Budget(POINTS), seed=4, select=everything, pictures=given(2 * len(parts))))


@functools.cache
def single(model: LatentModel, place: int, parts: tuple[Concept, ...] = (BAG, DRESS)) -> list[Candidate]:
    """MemoRa on one part, with its share of the pictures."""
    own = given(2 * len(parts)).take([2 * place, 2 * place + 1])
    return list(MEMORA(model, joint(parts).parts[place], Budget(POINTS), seed=4, select=everything, pictures=own))


def product(edit: Edit | None, name: str) -> torch.Tensor:
    assert edit is not None
    down, up = edit.factors[name]
    return up.double() @ down.double()


@pytest.mark.parametrize(("place", "weights"), [(0, (1.0, 0.0)), (1, (0.0, 1.0))])
@pytest.mark.parametrize("merge", ["sum", "rank"])
def test_one_adapter_alone_is_memora(tiny: LatentModel, place: int, weights: tuple[float, ...], merge: Any) -> None:
    """Weight 1 for one and 0 for the others: MemoRa's own factors, bit for bit, at every point of the budget."""
    for ours, theirs in zip(multi(tiny, weights=weights, merge=merge), single(tiny, place), strict=True):
        assert (ours.edit is None) == (theirs.edit is None) and ours.spent == theirs.spent
        if ours.edit is not None and theirs.edit is not None:
            assert ours.edit.factors.keys() == theirs.edit.factors.keys() and not ours.edit.tensors
            for name, pair in theirs.edit.factors.items():
                assert all(torch.equal(a, b) for a, b in zip(ours.edit.factors[name], pair, strict=True)), name


@pytest.mark.parametrize("weights", [(), (0.5, -2.0, 0.25)])
def test_weights_are_the_sum_of_low_rank_products(tiny: LatentModel, weights: tuple[float, ...]) -> None:
    """W' = W + sum_k w_k up_k down_k, with adapters that MemoRa made by itself."""
    parts = (BAG, DRESS, SNEAKER)
    ours, apart = multi(tiny, parts, weights=weights)[-1].edit, [single(tiny, i, parts)[-1].edit for i in range(3)]
    assert ours is not None
    for name in ours.touched:
        base = tiny.tensor(name)
        expected = base.double() + sum(w * product(edit, name) for w, edit in zip(weights or (1.0,) * 3, apart, strict=True))
        torch.testing.assert_close(ours.weight(name, base).double(), expected, atol=1e-6, rtol=1e-5)  # float32 sums


def test_merged_to_a_rank_is_the_nearest(tiny: LatentModel) -> None:
    """No adapter of that rank is nearer (Eckart and Young): its distance is the norm of the singular values left out."""
    whole, merged = (multi(tiny, merge=merge)[-1].edit for merge in ("sum", "rank"))
    assert whole is not None and merged is not None
    for name, (down, up) in merged.factors.items():
        wanted = product(whole, name)
        left = torch.linalg.svdvals(wanted)[2:].norm()
        assert len(down) == up.shape[1] == 2
        assert (wanted - product(merged, name)).norm().item() == pytest.approx(left.item(), rel=1e-4, abs=1e-6)


def test_ties_of_equal_adapters_is_that_adapter(tiny: LatentModel) -> None:
    """Nothing to elect between, and nothing trimmed: the mean of equals."""
    own = single(tiny, 0)[-1].edit
    assert own is not None
    merged = MultiMemoRa(memora=SETTINGS, merge="ties", share=1.0).combined(tiny, [own, own])
    for name in own.touched:
        torch.testing.assert_close(merged.weight(name, tiny.tensor(name)), own.weight(name, tiny.tensor(name)), atol=1e-6, rtol=1e-5)


def test_the_order_of_concepts_makes_no_difference(tiny: LatentModel) -> None:
    """Up to the order of a float32 sum."""
    method, pictures = MultiMemoRa(memora=SETTINGS), given(4)
    sides = []
    for parts, rows in (((BAG, DRESS), [0, 1, 2, 3]), ((DRESS, BAG), [2, 3, 0, 1])):
        found = method(tiny, joint(parts), Budget(POINTS), seed=4, select=everything, pictures=pictures.take(rows))
        sides.append(list(found)[-1].edit)
    for name in tiny.scope("attention"):
        torch.testing.assert_close(product(sides[0], name), product(sides[1], name), atol=1e-7, rtol=1e-5)


def test_costs_and_notes_are_of_all(tiny: LatentModel) -> None:
    last, apart = multi(tiny)[-1], [single(tiny, i)[-1] for i in range(2)]
    assert last.cost["calls"] == sum(one.cost["calls"] for one in apart)
    assert last.notes["bag: loss_last"] == apart[0].notes["loss_last"] and last.notes["references_show"] == 1.0


def test_what_it_refuses(tiny: LatentModel) -> None:
    pair, budget = joint([BAG, DRESS]), Budget(POINTS)
    with pytest.raises(BadSetting, match="several concepts that were erased together, and bag is one; use memora"):
        next(MultiMemoRa()(tiny, BAG, budget, seed=0, select=everything, pictures=given(2)))
    with pytest.raises(BadSetting, match="one a concept, of bag, dress; given 3"):
        MultiMemoRa(weights=(1.0, 1.0, 1.0)).check(pair)
    with pytest.raises(BadInput, match="as many of each and one concept after another; given 3"):
        dealt_to(pair, pair.parts, given(3))
    with pytest.raises(BadInput, match="among the reference pictures of bag is one of dress"):
        labelled = PictureSet(given(2).images, "swapped", labels=({"object": "dress"}, {"object": "bag"}))
        dealt_to(pair, pair.parts, labelled)
    for wrong in ({"weights": (0.0, 0.0)}, {"weights": (float("nan"),)}, {"share": 0.0}, {"memora": ("rank",)}):
        with pytest.raises(ValueError, match=r"weights are finite|share is above|NAME=VALUE"):
            MultiMemoRa(**wrong)  # type: ignore[arg-type]
    with pytest.raises(BadSetting, match="memora brings back one concept, and bag\\+dress is several; use multimemora"):
        MEMORA.check(pair)
