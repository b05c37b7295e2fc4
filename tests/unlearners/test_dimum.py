"""DiMUM: what it memorises under which captions, that its steps are two denoising losses, and when it stops."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oracles import tiny_model
from vestige import concepts
from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion.sampling import Drawing
from vestige.errors import BadInput
from vestige.methods import Data, objectives
from vestige.methods.objectives import denoising, dropped
from vestige.methods.training_data import paired
from vestige.models.latent import LatentModel
from vestige.seeds import derive, generator
from vestige.unlearners.dimum import DiMUM, still_since

SNEAKER, NEON = concepts.load("sneaker"), concepts.load("neon")
QUICK = Drawing(steps=2)
SMALL: dict[str, Any] = {"batch": 2, "lr": 1e-3, "retain_pictures": 4, "alternative_pictures": 6}


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def retained(count: int = 4) -> PictureSet:
    return PictureSet(torch.rand(count, 3, 32, 32, generator=generator(count, "retained")), "random", captions=(("a boot",),) * count)


def alternatives(model: LatentModel, kind: Any, concept: Concept = SNEAKER, **own: Any) -> PictureSet:
    method = DiMUM(**{**SMALL, **own}, alternative=kind)
    return method.alternatives(model, concept, retained(), Data(protocol=QUICK), seed=0)


def asked(monkeypatch: pytest.MonkeyPatch, model: LatentModel, kind: Any, concept: Concept = SNEAKER) -> tuple[list[str], PictureSet]:
    """What the model was asked to draw, and what came of it."""
    texts: list[str] = []
    real = Data.drawn

    def spy(self: Data, drawer: Any, prompts: Any, **named: Any) -> PictureSet:
        texts.extend(p.text for p in prompts)
        return real(self, drawer, prompts, **named)

    monkeypatch.setattr(Data, "drawn", spy)
    return texts, alternatives(model, kind, concept)


@pytest.mark.parametrize(
    ("concept", "kind", "word"),
    [
        (SNEAKER, "near", "sandal"),
        (SNEAKER, "far", "bag"),
        (SNEAKER, "content", "boot"),
        (NEON, "content", "photo"),
        (NEON, "near", "blueprint"),
    ],
    ids=str,
)
def test_drawn_alternatives_say_the_concept_where_they_were_asked_for_another(
    monkeypatch: pytest.MonkeyPatch, tiny: LatentModel, concept: Concept, kind: str, word: str
) -> None:
    """Word for word: caption and prompt differ in nothing else, up to the template."""
    texts, found = asked(monkeypatch, tiny, kind, concept)
    assert len(texts) == len(found) == 6
    bank = concept.prompts("training")
    for text, captions in zip(texts, found.captions, strict=True):
        same = text.replace(word, concept.target)
        assert same in captions
        contexts = {p.expects.get(concept.context_group) for p in bank if p.text in captions}
        assert contexts == {p.expects.get(concept.context_group) for p in bank if p.text == same}


def test_anchor_is_asked_for_plainly_and_stands_for_every_prompt(monkeypatch: pytest.MonkeyPatch, tiny: LatentModel) -> None:
    texts, found = asked(monkeypatch, tiny, "anchor")
    assert set(texts) == {"a picture of a boot", "a boot"}
    assert all(set(row) == {p.text for p in SNEAKER.prompts("training")} for row in found.captions)
    nameless = Concept(name="hat")
    texts, found = asked(monkeypatch, tiny, "anchor", nameless)
    assert set(texts) == {""}
    assert found.captions == (("a picture of a hat",),) * 6


def test_alternatives_from_the_retained_pictures(tiny: LatentModel) -> None:
    everything = {p.text for p in SNEAKER.prompts("training")}
    mixture, fixed = alternatives(tiny, "mixture"), alternatives(tiny, "fixed")
    assert torch.equal(mixture.images, retained().images)
    assert torch.equal(fixed.images, retained().images[:1])
    assert all(set(row) == everything for row in (*mixture.captions, *fixed.captions))


def test_noise_is_uniform_and_follows_the_seed(tiny: LatentModel) -> None:
    images = alternatives(tiny, "noise", alternative_pictures=20).images
    assert images.shape == (20, 3, 32, 32)
    for quantile in (0.1, 0.5, 0.9):
        assert abs(float(images.quantile(quantile)) - quantile) < 0.01
    assert torch.equal(images, alternatives(tiny, "noise", alternative_pictures=20).images)


@pytest.mark.parametrize(("kind", "missing"), [("near", "neighbours"), ("far", "unrelated concepts")])
def test_alternative_that_the_concept_does_not_name(tiny: LatentModel, kind: Any, missing: str) -> None:
    with pytest.raises(BadInput, match=f"alternative '{kind}' needs {missing} of hat"):
        alternatives(tiny, kind, Concept(name="hat"))


@pytest.mark.parametrize(
    ("concept", "kind"),
    [
        (SNEAKER, "near"),
        (NEON, "content"),
        (Concept(name="hat"), "anchor"),
        (Concept(name="x", kind="unsafe", neighbours=("y",)), "anchor"),
    ],
    ids=["object", "style", "no neighbours", "unsafe"],
)
def test_auto_goes_by_the_kind_of_concept(concept: Concept, kind: str) -> None:
    assert DiMUM().resolved(concept).alternative == kind
    assert DiMUM(alternative="noise").resolved(concept).alternative == "noise"


@pytest.mark.parametrize(("weight", "dropout"), [(1.0, 0.0), (0.3, 0.0)])
def test_steps_are_two_denoising_losses(tiny: LatentModel, weight: float, dropout: float) -> None:
    """A naive loop with torch's own Adam reaches the same weights."""
    method = DiMUM(**SMALL, steps=3, weight=weight, dropout=dropout, clip=0.0, alternative="mixture")
    edit = method(tiny, SNEAKER, seed=5, data=Data(retain=retained()))
    kept = paired(tiny, Data(retain=retained()).retained(tiny, SNEAKER, 4, seed=5))
    same = PictureSet(retained().draw(4, 0, 5).images, "", captions=(tuple(p.text for p in SNEAKER.prompts("training")),) * 4)
    memory = paired(tiny, same)
    student, leaves = tiny.trainable(tiny.scope("unet"))
    adam = torch.optim.Adam(leaves.values(), lr=method.lr)
    for step in range(3):
        rng = generator(derive(5, "dimum"), "step", step, 0)
        adam.zero_grad()
        retain = denoising(student, *kept.draw(2, rng), rng)
        (retain + weight * denoising(student, *memory.draw(2, rng), rng)).backward()
        adam.step()
    for name, leaf in leaves.items():
        torch.testing.assert_close(edit.tensors[name], leaf.detach(), atol=1e-6, rtol=1e-5)


