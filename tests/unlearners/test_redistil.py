"""Redistil: its answers are a mixture's, the original is never asked for the concept, and what is best is learnt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oracles import Gaussian, small, tiny_model
from vestige import concepts
from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.concepts.joint import joint
from vestige.diffusion import Condition, Model, Prediction
from vestige.edits import Edit
from vestige.errors import BadInput, BadSetting
from vestige.methods import Data
from vestige.methods.objectives import noisy, stratified
from vestige.methods.training_data import Pairs
from vestige.models.latent import LatentModel
from vestige.seeds import generator
from vestige.unlearners.redistil import SCOPE, Lessons, Redistil

SNEAKER, BAG, NEON = concepts.load("sneaker"), concepts.load("bag"), concepts.load("neon")
KERNEL = "unet.conv_in.weight"


def made(model: Model, concept: Concept = SNEAKER, **settings: Any) -> Edit:
    edit: Edit = small("unlearners", "redistil", **settings)(model, concept, seed=0)
    return edit


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def lessons(model: Model, concept: Concept, captions: list[str]) -> Lessons:
    """On one picture a caption, whose latents are its number."""
    latents = torch.arange(len(captions), dtype=torch.float32).reshape(-1, 1, 1, 1).expand(-1, *model.latent_shape)
    return Lessons.of(model, concept, Pairs(latents, model.condition(captions), tuple((i,) for i in range(len(captions)))), captions)


def table(concept: Concept, captions: list[str]) -> list[str]:
    """What the rows of a table of lessons say."""
    prompts = [p.text for p in concept.prompts("training")]
    return [*captions, *prompts, *concept.others(concept.anchor), ""]


# Scrambling


def test_without_share_and_steps_nothing_changes_bit_for_bit(tiny: LatentModel) -> None:
    edit = made(tiny, share=0.0, steps=0)
    assert set(edit.tensors) == set(tiny.scope(SCOPE))
    assert all(torch.equal(edit.tensors[name], tiny.tensor(name)) for name in edit.tensors)


def test_where_nothing_is_taught_no_picture_is_drawn(tiny: LatentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor counted."""

    def drawn(*given: Any, **more: Any) -> Any:
        raise AssertionError("a picture was drawn")

    monkeypatch.setattr(Data, "retained", drawn)
    edit = made(tiny, steps=0)
    assert not torch.equal(edit.tensors[KERNEL], tiny.tensor(KERNEL)) and edit.notes["loss_first"] is None
    assert Redistil(steps=0).calls(1, 40) == 0 < Redistil(steps=1).calls(1, 40)
    with pytest.raises(AssertionError, match="a picture was drawn"):
        made(tiny, steps=1)


def test_only_what_is_named_is_scrambled_and_all_is_taught(tiny: LatentModel) -> None:
    still = made(tiny, scope="cross-attention", steps=0)
    crossed = set(tiny.scope("cross-attention"))
    assert {n for n in still.tensors if not torch.equal(still.tensors[n], tiny.tensor(n))} <= crossed
    assert all(not torch.equal(still.tensors[n], tiny.tensor(n)) for n in crossed if still.tensors[n].dim() > 1)
    taught = made(tiny, scope="cross-attention")
    assert set(taught.tensors) == set(tiny.scope(SCOPE))
    assert not torch.equal(taught.tensors[KERNEL], tiny.tensor(KERNEL))


def test_weights_that_are_not_taught_are_not_scrambled(tiny: LatentModel) -> None:
    with pytest.raises(BadSetting, match="text-encoder of tiny holds others"):
        made(tiny, scope="text-encoder")


# What is asked, and what is answered


@pytest.mark.parametrize("concept", [SNEAKER, NEON, joint([SNEAKER, BAG]), joint([SNEAKER, NEON])], ids=lambda c: c.name)
def test_the_original_is_told_captions_of_what_must_stay_and_nothing_else(tiny: LatentModel, concept: Concept) -> None:
    """Whatever the student is asked; and that has the caption's own words around the concept's name."""
    spread = concept.spread(2000, "training", words=(*concept.neighbours, *concept.unrelated))
    captions = list(dict.fromkeys(p.text for p in spread))
    texts, taught = table(concept, captions), lessons(tiny, concept, captions)
    rows = list(range(len(captions))) * 12
    asked, told = taught.asked(rows, 0.25, 0.1, generator(0), mixture=True)
    assert told == rows
    parts = getattr(concept, "parts", (concept,))
    for part in parts:
        assert not any(part.named(texts[row]) for row in told)
    questions = [(texts[a], texts[b]) for a, b in zip(asked, told, strict=True) if a != b and texts[a]]
    for question, answer in questions:
        words = {tuple("*" if w == part.target else w for w in question.split()) for part in parts if part.named(question)}
        stays = [w for w in answer.split() if w in (*concept.neighbours, *concept.unrelated)]
        assert words & {tuple("*" if w == kept else w for w in answer.split()) for kept in stays}
    for part in parts:
        assert {q for q, _ in questions if part.named(q)} == {p.text for p in part.prompts("training")}
    assert sum(a != b for a, b in zip(asked, told, strict=True)) / len(rows) == pytest.approx(0.35, abs=0.04)  # thousands of rows
    assert sum(texts[a] == "" for a in asked) / len(rows) == pytest.approx(0.1, abs=0.03)


