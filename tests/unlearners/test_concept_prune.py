"""ConceptPrune: what it cuts is what a slow loop over weights cuts, that alone changes, and how much is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import tiny_classes, tiny_flow, tiny_model
from vestige import concepts
from vestige.concepts import Concept
from vestige.concepts.joint import joint
from vestige.diffusion.sampling import noise
from vestige.edits import Edit
from vestige.errors import Incompatible
from vestige.models.latent import LatentModel
from vestige.seeds import derive
from vestige.unlearners.concept_prune import ConceptPrune, refilled, voted

SNEAKER, BAG, NEON = (concepts.load(name) for name in ("sneaker", "bag", "neon"))
SHORT: dict[str, Any] = {"rollouts": 3, "rollout_steps": 4, "first": 3, "batch": 2, "rollout_guidance": 2.0}


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def made(model: Any, concept: Concept = SNEAKER, seed: int = 0, **settings: Any) -> Edit:
    return ConceptPrune(**{**SHORT, **settings})(model, concept, seed=seed)


def gone(model: Any, edit: Edit) -> dict[str, Tensor]:
    return {name: edit.tensors[name] != model.tensor(name) for name in edit.touched}


def blocks(model: LatentModel) -> list[str]:
    return [n for n, _ in model.parts["unet"].named_modules() if n.endswith("ff.net.2")]


def norms(model: LatentModel, texts: list[str]) -> dict[str, list[list[float]]]:
    """a_j(s) by block, from a sampler of this test: one picture at a time, every token's hidden units by themselves."""
    squares = {n: [[0.0] * model.tensor(f"unet.{n}.weight").shape[1] for _ in range(3)] for n in blocks(model)}
    step, handles = 0, []

    def listen(name: str) -> Any:
        def hook(layer: Any, given: Any) -> None:
            for token in given[0].reshape(-1, given[0].shape[-1]).double():
                for j, value in enumerate((token / token.norm()).square().tolist()):
                    squares[name][step][j] += value

        return hook

    for name in blocks(model):
        handles.append(model.parts["unet"].get_submodule(name).register_forward_pre_hook(listen(name)))
    grid, null = model.grid(4), model.condition([""])
    for i in range(3):
        x, own = noise(model.latent_shape, [derive(0, "rollout", i)]), model.condition([texts[i]])
        for step in range(3):
            with torch.no_grad():
                given, free = (model.denoise(x, grid[step].expand(1), c) for c in (own, null))
            seen = given.guided(free, 2.0)
            signal, level = (v.reshape(1, 1, 1, 1) for v in model.schedule(grid[step + 1].expand(1)))
            x = signal * seen.data + level * seen.noise
    for handle in handles:
        handle.remove()
    return {name: [[value**0.5 for value in row] for row in table] for name, table in squares.items()}


def loops(weight: Tensor, with_it: list[list[float]], without: list[list[float]], ratio: float, select: float) -> set[tuple[int, int]]:
    """Which weights go, weight by weight."""
    votes: dict[tuple[int, int], int] = {}
    rows = weight.abs().double().tolist()
    for a, b in zip(with_it, without, strict=True):
        for i, row in enumerate(rows):
            order = sorted(range(len(row)), key=lambda j: -row[j] * a[j])
            for j in order[: max(1, int(ratio * len(row)))]:
                if row[j] * a[j] > row[j] * b[j]:
                    votes[i, j] = votes.get((i, j), 0) + 1
    return {place for place, count in votes.items() if count > select * len(with_it)}


@pytest.mark.parametrize(("ratio", "select"), [(0.05, 0.0), (0.2, 0.5)])
def test_what_is_cut_is_what_a_slow_loop_cuts(tiny: LatentModel, ratio: float, select: float) -> None:
    with_it = [p.text for p in SNEAKER.prompts("training")][:3]
    without = [text.replace("sneaker", "").strip() for text in with_it]
    tables = [norms(tiny, texts) for texts in (with_it, [" ".join(text.split()) for text in without])]
    cut = gone(tiny, made(tiny, ratio=ratio, select=select))
    for name in blocks(tiny):
        wanted = loops(tiny.tensor(f"unet.{name}.weight"), tables[0][name], tables[1][name], ratio, select)
        found = {(int(i), int(j)) for i, j in cut[f"unet.{name}.weight"].nonzero()}
        assert found == wanted
        assert wanted


def test_zeros_are_all_that_changes_and_are_counted(tiny: LatentModel) -> None:
    edit = made(tiny, ratio=0.1)
    zeros = 0
    for name, cut in gone(tiny, edit).items():
        assert name.endswith("ff.net.2.weight")
        assert torch.equal(edit.tensors[name] == 0, cut)
        assert torch.equal(edit.tensors[name][~cut], tiny.tensor(name)[~cut])
        most = 3 * max(1, int(0.1 * cut.shape[1]))  # steps times what one of them may vote for
        assert 0 < int(cut.sum(1).max()) <= most
        zeros += int(cut.sum())
    whole = sum(p.numel() for p in tiny.parts["unet"].parameters())
    assert edit.notes["cut"] == zeros > 0
    assert edit.notes["share"] == pytest.approx(zeros / whole)


