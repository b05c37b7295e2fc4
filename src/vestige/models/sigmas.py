"""The noise schedule of rectified flow: x_t = (1 - t) data + t noise, for t from 0 to 1, and which t are visited.

Times are noise levels ("sigmas"). Sampling visits a grid that a scheduler shifts towards the noisy end,

    t = s u / (1 + (s - 1) u),   u falling evenly from 1,

with a fixed s, or s = exp(mu) with mu growing with the number of picture tokens ("dynamic" shifting).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Generator, Tensor

from vestige.errors import BadInput, BadSetting, Incompatible
from vestige.models.configurations import configuration

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
        self.scheduler = _followed({"_class_name": type(scheduler).__name__, **scheduler.config}, name)

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
        times = int(self.scheduler.config.num_train_timesteps)
        if not 1 <= steps <= times:
            raise BadSetting(f"{steps} sampling steps do not fit a schedule of {times} times; choose fewer, at least 1")
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


def scheduled(folder: Path, name: str) -> Any:
    """The flow-matching scheduler in a component's folder; what cannot be followed is refused."""
    return _followed(configuration(folder, f"scheduler of {name}", "scheduler_config.json"), name)


def _followed(told: Mapping[str, Any], name: str) -> Any:
    """diffusers' flow-matching scheduler with the times of a configuration."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    if "shift" not in told and "use_dynamic_shifting" not in told:
        kind = told.get("_class_name", "scheduler without a shift")
        raise Incompatible(f"{name} comes with a {kind}; rectified flow needs a FlowMatchEulerDiscreteScheduler")
    if told.get("invert_sigmas"):
        raise Incompatible(f"{name} counts time the other way round (invert_sigmas), which is not supported")
    try:
        return FlowMatchEulerDiscreteScheduler.from_config(dict(told))
    except Exception as error:  # whatever its constructor stumbles over in a damaged file
        raise BadInput(f"scheduler of {name} cannot be followed ({type(error).__name__}: {error})") from error
