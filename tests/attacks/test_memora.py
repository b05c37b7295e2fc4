"""MemoRa: what it trains on, on which model it makes it, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import Gaussian, tiny_model
from vestige import concepts, registry
from vestige.attacks import memora
from vestige.attacks.memora import MemoRa
from vestige.audit import Request, resolve
from vestige.concepts.images import PictureSet
from vestige.diffusion import Condition, Model
from vestige.diffusion.sampling import noise, slerp
from vestige.edits import Edit
from vestige.errors import BadInput
from vestige.harness import settings
from vestige.methods import Budget, Candidate, regeneration
from vestige.methods.objectives import denoising
from vestige.models.latent import LatentModel
from vestige.seeds import generator

SNEAKER = concepts.load("sneaker")
SMALL: dict[str, Any] = {"sampling_steps": 4, "start": 1, "points": 3, "rank": 2, "alpha": 2.0, "batch": 2, "lr": 1e-2}


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def references(count: int = 4) -> PictureSet:
    return PictureSet(torch.rand(count, 3, 32, 32, generator=generator(count, "references")), "random")


def everything(images: Tensor) -> Tensor:
    return torch.ones(len(images), dtype=torch.bool)


def run(
    method: MemoRa, model: Model, points: tuple[int, ...] = (0, 2), pictures: PictureSet | None = None, seed: int = 0
) -> list[Candidate]:
    given = references() if pictures is None else pictures
    return list(method(model, SNEAKER, Budget(points), seed=seed, select=everything, pictures=given))


def regenerated(method: MemoRa, model: Model, latents: Tensor) -> tuple[Tensor, int]:
    return regeneration.regenerated(model, latents, model.condition([SNEAKER.prompt]), model.condition([""]), method)


def edited(model: LatentModel, size: float = 0.3) -> LatentModel:
    """A model under an edit of its cross-attention."""
    values = {
        n: model.tensor(n) + size * torch.randn(model.tensor(n).shape, generator=generator(0, n)) for n in model.scope("cross-attention-kv")
    }
    view = model.edited(Edit(model.fingerprint, "random", {}, "cross-attention-kv", values))
    assert isinstance(view, LatentModel)
    return view


@pytest.mark.parametrize(("count", "points", "pairs"), [(2, 1, 1), (4, 3, 2), (3, 3, 2), (5, 2, 3), (6, 10, 3)])
def test_every_pair_gives_its_points_and_both_ends(tiny: LatentModel, count: int, points: int, pairs: int) -> None:
    """An odd last reference pairs with the first: N / 2 pairs, rounded up."""
    latents = noise(tiny.latent_shape, range(count))
    method = MemoRa(**{**SMALL, "points": points, "start": 4})  # neither inverted nor re-rendered: the bare interpolation
    made, calls = regenerated(method, tiny, latents)
    expected = [
        slerp(latents[2 * p], latents[(2 * p + 1) % count if 2 * p + 1 < count else 0], j / points)
        for p in range(pairs)
        for j in range(points + 1)
    ]
    assert len(made) == pairs * (points + 1)
    assert torch.equal(made, torch.stack(expected))
    assert calls == 0


@pytest.mark.parametrize("count", [2, 3, 4])
def test_without_depth_the_ends_are_the_references(tiny: LatentModel, count: int) -> None:
    latents = noise(tiny.latent_shape, range(count))
    made, _ = regenerated(MemoRa(**{**SMALL, "points": 1, "start": 4}), tiny, latents)
    order = [i if i < count else 0 for i in range(count + count % 2)]
    assert torch.equal(made, latents[order])


def test_without_interpolation_every_reference_gives_one(tiny: LatentModel) -> None:
    latents = noise(tiny.latent_shape, range(5))
    method = MemoRa(**SMALL, interpolation="none")
    made, _ = regenerated(method, tiny, latents)
    assert len(made) == 5
    alone = torch.cat([regenerated(method, tiny, latents[i : i + 1])[0] for i in range(5)])
    torch.testing.assert_close(made, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("start", [0, 3, 9])
def test_refined_inversion_without_guidance_comes_back(start: int) -> None:
    """On an exact flow the inverse of the sampler is exact in the limit, so re-rendering returns the references."""
    model, latents = Gaussian(), noise((1, 2, 2), range(3)).double()
    errors = []
    for refine in (0, 5, 150):
        method = MemoRa(sampling_steps=10, start=start, guidance=1.0, render_guidance=1.0, refine=refine, interpolation="none")
        made, _ = regeneration.regenerated(model, latents, model.condition(["0.5"]), model.condition(["0"]), method)
        errors.append(float((made - latents).abs().max()))
    assert errors[2] < 1e-8 < errors[1] < errors[0]


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(
    "changes", [{}, {"guidance": 1.0}, {"render_guidance": 1.0}, {"refine": 2}, {"interpolation": "none"}, {"start": 3}], ids=str
)
def test_cost_is_the_number_of_denoiser_rows(monkeypatch: pytest.MonkeyPatch, count: int, changes: dict[str, Any]) -> None:
    model, rows = tiny_model(), 0
    denoise = model.denoise

    def spy(x_t: Tensor, t: Tensor, condition: Condition) -> Any:
        nonlocal rows
        rows += len(x_t)
        return denoise(x_t, t, condition)

    monkeypatch.setattr(model, "denoise", spy)
    _, calls = regenerated(MemoRa(**{**SMALL, **changes}), model, noise(model.latent_shape, range(count)))
    assert calls == rows > 0


def test_steps_cost_their_batches(tiny: LatentModel) -> None:
    found = run(MemoRa(**SMALL, accumulation=3), tiny, (0, 1, 4))
    calls = [c.cost["calls"] for c in found]
    assert calls[1] - calls[0] == 2 * 3
    assert calls[2] - calls[0] == 4 * 2 * 3


def trained_on(
    monkeypatch: pytest.MonkeyPatch, method: MemoRa, model: Model, pictures: PictureSet, steps: int = 30
) -> tuple[list[bytes], list[Condition]]:
    """Every latent that the loss saw, and what it was told."""
    rows: list[bytes] = []
    told: list[Condition] = []

    def spy(student: Model, data: Tensor, condition: Condition, rng: torch.Generator) -> Tensor:
        rows.extend(x.numpy().tobytes() for x in data)
        told.append(condition)
        return denoising(student, data, condition, rng)

    monkeypatch.setattr(memora, "denoising", spy)
    run(method, model, (0, steps), pictures)
    return rows, told


def test_training_set_is_regenerated_and_the_references_are_not_in_it(monkeypatch: pytest.MonkeyPatch, tiny: LatentModel) -> None:
    method, pictures = MemoRa(**SMALL), references()
    latents = tiny.encode(pictures.images)
    rows, told = trained_on(monkeypatch, method, tiny, pictures)
    made, _ = regenerated(method, tiny, latents)
    assert set(rows) == {x.numpy().tobytes() for x in made}
    assert not set(rows) & {x.numpy().tobytes() for x in latents}
    plain = tiny.condition([SNEAKER.prompt]).text
    assert all(torch.equal(c.text, plain.expand_as(c.text)) for c in told)


def labelled(contexts: Sequence[str | None]) -> PictureSet:
    labels = tuple({"object": "sneaker"} | ({"style": c} if c else {}) for c in contexts)
    return PictureSet(references(len(contexts)).images, "labelled", labels)


@pytest.mark.parametrize("changes", [{}, {"points": 1}, {"interpolation": "none"}, {"regenerate": False}], ids=str)
@pytest.mark.parametrize("contexts", [("neon", "photo", "sunset", "mosaic"), ("neon", "photo", "sunset")])
def test_captions_name_the_context_of_the_nearer_reference(
    monkeypatch: pytest.MonkeyPatch, tiny: LatentModel, changes: dict[str, Any], contexts: tuple[str, ...]
) -> None:
    method, pictures = MemoRa(**{**SMALL, **changes}, captions="templates"), labelled(contexts)
    made, _ = regenerated(method, tiny, tiny.encode(pictures.images))
    if len(made) == len(contexts):
        nearer = list(contexts)
    else:
        pairs = [(contexts[i], contexts[(i + 1) % len(contexts)]) for i in range(0, len(contexts), 2)]
        nearer = [a if 2 * j <= method.points else b for a, b in pairs for j in range(method.points + 1)]
    places = {x.numpy().tobytes(): context for x, context in zip(made, nearer, strict=True)}
    prompts = SNEAKER.prompts("training")
    table = {text.numpy().tobytes(): p for text, p in zip(tiny.condition([p.text for p in prompts]).text, prompts, strict=True)}
    rows, told = trained_on(monkeypatch, method, tiny, pictures, steps=12)
    seen = [table[text.numpy().tobytes()] for condition in told for text in condition.text]
    wrong = [(p.text, places[row]) for row, p in zip(rows, seen, strict=True) if p.expects.get("style", places[row]) != places[row]]
    assert wrong == []
    assert len({p.text for p in seen}) > 5


def test_raw_variant_trains_on_the_references_themselves(monkeypatch: pytest.MonkeyPatch, tiny: LatentModel) -> None:
    raw: Any = MemoRa(**SMALL).variants()["raw"]
    assert raw == MemoRa(**SMALL, regenerate=False)
    assert raw.variants() == {}
    pictures = references()
    rows, _ = trained_on(monkeypatch, raw, tiny, pictures)
    assert set(rows) == {x.numpy().tobytes() for x in tiny.encode(pictures.images)}
    assert run(raw, tiny, (0,))[0].cost["calls"] == 0


def test_regeneration_runs_on_the_attacked_model(monkeypatch: pytest.MonkeyPatch, tiny: LatentModel) -> None:
    attacked, seen = edited(tiny), []

    def spied(real: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def spy(model: Model, *arguments: Any, **named: Any) -> Tensor:
            seen.append(model)
            return real(model, *arguments, **named)

        return spy

    for name in ("invert", "sample"):
        monkeypatch.setattr(regeneration, name, spied(getattr(regeneration, name)))
    run(MemoRa(**SMALL), attacked, (0,))
    assert len(seen) == 2
    assert all(model is attacked for model in seen)


def test_what_is_regenerated_depends_on_the_attacked_model(tiny: LatentModel) -> None:
    latents, method = noise(tiny.latent_shape, range(2)), MemoRa(**SMALL)
    ours, theirs = (regenerated(method, model, latents)[0] for model in (edited(tiny), tiny))
    assert not torch.allclose(ours, theirs, atol=1e-3)


def test_prompts_and_pictures_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    asked: list[tuple[str, Any]] = []
    condition, encode, decode = model.condition, model.encode, model.decode

    def counted_condition(prompts: Sequence[str]) -> Condition:
        asked.append(("condition", tuple(prompts)))
        return condition(prompts)

    def counted_encode(images: Tensor) -> Tensor:
        asked.append(("encode", len(images)))
        return encode(images)

    def counted_decode(latents: Tensor) -> Tensor:
        asked.append(("decode", len(latents)))
        return decode(latents)

    for name, spy in (("condition", counted_condition), ("encode", counted_encode), ("decode", counted_decode)):
        monkeypatch.setattr(model, name, spy)  # views carry it on
    running = MemoRa(**SMALL)(model, SNEAKER, Budget((0, 3, 6)), seed=0, select=everything, pictures=references())
    next(running)
    before = list(asked)
    assert [what for what in before if what[0] != "condition"] == [("encode", 4), ("decode", 8)]
    assert {what for what in before if what[0] == "condition"} == {("condition", (SNEAKER.prompt,)), ("condition", ("",))}
    assert len(list(running)) == 2
    assert asked == before


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_pictures_are_refused(tiny: LatentModel, count: int) -> None:
    with pytest.raises(BadInput, match="memora needs at least 2 reference pictures of sneaker"):
        run(MemoRa(**SMALL), tiny, pictures=PictureSet(torch.zeros(count, 3, 32, 32), "few"))


def test_the_share_of_pictures_that_show_the_concept_is_noted(tiny: LatentModel) -> None:
    asked: list[Tensor] = []

    def first_half(images: Tensor) -> Tensor:
        asked.append(images)
        return torch.arange(len(images)) < len(images) // 2

    method, pictures = MemoRa(**SMALL), references()
    (found,) = method(tiny, SNEAKER, Budget((0,)), seed=0, select=first_half, pictures=pictures)
    assert found.notes["references_show"] == 0.5
    expected = tiny.decode(regenerated(method, tiny, tiny.encode(pictures.images))[0])
    assert len(asked) == 1
    torch.testing.assert_close(asked[0], expected)


def test_training_lowers_its_objective(tiny: LatentModel) -> None:
    """The denoising loss on the training set, at fixed times and noise."""
    attacked, pictures = edited(tiny), references()
    method = MemoRa(**{**SMALL, "batch": 8, "lr": 3e-3, "rank": 4})
    latents, _ = regenerated(method, attacked, attacked.encode(pictures.images))
    found = run(method, attacked, (0, 40), pictures)[-1]
    assert found.edit is not None
    condition = attacked.condition([SNEAKER.prompt]).repeat(8 * len(latents))

    def loss(model: Model) -> float:
        with torch.no_grad():
            return float(denoising(model, latents.repeat(8, 1, 1, 1), condition, generator(1)))

    assert loss(attacked.edited(found.edit)) < 0.97 * loss(attacked)
    assert found.notes["loss_first"] > 0
    assert found.notes["loss_last"] > 0


@pytest.mark.parametrize(("rank", "init"), [(1, "gaussian"), (3, "gaussian"), (3, "kaiming")])
def test_adapter_has_the_asked_rank_and_init(tiny: LatentModel, rank: int, init: Any) -> None:
    """After one step of next to nothing the factors are still what they began as: up at zero, down of the documented spread."""
    method = MemoRa(**{**SMALL, "rank": rank, "lr": 1e-9}, init=init)
    edit = run(method, tiny, (0, 1))[-1].edit
    assert edit is not None
    assert edit.touched == sorted(tiny.scope("attention"))
    ratios = []
    for name, (down, up) in edit.factors.items():
        out, into = tiny.tensor(name).shape
        assert (down.shape, up.shape) == ((rank, into), (out, rank))
        assert up.abs().max() < 1e-6
        ratios.append(down.square().mean() * (rank**2 if init == "gaussian" else 3 * into))  # Var of uniform(-a, a) is a^2 / 3
    count = sum(down.numel() for down, _ in edit.factors.values())
    assert abs(float(torch.stack(ratios).mean()) - 1) < 8 / count**0.5


def test_released_preset_is_the_released_code() -> None:
    """gmum/MemoRa at f770e7f, configs/reunlearning_nudity.yaml, and diffusers' LoRA script which it runs.

    The configuration gives depth, points, rank, learning rate, schedule, batch and accumulation; src/inversion_images.py steps
    and guidance; the script targets, alpha = rank, gaussian init and weight decay. Clipping is asked for there without effect.
    """
    documented = {
        "regenerate": True,
        "start": 15,
        "sampling_steps": 50,
        "guidance": 7.5,
        "render_guidance": 7.5,
        "refine": 0,
        "points": 10,
        "interpolation": "slerp",
        "captions": "concept",
        "rank": 4,
        "alpha": 4.0,
        "scope": "attention",
        "init": "gaussian",
        "lr": 1e-4,
        "batch": 1,
        "accumulation": 4,
        "schedule": "cosine",
        "weight_decay": 1e-2,
        "clip": 0.0,
    }
    released = registry.build("attacks", "memora", settings._preset("released", "attacks", "memora"))
    assert asdict(released) == documented
    assert resolve(Request(preset="released")).attacks["memora"][0] == released  # whatever the world's own settings are


def test_a_cosine_budget_ends_at_rate_zero(tiny: LatentModel) -> None:
    """So a longer run is not its continuation, and the constant schedule is the default."""
    assert MemoRa().schedule == "constant"
    short, long = (run(MemoRa(**SMALL, schedule="cosine"), tiny, points)[2].edit for points in ((0, 1, 2), (0, 1, 2, 8)))
    assert short is not None
    assert long is not None
    assert any(not torch.equal(short.factors[n][1], long.factors[n][1]) for n in short.factors)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": -1}, r"start is a grid index within 0\.\.50; given -1"),
        ({"start": 51}, r"start is a grid index within 0\.\.50; given 51"),
        ({"points": 0}, "points is at least 1; given 0"),
        ({"rank": 0}, "rank is at least 1"),
        ({"batch": 0}, "batch is at least 1; given 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoRa(**settings)