def test_a_caption_that_names_no_word_of_the_concepts_stands_for_all_its_prompts(tiny: LatentModel) -> None:
    taught = lessons(tiny, SNEAKER, ["a boot", "somebody's own caption"])
    texts = table(SNEAKER, ["a boot", "somebody's own caption"])
    assert [texts[row] for row in taught.others[0]] == ["a sneaker"]
    assert {texts[row] for row in taught.others[1]} == {p.text for p in SNEAKER.prompts("training")}


def test_an_anchor_answers_in_the_same_words_and_the_empty_prompt_for_itself(tiny: LatentModel) -> None:
    captions = ["a coat", "neon coat"]
    texts, taught = table(SNEAKER, captions), lessons(tiny, SNEAKER, captions)
    asked, told = taught.asked([0, 1] * 200, 0.4, 0.2, generator(0), mixture=False)
    pairs = {(texts[a], texts[b]) for a, b in zip(asked, told, strict=True)}
    assert pairs == {("a coat", "a coat"), ("neon coat", "neon coat"), ("", ""), ("a sneaker", "a boot"), ("neon sneaker", "neon boot")}


def test_what_is_least_squares_best_is_the_denoiser_of_the_mixture() -> None:
    """In closed form, on two Gaussians: what is left of the answers is orthogonal to functions of x_t; of one anchor alone it is not."""
    model, means, count = Gaussian(), torch.tensor([-0.7, 0.9], dtype=torch.float64), 20000
    which = torch.randint(2, (count,), generator=generator(0))
    told = Condition(means[which].reshape(-1, 1, 1))
    data = means[which].reshape(-1, 1, 1, 1) + model.deviation * torch.randn(count, 1, 2, 2, generator=generator(1), dtype=torch.float64)
    t, _, x_t = noisy(model, data, generator(2), stratified(model, count, generator(3)))
    answers = model.denoise(x_t, t, told).noise
    signal, _ = (v.reshape(-1, 1, 1, 1) for v in model.schedule(t))
    far = torch.stack([((x_t - signal * m) ** 2).sum((1, 2, 3)) for m in means], 1)
    weights = (-far / (2 * model.spread(t)[:, None] ** 2)).softmax(1)
    each = torch.stack([model.denoise(x_t, t, Condition(torch.full_like(told.text, float(m)))).noise for m in means], 1)
    best = (weights[:, :, None, None, None] * each).sum(1)
    for looked in (torch.ones_like(x_t), x_t, x_t.tanh() * (t > 0.5).reshape(-1, 1, 1, 1)):
        left = ((answers - best) * looked).mean((1, 2, 3))
        assert abs(float(left.mean() / left.std() * count**0.5)) < 4
        for anchor in range(2):
            lent = ((answers - each[:, anchor]) * looked).mean((1, 2, 3))
            assert abs(float(lent.mean() / lent.std() * count**0.5)) > 20
    assert (answers - best).square().mean() < min((answers - each[:, k]).square().mean() for k in range(2))


# Learning


class Linear(Gaussian):
    """Predicts mix x_t + words[prompt], in float64: what is best to learn has a closed form."""

    def __init__(self, weights: dict[str, Tensor], vocabulary: dict[str, int]) -> None:
        super().__init__()
        self.weights, self.vocabulary = weights, vocabulary
        self.parts = {"unet": nn.ModuleDict({"mix": nn.Linear(4, 4, bias=False), "words": nn.Embedding(len(vocabulary), 4)})}

    def condition(self, prompts: Sequence[str]) -> Condition:
        return Condition(torch.tensor([[[self.vocabulary[p]]] for p in prompts]))

    def denoise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        signal, level = (v.reshape(-1, 1, 1, 1) for v in self.schedule(t))
        told = self.weights["unet.words.weight"][condition.text[:, 0, 0]]
        value = x_t.flatten(1) @ self.weights["unet.mix.weight"].T + told
        return Prediction(x_t, signal, level, value.view_as(x_t), "noise")

    def scope(self, name: str) -> list[str]:
        return list(self.weights)

    def tensor(self, name: str) -> Tensor:
        return self.weights[name]

    def trainable(self, names: Sequence[str]) -> tuple[Model, dict[str, Tensor]]:
        leaves = {name: self.weights[name].clone().requires_grad_() for name in names}
        return Linear(leaves, self.vocabulary), leaves


