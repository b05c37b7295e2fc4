"""Noise on the way: against diffusers, on an exact Gaussian, and which sampler is chosen."""

from __future__ import annotations

import math

import pytest
import torch

from oracles import Gaussian, tiny_model
from vestige import concepts
from vestige.attacks.noise_probe import NoiseProbe
from vestige.diffusion.noising import Churn
from vestige.diffusion.sampling import Drawing, noise, pictures, sample
from vestige.methods import Budget
from vestige.models.latent import LatentModel

BAG = concepts.load("bag")
TEXTS, SEEDS = ["a bag", "a boot", "a bag"], [3, 4, 5]


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def streams(shape: tuple[int, ...], seeds: list[int]) -> list[torch.Generator]:
    """Generators past a picture's starting noise."""
    made = [torch.Generator().manual_seed(s) for s in seeds]
    for rng in made:
        torch.randn(shape, generator=rng)
    return made


def test_no_noise_is_ddim_bit_for_bit(tiny: LatentModel) -> None:
    drawn = Drawing(steps=3, guidance=2.0)
    assert torch.equal(pictures(tiny, TEXTS, SEEDS, drawn, churn=Churn()), pictures(tiny, TEXTS, SEEDS, drawn))


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_a_step_is_diffusers_own(eta: float, tiny: LatentModel) -> None:
    from diffusers import DDIMScheduler

    steps, told = 4, tiny.condition(TEXTS)
    scheduler = DDIMScheduler.from_config(tiny.scheduler.config, timestep_spacing="leading")
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == tiny.grid(steps)[:-1].tolist()
    rngs, x = streams(tiny.latent_shape, SEEDS), noise(tiny.latent_shape, SEEDS)
    with torch.no_grad():
        for t in scheduler.timesteps:
            xi = torch.stack([torch.randn(tiny.latent_shape, generator=rng) for rng in rngs])
            value = tiny.denoise(x, t.expand(3), told).value
            x = scheduler.step(value, t, x, eta=eta, variance_noise=xi).prev_sample
    own = sample(tiny, noise(tiny.latent_shape, SEEDS), told, steps=steps, churn=Churn(eta), own=streams(tiny.latent_shape, SEEDS))
    torch.testing.assert_close(own, x, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("churn", [Churn(1.0), Churn(back=0.4)])
def test_an_exact_model_draws_its_data_all_the_same(churn: Churn) -> None:
    """Ancestral noise and renoising leave the distribution alone: mean 0.2 and deviation 0.3, up to the steps' error and 4,096 draws'."""
    model, shape, seeds = Gaussian(0.3), (1, 16, 16), list(range(16))
    told = model.condition(["0.2"] * len(seeds))
    if churn.eta:
        drawn = sample(model, noise(shape, seeds).double(), told, steps=80, churn=churn, own=streams(shape, seeds))
    else:
        done = sample(model, noise(shape, seeds).double(), told, steps=80)
        again = round(churn.back * 80)
        signal, level = (v[again] for v in model.schedule(model.grid(80)))
        x = signal * done + level * noise(shape, [s + 99 for s in seeds]).double()
        drawn = sample(model, x, told, steps=80, start=again)
    assert drawn.mean().item() == pytest.approx(0.2, abs=0.02)
    assert drawn.std().item() == pytest.approx(0.3, rel=0.06)


def test_more_noise_than_there_is_room_for_is_added_as_it_is(tiny: LatentModel) -> None:
    """One step by hand, with the root of the absolute value, and the scale on the noise alone."""
    churn, told = Churn(1.6, 1.04), tiny.condition(["a bag"])
    x, grid = noise(tiny.latent_shape, [0]), tiny.grid(2)
    signal, _ = tiny.schedule(grid)
    with torch.no_grad():
        seen = tiny.denoise(x, grid[:1], told)
    one, other = float(1 - signal[0] ** 2), float(1 - signal[1] ** 2)
    sigma = 1.6 * math.sqrt(other / one * (1 - float(signal[0] / signal[1]) ** 2))
    xi = torch.randn(tiny.latent_shape, generator=streams(tiny.latent_shape, [0])[0])
    want = signal[1] * seen.data + abs(other - sigma**2) ** 0.5 * seen.noise + 1.04 * sigma * xi
    own = sample(tiny, x, told, steps=2, stop=1, churn=churn, own=streams(tiny.latent_shape, [0]))
    torch.testing.assert_close(own, want, atol=1e-5, rtol=1e-5)


def test_batches_change_nothing_and_going_back_draws_the_rest_again(tiny: LatentModel) -> None:
    for churn in (Churn(1.0, 1.02), Churn(back=0.5)):
        one, several = (pictures(tiny, TEXTS, SEEDS, Drawing(steps=4, guidance=2.0, batch=b), churn=churn) for b in (3, 2))
        torch.testing.assert_close(one, several, atol=1e-5, rtol=1e-5)
    told, null = tiny.condition(TEXTS), tiny.condition([""])
    done = sample(tiny, noise(tiny.latent_shape, SEEDS), told, steps=4, guidance=2.0, null=null)
    signal, level = (v[2] for v in tiny.schedule(tiny.grid(4)))
    fresh = torch.stack([torch.randn(tiny.latent_shape, generator=rng) for rng in streams(tiny.latent_shape, SEEDS)])
    want = sample(tiny, signal * done + level * fresh, told, steps=4, guidance=2.0, null=null, start=2)
    torch.testing.assert_close(one, tiny.decode(want), atol=1e-5, rtol=1e-5)


def test_the_sampler_that_shows_most_is_the_candidate(tiny: LatentModel) -> None:
    """The second try wins, and later ones that show less do not replace it; a third round asks on other seeds."""
    shares, seen = [0.2, 0.9, 0.5, 0.1, 0.9], []

    def select(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return torch.full((len(images),), shares[len(seen) - 1])

    method = NoiseProbe(eta=(1.0, 1.5), scale=(1.0,), back=(0.5,), draws=2, sampling_steps=2)
    assert method.samplers() == [Churn(1.0), Churn(1.5), Churn(back=0.5)]
    found = list(method(tiny, BAG, Budget((0, 1, 4, 5)), seed=0, select=select))
    assert [c.churn for c in found] == [None, Churn(1.0), Churn(1.5), Churn(1.5)]
    assert not torch.equal(seen[0], seen[3])
    with pytest.raises(ValueError, match="at least one eta"):
        NoiseProbe(eta=(), back=())
