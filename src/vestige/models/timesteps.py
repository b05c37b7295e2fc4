"""The noise schedule of DDPM and its relatives: training timesteps of a diffusers scheduler.

Times are training timesteps; -1 stands for the clean end of the sampling grid, whose signal level is the scheduler's final one.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal, cast, final

import torch
from torch import Generator, Tensor


@final
class Timesteps:
    """The noise levels and the prediction type of a diffusers scheduler; nothing else of it is read.

    Arguments:
        scheduler: Any diffusers scheduler with betas.
    """

    def __init__(self, scheduler: Any) -> None:
        from diffusers import DDIMScheduler

        self.scheduler = DDIMScheduler.from_config(scheduler.config)
        kinds = {"epsilon": "noise", "sample": "data", "v_prediction": "velocity"}
        self.kind = cast(Literal["noise", "data", "velocity"], kinds[self.scheduler.config.prediction_type])
        final_alpha = torch.as_tensor(self.scheduler.final_alpha_cumprod, dtype=torch.float32)
        self._alphas = torch.cat([self.scheduler.alphas_cumprod.float(), final_alpha.reshape(1)])  # index -1 is the clean end

    def grid(self, steps: int) -> Tensor:
        """Sampling times, (steps + 1,)."""
        self.scheduler.set_timesteps(steps)
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