def test_a_student_of_fresh_weights_learns_what_is_best() -> None:
    """Where captions say nothing of pictures: the original's map and words, for the concept's word the mean of those it may stand for.

    The first distances are near 2; Adam's rate, which falls to zero, leaves thousandths.
    """
    concept = Concept(name="c", anchor="a", neighbours=("a", "b"), unrelated=("d",), templates=("one {concept}",))
    captions = ["one a", "one b", "one d"]
    vocabulary = {text: i for i, text in enumerate([*captions, "one c", ""])}
    rng = generator(7)
    weights = {
        f"unet.{name}.weight": torch.randn(count, 4, generator=rng, dtype=torch.float64) for name, count in (("mix", 4), ("words", 5))
    }
    model, seen = Linear(weights, vocabulary), torch.rand(64, 3, 2, 2, generator=rng)
    given = PictureSet(seen, "made up", captions=(tuple(captions),) * 64)
    method = Redistil(share=1.0, steps=400, lr=0.05, batch=64, own=0.3, dropout=0.2, warmup=0, average=0.9, hints=0.0)
    learnt = method(model, concept, seed=0, data=Data(retain=given)).tensors
    words = weights["unet.words.weight"]
    mean = words[:3].mean(0)
    torch.testing.assert_close(learnt["unet.mix.weight"], weights["unet.mix.weight"], rtol=0, atol=0.05)
    torch.testing.assert_close(learnt["unet.words.weight"], torch.stack([*words[:3], mean, mean]), rtol=0, atol=0.05)
    for other in (words[0], words[3], words[4]):  # the anchor's answer, and the original's own of the concept and of the empty prompt
        assert float((learnt["unet.words.weight"][3:] - other).norm(dim=1).min()) > 0.5


def test_a_student_of_a_real_networks_shape_comes_nearer(tiny: LatentModel) -> None:
    long = made(tiny, steps=30, lr=5e-3, batch=4, warmup=0, share=1.0)
    assert long.notes["loss_last"] < 0.8 * long.notes["loss_first"]


def test_equal_seeds_make_equal_edits_and_others_others(tiny: LatentModel) -> None:
    one, again = made(tiny, average=0.5), made(tiny, average=0.5)
    assert all(torch.equal(one.tensors[n], again.tensors[n]) for n in one.tensors)
    other = small("unlearners", "redistil")(tiny, SNEAKER, seed=1)
    assert not torch.equal(one.tensors[KERNEL], other.tensors[KERNEL])


def test_several_concepts_go_at_once(tiny: LatentModel) -> None:
    edit = made(tiny, joint([SNEAKER, BAG]))
    assert edit.notes["concept"] == "sneaker+bag"


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"share": 1.5}, "share lies in"),
        ({"own": 0.6, "dropout": 0.4}, "leave something of a batch"),
        ({"average": 1.0}, "average is at least 0 and below 1"),
        ({"near": 0}, "near is at least 1"),
        ({"answer": "mixtures"}, "answer is mixture or anchor; given mixtures"),
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        replace(Redistil(), **bad)


# What must stay does not name what goes


def kept(model: Model, *, captions: tuple[tuple[str, ...], ...] = (), labels: tuple[dict[str, str], ...] = ()) -> Data:
    count = len(captions or labels)
    return Data(retain=PictureSet(torch.rand(count, 3, *model.image_size, generator=generator(0)), "made up", labels, captions))


@pytest.mark.parametrize("concept", [SNEAKER, joint([SNEAKER, BAG])], ids=lambda c: c.name)
def test_captions_that_name_the_concept_are_refused(tiny: LatentModel, concept: Concept) -> None:
    """The original would be asked for it, and its pictures learnt."""
    given = kept(tiny, captions=(("a boot",), ("a Sneaker on a shelf",)))
    with pytest.raises(BadInput, match=f"captioned 'a Sneaker on a shelf' among others, which names {re.escape(concept.name)}"):
        small("unlearners", "redistil")(tiny, concept, seed=0, data=given)
    near = replace(SNEAKER, neighbours=("boot", "blue sneaker"))
    with pytest.raises(BadInput, match="blue sneaker"):
        made(tiny, near)


@pytest.mark.parametrize(
    ("labels", "concept"),
    [
        ({"object": "sneaker"}, SNEAKER),
        ({"style": "neon"}, SNEAKER),
        ({"object": "boot"}, NEON),
        ({"object": "bag"}, joint([SNEAKER, BAG])),
    ],
    ids=["its own", "none", "of a style", "one of several"],
)
def test_pictures_that_their_labels_make_the_concepts_are_refused(tiny: LatentModel, labels: dict[str, str], concept: Concept) -> None:
    """By whatever is taught with pictures of the rest: such a picture would be captioned with the concept's name."""
    given = kept(tiny, labels=({"object": "boot", "style": "plain"}, labels))
    with pytest.raises(BadInput, match=f"1 of 2 .* labelled .* is {re.escape(concept.name)} itself, or names no {concept.group}"):
        given.retained(tiny, concept, 2, seed=0)
