"""DDIM and its inverse against diffusers, against an exact flow, and against each other."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from oracles import Gaussian, scheduler, tiny_model
from vestige.diffusion import Model
from vestige.diffusion.sampling import Drawing, invert, noise, pictures, predict, sample, slerp
from vestige.seeds import derive

STEPS = 10


@pytest.fixture(scope="module")
def tiny() -> Model:
    return tiny_model()


def start(model: Model, count: int = 2) -> Tensor:
    return noise(model.latent_shape, range(count))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [7, 20])
def test_sample_equals_diffusers_ddim(prediction: str, steps: int) -> None:
    model, reference = tiny_model(prediction_type=prediction), scheduler(prediction_type=prediction)
    condition, x = model.condition(["a sneaker", "neon"]), start(model)
    ours = sample(model, x, condition, steps=steps)
    reference.set_timesteps(steps)
    theirs = x
    with torch.no_grad():
        for t in reference.timesteps:
            value = model.denoise(theirs, t.expand(2), condition).value
            theirs = reference.step(value, t, theirs, eta=0.0).prev_sample
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [7, 20])
def test_invert_equals_diffusers_inverse(steps: int) -> None:
    from diffusers import DDIMInverseScheduler

    model = tiny_model()
    reference = DDIMInverseScheduler.from_config(model.scheduler.config)
    condition, x = model.condition(["a sneaker", "neon"]), start(model)
    ours = invert(model, x, condition, steps=steps)
    reference.set_timesteps(steps)
    theirs = x
    with torch.no_grad():
        for t in reference.timesteps:
            value = model.denoise(theirs, t.expand(2), condition).value
            theirs = reference.step(value, t, theirs).prev_sample
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_pipeline_call_gives_the_same_picture(tiny: Model) -> None:
    """diffusers' own pipeline, same latents, guidance and scheduler."""
    latents = start(tiny, 1)
    pipe = tiny.pipeline()  # type: ignore[attr-defined]
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe("a sneaker", num_inference_steps=5, guidance_scale=3.0, latents=latents, output_type="pt").images
    condition, null = tiny.condition(["a sneaker"]), tiny.condition([""])
    ours = tiny.decode(sample(tiny, latents, condition, steps=5, guidance=3.0, null=null))
    torch.testing.assert_close(ours, theirs.float(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["noise", "data", "velocity"])
def test_sampling_is_first_order_on_an_exact_flow(kind: str) -> None:
    model = Gaussian(kind=kind)
    condition, x = model.condition(["1.5"]), noise(model.latent_shape, [0]).double()
    ends = model.grid(1)
    (a, _), spread = model.schedule(ends), model.spread(ends)
    exact = a[1] * 1.5 + spread[1] / spread[0] * (x - a[0] * 1.5)
    errors = [(sample(model, x, condition, steps=n) - exact).abs().max().item() for n in (16, 32, 64)]
    assert 1.7 < errors[0] / errors[1] < 2.3
    assert 1.7 < errors[1] / errors[2] < 2.3


def test_round_trip_error_falls_with_refinement() -> None:
    """The fixed point of the refinement is the exact inverse of the sampling step; on a grid this fine the map contracts."""
    model = Gaussian()
    condition, clean = model.condition(["1.0"]), noise(model.latent_shape, [1]).double() * 0.5 + 1
    errors = []
    for refine in (0, 1, 2, 4, 8):
        deep = invert(model, clean, condition, steps=40, refine=refine)
        errors.append((sample(model, deep, condition, steps=40) - clean).abs().max().item())
    assert all(later < 0.5 * earlier for earlier, later in itertools.pairwise(errors))
    assert errors[-1] < 2e-3 * errors[0]


@pytest.mark.parametrize("index", [0, 3, 9, 10])
def test_inversion_stops_where_sampling_resumes(index: int) -> None:
    """With an exact inverse, resuming one index off would miss by a whole step."""
    model = Gaussian()
    condition, clean = model.condition(["0.5"]), noise(model.latent_shape, [2]).double()
    deep = invert(model, clean, condition, steps=STEPS, stop=index, refine=150)
    torch.testing.assert_close(sample(model, deep, condition, steps=STEPS, start=index), clean, atol=1e-8, rtol=0)
    if 0 < index < STEPS:
        off = sample(model, deep, condition, steps=STEPS, start=index - 1)
        assert (off - clean).abs().max() > 1e-3


def test_partial_runs_compose(tiny: Model) -> None:
    condition, x = tiny.condition(["a bag", "a boot"]), start(tiny)
    whole = sample(tiny, x, condition, steps=STEPS)
    half = sample(tiny, x, condition, steps=STEPS, stop=4)
    torch.testing.assert_close(sample(tiny, half, condition, steps=STEPS, start=4), whole, atol=0, rtol=0)


def test_guidance_one_is_the_conditional_prediction(tiny: Model) -> None:
    condition, null, x = tiny.condition(["a bag", "a boot"]), tiny.condition([""]), start(tiny)
    t = torch.tensor(301)
    plain, guided = predict(tiny, x, t, condition, None, 1.0), predict(tiny, x, t, condition, null, 4.0)
    free = tiny.denoise(x, t.expand(2), null.repeat(2))
    torch.testing.assert_close(guided.noise, free.noise + 4 * (plain.noise - free.noise), atol=1e-5, rtol=1e-4)
    assert torch.equal(predict(tiny, x, t, condition, null, 1.0).noise, plain.noise)


def test_batch_equals_loop(tiny: Model) -> None:
    prompts, seeds = ["a bag", "a boot", "neon", "a bag", ""], [5, 6, 7, 8, 9]
    together = pictures(tiny, prompts, seeds, Drawing(steps=4, batch=64))
    alone = pictures(tiny, prompts, seeds, Drawing(steps=4, batch=1))
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("start_", "stop"), [(-1, 5), (6, 5), (0, 11)])
def test_range_outside_the_grid_is_refused(tiny: Model, start_: int, stop: int) -> None:
    with pytest.raises(ValueError, match=r"within 0\.\.10"):
        sample(tiny, start(tiny), tiny.condition(["", ""]), steps=STEPS, start=start_, stop=stop)


def test_slerp_keeps_ends_and_norm() -> None:
    a, b = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    b = b * a.norm() / b.norm()
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    for weight in (0.25, 0.5, 0.75):
        torch.testing.assert_close(slerp(a, b, weight).norm(), a.norm(), rtol=1e-5, atol=0)
    torch.testing.assert_close(slerp(a, b, 0.3), slerp(b, a, 0.7))


def test_slerp_of_parallel_and_zero_tensors_is_the_straight_line() -> None:
    a = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(1))
    for b in (a, 3 * a, a * (1 + 1e-7), torch.zeros_like(a), -a):
        mixed = slerp(a, b, 0.5)
        assert mixed.isfinite().all()
        torch.testing.assert_close(mixed, (a + b) / 2, atol=1e-5, rtol=1e-5)


def test_seeds_are_derived_not_consumed() -> None:
    before = torch.random.get_rng_state()
    assert derive(1, "a", 0) == derive(1, "a", 0)
    assert len({derive(s, p, i) for s in range(5) for p in "ab" for i in range(5)}) == 50
    assert derive(1, "a", 23) != derive(1, "a2", 3)
    noise((4, 8, 8), [1, 2])
    assert torch.equal(before, torch.random.get_rng_state())
