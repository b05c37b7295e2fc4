"""What every unlearner promises, whichever the registry finds."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hurry import sketches
from oracles import counted, small, tiny_model
from vestige import concepts, registry
from vestige.concepts.images import PictureSet
from vestige.diffusion import Model
from vestige.diffusion.sampling import noise, sample
from vestige.edits import Edit
from vestige.harness.cost import picture
from vestige.methods import Data, Paper, Unlearner
from vestige.methods.contract import TRAINED
from vestige.models.latent import SCOPES, LatentModel

__all__ = ["sketches"]  # a fixture that holds here too
CONCEPTS = ("sneaker", "neon")
NAMES = registry.names("unlearners")

pytestmark = [pytest.mark.parametrize("name", NAMES), pytest.mark.usefixtures("sketches")]


def draw(model: Model) -> Tensor:
    return sample(model, noise(model.latent_shape, [0, 1]), model.condition(["a sneaker", "neon"]), steps=3)


def same(one: Edit, other: Edit) -> bool:
    plain = all(getattr(one, key) == getattr(other, key) for key in ("base", "method", "settings", "scope", "notes"))
    plain = plain and [replace(hook, tensors={}) for hook in one.hooks] == [replace(hook, tensors={}) for hook in other.hooks]
    if not plain or one.touched != other.touched:
        return False
    for a, b in zip(one.hooks, other.hooks, strict=True):
        if a.tensors.keys() != b.tensors.keys() or not all(torch.equal(a.tensors[n], b.tensors[n]) for n in a.tensors):
            return False
    factors = all(torch.equal(a, b) for n in one.factors for a, b in zip(one.factors[n], other.factors[n], strict=True))
    return factors and all(torch.equal(one.tensors[n], other.tensors[n]) for n in one.tensors)


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


@pytest.fixture(scope="module")
def edited(tiny: LatentModel) -> Callable[[str, str], Edit]:
    """The small edit of a method on a concept, made once."""
    made: dict[tuple[str, str], Edit] = {}

    def make(name: str, concept: str = "sneaker") -> Edit:
        if (name, concept) not in made:
            made[name, concept] = small("unlearners", name)(tiny, concepts.load(concept), seed=0)
        return made[name, concept]

    return make


@dataclass(frozen=True)
class Again:
    """An edit that was made a second time, and what was seen meanwhile."""

    edit: Edit
    model: LatentModel
    progress: list[tuple[str, int, int]]
    generator_rests: bool


@pytest.fixture(scope="module")
def again(edited: Callable[[str], Edit]) -> Callable[[str], Again]:
    """The small edit of a method made again, on a model of its own, from the first one's settings, under another global generator."""

    @functools.cache
    def make(name: str) -> Again:
        model, progress = tiny_model(), list[tuple[str, int, int]]()
        made = registry.build("unlearners", name, json.loads(json.dumps(dict(edited(name).settings))))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(12345)
            state = torch.random.get_rng_state()
            edit = made(model, concepts.load("sneaker"), seed=0, watch=lambda *told: progress.append(told))
            rests = torch.equal(torch.random.get_rng_state(), state)
        return Again(edit, model, progress, rests)

    return make


def test_contract_is_declared(name: str) -> None:
    made = registry.find("unlearners", name)
    assert issubclass(made, Unlearner)
    assert isinstance(made.paper, Paper)
    assert made.paper.title
    assert made.paper.year > 2000
    assert made.needs <= {"prompts", "target", "retain"}


def test_docstring_says_how_the_method_differs_from_the_released_code(name: str) -> None:
    made = registry.find("unlearners", name)
    assert made.__doc__
    if made.paper.code:
        assert "Differs from the released code" in made.__doc__
    arguments = made.__doc__.partition("Arguments:")[2]
    for field in fields(made):
        if field.name not in ("lr",):  # the learning rate needs no words
            assert re.search(rf"^\s+{field.name}: ", arguments, re.MULTILINE), f"{field.name} is not described"


def test_base_is_unchanged_bit_for_bit(again: Callable[[str], Again], name: str) -> None:
    """The hashes are computed anew, from the tensors as they are afterwards."""
    model = again(name).model
    model._hashes.clear()
    untouched = tiny_model()
    assert model.fingerprint == untouched.fingerprint
    assert all(torch.equal(model.tensor(n), untouched.tensor(n)) for n in untouched._names())
    assert not any(p.requires_grad or p.grad is not None for part in model.parts.values() for p in part.parameters())


def test_equal_seeds_equal_edits_whatever_the_global_generator_says(
    name: str, edited: Callable[..., Edit], again: Callable[[str], Again]
) -> None:
    """By the settings that the first edit holds."""
    assert same(again(name).edit, edited(name))
    assert again(name).generator_rests


