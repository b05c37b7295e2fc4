"""UCE: the returned weights satisfy the equation that defines them, in float64."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from oracles import scheduler, tiny_model, tiny_parts, tokenizer
from vestige import concepts
from vestige.concepts import Concept
from vestige.edits import Edit
from vestige.methods.closed_form import last_word
from vestige.models.latent import LatentModel
from vestige.unlearners.uce import SCOPE, UCE

Rule = Literal["word", "tail"]
Goal = Literal["replace", "remove"]
SNEAKER = concepts.load("sneaker")


@pytest.fixture(scope="module")
def exact() -> LatentModel:
    """The tiny model in float64."""
    return LatentModel("tiny64", {name: part.double() for name, part in tiny_parts().items()}, tokenizer(), scheduler())


def token_row(model: LatentModel, text: str, word: str) -> int:
    """Where a word of one token stands in its prompt."""
    start, token, end = model.tokenizer(word).input_ids
    return [start, *model.tokenizer(text).input_ids[1:-1], end].index(token)


def pairs(model: LatentModel, rule: Rule, concept: Concept = SNEAKER) -> tuple[Tensor, Tensor]:
    """Rows (n, D) of the erased prompts and of their anchors, chosen as the docstring says."""
    erased, anchors = [], []
    for prompt in concept.prompts("training"):
        other = prompt.text.replace(concept.target, concept.anchor)
        c, g = model.condition([prompt.text, other]).text
        at, to = token_row(model, prompt.text, concept.target), token_row(model, other, concept.anchor)
        if rule == "word":
            erased.append(c[at : at + 1])
            anchors.append(g[to : to + 1])
        else:
            erased.append(c[at:])
            anchors.append(g[to:])
    return torch.cat(erased), torch.cat(anchors)


def preserved(model: LatentModel, rule: Rule, concept: Concept = SNEAKER) -> Tensor:
    empty = model.condition([""]).text[0]
    rows = [empty if rule == "tail" else empty[:1]]
    for word in (*concept.neighbours, *concept.unrelated):
        texts = [p.text for p in concept.prompts("training", word)]
        for text, states in zip(texts, model.condition(texts).text, strict=True):
            rows.append(states if rule == "tail" else states[token_row(model, text, word)][None])
    return torch.cat(rows)


def targets(base: Tensor, erased: Tensor, anchors: Tensor, goal: Goal) -> Tensor:
    """What W c_e should become, (n, out)."""
    wanted = anchors @ base.T
    if goal == "replace":
        return wanted
    own = torch.nn.functional.normalize(erased @ base.T, dim=1)
    return wanted - (wanted * own).sum(1, keepdim=True) * own


def objective(weight: Tensor, base: Tensor, rows: tuple[Tensor, Tensor, Tensor], goal: Goal, scales: tuple[float, float, float]) -> Tensor:
    (erased, anchors, kept), (erase, preserve, ridge) = rows, scales
    moved = erased @ weight.T - targets(base, erased, anchors, goal)
    held = kept @ (weight - base).T
    return erase * moved.square().sum() + preserve * held.square().sum() + ridge * (weight - base).square().sum()


def made(model: LatentModel, **settings: Any) -> Edit:
    return UCE(**settings)(model, SNEAKER, seed=0)


@pytest.mark.parametrize("goal", ["replace", "remove"])
@pytest.mark.parametrize("rule", ["word", "tail"])
@pytest.mark.parametrize("keep", [True, False])
def test_the_gradient_of_its_own_objective_vanishes(exact: LatentModel, goal: Goal, rule: Rule, keep: bool) -> None:
    scales = (0.7, 0.3, 0.5)
    edit = made(exact, rule=rule, goal=goal, erase=scales[0], preserve=scales[1], ridge=scales[2], keep=keep)
    kept = preserved(exact, rule) if keep else torch.zeros(0, 32, dtype=torch.float64)
    rows = (*pairs(exact, rule), kept)
    assert edit.touched == sorted(exact.scope(SCOPE))
    for name in edit.touched:
        base = exact.tensor(name)
        gradients = []
        for value in (base, edit.tensors[name]):
            weight = value.clone().requires_grad_()
            objective(weight, base, rows, goal, scales).backward()
            assert weight.grad is not None
            gradients.append(weight.grad.norm().item())
        assert gradients[0] > 1e-3
        assert gradients[1] < 1e-9 * gradients[0]


def test_preserve_is_weighed_as_released(exact: LatentModel) -> None:
    """max(0.1, 1 / n): the same edit as with that number given."""
    auto = made(exact)
    words = len(SNEAKER.neighbours) + len(SNEAKER.unrelated)
    assert auto.settings["preserve"] == max(0.1, 1 / words)
    given = made(exact, preserve=max(0.1, 1 / words))
    assert all(torch.equal(auto.tensors[n], given.tensors[n]) for n in auto.touched)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("rule", ["word", "tail"])
def test_empty_erase_is_the_model_bit_for_bit(rule: Rule, keep: bool) -> None:
    model = tiny_model()
    edit = made(model, erase=0.0, rule=rule, keep=keep)
    assert all(torch.equal(edit.tensors[n], model.tensor(n)) for n in edit.touched)


def test_mapping_a_word_to_itself_is_the_model(exact: LatentModel) -> None:
    itself = UCE()(exact, Concept(name="sneaker", anchor="sneaker", neighbours=("boot",)), seed=0)
    for name in itself.touched:
        torch.testing.assert_close(itself.tensors[name], exact.tensor(name), atol=1e-12, rtol=0)


@pytest.mark.parametrize("goal", ["replace", "remove"])
def test_heavy_erasing_maps_the_words_to_their_targets(exact: LatentModel, goal: Goal) -> None:
    """Fewer rows than dimensions, so every target can be met; the error falls like 1 / erase."""
    concept = Concept(name="sneaker", anchor="boot", templates=("a picture of a {concept}", "a {concept}"))
    erased, anchors = pairs(exact, "word", concept)
    assert len(erased) == 2
    errors = []
    for erase in (1e3, 1e4, 1e5):
        edit = UCE(rule="word", goal=goal, erase=erase, ridge=1.0, keep=False)(exact, concept, seed=0)
        gaps = []
        for name in edit.touched:
            wanted = targets(exact.tensor(name), erased, anchors, goal)
            gaps.append(float((erased @ edit.tensors[name].T - wanted).norm() / wanted.norm()))
        errors.append(max(gaps))
    assert errors[-1] < 1e-3
    assert 9 < errors[0] / errors[1] < 11
    assert 9 < errors[1] / errors[2] < 11


def test_removing_leaves_nothing_along_the_concepts_own_output(exact: LatentModel) -> None:
    concept = Concept(name="sneaker", anchor="boot")
    erased, _ = pairs(exact, "word", concept)
    edit = UCE(rule="word", goal="remove", erase=1e7, ridge=1.0, keep=False)(exact, concept, seed=0)
    for name in edit.touched:
        before, after = erased @ exact.tensor(name).T, erased @ edit.tensors[name].T
        assert abs(torch.cosine_similarity(before, after)).max() < 1e-4


def test_one_map_of_the_text_serves_all_projections(exact: LatentModel) -> None:
    """W* = W_0 T with the T of the module's docstring, solved for here the other way round: from the weights."""
    edit = made(exact, goal="replace", erase=0.7, preserve=0.3, ridge=0.5)
    maps = [torch.linalg.solve(exact.tensor(name), edit.tensors[name]) for name in edit.touched]
    assert exact.tensor(edit.touched[0]).shape == (32, 32)  # square and random, so it can be solved for
    (erased, anchors), kept, eye = pairs(exact, "tail"), preserved(exact, "tail"), torch.eye(32, dtype=torch.float64)
    left = 0.5 * eye + 0.7 * anchors.T @ erased + 0.3 * kept.T @ kept
    right = 0.5 * eye + 0.7 * erased.T @ erased + 0.3 * kept.T @ kept
    for found in maps:
        torch.testing.assert_close(found, left @ torch.linalg.inv(right), atol=1e-8, rtol=1e-8)


