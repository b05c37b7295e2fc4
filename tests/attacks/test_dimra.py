"""DiMRA: which pictures it trains on, that nothing of the concept gets in, and that its steps are plain denoising."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import tiny_model
from vestige import concepts
from vestige.attacks import dimra
from vestige.attacks.dimra import DiMRA
from vestige.concepts.images import PictureSet
from vestige.diffusion import Condition, Model
from vestige.errors import BadInput
from vestige.methods import Budget, Candidate, objectives
from vestige.methods.objectives import denoising
from vestige.methods.training_data import drawn, paired
from vestige.models.latent import LatentModel
from vestige.seeds import derive, generator

SNEAKER = concepts.load("sneaker")
SMALL: dict[str, Any] = {"batch": 2, "lr": 1e-3, "sampling_steps": 3}


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def retained(count: int = 4, captions: tuple[tuple[str, ...], ...] | None = None, labels: tuple[dict[str, str], ...] = ()) -> PictureSet:
    images = torch.rand(count, 3, 32, 32, generator=generator(count, "retained"))
    return PictureSet(images, "random", labels, captions or (("a picture of a boot", "a boot"),) * count)


def nothing(images: Tensor) -> Tensor:
    return torch.zeros(len(images))


def run(
    method: DiMRA,
    model: Model,
    points: tuple[int, ...] = (0, 2),
    pictures: PictureSet | None = None,
    select: Callable[[Tensor], Tensor] = nothing,
    seed: int = 0,
) -> list[Candidate]:
    given = retained() if pictures is None and method.data != "own" else pictures
    return list(method(model, SNEAKER, Budget(points), seed=seed, select=select, pictures=given))


def seen_in_training(
    monkeypatch: pytest.MonkeyPatch, method: DiMRA, model: Model, steps: int = 20, **named: Any
) -> tuple[set[bytes], set[bytes]]:
    """Every latent and every condition that the loss saw."""
    latents: set[bytes] = set()
    told: set[bytes] = set()

    def spy(student: Model, data: Tensor, condition: Condition, rng: torch.Generator) -> Tensor:
        latents.update(x.numpy().tobytes() for x in data)
        told.update(x.numpy().tobytes() for x in condition.text)
        return denoising(student, data, condition, rng)

    monkeypatch.setattr(objectives, "denoising", spy)
    run(method, model, (0, steps), **named)
    return latents, told


def keys(values: Tensor) -> set[bytes]:
    return {x.numpy().tobytes() for x in values}


def test_steps_are_plain_denoising(tiny: LatentModel) -> None:
    """A naive loop with torch's own Adam reaches the same weights."""
    method, pictures = DiMRA(**SMALL, clip=0.0), retained()
    edit = run(method, tiny, (0, 3), pictures)[-1].edit
    assert edit is not None
    pairs, (student, leaves) = paired(tiny, pictures), tiny.trainable(tiny.scope("unet"))
    adam = torch.optim.Adam(leaves.values(), lr=method.lr)
    for step in range(3):
        rng = generator(derive(0, "batches"), "step", step, 0)
        adam.zero_grad()
        denoising(student, *pairs.draw(2, rng), rng).backward()
        adam.step()
    assert set(edit.tensors) == set(leaves)
    for name, leaf in leaves.items():
        torch.testing.assert_close(edit.tensors[name], leaf.detach(), atol=1e-6, rtol=1e-5)


def test_training_lowers_the_loss_on_its_pictures(tiny: LatentModel) -> None:
    pictures = retained()
    edit = run(DiMRA(batch=8, lr=1e-3), tiny, (0, 30), pictures)[-1].edit
    assert edit is not None
    pairs = paired(tiny, pictures)

    def loss(model: Model) -> float:
        with torch.no_grad():
            return sum(float(denoising(model, *pairs.draw(16, generator(1, i)), generator(2, i))) for i in range(4))

    assert loss(tiny.edited(edit)) < 0.97 * loss(tiny)


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_what_is_tuned(tiny: LatentModel, tune: Any) -> None:
    edit = run(DiMRA(**SMALL, tune=tune, rank=3, alpha=6.0), tiny)[-1].edit
    assert edit is not None
    if tune == "full":
        assert (sorted(edit.tensors), edit.factors) == (sorted(tiny.scope("unet")), {})
    else:
        assert (edit.tensors, sorted(edit.factors)) == ({}, sorted(tiny.scope("attention")))
        assert all(len(down) == 3 for down, _ in edit.factors.values())


LEAKS: list[tuple[tuple[str, ...], dict[str, str]]] = [
    (("a picture of a boot", "a Sneaker"), {}),
    (("two sneakers",), {}),
    (("a boot",), {"object": "sneaker", "style": "photo"}),
]


