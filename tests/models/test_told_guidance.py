"""U-Nets that are told their guidance (latent consistency models), beside diffusers' own pipelines on the same random network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from oracles import scheduler, tiny_parts, tokenizer
from vestige.diffusion.sampling import noise, predict, sample
from vestige.models.latent import LatentModel
from vestige.models.timesteps import guidance_features

PROMPTS = ["a picture of a sneaker", "a bag"]


def told(width: int = 16) -> LatentModel:
    from diffusers import UNet2DConditionModel

    parts = tiny_parts()
    config = {k: v for k, v in parts["unet"].config.items() if not k.startswith("_")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        unet = UNet2DConditionModel(**{**config, "time_cond_proj_dim": width})
        torch.nn.init.normal_(unet.time_embedding.cond_proj.weight)
    return LatentModel("told", {**parts, "unet": unet}, tokenizer(), scheduler())


@contextmanager
def overheard(unet: torch.nn.Module) -> Iterator[list[tuple[Any, Any, Any]]]:
    """What a U-Net is asked and what it answers."""
    calls: list[tuple[Any, Any, Any]] = []
    handle = unet.register_forward_hook(lambda _, args, kwargs, out: calls.append((args, kwargs, out)), with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


@pytest.mark.parametrize("guidance", [1.0, 4.5, 8.0])
def test_prediction_is_that_of_the_latent_consistency_pipeline(guidance: float) -> None:
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    model = told()
    parts = model.pipeline().components
    parts["scheduler"] = LCMScheduler.from_config(model.scheduler.config)
    pipe = LatentConsistencyModelPipeline(**{k: v for k, v in parts.items() if k != "image_encoder"}, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    with overheard(pipe.unet) as calls:
        pipe(prompt=PROMPTS, guidance_scale=guidance, num_inference_steps=2, output_type="latent", latents=noise((4, 8, 8), [1, 2]))
    assert len(calls) == 2
    for (x, t), kwargs, theirs in calls:
        null = model.condition([""])
        with torch.no_grad():
            ours = predict(model, x, t, model.condition(PROMPTS), null, guidance)
        torch.testing.assert_close(ours.value, theirs[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(guidance_features(torch.full((2,), guidance), 16), kwargs["timestep_cond"], atol=1e-3, rtol=0)


def test_sampling_equals_the_pipeline_that_guides_once() -> None:
    """diffusers' Stable Diffusion pipeline tells such a U-Net its guidance as well, and draws without a second prediction."""
    model, x = told(), noise((4, 8, 8), [1, 2])
    pipe = model.pipeline()
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(prompt=PROMPTS, latents=x, guidance_scale=6.0, num_inference_steps=4, eta=0.0, output_type="latent").images
    with overheard(model.parts["unet"]) as calls:
        ours = sample(model, x, model.condition(PROMPTS), steps=4, guidance=6.0, null=model.condition([""]))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert [len(args[0]) for args, _, _ in calls] == [2] * 4


@pytest.mark.parametrize("width", [15, 16, 256])
def test_features_are_those_of_diffusers(width: int) -> None:
    """Sines of up to 7,000 in single precision: within a thousandth."""
    from diffusers import StableDiffusionPipeline

    guidance = torch.tensor([1.0, 2.5, 8.0])
    theirs = StableDiffusionPipeline.get_guidance_scale_embedding(None, guidance - 1, embedding_dim=width)
    torch.testing.assert_close(guidance_features(guidance, width), theirs, atol=1e-3, rtol=0)


def test_guidance_changes_what_is_drawn() -> None:
    model, x = told(), noise((4, 8, 8), [1, 2])
    condition = model.condition(PROMPTS)
    assert model.distilled
    drawn = [sample(model, x, condition, steps=2, guidance=g, null=model.condition([""])) for g in (1.0, 8.0)]
    assert not torch.allclose(*drawn, atol=1e-2)
    assert torch.equal(drawn[0], sample(model, x, condition, steps=2))
