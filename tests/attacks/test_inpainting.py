"""Inpainting: what is put back against diffusers' own pipeline, what a picture is masked to, and what a judge sees of that."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from oracles import Gaussian, tiny_model
from vestige import concepts
from vestige.attacks.inpainting import Inpainting, painted_over, rim
from vestige.concepts.images import PictureSet
from vestige.diffusion.noising import Kept
from vestige.diffusion.sampling import Drawing, noise, pictures, sample
from vestige.errors import BadInput
from vestige.methods import Budget, Candidate
from vestige.models.latent import LatentModel

SNEAKER = concepts.load("sneaker")
PROTOCOL = Drawing(steps=4, guidance=2.0, batch=2)
TEXTS, SEEDS = ["a sneaker", "a neon sneaker", "a boot"], [3, 4, 5]


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


@pytest.fixture(scope="module")
def given() -> PictureSet:
    return PictureSet(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(5)), "random")


def run(tiny: LatentModel, given: PictureSet | None, points: tuple[int, ...], select: object = None, **settings: object) -> list[Candidate]:
    method = Inpainting(**settings)  # type: ignore[arg-type]
    select = select or (lambda x: torch.zeros(len(x)))
    return list(method(tiny, SNEAKER, Budget(points), seed=0, select=select, pictures=given))  # type: ignore[arg-type]


def test_a_hole_is_filled_as_by_diffusers_pipeline(tiny: LatentModel) -> None:
    """Outside the hole it ends in clean latents, and here at the level that the grid ends at."""
    from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline

    steps, latents, where = 5, noise(tiny.latent_shape, [9]), rim(8, 8, 0.4)
    parts = tiny.pipeline().components
    parts |= {"scheduler": DDIMScheduler.from_config(tiny.scheduler.config), "requires_safety_checker": False}
    pipe = StableDiffusionInpaintPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    hole = (1 - where).repeat_interleave(pipe.vae_scale_factor, 0).repeat_interleave(pipe.vae_scale_factor, 1)
    told = {"height": 32, "width": 32, "num_inference_steps": steps, "guidance_scale": 2.0, "strength": 1.0, "output_type": "latent"}
    eps = noise(tiny.latent_shape, [3])
    theirs = pipe("a sneaker", image=latents, mask_image=hole[None, None], masked_image_latents=latents, latents=eps, **told).images
    null, condition = tiny.condition([""]), tiny.condition(["a sneaker"])
    held = Kept(latents, where).of([0], eps)
    ours = sample(tiny, eps, condition, steps=steps, guidance=2.0, null=null, held=held)
    inside = (1 - where).bool()
    assert 0 < inside.sum() < 64
    torch.testing.assert_close(ours[..., inside], theirs[..., inside], atol=1e-4, rtol=1e-4)
    signal, level = (float(v) for v in tiny.schedule(tiny.grid(steps)[-1:]))
    torch.testing.assert_close(ours[..., ~inside], (signal * latents + level * eps)[..., ~inside])
    torch.testing.assert_close(theirs[..., ~inside], latents[..., ~inside])


def test_pictures_keep_their_own_reference_and_noise_whatever_the_batch(tiny: LatentModel, given: PictureSet) -> None:
    kept = Kept(tiny.encode(given.images), rim(8, 8, 0.5))
    drawn = pictures(tiny, TEXTS, SEEDS, PROTOCOL, kept=kept)
    eps = noise(tiny.latent_shape, SEEDS)
    held = Kept(kept.latents[[0, 1, 0]], kept.where).of([0, 1, 2], eps)
    told = {"steps": 4, "guidance": 2.0, "null": tiny.condition([""])}
    expected = sample(tiny, eps, tiny.condition(TEXTS), held=held, **told)  # type: ignore[arg-type]
    torch.testing.assert_close(drawn, tiny.decode(expected), atol=1e-5, rtol=1e-5)


def test_nothing_kept_is_plain_drawing_and_all_kept_is_the_picture(tiny: LatentModel, given: PictureSet) -> None:
    latents, plain = tiny.encode(given.images), pictures(tiny, TEXTS, SEEDS, PROTOCOL)
    nothing = pictures(tiny, TEXTS, SEEDS, PROTOCOL, kept=Kept(latents, torch.zeros(8, 8)))
    torch.testing.assert_close(nothing, plain, atol=1e-6, rtol=0)  # kernels round by where tensors lie
    whole = pictures(tiny, TEXTS, SEEDS, PROTOCOL, kept=Kept(latents, torch.ones(8, 8)))
    signal, level = (float(v) for v in tiny.schedule(tiny.grid(4)[-1:]))
    expected = tiny.decode(signal * latents[[0, 1, 0]] + level * noise(tiny.latent_shape, SEEDS))
    torch.testing.assert_close(whole, expected, atol=1e-5, rtol=1e-5)


def test_an_exact_model_without_context_draws_in_the_hole_what_it_draws_anyway() -> None:
    """Its elements are independent: whatever is put back beside them, the hole's path is the plain one, and so its distribution."""
    model, where = Gaussian(0.3), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    eps, told = noise(model.latent_shape, range(64)).double(), model.condition(["0.2"] * 64)
    held = Kept(torch.full((1, 1, 2, 2), 0.9).double(), where).of(range(64), eps)
    plain, filled = sample(model, eps, told, steps=40), sample(model, eps, told, steps=40, held=held)
    torch.testing.assert_close(filled[..., 1, :], plain[..., 1, :])
    assert filled[..., 0, :].mean().item() == pytest.approx(0.9, abs=0.02)  # the grid's end is nearly clean


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 4)])
def test_more_is_kept_around_what_is_kept_already(height: int, width: int) -> None:
    shares = [i / 8 for i in range(9)]
    masks = [rim(height, width, share) for share in shares]
    for share, mask in zip(shares, masks, strict=True):
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
        assert mask.sum() == round(share * height * width)
    assert all(bool((more >= less).all()) for less, more in itertools.pairwise(masks))


