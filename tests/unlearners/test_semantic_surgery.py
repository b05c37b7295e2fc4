"""Semantic Surgery: what a prompt becomes is its formula, written out position by position; what is not asked for stays, bit for bit."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from oracles import scheduler, tiny_classes, tiny_model, tiny_parts, tiny_xl, tokenizer
from vestige import concepts
from vestige.concepts.joint import joint
from vestige.diffusion import Model
from vestige.errors import Incompatible
from vestige.models.latent import LatentModel
from vestige.unlearners.semantic_surgery import SemanticSurgery, measured_shift

SNEAKER, BAG = concepts.load("sneaker"), concepts.load("bag")


@pytest.fixture(scope="module")
def exact() -> LatentModel:
    """The tiny model in float64."""
    return LatentModel("tiny64", {name: part.double() for name, part in tiny_parts().items()}, tokenizer(), scheduler())


def edited(model: Model, concept: Any = SNEAKER, **settings: Any) -> Model:
    return model.edited(SemanticSurgery(**settings)(model, concept, seed=0))


def asked_for(model: LatentModel, prompt: str, word: str) -> float:
    """s, one position at a time; a direction of nothing but rounding has a cosine of 0."""
    p, c, null = model.condition([prompt, word, ""]).text
    found = []
    for at in range(77):
        way = c[at] - null[at]
        found.append(float(way @ p[at] / (way.norm() * p[at].norm())) if way.norm() > 1e-9 else 0.0)
    return sum(found) / 77


def test_a_selected_prompt_is_the_formula(exact: LatentModel) -> None:
    prompt = "a neon picture of a sneaker"
    s = asked_for(exact, prompt, "sneaker")
    shift = 0.01 - s  # selected, and the sigmoid is not at its end
    alpha = 1 / (1 + math.exp(-0.01 / 0.02))
    p, c, null = exact.condition([prompt, "sneaker", ""]).text
    found = edited(exact, shift=shift, strength=0.7).condition([prompt]).text[0]
    torch.testing.assert_close(found, p - 0.7 * alpha * (c - null), atol=1e-6, rtol=1e-6)  # the cosine is in single precision


def test_a_prompt_below_the_threshold_and_the_empty_one_stay_bit_for_bit(exact: LatentModel) -> None:
    prompt = "a neon picture of a sneaker"
    below = edited(exact, shift=-0.01 - asked_for(exact, prompt, "sneaker"))
    assert torch.equal(below.condition([prompt]).text, exact.condition([prompt]).text)
    always = edited(exact, shift=2.0)
    assert torch.equal(always.condition(["", prompt]).text[0], exact.condition(["", prompt]).text[0])
    assert torch.equal(always.embed(always.tokens([""])).text, exact.embed(exact.tokens([""])).text)
    assert not torch.equal(always.condition([prompt]).text, exact.condition([prompt]).text)


def test_no_strength_is_no_change_bit_for_bit() -> None:
    model = tiny_model()
    view = edited(model, shift=2.0, strength=0.0)
    assert view.fingerprint == model.fingerprint
    assert torch.equal(view.condition(["a sneaker"]).text, model.condition(["a sneaker"]).text)


def test_selected_concepts_are_taken_out_together(exact: LatentModel) -> None:
    """Both, one, or none, by each one's own cosine; the largest share counts."""
    prompt = "a bag"
    s = {word: asked_for(exact, prompt, word) for word in ("sneaker", "bag")}
    (low, far), (high, near) = sorted((value, word) for word, value in s.items())
    p, one, two, null = exact.condition([prompt, near, "sneaker, bag", ""]).text
    alpha = 1 / (1 + math.exp(-(high - low) / 2 / 0.02))
    between = edited(exact, joint([SNEAKER, BAG]), shift=-(low + high) / 2).condition([prompt]).text[0]
    torch.testing.assert_close(between, p - alpha * (one - null), atol=1e-6, rtol=1e-6)
    both = edited(exact, joint([SNEAKER, BAG]), shift=1.0).condition([prompt]).text[0]
    torch.testing.assert_close(both, p - (two - null), atol=1e-6, rtol=1e-6)
    assert far != near


def test_soft_tokens_are_operated_on_with_gradients(exact: LatentModel) -> None:
    view, prompt = edited(exact, shift=2.0), "a neon picture of a sneaker"
    ids = view.tokens([prompt])
    torch.testing.assert_close(view.embed(ids).text, view.condition([prompt]).text)
    soft = torch.nn.functional.one_hot(ids, len(exact.tokenizer)).double().requires_grad_()
    read = view.embed(soft)
    torch.testing.assert_close(read.text, view.condition([prompt]).text)
    read.text.square().sum().backward()
    assert soft.grad is not None and soft.grad.any()


def test_pooled_text_loses_the_same_share() -> None:
    model = tiny_xl()
    view, prompt = edited(model, shift=2.0), "a sneaker"
    p, c, null = (model.condition([text]) for text in (prompt, "sneaker", ""))
    found = view.condition([prompt])
    assert found.pooled is not None and p.pooled is not None and c.pooled is not None and null.pooled is not None
    torch.testing.assert_close(found.pooled, p.pooled - (c.pooled - null.pooled), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.text, p.text - (c.text - null.text), atol=1e-5, rtol=1e-5)


def test_measured_shift_lies_between_what_goes_and_what_stays(exact: LatentModel) -> None:
    small = replace(
        SNEAKER,
        templates=("a {concept}", "a picture of a {concept}"),
        contexts=(),
        held_out=("one {concept}",),
        indirect=(),
        neighbours=("boot",),
        unrelated=("bag",),
    )
    found = measured_shift(exact, small, ["sneaker"])
    own = min(asked_for(exact, p.text, "sneaker") for p in small.prompts("training"))
    rest = max(asked_for(exact, p.text, "sneaker") for word in ("boot", "bag") for p in small.prompts("training", word))
    assert found == pytest.approx(-(own + rest) / 2, abs=1e-6)
    edit = SemanticSurgery(shift="measured")(exact, small, seed=0)
    assert edit.hooks[0].arguments["shift"] == found
    assert edit.settings["shift"] == "measured"


def test_settings_are_the_released_ones() -> None:
    found = [SemanticSurgery().resolved(replace(SNEAKER, kind=kind)).shift for kind in ("object", "person", "unsafe")]  # type: ignore[arg-type]
    assert found == [-0.12, -0.28, -0.06]
    assert (SemanticSurgery().width, SemanticSurgery().strength) == (0.02, 1.0)


def test_a_model_of_classes_is_refused() -> None:
    with pytest.raises(Incompatible, match="reads no tokens; a model that reads prompts is needed"):
        SemanticSurgery()(tiny_classes(), BAG, seed=0)