def test_edit_equals_mapping_the_text_before_attention(exact: LatentModel) -> None:
    edit = made(exact)
    name = edit.touched[0]
    shared = torch.linalg.solve(exact.tensor(name), edit.tensors[name])
    text = exact.condition(["a neon bag"]).text
    for other in edit.touched:
        torch.testing.assert_close(text @ edit.tensors[other].T, (text @ shared.T) @ exact.tensor(other).T, atol=1e-8, rtol=1e-8)


def test_a_heavy_ridge_leaves_the_model(exact: LatentModel) -> None:
    norms = []
    for ridge in (0.1, 10.0, 1e3, 1e9):
        edit = made(exact, ridge=ridge)
        norms.append(max(float((edit.tensors[n] - exact.tensor(n)).norm() / exact.tensor(n).norm()) for n in edit.touched))
    assert norms == sorted(norms, reverse=True)
    assert norms[-1] < 1e-5


def test_preserving_more_moves_the_preserved_less(exact: LatentModel) -> None:
    kept = preserved(exact, "word")
    moved = []
    for preserve in (0.0, 0.1, 1.0, 100.0):
        edit = made(exact, rule="word", preserve=preserve)
        moved.append(sum(float((kept @ (edit.tensors[n] - exact.tensor(n)).T).square().sum()) for n in edit.touched))
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] < 1e-2 * moved[0]


