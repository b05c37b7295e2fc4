"""The noise schedule of rectified flow: x_t = (1 - t) data + t noise, for t from 0 to 1, and which t are visited.

Times are noise levels ("sigmas"). Sampling visits a grid that a scheduler shifts towards the noisy end,

    t = s u / (1 + (s - 1) u),   u falling evenly from 1,

with a fixed s, or s = exp(mu) with mu growing with the number of picture tokens ("dynamic" shifting).
"""

from __future__ import annotations

import json
from typing import Any, final

import torch
from torch import Generator, Tensor

from vestige.errors import Incompatible

# What of a scheduler's configuration decides where sampling steps and which times are trained on.
READ = (
    *("shift", "use_dynamic_shifting", "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type"),
    *("shift_terminal", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "num_train_timesteps"),
)


@final
class Sigmas:
    """The times of a diffusers flow-matching scheduler; its stochastic steps, if it asks for them, are not done.

    Arguments:
        scheduler: A diffusers scheduler with the configuration of FlowMatchEulerDiscreteScheduler.
        name: How errors call the model.
    """

    def __init__(self, scheduler: Any, name: str) -> None:
        from diffusers import FlowMatchEulerDiscreteScheduler

        if "shift" not in scheduler.config and "use_dynamic_shifting" not in scheduler.config:
            raise Incompatible(f"{name} comes with a {type(scheduler).__name__}; rectified flow needs a FlowMatchEulerDiscreteScheduler")
        if scheduler.config.get("invert_sigmas"):
            raise Incompatible(f"{name} counts time the other way round (invert_sigmas), which is not supported")
        self.scheduler = FlowMatchEulerDiscreteScheduler.from_config(scheduler.config)

    @property
    def dynamic(self) -> bool:
        """The shift depends on the size of the pictures."""
        return bool(self.scheduler.config.use_dynamic_shifting)

    @property
    def shifted(self) -> bool:
        return self.dynamic or float(self.scheduler.config.shift) != 1.0

    def grid(self, steps: int, mu: float, *, even: bool) -> Tensor:
        """Sampling times, (steps + 1,), the last one 0.

        Arguments:
            mu: Logarithm of the shift, read where it is dynamic.
            even: Before the shift, times are k / steps, as FLUX's pipelines ask for; else they run between the ends of training's.
        """
        spread = {"sigmas": torch.linspace(1, 1 / steps, steps, dtype=torch.float64).tolist()} if even else {}
        self.scheduler.set_timesteps(steps, mu=mu, **spread)
        made: Tensor = self.scheduler.sigmas.clone()
        return made

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise levels at times t, (B,) -> (B,), (B,)."""
        return 1 - t, t

    def draw(self, count: int, rng: Generator) -> Tensor:
        """Training times, (count,): the logistic function of standard normals, under the fixed shift if there is one.

        These are the times of diffusers' training scripts for SD3 and FLUX ("logit_normal"), which round them to thousandths; here they
        stay as they are drawn (ours).
        """
        t, shift = torch.randn(count, generator=rng).sigmoid(), 1.0 if self.dynamic else float(self.scheduler.config.shift)
        return shift * t / (1 + (shift - 1) * t)

    @property
    def identity(self) -> str:
        """What was read of the configuration."""
        return "flow " + json.dumps({key: self.scheduler.config.get(key) for key in READ})

    @property
    def told(self) -> dict[str, Any]:
        """The same, to be compared."""
        return {key: self.scheduler.config.get(key) for key in READ}
