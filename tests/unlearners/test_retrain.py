"""Retrain: the view under its edit is the twin bit for bit, and without a twin it says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from oracles import scheduler, tiny_model, tiny_parts, tiny_twin, tokenizer
from vestige import concepts, models
from vestige.diffusion.sampling import noise, sample
from vestige.errors import BadInput, Incompatible, UnknownName
from vestige.models.latent import LatentModel
from vestige.unlearners.retrain import Retrain

SNEAKER = concepts.load("sneaker")


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def saved(model: LatentModel, path: Path) -> str:
    model.pipeline().save_pretrained(path)
    return str(path)


def test_view_is_the_twin_bit_for_bit(tiny: LatentModel) -> None:
    twin = models.load(tiny_twin())
    view = tiny.edited(Retrain(twin=tiny_twin())(tiny, SNEAKER, seed=0))
    assert view.fingerprint == twin.fingerprint != tiny.fingerprint
    one, other = (sample(m, noise(m.latent_shape, [0]), m.condition(["a sneaker"]), steps=3) for m in (view, twin))
    assert torch.equal(one, other)


def test_only_what_differs_is_touched(tiny: LatentModel) -> None:
    edit = Retrain(twin=tiny_twin())(tiny, SNEAKER, seed=0)
    assert edit.touched
    assert set(edit.touched) <= set(tiny.scope("unet"))
    assert not any(torch.equal(edit.tensors[n], tiny.tensor(n)) for n in edit.touched)


@pytest.mark.parametrize(
    ("concept", "twin"), [("sneaker", "wardrobe-never-sneaker-2"), ("bag", "wardrobe-never-bag"), ("dress", "wardrobe-never-five")]
)
def test_twin_is_the_last_of_the_closest_that_the_card_knows(tiny: LatentModel, concept: str, twin: str) -> None:
    """Where there are two, not the one that an audit takes as its control."""
    tiny = LatentModel("wardrobe", tiny.parts, tiny.tokenizer, tiny.scheduler)
    assert Retrain()._known(tiny, concepts.load(concept)) == twin


def test_embedded_world_hands_out_its_twin() -> None:
    model = models.load("wardrobe")
    edit = Retrain()(model, concepts.load("bag"), seed=0)
    assert edit.settings == {"twin": "wardrobe-never-bag"}
    assert model.edited(edit).fingerprint == models.load("wardrobe-never-bag").fingerprint


def test_model_without_a_twin_is_refused_with_what_to_do(tiny: LatentModel) -> None:
    with pytest.raises(BadInput, match="no model is known that is like tiny and never drew sneaker; name one with twin=FOLDER"):
        Retrain()(tiny, SNEAKER, seed=0)


def test_concept_without_a_twin_is_refused(tiny: LatentModel) -> None:
    tiny = LatentModel("wardrobe", tiny.parts, tiny.tokenizer, tiny.scheduler)
    with pytest.raises(BadInput, match="like wardrobe and never drew coat"):
        Retrain()(tiny, concepts.load("coat"), seed=0)


@pytest.mark.parametrize("name", ["wardrobe", "wardrobe-never-bag"])
def test_model_that_drew_the_concept_is_no_twin(tiny: LatentModel, name: str) -> None:
    with pytest.raises(BadInput, match=f"{name} is not known never to have drawn sneaker"):
        Retrain(twin=name)(tiny, SNEAKER, seed=0)


def test_unknown_twin_is_an_unknown_model(tiny: LatentModel) -> None:
    with pytest.raises(UnknownName, match="unknown model 'wardrobe-never-sneaky'; did you mean 'wardrobe-never-sneaker'"):
        Retrain(twin="wardrobe-never-sneaky")(tiny, SNEAKER, seed=0)


def test_model_itself_is_no_twin(tiny: LatentModel, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="equals tiny in every weight"):
        Retrain(twin=saved(tiny, tmp_path / "same"))(tiny, SNEAKER, seed=0)


def test_twin_with_another_autoencoder_is_refused(tiny: LatentModel, tmp_path: Path) -> None:
    """The edit could not hold the difference, and the view would be neither model."""
    other = LatentModel("other", {**tiny_parts(), "unet": tiny_parts(1)["unet"], "vae": tiny_parts(1)["vae"]}, tokenizer(), scheduler())
    with pytest.raises(Incompatible, match="differs from tiny beyond what an edit holds"):
        Retrain(twin=saved(other, tmp_path / "other"))(tiny, SNEAKER, seed=0)


def test_twin_with_another_schedule_is_refused(tiny: LatentModel, tmp_path: Path) -> None:
    parts = {**tiny_parts(), "unet": tiny_parts(1)["unet"]}
    other = LatentModel("other", parts, tokenizer(), scheduler(beta_end=0.02))
    with pytest.raises(Incompatible, match="share the rest"):
        Retrain(twin=saved(other, tmp_path / "other"))(tiny, SNEAKER, seed=0)