def test_votes_of_a_case_by_hand() -> None:
    """The first unit is as awake without the concept, the third only in the first step."""
    weight = torch.tensor([[9.0, 2.0, 3.0, 0.1], [0.0, 1.0, 4.0, 8.0]])
    target = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.1, 1.0]])
    base = torch.tensor([[1.0, 0.5, 0.5, 0.5], [1.0, 0.5, 0.5, 0.5]])
    any_step = voted(weight, target, base, 0.5, 0.0)
    assert any_step.tolist() == [[False, True, True, False], [False, True, True, True]]
    assert voted(weight, target, base, 0.5, 0.5).tolist() == [[False, False, False, False], [False, False, False, True]]
    assert voted(weight, target, base, 0.01, 0.0).tolist() == [[False, False, False, False], [False, False, False, True]]
    assert voted(weight, target, base, 1.0, 0.99).tolist() == [[False, True, False, True], [False, True, False, True]]
    assert not voted(weight, target, target, 1.0, 0.0).any()


def test_batches_make_no_difference(tiny: LatentModel) -> None:
    one, other = made(tiny, batch=1, ratio=0.1), made(tiny, batch=3, ratio=0.1)
    cuts = [gone(tiny, edit) for edit in (one, other)]
    assert all(torch.equal(cuts[0][name], cuts[1][name]) for name in one.touched)


def test_more_is_cut_for_a_larger_share_and_less_where_more_steps_have_to_agree(tiny: LatentModel) -> None:
    counts = [made(tiny, ratio=ratio, select=select).notes["cut"] for ratio, select in ((0.05, 0.0), (0.2, 0.0), (0.2, 0.6))]
    assert counts[0] < counts[1] > counts[2] > 0


def test_refilled_places_hold_weights_of_their_row(tiny: LatentModel) -> None:
    """At the places that zeros would take; nothing tells them from the others."""
    zeros, filled, again = (made(tiny, ratio=0.1, fill=fill, seed=seed) for fill, seed in (("zero", 0), ("row", 0), ("row", 0)))
    for name, cut in gone(tiny, zeros).items():
        assert torch.equal(gone(tiny, filled)[name], cut)
        assert torch.equal(filled.tensors[name], again.tensors[name])
        for row, old, places in zip(filled.tensors[name], tiny.tensor(name), cut, strict=True):
            assert set(row[places].tolist()) <= set(old[~places].tolist())
        assert (filled.tensors[name] != 0).all()


def test_a_row_that_goes_whole_has_nothing_to_be_filled_with() -> None:
    weight, cut = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[True, True], [False, True]])
    assert refilled(weight, cut, torch.Generator().manual_seed(0)).tolist() == [[0.0, 0.0], [3.0, 3.0]]


def test_prompts_without_the_concept(tiny: LatentModel) -> None:
    with_it, without = ConceptPrune().texts(tiny, SNEAKER)
    assert with_it == [p.text for p in SNEAKER.prompts("training")]
    assert without[:1] == ["a photo picture of a"] and not any("sneaker" in text for text in without)
    assert ConceptPrune(prompts="plain").texts(tiny, SNEAKER) == (["a picture of a sneaker", "a sneaker"], ["a picture of a", "a"])
    assert ConceptPrune(without="anchor").texts(tiny, SNEAKER)[1] == SNEAKER.others(SNEAKER.anchor)
    assert set(ConceptPrune(without="empty").texts(tiny, SNEAKER)[1]) == {""}
    classes = tiny_classes("dit")
    assert set(ConceptPrune().texts(classes, SNEAKER)[1]) == {""}


def test_what_any_of_several_concepts_votes_for_goes(tiny: LatentModel) -> None:
    """A joint concept's parts lose each other's words, and are otherwise as they are."""
    both = joint([SNEAKER, NEON])
    cuts = [gone(tiny, made(tiny, concept, ratio=0.1)) for concept in (both, *both.parts)]
    for name in cuts[0]:
        assert torch.equal(cuts[0][name], cuts[1][name] | cuts[2][name])
        assert not torch.equal(cuts[1][name], cuts[2][name])


def test_streams_of_picture_and_of_text_are_pruned() -> None:
    edit = made(tiny_flow("dev"), BAG, ratio=0.1)
    assert {name.split(".")[3] for name in edit.touched} == {"ff", "ff_context"}


def test_where_the_concept_wakes_nothing_it_says_so(tiny: LatentModel) -> None:
    with pytest.raises(Incompatible, match="no hidden unit of tiny is more awake with sneaker than without"):
        made(tiny, replace(SNEAKER, anchor="sneaker"), without="anchor")


def test_a_network_without_feed_forward_blocks_is_refused() -> None:
    with pytest.raises(Incompatible, match="has no feed-forward blocks; there are no hidden units to prune"):
        made(tiny_classes(), BAG)


def test_settings_are_the_released_ones() -> None:
    plain = ConceptPrune()
    assert (plain.ratio, plain.select, plain.first, plain.rollout_steps, plain.rollout_guidance) == (0.01, 0.0, 10, 50, 7.5)
    assert (plain.without, plain.fill) == ("words", "zero")


@pytest.mark.parametrize("bad", [{"ratio": 0.0}, {"ratio": 1.5}, {"select": 1.0}, {"first": 0}, {"rollouts": 0}])
def test_settings_that_make_no_sense_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"is above 0|is at least|is at most 1"):
        ConceptPrune(**bad)
