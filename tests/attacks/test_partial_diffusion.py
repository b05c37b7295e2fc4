"""Partial diffusion: where drawing begins, and what an audit makes of it."""

from __future__ import annotations

import pytest
import torch

from oracles import tiny_model
from vestige import concepts
from vestige.attacks.partial_diffusion import PartialDiffusion
from vestige.concepts.images import PictureSet
from vestige.diffusion.noising import Start
from vestige.diffusion.sampling import Drawing, noise, pictures, sample
from vestige.errors import BadInput
from vestige.methods import Budget, Candidate
from vestige.models.latent import LatentModel

SNEAKER = concepts.load("sneaker")
PROTOCOL = Drawing(steps=4, guidance=2.0, batch=2)
TEXTS = ["a sneaker", "a neon sneaker", "a boot"]
SEEDS = [3, 4, 5]


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


@pytest.fixture(scope="module")
def given() -> PictureSet:
    return PictureSet(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(5)), "random")


def run(tiny: LatentModel, given: PictureSet | None, points: tuple[int, ...], **settings: object) -> list[Candidate]:
    method = PartialDiffusion(**settings)  # type: ignore[arg-type]
    return list(method(tiny, SNEAKER, Budget(points), seed=0, select=lambda x: torch.zeros(len(x)), pictures=given))


def test_drawing_begins_at_the_noised_picture(tiny: LatentModel, given: PictureSet) -> None:
    latents = tiny.encode(given.images)
    drawn = pictures(tiny, TEXTS, SEEDS, PROTOCOL, start=Start(latents, 0.5))
    t = tiny.grid(4)[2:3]
    signal, level = (float(v) for v in tiny.schedule(t))
    x = signal * latents[[0, 1, 0]] + level * noise(tiny.latent_shape, SEEDS)
    null = tiny.condition([""])
    expected = tiny.decode(sample(tiny, x, tiny.condition(TEXTS), steps=4, guidance=2.0, null=null, start=2))
    torch.testing.assert_close(drawn, expected, atol=1e-5, rtol=1e-5)


def test_the_whole_way_is_the_picture_and_no_way_is_plain_drawing(tiny: LatentModel, given: PictureSet) -> None:
    latents = tiny.encode(given.images)
    whole = pictures(tiny, TEXTS, SEEDS, PROTOCOL, start=Start(latents, 1.0))
    signal, level = (float(v) for v in tiny.schedule(tiny.grid(4)[-1:]))  # the grid's end, nearly clean
    assert level < 0.1
    expected = tiny.decode(signal * latents[[0, 1, 0]] + level * noise(tiny.latent_shape, SEEDS))
    torch.testing.assert_close(whole, expected, atol=1e-5, rtol=1e-5)
    plain = pictures(tiny, TEXTS, SEEDS, PROTOCOL)
    assert torch.equal(pictures(tiny, TEXTS, SEEDS, PROTOCOL, start=Start(latents, 0.1)), plain)  # rounds to the grid's first point


def test_budget_is_the_share_that_is_skipped(tiny: LatentModel, given: PictureSet) -> None:
    found = run(tiny, given, (0, 2, 5, 12), grid=10)
    assert [None if c.start is None else c.start.share for c in found] == [None, 0.2, 0.5, 1.0]
    assert all(c.edit is None and c.prompts is None and c.tries == 1 for c in found)
    assert run(tiny, given, (0, 5), prompt="empty")[1].prompts == ("",)


def test_what_makes_no_sense_is_refused(tiny: LatentModel) -> None:
    with pytest.raises(BadInput, match="reference pictures of sneaker"):
        run(tiny, None, (0, 1))
    with pytest.raises(ValueError, match="grid"):
        PartialDiffusion(grid=0)
    with pytest.raises(ValueError, match="share"):
        Start(torch.zeros(1, 4, 8, 8), 1.5)
