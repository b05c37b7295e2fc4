"""What every method that trains promises in low precision: the edit that it makes in single precision, whichever the registry finds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from oracles import SMALL, small, tiny_model
from vestige import concepts, registry
from vestige.concepts.images import PictureSet
from vestige.concepts.joint import joint
from vestige.diffusion import Model
from vestige.edits import Edit
from vestige.edits.edit import unflattened
from vestige.edits.precision import wide
from vestige.errors import HalfPrecision
from vestige.methods import Budget, Data, optimiser
from vestige.methods.stock import Stock

Single = Callable[[registry.Kind, str], tuple[Edit | None, int]]
SNEAKER = concepts.load("sneaker")
METHODS = [(kind, name) for kind in ("unlearners", "attacks") for name in registry.names(kind)]
# Small steps, as the field takes them: each is less than half of what tells two weights of ordinary size apart in bfloat16.
SMALL_STEPS = {"steps": 4, "lr": 1e-4}
APART = {
    "retrain": "it hands out another model",
    "remap": "it changes prompts alone",
    "sld": "it steers guidance alone",
    "semantic_surgery": "it changes conditions alone",
    "conditions": "it changes conditions alone",
    "restore": "it puts back what the original has",
    "interpolate": "it moves along a line to what the original has",
    "perturb": "it rounds weights itself",
}

BY_HAND = {"mma": "it exchanges tokens by their gradients, and no optimiser steps"}

# Adam's first steps are nearly the sign of the gradient, so rounding turns those weights around whose gradient is lost in it. In a
# network of random weights that costs the direction up to an eighth (a cosine of 0.88 for esd, above 0.95 for all others), and the
# size a tenth. Leaves of low precision, whose steps round away, reach a cosine of 0.41 to 0.65.
DIRECTION, SIZE = 0.8, (0.8, 1.25)
# What the edited model has of it: a weight moves once its change is above half a spacing, about 1/512 of it, and then by a whole one.
ROUNDED_DIRECTION, ROUNDED_SHARE = 0.7, 0.5


class Pair(NamedTuple):
    single: Model
    low: Model


def lowered(model: Any, dtype: torch.dtype = torch.bfloat16) -> Any:
    """The model in another precision."""
    for part in model.parts.values():
        part.to(dtype)
    model._hashes.clear()
    return model


@pytest.fixture(scope="module")
def pair() -> Pair:
    """The same weights, which bfloat16 can hold, in both precisions."""
    return Pair(lowered(lowered(tiny_model()), torch.float32), lowered(tiny_model()))


def pictures(seed: int, *captions: str) -> PictureSet:
    images = torch.rand(len(captions), 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return PictureSet(images, "random", captions=tuple((text,) for text in captions))


def method(kind: registry.Kind, name: str) -> Any:
    made = small(kind, name)
    own = {key: value for key, value in SMALL_STEPS.items() if hasattr(made, key)}
    if name in ("automemora", "multimemora"):
        own["memora"] = (*SMALL["attacks"]["memora"][:-1], f"lr={SMALL_STEPS['lr']}")
    return replace(made, **own)


def edit(kind: registry.Kind, name: str, model: Model) -> Edit | None:
    """What a method makes of the model; an attack's last candidate."""
    made = method(kind, name)
    if kind == "unlearners":
        data = Data(pictures(3, *["a picture of a sneaker"] * 4), pictures(4, "a picture of a boot", "a bag", "a bag", "a boot"))
        unlearned: Edit = made(model, SNEAKER, seed=0, data=data)
        return unlearned
    shown = pictures(5, *["a picture of a boot", "a boot"] * (2 if kind == "attacks" and made.brings == "several" else 1))
    given = shown if "retain" in made.needs else replace(shown, captions=()) if "pictures" in made.needs else None
    select = _sees("retain" not in made.needs)
    stock = {"stock": Stock(model)} if "original" in made.needs else {}
    concept = joint([SNEAKER, concepts.load("bag")]) if made.brings == "several" else SNEAKER
    (*_, last) = made(model, concept, Budget((0, int(SMALL_STEPS["steps"]))), seed=0, select=select, pictures=given, **stock)
    found: Edit | None = last.edit
    return found


@pytest.fixture(scope="module")
def single(pair: Pair) -> Single:
    """A method's edit in single precision, made once, and how often it asked for an optimiser."""

    @functools.cache
    def make(kind: registry.Kind, name: str) -> tuple[Edit | None, int]:
        with patch.object(optimiser, "adamw", wraps=optimiser.adamw) as asked:
            return edit(kind, name, pair.single), asked.call_count

    return make


def _sees(everything: bool) -> Callable[[Tensor], Tensor]:
    return lambda images: torch.full((len(images),), float(everything))


def change(model: Model, made: Edit, *, rounded: bool = False) -> Tensor:
    """The change of all touched weights in one row: as the edit holds it, or as the edited model has it."""
    for hook in made.hooks:
        if hook.kind == "hooks":  # adapters beside the network, which start as nothing
            added = torch.cat([value.flatten() for name, value in hook.tensors.items() if ".up." in name])
            return added.bfloat16().float() if rounded else added
        tensors, factors = unflattened(hook.tensors)
        made = Edit(made.base, made.method, tensors=tensors, factors=factors)
    edited = model.edited(made) if rounded else None
    values = {n: made.weight(n, wide(model.tensor(n))) if edited is None else edited.tensor(n) for n in made.touched}
    return torch.cat([(values[n].float() - model.tensor(n).float()).flatten() for n in values])


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other / (one.norm() * other.norm()))


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_low_precision_makes_the_edit_of_single_precision(kind: registry.Kind, name: str, pair: Pair, single: Single) -> None:
    made = method(kind, name)
    if name in APART or (kind == "attacks" and made.access != "weights"):
        pytest.skip(APART.get(name, "it changes no weight"))
    (own, _), low = single(kind, name), edit(kind, name, pair.low)
    assert own is not None and low is not None
    wanted, held, has = change(pair.single, own), change(pair.low, low), change(pair.low, low, rounded=True)
    assert cosine(held, wanted) > DIRECTION
    assert SIZE[0] < held.norm() / wanted.norm() < SIZE[1]
    moved, kept, left = (float((part != 0).float().mean()) for part in (wanted, held, has))
    assert kept == pytest.approx(moved, abs=0.02)  # a change of exactly 0 is one of no gradient, or one that a factor's zero makes
    assert cosine(has, wanted) > ROUNDED_DIRECTION
    assert SIZE[0] < has.norm() / wanted.norm() < SIZE[1]
    assert left > ROUNDED_SHARE * moved


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_a_method_says_whether_it_trains(kind: registry.Kind, name: str, single: Single) -> None:
    asked = 0 if name in APART else single(kind, name)[1]
    assert method(kind, name).trains == (name in BY_HAND) + (asked > 0)


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_training_in_half_precision_is_refused_before_anything_is_drawn(kind: registry.Kind, name: str) -> None:
    """By whatever builds a method for a model; what trains nothing works."""
    from vestige.harness.settings import configured
    from vestige.models import Placement, placement

    with placement.using(Placement(dtype="float16")):
        if not method(kind, name).trains:
            configured(kind, name, "", "", {})
            return
        with pytest.raises(HalfPrecision, match=f"^{name} cannot train in float16.*bfloat16"):
            configured(kind, name, "", "", {})
