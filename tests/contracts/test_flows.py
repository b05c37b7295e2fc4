"""Every method on models of rectified flow: it works, or it says which model lacks what."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from oracles import small, tiny_flow
from vestige import concepts, registry
from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.concepts.joint import joint, targets
from vestige.diffusion.sampling import noise, sample
from vestige.edits import Edit
from vestige.errors import Incompatible
from vestige.methods import Budget, Candidate
from vestige.models.flow import FlowModel

BAG = concepts.load("bag")
# By a method's name, what a model with joint attention and several vocabularies lacks for it; every other method works.
LACKS = dict.fromkeys(("uce", "duge", "forget_me_not", "mace", "rece", "receler", "speed"), "has no U-Net with cross-attention; ")
LACKS |= {"adv_unlearn": "weights over one vocabulary mean nothing to it"}
LACKS |= dict.fromkeys(("ring_a_bell", "unlearn_diff_atk"), "text encoders whose vocabularies differ")
TOLD = {"sld": "is told its guidance and predicts once"}  # what one that is told its guidance lacks
KINDS = ("free", "dev", pytest.param("sd3", marks=pytest.mark.slow))


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> FlowModel:
    return tiny_flow(request.param)


@pytest.fixture(scope="module")
def twin(model: FlowModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that shares everything but its transformer."""
    other = tiny_flow(model.name.removeprefix("tiny-"), seed=1)
    folder = tmp_path_factory.mktemp("twin")
    shared = {**model.parts, "transformer": other.parts["transformer"]}
    FlowModel("twin", shared, model.tokenizers, model.scheduler).pipeline().save_pretrained(folder)
    return str(folder)


def answer(name: str, model: FlowModel, ask: Callable[[], Any]) -> Any:
    """What a method makes; None where it refuses, which it may only do for a known lack, and has to do for that."""
    lacks = LACKS | TOLD if model.distilled else LACKS
    if name in lacks:
        with pytest.raises(Incompatible, match=rf"^{model.name} .*{lacks[name]}"):
            ask()
        return None
    return ask()


def draw(model: Any) -> torch.Tensor:
    condition = model.condition(["a bag", "a neon picture of a bag"])
    return sample(model, noise(model.latent_shape, [0, 1]), condition, steps=3, guidance=2.0, null=model.condition([""]))


@pytest.mark.parametrize("name", registry.names("unlearners"))
def test_unlearners(name: str, model: FlowModel, twin: str, tmp_path: Path) -> None:
    mark = model.fingerprint
    needed = {"twin": twin} if "twin" in registry.settings(small("unlearners", name)) else {}
    edit: Edit | None = answer(name, model, functools.partial(small("unlearners", name, **needed), model, BAG, seed=0))
    model._hashes.clear()
    assert model.fingerprint == mark
    if edit is None:
        return
    if edit.touched:
        assert set(edit.touched) <= set(model.scope(edit.scope))
    view, back = model.edited(edit), model.edited(Edit.load(edit.save(tmp_path / "edit.safetensors")))
    assert draw(view).isfinite().all()
    assert not torch.equal(draw(view), draw(model))
    torch.testing.assert_close(draw(back), draw(view), atol=1e-4, rtol=1e-4)


def concept_of(name: str) -> Concept:
    """What an attack is asked to bring back: a concept, or two."""
    return joint([BAG, concepts.load("dress")]) if registry.find("attacks", name).brings == "several" else BAG


def pictures(name: str) -> PictureSet | None:
    needs = registry.find("attacks", name).needs
    captions = (("a picture of a boot", "a boot"),) * 2 if "retain" in needs else ()
    count = 2 * len(targets(concept_of(name)))
    given = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    return PictureSet(given, "random", captions=captions) if needs else None


@pytest.mark.parametrize("name", [name for name in registry.names("attacks") if "original" not in registry.find("attacks", name).needs])
def test_attacks(name: str, model: FlowModel) -> None:
    mark, seen = model.fingerprint, "retain" not in registry.find("attacks", name).needs

    def ask() -> list[Candidate]:
        method: Any = small("attacks", name)
        tried: Iterator[Candidate] = method(
            model, concept_of(name), Budget((0, 2)), seed=0, select=lambda x: torch.full((len(x),), seen), pictures=pictures(name)
        )
        return list(tried)

    found: list[Candidate] | None = answer(name, model, ask)
    model._hashes.clear()
    assert model.fingerprint == mark
    if found is None:
        return
    assert [c.spent for c in found] == [0, 2]
    if found[1].edit is not None:
        view = model.edited(found[1].edit)
        assert draw(view).isfinite().all()
        assert not torch.equal(draw(view), draw(model))


def test_every_known_lack_is_a_methods() -> None:
    assert {*LACKS, *TOLD} <= {*registry.names("unlearners"), *registry.names("attacks")}
