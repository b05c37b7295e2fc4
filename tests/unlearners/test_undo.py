"""UNDO: its noise is its formula, its student learns from answers alone, and the concept's prompts are answered as the teacher does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch

from oracles import scheduler, small, tiny_classes, tiny_exact, tiny_flow, tiny_model, tiny_parts, tokenizer
from vestige import concepts, registry
from vestige.concepts.joint import joint
from vestige.diffusion import Model
from vestige.diffusion.sampling import noise
from vestige.edits import Edit
from vestige.methods import Data
from vestige.methods.fresh import shrunk
from vestige.methods.objectives import distilling, noisy
from vestige.methods.training_data import Pairs
from vestige.models.latent import LatentModel
from vestige.seeds import derive, generator
from vestige.unlearners.undo import SCOPE, UNDO, Questions

SNEAKER, BAG = concepts.load("sneaker"), concepts.load("bag")


def made(model: Model, **settings: Any) -> Edit:
    edit: Edit = small("unlearners", "undo", **settings)(model, SNEAKER, seed=0)
    return edit


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


@pytest.fixture(scope="module")
def exact() -> LatentModel:
    return tiny_exact()


def test_noise_is_its_formula(exact: LatentModel) -> None:
    """A matrix, a kernel, a gain and a bias, against the same numbers without the old weights in them."""
    matrix, kernel = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight", "unet.conv_in.weight"
    gain, bias = "unet.conv_norm_out.weight", "unet.conv_in.bias"
    names = [matrix, kernel, gain, bias]
    new, pure = (shrunk(exact, names, generator(0), share=share, noise=0.1) for share in (0.3, 1.0))
    for name in names:
        torch.testing.assert_close(new[name], 0.7 * exact.tensor(name) + 0.3 * pure[name])
    assert pure[gain].eq(1).all()
    assert pure[bias].eq(0).all()
    for name, fans in ((matrix, 32 + 32), (kernel, 4 * 9 + 16 * 9)):
        bound = 0.1 * (6 / fans) ** 0.5
        assert 0.9 * bound < float(pure[name].abs().max()) <= bound
        assert float(pure[name].std()) == pytest.approx(bound / 3**0.5, rel=0.15)  # a few hundred numbers


def test_limits_of_the_noise(tiny: LatentModel) -> None:
    names = tiny.scope(SCOPE)
    same = shrunk(tiny, names, generator(0), share=0.0, noise=0.1)
    assert all(torch.equal(same[n], tiny.tensor(n)) for n in names)
    gone = shrunk(tiny, names, generator(0), share=1.0, noise=0.0)
    assert all(bool((gone[n] == (1.0 if "norm" in n.split(".")[-2] and n.endswith("weight") else 0.0)).all()) for n in names)


@pytest.mark.parametrize("family", [tiny_classes, lambda: tiny_classes("dit"), tiny_flow, lambda: tiny_flow("sd3")])
def test_every_familys_weights_can_be_noised(family: Any) -> None:
    model: Model = family()
    names = model.scope(SCOPE)
    found = shrunk(model, names, generator(0), share=0.5, noise=0.1)
    assert all(found[n].shape == model.tensor(n).shape and found[n].isfinite().all() for n in names)


def test_loss_is_the_distance_of_answers(exact: LatentModel) -> None:
    """Written out: each model with its own reading of its own prompt, at one noised latent."""
    other = LatentModel("other", {name: part.double() for name, part in tiny_parts(1).items()}, tokenizer(), scheduler())
    data = noise(exact.latent_shape, [0, 1]).double()
    asked, told = exact.condition(["a sneaker", ""]), exact.condition(["a boot", ""])
    found = distilling(exact, other, data, asked, told, generator(3))
    t, eps, x_t = noisy(other, data, generator(3))
    torch.testing.assert_close(
        x_t, torch.cat([s * d + n * e for s, n, d, e in zip(*other.schedule(t), data, eps, strict=True)]).view_as(data)
    )
    expected = (exact.denoise(x_t, t, asked).value - other.denoise(x_t, t, told).value).square().mean()
    torch.testing.assert_close(found, expected)


def test_prompts_are_asked_in_their_shares(tiny: LatentModel) -> None:
    texts = ["a bag", "a boot", "a sneaker", "neon sneaker", ""]
    table = tiny.condition(texts)
    questions = Questions(Pairs(torch.zeros(2, 4, 8, 8), table[:2], ((0,), (1,))), table, table)
    rows = torch.tensor(questions.asked_instead([0] * 4000, 0.25, 0.1, generator(0)))
    shares = [float((rows == k).double().mean()) for k in range(5)]
    assert shares == pytest.approx([0.75 * 0.9, 0, 0.125, 0.125, 0.75 * 0.1], abs=0.03)
    assert questions.asked_instead([0, 1], 0.0, 0.0, generator(0)) == [0, 1]


def test_without_noise_and_at_the_teachers_answers_nothing_is_learnt(tiny: LatentModel) -> None:
    """The student begins as the teacher, at a distance of exactly 0 from it."""
    edit = made(tiny, share=0.0)
    assert edit.notes["loss_first"] == pytest.approx(0, abs=1e-10)
    inner = registry.build("unlearners", "esd", dict(s.split("=") for s in edit.settings["suppressing"]))
    teacher = inner(tiny, SNEAKER, seed=derive(0, "suppress"))
    with patch("vestige.unlearners.undo.fit", return_value=iter(())):
        start = made(tiny, share=0.0)
    assert all(torch.equal(start.tensors[n], value) for n, value in teacher.tensors.items())


def test_student_comes_near_to_its_teacher(tiny: LatentModel) -> None:
    long = made(tiny, steps=30, lr=3e-3, warmup=0, batch=4)
    assert long.notes["loss_last"] < 0.8 * long.notes["loss_first"]


def test_a_teacher_that_only_reads_otherwise_becomes_weights(tiny: LatentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remap is a hook; the student has none, and has something to learn of it exactly where the concept's own prompts are asked."""
    losses: list[float] = []

    def fit(leaves: Any, loss: Any, *given: Any, **named: Any) -> Any:
        with torch.no_grad():
            losses.append(float(loss(generator(0))))
        return iter(())

    monkeypatch.setattr("vestige.unlearners.undo.fit", fit)
    for own in (0.9, 0.0):
        edit = made(tiny, suppress="remap", suppressing=(), share=0.0, own=own, batch=8)
        assert edit.hooks == ()
    assert losses[0] > 0
    assert losses[1] == 0


def test_the_teacher_draws_what_is_distilled_on(tiny: LatentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never the original, and no prompt of the concept."""
    drawn = []
    plain = Data.retained

    def kept(self: Data, model: Model, *given: Any, **named: Any) -> Any:
        found = plain(self, model, *given, **named)
        drawn.append((model.fingerprint, found.texts))
        return found

    monkeypatch.setattr(Data, "retained", kept)
    made(tiny)
    ((mark, texts),) = drawn
    assert mark != tiny.fingerprint
    assert not any(SNEAKER.named(text) for text in texts)


def test_several_concepts_need_a_teacher_that_takes_them(tiny: LatentModel) -> None:
    assert UNDO().apart == ""
    assert UNDO(suppress="salun").apart == "suppress=salun"
    edit = small("unlearners", "undo")(tiny, joint([SNEAKER, BAG]), seed=0)
    assert edit.notes["concept"] == "sneaker+bag"


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"share": 1.5}, "share lies in"),
        ({"suppress": "undo"}, "another unlearner's model"),
        ({"suppressing": ("steps",)}, "NAME=VALUE"),
        ({"noise": -0.1}, "noise is at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        replace(UNDO(), **bad)