@pytest.mark.parametrize(("captions", "labels"), LEAKS, ids=["a caption", "its plural", "a label"])
def test_no_caption_and_no_label_of_the_concept_gets_in(
    monkeypatch: pytest.MonkeyPatch, tiny: LatentModel, captions: tuple[str, ...], labels: dict[str, str]
) -> None:
    clean = (("a boot",), {"object": "boot", "style": "neon"})
    rows = (clean, (captions, labels), clean)
    pictures = retained(3, tuple(c for c, _ in rows), tuple(label for _, label in rows))
    latents, told = seen_in_training(monkeypatch, DiMRA(**SMALL), tiny, pictures=pictures)
    assert latents == keys(tiny.encode(pictures.images)[[0, 2]])
    assert told == keys(tiny.condition(["a boot"]).text)
    notes = run(DiMRA(**SMALL), tiny, (0,), pictures)[0].notes
    assert (notes["pictures"], notes["dropped"], notes["naming_target"], notes["showing_target"]) == (2, 1, 1, 0)


@pytest.mark.parametrize("strict", [True, False])
def test_pictures_at_or_above_the_judges_line_are_dropped(monkeypatch: pytest.MonkeyPatch, tiny: LatentModel, strict: bool) -> None:
    """And counted: the judge sees the pictures themselves."""
    pictures, looked = retained(4), []

    def judge(images: Tensor) -> Tensor:
        looked.append(images)
        return torch.tensor([0.1, 0.5, 0.9, 0.4999])[: len(images)]

    method = DiMRA(**SMALL, strict=strict)
    latents, _ = seen_in_training(monkeypatch, method, tiny, pictures=pictures, select=judge)
    kept = [0, 3] if strict else [0, 1, 2, 3]
    assert latents == keys(tiny.encode(pictures.images[kept]))
    assert torch.equal(looked[0], pictures.images)
    notes = run(method, tiny, (0,), pictures, judge)[0].notes
    assert (notes["pictures"], notes["dropped"], notes["showing_target"], notes["target_share"]) == (len(kept), 4 - len(kept), 2, 0.5)


def test_nothing_left_is_refused(tiny: LatentModel) -> None:
    with pytest.raises(BadInput, match="every one of 4 pictures from random names or shows sneaker"):
        run(DiMRA(**SMALL), tiny, select=lambda images: torch.ones(len(images)))


def test_pictures_without_captions_are_refused(tiny: LatentModel) -> None:
    with pytest.raises(BadInput, match=r"has no captions; put a metadata\.jsonl"):
        run(DiMRA(**SMALL), tiny, pictures=PictureSet(retained().images, "bare"))


def test_at_most_so_many_pictures(monkeypatch: pytest.MonkeyPatch, tiny: LatentModel) -> None:
    pictures = retained(6)
    latents, _ = seen_in_training(monkeypatch, DiMRA(**SMALL, retain_pictures=4), tiny, pictures=pictures)
    assert latents == keys(tiny.encode(pictures.images[:4]))


def test_own_pictures_are_drawn_by_the_attacked_model_without_the_concept(monkeypatch: pytest.MonkeyPatch, tiny: LatentModel) -> None:
    asked: list[str] = []

    def spy(model: Model, prompts: Any, **named: Any) -> PictureSet:
        assert model is tiny
        asked.extend(p.text for p in prompts)
        return drawn(model, prompts, **named)

    monkeypatch.setattr(dimra, "drawn", spy)
    (found,) = run(DiMRA(**SMALL, data="own", retain_pictures=20), tiny, (0,))
    assert len(asked) == 20
    assert not any("sneaker" in text for text in asked)
    assert {word for word in (*SNEAKER.neighbours, *SNEAKER.unrelated) if any(word in text for text in asked)} >= {"boot", "sandal", "bag"}
    assert found.cost["calls"] == 20 * 3 * 2
    assert found.notes["pictures"] == 20


@pytest.mark.parametrize(("dropout", "share"), [(0.0, (0.0, 0.0)), (0.5, (0.3, 0.7))])
def test_dropout_trains_the_empty_prompt(
    monkeypatch: pytest.MonkeyPatch, tiny: LatentModel, dropout: float, share: tuple[float, float]
) -> None:
    null = tiny.condition([""]).text[0]
    rows: list[bool] = []

    def spy(student: Model, data: Tensor, condition: Condition, rng: torch.Generator) -> Tensor:
        rows.extend(torch.equal(x, null) for x in condition.text)
        return denoising(student, data, condition, rng)

    monkeypatch.setattr(objectives, "denoising", spy)
    run(DiMRA(**{**SMALL, "batch": 8}, dropout=dropout), tiny, (0, 10))
    assert share[0] <= sum(rows) / len(rows) <= share[1]


@pytest.mark.parametrize(
    "wrong",
    [{"lr": 0.0}, {"batch": 0}, {"retain_pictures": 0}, {"rank": 0}, {"dropout": 1.0}, {"clip": -1.0}, {"weight_decay": -0.1}],
    ids=str,
)
def test_senseless_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DiMRA(**wrong)
