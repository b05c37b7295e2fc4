"""The data step that MemoRa and its controls share: one set of pictures, captions and costs for all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import small, tiny_model
from vestige import concepts
from vestige.concepts.images import PictureSet
from vestige.errors import BadInput
from vestige.methods import regeneration
from vestige.methods.training import Trace
from vestige.models.latent import LatentModel
from vestige.seeds import generator

BAG = concepts.load("bag")
NAMES = ("memora", "finetune", "textual_inversion")
KINDS = ({}, {"regenerate": False}, {"interpolation": "none"}, {"captions": "templates"})


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def references(count: int = 3) -> PictureSet:
    labels = tuple({"object": "bag", "style": s} for s in ("neon", "photo", "sunset", "mosaic")[:count])
    return PictureSet(torch.rand(count, 3, 32, 32, generator=generator(count, "references")), "random", labels)


def dark(images: Tensor) -> Tensor:
    return images.flatten(1).mean(1) < images.mean()


@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_every_control_trains_on_the_same_set(tiny: LatentModel, changes: dict[str, Any]) -> None:
    made = [regeneration.training_set(tiny, BAG, references(), small("attacks", name, **changes), dark, name) for name in NAMES]
    assert all(torch.equal(m.latents, made[0].latents) for m in made)
    assert all((m.texts, m.rows, m.calls, m.share) == (made[0].texts, made[0].rows, made[0].calls, made[0].share) for m in made)
    assert len(made[0].rows) == len(made[0].latents)


def test_share_is_the_selection_judges(tiny: LatentModel) -> None:
    given = regeneration.training_set(tiny, BAG, references(4), small("attacks", "finetune", regenerate=False), dark, "finetune")
    assert given.share == float(dark(tiny.decode(tiny.encode(references(4).images))).float().mean())
    assert given.calls == 0


@pytest.mark.parametrize("name", NAMES[1:])
def test_the_attack_that_lacks_pictures_is_named(tiny: LatentModel, name: str) -> None:
    for few in (None, references(1)):
        with pytest.raises(
            BadInput, match=f"{name} needs at least 2 reference pictures of bag; one is enough with {name}.interpolation=none"
        ):
            regeneration.training_set(tiny, BAG, few, small("attacks", name), dark, name)
    with pytest.raises(BadInput, match=f"{name} needs at least a reference picture of bag$"):
        regeneration.training_set(tiny, BAG, None, small("attacks", name, regenerate=False), dark, name)


@pytest.mark.parametrize("changes", [{"interpolation": "none"}, {"regenerate": False}], ids=str)
def test_one_picture_is_enough_where_nothing_is_interpolated(tiny: LatentModel, changes: dict[str, Any]) -> None:
    made = regeneration.training_set(tiny, BAG, references(1), small("attacks", "memora", **changes), dark, "memora")
    assert len(made.latents) == len(made.rows) == 1


def test_unlabelled_pictures_get_their_own_captions_or_any_of_the_concepts(tiny: LatentModel) -> None:
    """A picture of unknown style is not said to be of none."""
    how, every = small("attacks", "memora", captions="templates", points=2), [p.text for p in BAG.prompts("training")]
    bare = replace(references(3), labels=())
    given = regeneration.training_set(tiny, BAG, bare, how, dark, "memora")
    assert given.texts == every and set(given.rows) == {tuple(range(len(every)))}
    own = replace(bare, captions=(("a red bag",), ("a blue bag", "a bag"), ("a bag",)))
    given = regeneration.training_set(tiny, BAG, own, how, dark, "memora")
    read = [tuple(given.texts[r] for r in row) for row in given.rows]
    red, blue, plain = own.captions
    assert read == [red, red, blue, plain, plain, red]  # the nearer of the first two, and of the last one and the first


@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": 51}, r"start is a grid index within 0\.\.50; given 51"),
        ({"points": 0}, "points is at least 1; given 0"),
        ({"refine": -1}, "refine is at least 0; given -1"),
        ({"batch": 0}, "batch is at least 1; given 0"),
        ({"lr": 0.0}, "lr is above 0"),
    ],
    ids=str,
)
def test_senseless_settings_are_refused(name: str, settings: dict[str, Any], message: str) -> None:
    from vestige import registry

    with pytest.raises(ValueError, match=message):
        registry.find("attacks", name)(**settings)


def test_no_losses_have_no_mean() -> None:
    assert Trace().ends() == {"loss_first": None, "loss_last": None}
    assert Trace([1.0, 2.0]).ends() == {"loss_first": 1.5, "loss_last": 1.5}
    assert Trace([float(i) for i in range(20)]).ends() == {"loss_first": 4.5, "loss_last": 14.5}