def test_the_seed_is_immaterial(exact: LatentModel) -> None:
    one, other = (UCE()(exact, SNEAKER, seed=seed) for seed in (0, 1))
    assert all(torch.equal(one.tensors[n], other.tensors[n]) for n in one.touched)


def test_plain_prompts_are_fewer(exact: LatentModel) -> None:
    every, plain = (UCE(prompts=prompts).rows(exact, SNEAKER)[0] for prompts in ("all", "plain"))
    only = [p for p in SNEAKER.prompts("training") if len(p.expects) == 1]
    assert len(plain) == sum(77 - token_row(exact, p.text, "sneaker") for p in only)
    assert len(plain) < len(every)


def test_no_anchor_maps_to_the_empty_prompt(exact: LatentModel) -> None:
    """From its start token on, row by row."""
    concept = Concept(name="sneaker", templates=("{concept}",))
    erased, anchors, _ = UCE(rule="tail").rows(exact, concept)
    empty, own = exact.condition([""]).text[0], exact.condition(["sneaker"]).text[0]
    assert torch.equal(erased, own[1:])
    assert torch.equal(anchors, empty[: len(own) - 1])


@pytest.mark.parametrize("rule", ["word", "tail"])
def test_concepts_and_neighbours_may_be_several_words(exact: LatentModel, rule: Rule) -> None:
    concept = Concept(name="Van Gogh", anchor="Claude Monet", neighbours=("Paul Cezanne", "neon"), unrelated=("bag",))
    edit = UCE(rule=rule)(exact, concept, seed=0)
    assert all(t.isfinite().all() for t in edit.tensors.values())


def test_last_word_is_the_last_token_of_the_last_mention(exact: LatentModel) -> None:
    assert last_word(exact, "a neon picture of a sneaker", "sneaker") == 6  # the start token is row 0
    assert last_word(exact, "bag a bag", "bag") == 3
    assert last_word(exact, "anything", "") == 0
    several = len(exact.tokenizer("Van Gogh").input_ids) - 2
    assert last_word(exact, "a Van Gogh in neon", "Van Gogh") == 1 + several
    assert last_word(exact, "a VAN GOGH", "van gogh") == 1 + several


@pytest.mark.parametrize("bad", [{"ridge": 0.0}, {"ridge": -1.0}, {"erase": -0.1}])
def test_weights_that_have_no_minimum_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"is above 0|is at least 0"):
        UCE(**bad)  # type: ignore[arg-type]
