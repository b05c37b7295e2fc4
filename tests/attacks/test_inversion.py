"""Inversion: where pictures come from, the search's own gradient, and drawing that begins at a found noise."""

from __future__ import annotations

import pytest
import torch

from oracles import tiny_model
from vestige import concepts
from vestige.attacks.inversion import Inversion, on_sphere, path_error
from vestige.concepts.images import PictureSet
from vestige.diffusion.noising import Start
from vestige.diffusion.sampling import Drawing, invert, noise, pictures, sample
from vestige.methods import Budget, Candidate
from vestige.models.latent import LatentModel
from vestige.seeds import generator

BAG = concepts.load("bag")


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


@pytest.fixture(scope="module")
def given() -> PictureSet:
    return PictureSet(torch.rand(2, 3, 32, 32, generator=generator(0, "references")), "random")


def run(model: LatentModel, given: PictureSet, points: tuple[int, ...], **settings: object) -> list[Candidate]:
    method = Inversion(sampling_steps=4, times=3, **settings)  # type: ignore[arg-type]
    return list(method(model, BAG, Budget(points), seed=0, select=torch.zeros_like, pictures=given))


def test_the_first_candidate_is_where_the_pictures_come_from(tiny: LatentModel, given: PictureSet) -> None:
    """The inversion alone, and the same way back brings the picture about again."""
    start = run(tiny, given, (0, 1))[1].start
    assert start is not None
    told = tiny.condition([BAG.prompt]).repeat(2)
    data = tiny.encode(given.images)
    assert torch.equal(start.latents, invert(tiny, data, told, steps=4))
    again = sample(tiny, start.latents, told, steps=4)
    assert (again - data).norm() < 0.2 * (sample(tiny, noise(tiny.latent_shape, [0, 1]), told, steps=4) - data).norm()


def test_gradient_is_the_sum_of_the_points_own(tiny: LatentModel, given: PictureSet) -> None:
    """Against every point of the path by itself, held where sampling puts it."""
    data, told, z = tiny.encode(given.images), tiny.condition([BAG.prompt]).repeat(2), noise(tiny.latent_shape, [4, 5])
    moving = z.clone().requires_grad_(True)
    error = path_error(tiny, moving, data, told, 3)
    (slope,) = torch.autograd.grad(error, moving)
    grid, want, total = tiny.grid(3), torch.zeros_like(z), 0.0
    signal, level = tiny.schedule(grid)
    for i in range(3):
        point = sample(tiny, z, told, steps=3, stop=i).requires_grad_(True)
        seen = tiny.denoise(point, grid[i].expand(2), told).noise
        own = (seen - (point - signal[i] * data) / level[i]).square().flatten(1).mean(1).sum()
        want += torch.autograd.grad(own, point)[0]
        total += own.item()
    assert error.item() == pytest.approx(total, rel=1e-5)
    torch.testing.assert_close(slope, want, atol=1e-5, rtol=1e-4)


def test_search_leads_nearer_to_the_picture_and_stays_on_the_sphere(tiny: LatentModel, given: PictureSet) -> None:
    points = run(tiny, given, (0, 1, 4, 7), lr=0.05, begin="noise")
    data, told = tiny.encode(given.images), tiny.condition([BAG.prompt]).repeat(2)
    found = [c.start.latents for c in points if c.start is not None]
    errors = [path_error(tiny, z, data, told, 3).item() for z in found]
    assert errors[0] > errors[1] > errors[2]
    for z in found:
        torch.testing.assert_close(on_sphere(z), z, atol=1e-5, rtol=1e-5)


def test_drawing_begins_at_the_found_noise(tiny: LatentModel) -> None:
    """Picture i from number i modulo their count; with `fresh` 1 nothing is left of it, and in between it is still as long."""
    z, texts, seeds, drawn = noise(tiny.latent_shape, [7, 8]), ["a bag", "a boot", "a bag"], [1, 2, 3], Drawing(steps=3, guidance=2.0)
    told, null = tiny.condition(texts), tiny.condition([""])
    want = tiny.decode(sample(tiny, z[[0, 1, 0]], told, steps=3, guidance=2.0, null=null))
    torch.testing.assert_close(pictures(tiny, texts, seeds, drawn, start=Start(z, 0.0, found=True)), want)
    plain = pictures(tiny, texts, seeds, drawn)
    assert torch.equal(pictures(tiny, texts, seeds, drawn, start=Start(z, 0.0, found=True, fresh=1.0)), plain)
    half = pictures(tiny, texts, seeds, drawn, start=Start(z, 0.0, found=True, fresh=0.5))
    mixed = 0.75**0.5 * z[[0, 1, 0]] + 0.5 * noise(tiny.latent_shape, seeds)
    torch.testing.assert_close(half, tiny.decode(sample(tiny, mixed, told, steps=3, guidance=2.0, null=null)))
    for wrong in ({"share": 0.5, "found": True}, {"share": 0.5, "fresh": 0.5}, {"share": 0.0, "found": True, "fresh": 2.0}):
        with pytest.raises(ValueError, match="fresh lies in"):
            Start(z, **wrong)  # type: ignore[arg-type]