@pytest.mark.parametrize("concept", CONCEPTS)
def test_edit_stays_inside_its_declared_scope(name: str, concept: str, tiny: LatentModel, edited: Callable[..., Edit]) -> None:
    edit = edited(name, concept)
    assert edit.touched or edit.hooks
    if edit.touched:
        assert edit.scope in SCOPES
        assert set(edit.touched) <= set(tiny.scope(edit.scope))


@pytest.mark.parametrize("concept", CONCEPTS)
def test_edit_says_where_it_comes_from(name: str, concept: str, tiny: LatentModel, edited: Callable[..., Edit]) -> None:
    edit = edited(name, concept)
    assert edit.base == tiny.fingerprint
    assert edit.method == name
    assert edit.notes["concept"] == concept
    assert edit.notes["seed"] == 0


@pytest.mark.parametrize("concept", CONCEPTS)
def test_edit_is_finite_and_changes_the_model(name: str, concept: str, tiny: LatentModel, edited: Callable[..., Edit]) -> None:
    edit = edited(name, concept)
    for tensor in (*edit.tensors.values(), *(f for pair in edit.factors.values() for f in pair)):
        assert tensor.isfinite().all()
        assert not tensor.requires_grad
    view = tiny.edited(edit)
    assert draw(view).isfinite().all()
    assert not torch.equal(draw(view), draw(tiny))
    assert view.fingerprint != tiny.fingerprint


def test_calls_are_those_that_are_made(name: str, tiny: LatentModel) -> None:
    """Counted while it runs; only rollouts that stop at random are known by their mean."""
    method, drawn = small("unlearners", name), picture(Data().protocol)
    for setting in (None, "steps", "batch", "retain_weight"):
        if setting is None or hasattr(method, setting):
            asked = method if setting is None else replace(method, **{setting: 2 * getattr(method, setting) or 1})
            with counted() as seen:
                asked.resolved(concepts.load("sneaker"))(tiny, concepts.load("sneaker"), seed=0)
            made = seen["plain"] + TRAINED * seen["trained"]
            assert asked.calls(drawn, drawn) == (pytest.approx(made, rel=0.15) if name in ("race", "spm", "receler", "stereo") else made), (
                setting
            )


def test_calls_leave_out_what_is_given(name: str, tiny: LatentModel) -> None:
    method, drawn = small("unlearners", name), picture(Data().protocol)
    none, all_ = method.calls(0, 0), method.calls(drawn, drawn)
    assert none <= min(method.calls(drawn, 0), method.calls(0, drawn)) <= all_
    if "target" in method.needs:
        assert none < method.calls(drawn, 0)


def test_saved_edit_loads_as_it_was(name: str, tmp_path: Path, tiny: LatentModel, edited: Callable[..., Edit]) -> None:
    edit = edited(name)
    back = Edit.load(edit.save(tmp_path / "edit.safetensors"))
    assert same(back, edit)
    assert torch.equal(draw(tiny.edited(back)), draw(tiny.edited(edit)))


def test_method_survives_its_spec(name: str) -> None:
    for made in (small("unlearners", name), registry.build("unlearners", name)):
        assert registry.build("unlearners", name, json.loads(json.dumps(registry.settings(made)))) == made


@pytest.mark.parametrize("concept", CONCEPTS)
def test_nothing_stays_on_auto(name: str, concept: str, tiny: LatentModel, edited: Callable[..., Edit]) -> None:
    """Neither in the method that a spec names, nor in the edit."""
    resolved = small("unlearners", name).resolved(concepts.load(concept))
    assert "auto" not in registry.settings(resolved).values()
    assert resolved.resolved(concepts.load(concept)) == resolved
    assert "auto" not in edited(name, concept).settings.values()


def test_progress_ends_where_it_said(name: str, again: Callable[[str], Again]) -> None:
    told: dict[str, tuple[int, int]] = {}
    for stage, done, total in again(name).progress:
        assert 0 < done <= total
        assert stage not in told or done > told[stage][0]
        told[stage] = done, total
    assert all(done == total for done, total in told.values())


def test_a_concept_of_the_users_own_can_be_forgotten(name: str, tiny: LatentModel) -> None:
    """Plain words of several tokens, no contexts, no anchor, no neighbours."""
    concept = concepts.Concept(name="Van Gogh", templates=("a picture of {concept}", "{concept}"), held_out=("one {concept}",))
    others = PictureSet(torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(3)), "random", captions=(("a bag",),) * 3)
    edit = small("unlearners", name)(tiny, concept, seed=0, data=Data(retain=others))
    assert draw(tiny.edited(edit)).isfinite().all()
    style = replace(concept, kind="style", anchor="photo", neighbours=("neon", "Claude Monet"))
    assert draw(tiny.edited(small("unlearners", name)(tiny, style, seed=0))).isfinite().all()
