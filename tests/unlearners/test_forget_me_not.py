"""Forget-Me-Not: its loss is the size of the concept's columns, and training makes them small."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import Gaussian, scheduler, tiny_model, tiny_parts, tokenizer
from vestige import concepts
from vestige.concepts.images import PictureSet
from vestige.diffusion import Model
from vestige.diffusion.attention import recording
from vestige.diffusion.sampling import Drawing
from vestige.edits import Edit
from vestige.errors import BadInput, Incompatible
from vestige.methods import Data
from vestige.methods.objectives import denoising
from vestige.methods.training_data import paired
from vestige.models.latent import LatentModel
from vestige.seeds import generator
from vestige.unlearners import forget_me_not
from vestige.unlearners.forget_me_not import ForgetMeNot

SNEAKER = concepts.load("sneaker")
SMALL: dict[str, Any] = {"steps": 2, "batch": 2, "lr": 1e-3, "target_pictures": 3, "retain_pictures": 3}
DATA = Data(protocol=Drawing(steps=2))


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


@pytest.fixture(scope="module")
def exact() -> LatentModel:
    """The tiny model in float64."""
    return LatentModel("tiny64", {name: part.double() for name, part in tiny_parts().items()}, tokenizer(), scheduler())


def made(model: Model, data: Data = DATA, **settings: Any) -> Edit:
    return ForgetMeNot(**{**SMALL, **settings})(model, SNEAKER, seed=0, data=data)


def equal(one: Edit, other: Edit) -> bool:
    return one.touched == other.touched and all(torch.equal(one.tensors[n], other.tensors[n]) for n in one.touched)


@pytest.mark.parametrize("endings", ["released", "first", "none"])
@pytest.mark.parametrize("objective", ["norm", "squares"])
def test_loss_is_the_size_of_the_concatenated_columns(exact: LatentModel, objective: Any, endings: Any) -> None:
    """Joined picture by picture, with columns found by counting words (all of them single tokens here)."""
    method = ForgetMeNot(**SMALL, objective=objective, endings=endings)
    given = DATA.targeted(exact, SNEAKER, 3, seed=0)
    pairs = paired(exact, given)
    value = method._attention(exact, pairs, method._counted(exact, given.texts, "sneaker").double(), generator(2))
    rng = generator(2)
    latents, rows = pairs.pick(2, rng)
    t = exact.draw_times(2, rng)
    signal, level = (v.reshape(-1, 1, 1, 1) for v in exact.schedule(t))
    x_t = signal * latents + level * torch.randn(latents.shape, generator=rng).double()
    with torch.no_grad(), recording(exact) as maps:
        exact.denoise(x_t, t, exact.condition([given.texts[r] for r in rows]))
    sizes = []
    for i, row in enumerate(rows):
        words = given.texts[row].split()
        chosen = [1 + words.index("sneaker")]
        chosen += {"released": list(range(len(words) + 1, 77)), "first": [len(words) + 1], "none": []}[endings]
        flat = torch.cat([m[i][..., chosen].flatten() for m in maps.values()])
        sizes.append(float(flat.norm()) if objective == "norm" else float(flat @ flat))
    assert float(value) == pytest.approx(sum(sizes) / 2, rel=1e-6)


@pytest.mark.parametrize("endings", ["released", "none"])
def test_training_takes_attention_from_the_words(tiny: LatentModel, endings: Any) -> None:
    method = ForgetMeNot(**{**SMALL, "steps": 30, "batch": 4, "lr": 1e-2}, endings=endings, scope="cross-attention")
    edited = tiny.edited(method(tiny, SNEAKER, seed=0, data=DATA))
    given = DATA.targeted(tiny, SNEAKER, 3, seed=0)
    pairs, counted = paired(tiny, given), method._counted(tiny, given.texts, "sneaker")
    with torch.no_grad():
        before, after = (sum(float(method._attention(m, pairs, counted, generator(i))) for i in range(8)) for m in (tiny, edited))
    assert after < 0.5 * before


def test_a_size_that_cannot_fall_trains_nothing(tiny: LatentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without decay and without columns there is no gradient: bit for bit the model."""

    def none(self: ForgetMeNot, model: Model, texts: list[str], words: str) -> Tensor:
        return torch.zeros(len(texts), 77)

    monkeypatch.setattr(ForgetMeNot, "_counted", none)
    edit = made(tiny, objective="squares", weight_decay=0.0)
    assert all(torch.equal(edit.tensors[n], tiny.tensor(n)) for n in edit.touched)


def test_scope_and_what_no_gradient_reaches(tiny: LatentModel) -> None:
    """The network's output is not looked at, so its last layers stay."""
    edit = made(tiny)
    assert edit.touched == sorted(tiny.scope("unet"))
    still = {n for n in edit.touched if torch.equal(edit.tensors[n], tiny.tensor(n))}
    assert {"unet.conv_out.weight", "unet.conv_norm_out.weight"} <= still
    assert not any("down_blocks" in n for n in still)
    assert made(tiny, scope="cross-attention").touched == sorted(tiny.scope("cross-attention"))


def test_retained_pictures_matter_only_with_a_weight(tiny: LatentModel) -> None:
    images = torch.rand(3, 3, 32, 32, generator=generator(1))
    given = Data(retain=PictureSet(images, "mine", captions=(("a bag",),) * 3), protocol=DATA.protocol)
    assert equal(made(tiny, given), made(tiny))
    assert not equal(made(tiny, given, retain_weight=1.0), made(tiny))
    assert not equal(made(tiny, given, retain_weight=1.0), made(tiny, retain_weight=1.0))


def test_whole_loss_is_the_size_and_the_weighted_retain_term(exact: LatentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(forget_me_not, "fit", lambda leaves, loss, training, **_: iter([seen.update(loss=loss)]))
    method = ForgetMeNot(**SMALL, retain_weight=0.7, dropout=0.0)
    method(exact, SNEAKER, seed=0, data=DATA)
    given, rng = DATA.targeted(exact, SNEAKER, 3, seed=0), generator(3)
    with torch.no_grad():
        expected = method._attention(exact, paired(exact, given), method._counted(exact, given.texts, "sneaker").double(), rng)
        others = paired(exact, DATA.retained(exact, SNEAKER, 3, seed=0))
        expected = expected + 0.7 * denoising(exact, *others.draw(2, rng), rng)
        torch.testing.assert_close(seen["loss"](generator(3)), expected)


def test_prompts_have_to_name_the_concept(tiny: LatentModel) -> None:
    images = torch.zeros(3, 3, 32, 32)
    unnamed = Data(target=PictureSet(images, "mine", captions=(("a picture",),) * 3), protocol=DATA.protocol)
    with pytest.raises(BadInput, match=re.escape("'a picture' does not hold the words 'sneaker'")):
        made(tiny, unnamed)
    plain = Data(target=PictureSet(images, "mine"), protocol=DATA.protocol)
    assert made(tiny, plain).touched


def test_models_without_cross_attention_are_refused() -> None:
    with pytest.raises(Incompatible, match="gaussian has no U-Net with cross-attention"):
        made(Gaussian())


@pytest.mark.parametrize("bad", [{"steps": 0}, {"lr": 0.0}, {"retain_weight": -1.0}, {"dropout": 1.0}, {"clip": -1.0}])
def test_senseless_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least|above"):
        ForgetMeNot(**bad)
