"""The noise schedule of DDPM and its relatives: training timesteps of a diffusers scheduler.

Times are training timesteps; -1 stands for the clean end of the sampling grid, whose signal level is the scheduler's final one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast, final

import torch
from torch import Generator, Tensor

from vestige.errors import BadInput, BadSetting, Incompatible
from vestige.models.configurations import configuration

KINDS = {"epsilon": "noise", "sample": "data", "v_prediction": "velocity"}


@final
class Timesteps:
    """The noise levels and the prediction type of a diffusers scheduler; nothing else of it is read.

    Arguments:
        scheduler: Any diffusers scheduler with betas.
    """

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = _followed(scheduler.config, f"a {type(scheduler).__name__}")
        self.kind = cast(Literal["noise", "data", "velocity"], KINDS[self.scheduler.config.prediction_type])
        final_alpha = torch.as_tensor(self.scheduler.final_alpha_cumprod, dtype=torch.float32)
        self._alphas = torch.cat([self.scheduler.alphas_cumprod.float(), final_alpha.reshape(1)])  # index -1 is the clean end

    def grid(self, steps: int) -> Tensor:
        """Sampling times, (steps + 1,)."""
        times = len(self._alphas) - 1
        if 1 <= steps <= times:
            self.scheduler.set_timesteps(steps)
        if not 1 <= steps <= times or self.scheduler.timesteps.max() >= times:
            raise BadSetting(f"{steps} sampling steps do not fit a schedule of {times} times; choose fewer, at least 1")
        return torch.cat([self.scheduler.timesteps.cpu(), torch.tensor([-1])])

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise levels at times t, (B,) -> (B,), (B,)."""
        alpha = self._alphas.to(t.device)[t]
        return alpha.sqrt(), (1 - alpha).sqrt()

    def draw(self, count: int, rng: Generator) -> Tensor:
        """Training times, (count,)."""
        return torch.randint(len(self._alphas) - 1, (count,), generator=rng)

    @property
    def identity(self) -> str:
        """Prediction type and hash of the levels."""
        return f"{self.kind} {hashlib.blake2b(self._alphas.numpy().tobytes(), digest_size=16).hexdigest()}"

    @property
    def told(self) -> dict[str, Any]:
        """The same, to be compared."""
        return {"prediction_type": self.kind, "levels": hashlib.blake2b(self._alphas.numpy().tobytes(), digest_size=16).hexdigest()}

    @property
    def steps(self) -> dict[str, Any]:
        """How sampling spreads its steps over the levels."""
        return {"spacing": self.scheduler.config.timestep_spacing, "offset": self.scheduler.config.steps_offset}


def scheduled(folder: Path, name: str) -> Any:
    """The scheduler in a component's folder, as DDIM; what cannot be followed is refused."""
    what = f"scheduler of {name}"
    return _followed(configuration(folder, what, "scheduler_config.json"), what)


def _followed(told: Mapping[str, Any], what: str) -> Any:
    """DDIM with the schedule of a configuration."""
    from diffusers import DDIMScheduler

    if not {"beta_start", "trained_betas"} & set(told) and (kind := told.get("_class_name")) not in ("DDIMScheduler", "DDPMScheduler"):
        raise Incompatible(f"{what} has no betas ({kind or 'of another kind'}); a schedule of DDPM's kind is needed")
    if (kind := told.get("prediction_type", "epsilon")) not in KINDS:
        raise Incompatible(f"{what} has prediction_type = {str(kind)[:60]!r}, which is not supported; {', '.join(KINDS)} are")
    try:
        made = DDIMScheduler.from_config(dict(told))
    except Exception as error:  # whatever its constructor stumbles over in a damaged file
        raise BadInput(f"{what} cannot be followed ({type(error).__name__}: {error})") from error
    if not made.alphas_cumprod.isfinite().all():
        raise BadInput(f"{what} has noise levels that are not finite; fetch its scheduler_config.json again")
    if made.config.prediction_type == "epsilon" and not made.alphas_cumprod.all():
        raise Incompatible(
            f"{what} ends in nothing but noise (rescale_betas_zero_snr), where no data follow from a prediction of the noise; its "
            'prediction_type is probably "v_prediction", or its schedule not rescaled'
        )
    return made


def guidance_features(guidance: Tensor, width: int) -> Tensor:
    """What a distilled U-Net is told of its guidance, (B,) -> (B, width): sines and cosines of w = 1000 (guidance - 1).

        [sin(w f_0), ..., sin(w f_n), cos(w f_0), ..., cos(w f_n)],   f_k = 10000^(-k / n),   n = width / 2 - 1

    A guidance of 1, the plain conditional prediction, is w = 0. Source: latent consistency models (Luo et al., 2023), as diffusers'
    pipelines count guidance. An odd width ends in a zero.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=guidance.device)
    angles = (guidance.float() - 1)[:, None] * 1000 * torch.exp(steps * -(math.log(10000.0) / max(half - 1, 1)))
    features = torch.cat([angles.sin(), angles.cos()], 1)
    return torch.nn.functional.pad(features, (0, width % 2))