def test_memorising_lowers_the_loss_on_the_alternative(tiny: LatentModel) -> None:
    method = DiMUM(**{**SMALL, "batch": 8}, steps=40, every=40, alternative="fixed", plateau=False)
    edit = method(tiny, SNEAKER, seed=0, data=Data(retain=retained()))
    first, last = edit.notes["memory_loss"]
    assert last < 0.97 * first


def test_dropout_of_the_two_batches_is_apart(monkeypatch: pytest.MonkeyPatch, tiny: LatentModel) -> None:
    shares: list[float] = []

    def spy(condition: Any, null: Any, share: float, rng: torch.Generator) -> Any:
        shares.append(share)
        return dropped(condition, null, share, rng)

    monkeypatch.setattr(objectives, "dropped", spy)
    DiMUM(**SMALL, steps=2, every=5, dropout=0.25, memory_dropout=0.5)(tiny, SNEAKER, seed=0, data=Data(retain=retained(), protocol=QUICK))
    looks = [0.0, 0.0]
    assert shares == [*looks, 0.25, 0.5, 0.25, 0.5, *looks]


def test_still_since_on_constructed_losses() -> None:
    looks = [10 * i for i in range(10)]
    falling = [1.0 * 0.5**i for i in range(10)]
    assert still_since(looks, falling, 2, 0.01) is None
    assert still_since(looks, [1.0] * 10, 2, 0.01) == 30  # the first look with two whole averages
    assert still_since(looks[:3], [1.0] * 3, 2, 0.01) is None
    settled = [8.0, 4.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert still_since(looks[:8], settled, 2, 0.01) == 60  # averages of looks 3-4 and 5-6
    rising = [1.0, 1.0, 1.0, 1.0, 1.5, 2.0]
    assert still_since(looks[:6], rising, 2, 0.01) is None  # it stood still, and no longer does
    assert still_since(looks[:6], [1.0, 1.0, 1.0, 1.0, 1.009, 1.009], 2, 0.01) == 30


@pytest.mark.parametrize("plateau", [True, False])
def test_it_stops_where_both_losses_stand_still(tiny: LatentModel, plateau: bool) -> None:
    """A generous tolerance stands still at once: after two averages of two looks."""
    method = DiMUM(**SMALL, steps=12, every=2, window=2, tolerance=100.0, plateau=plateau)
    told: list[tuple[str, int, int]] = []
    edit = method(tiny, SNEAKER, seed=0, data=Data(retain=retained(), protocol=QUICK), watch=lambda *row: told.append(row))
    assert edit.notes["steps"] == (6 if plateau else 12)
    assert edit.notes["retain_still_since"] == edit.notes["memory_still_since"] == 6
    assert told[-1] == ("fit", 12, 12)


def test_early_stop_is_the_beginning_of_a_longer_run(tiny: LatentModel) -> None:
    """Looking changes nothing, and neither does the plateau's test."""
    data = Data(retain=retained(), protocol=QUICK)
    stopped = DiMUM(**SMALL, steps=12, every=2, window=2, tolerance=100.0)(tiny, SNEAKER, seed=0, data=data)
    short = DiMUM(**SMALL, steps=6, every=5, plateau=False)(tiny, SNEAKER, seed=0, data=data)
    assert all(torch.equal(stopped.tensors[n], short.tensors[n]) for n in short.tensors)


def test_alternatives_come_from_the_first_model_of_a_sequence(tiny: LatentModel) -> None:
    first = tiny_model(1)
    method = DiMUM(**SMALL, alternative="near")
    ours, theirs = (method.alternatives(tiny, SNEAKER, retained(), Data(protocol=QUICK, original=m), seed=0).images for m in (None, first))
    assert torch.equal(theirs, method.alternatives(first, SNEAKER, retained(), Data(protocol=QUICK), seed=0).images)
    assert not torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "wrong", [{"lr": 0.0}, {"steps": 0}, {"tolerance": 0.0}, {"weight": -1.0}, {"dropout": 1.0}, {"window": 0}], ids=str
)
def test_senseless_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DiMUM(**wrong)