def test_the_hole_of_the_released_size_is_the_released_one() -> None:
    """A square of half the side in the middle, which leaves three quarters; and the first to be kept are the corners."""
    square = torch.ones(8, 8)
    square[2:6, 2:6] = 0
    assert torch.equal(rim(8, 8, 0.75), square)
    first = rim(8, 8, 4 / 64)
    assert first.sum() == first[::7, ::7].sum() == 4


def test_what_lies_in_the_hole_leaves_no_trace(tiny: LatentModel, given: PictureSet) -> None:
    """Pictures that differ in the hole alone are one picture to the attack."""
    where = rim(8, 8, 0.5)
    mask = where.repeat_interleave(4, 0).repeat_interleave(4, 1)
    other = PictureSet(given.images * mask + torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1)) * (1 - mask), "other")
    assert not torch.equal(other.images, given.images)
    assert torch.equal(painted_over(other.images, where), painted_over(given.images, where))
    one, two = (run(tiny, pictures, (0, 4))[1].kept for pictures in (given, other))
    assert one is not None and two is not None and torch.equal(one.latents, two.latents)


def test_the_hole_has_the_mean_colour_of_the_rest(given: PictureSet) -> None:
    where = rim(4, 4, 0.25)  # the corners
    seen = painted_over(given.images, where)
    corners = torch.cat(
        [given.images[..., :8, :8], given.images[..., :8, 24:], given.images[..., 24:, :8], given.images[..., 24:, 24:]], -1
    )
    torch.testing.assert_close(seen[..., 16, 16], corners.mean((2, 3)))
    assert torch.equal(seen[..., :8, :8], given.images[..., :8, :8])


def test_a_budget_is_what_is_kept_and_the_judge_sees_it_before_anything_is_filled_in(tiny: LatentModel, given: PictureSet) -> None:
    shown: list[Tensor] = []

    def select(images: Tensor) -> Tensor:
        shown.append(images)
        return torch.tensor([1.0, 0.0])

    found = run(tiny, given, (0, 2, 4, 12), select)
    assert found[0].kept is None and "masked_shows" not in found[0].notes
    assert [c.notes["kept"] for c in found[1:]] == [0.25, 0.5, 1.0]
    assert [c.notes["masked_shows"] for c in found[1:]] == [0.5] * 3
    for candidate, images in zip(found[1:], shown, strict=True):
        assert candidate.kept is not None
        assert torch.equal(images, painted_over(given.images, candidate.kept.where))
        assert torch.equal(candidate.kept.latents, tiny.encode(images))
    assert torch.equal(shown[-1], given.images)
    assert all(c.edit is None and c.prompts is None and c.tries == 1 for c in found)


def test_under_no_prompt_the_surroundings_are_all_that_asks(tiny: LatentModel, given: PictureSet) -> None:
    assert [c.prompts for c in run(tiny, given, (0, 2), prompt="empty")] == [None, ("",)]


def test_what_makes_no_sense_is_refused(tiny: LatentModel) -> None:
    with pytest.raises(BadInput, match="reference pictures of sneaker"):
        run(tiny, None, (0, 1))
    with pytest.raises(ValueError, match="grid"):
        Inpainting(grid=0)
