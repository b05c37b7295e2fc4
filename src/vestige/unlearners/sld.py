"""Safe Latent Diffusion: at every sampling step, guidance is pushed away from what the concept's words would add.

    value = free + guidance (given - free - gamma)
    gamma = mu (unsafe - free) + momentum nu,     mu = min(1, strength |given - unsafe|) where given - unsafe < threshold, else 0
    nu   <- decay nu + (1 - decay) gamma

given, free and unsafe are the network's outputs for the prompt, the empty prompt and the concept's words; mu is elementwise. No weight
changes: whoever draws without the hook has the original.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from vestige.concepts import Concept
from vestige.concepts.joint import targets
from vestige.diffusion import Condition, Model
from vestige.diffusion.model import Steer, Step, Watch, silent
from vestige.diffusion.views import Wrapped
from vestige.edits import Edit, Hook
from vestige.errors import Incompatible
from vestige.methods import Data, Paper, Unlearner
from vestige.methods.ranges import at_least

RELEASED_STEPS = 50  # of the sampler whose steps the released warm-up counts


@dataclass(frozen=True)
class Level:
    """A released configuration; `warmup` in steps of 50."""

    warmup: int
    strength: float
    threshold: float
    momentum: float
    decay: float


LEVELS = {
    "weak": Level(15, 20, 0.0, 0.0, 0.0),
    "medium": Level(10, 1000, 0.01, 0.3, 0.4),
    "strong": Level(7, 2000, 0.025, 0.5, 0.7),
    "max": Level(0, 5000, 1.0, 0.5, 0.7),
}


@final
@dataclass(frozen=True, kw_only=True)
class SLD(Unlearner):
    """Steers every guided sampler away from the concept (Schramowski et al., 2023). A hook, with a third prediction a step.

    Differs from the released code: (1) it is told one concept's words, where the code has a list of what is inappropriate; (2) the
    warm-up is a share of the path, so that samplers of any number of steps begin at the same place, and is counted from the start of
    the whole path where drawing begins half-way; (3) velocities and flows stand where the code has noise, as the network gives them;
    (4) without guidance, at 1, the formula holds with that number; (5) where a step is asked for by itself, outside of a path, gamma
    has no memory and counts as the path's first. A model that is told its guidance predicts once, and there is nothing to steer.

    Several targets that are one concept are one list of words.

    Arguments:
        level: Released settings of all that is not given: "weak", "medium" (the code's default), "strong" or "max".
        words: What to steer away from; "auto" are the targets' words, with commas between.
        strength: s_S, at least 0; 0 changes nothing, bit for bit.
        threshold: lambda.
        momentum: s_m, at least 0.
        decay: beta_m, in [0, 1].
        warmup: Share of the path before gamma acts; nu gathers from its start on.
    """

    paper: ClassVar[Paper] = Paper(
        "Safe Latent Diffusion: Mitigating Inappropriate Degeneration in Diffusion Models",
        "Schramowski et al.",
        2023,
        arxiv="2211.05105",
        code="ml-research/safe-latent-diffusion",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prompts"})
    joint: ClassVar[bool] = True

    level: Literal["weak", "medium", "strong", "max"] = "medium"
    words: str = "auto"
    strength: float | Literal["auto"] = "auto"
    threshold: float | Literal["auto"] = "auto"
    momentum: float | Literal["auto"] = "auto"
    decay: float | Literal["auto"] = "auto"
    warmup: float | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        given = [name for name in ("strength", "momentum", "decay", "warmup") if getattr(self, name) != "auto"]
        at_least(0, self, *given)
        for name in ("decay", "warmup"):
            if name in given and getattr(self, name) > 1:
                raise ValueError(f"{name} lies in [0, 1]; given {getattr(self, name)}")

    def resolved(self, concept: Concept) -> SLD:
        """The same method with every "auto" replaced by the level's setting, or by the concept's words."""
        released: dict[str, Any] = asdict(LEVELS[self.level]) | {"words": ", ".join(part.target for part in targets(concept))}
        released["warmup"] = LEVELS[self.level].warmup / RELEASED_STEPS
        return replace(self, **{name: value for name, value in released.items() if getattr(self, name) == "auto"})

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        _check(model)
        method = self.resolved(concept)
        told = {name: value for name, value in asdict(method).items() if name != "level"}
        notes = {"concept": concept.name, "seed": seed}
        return Edit(model.fingerprint, "sld", asdict(method), "guidance", hooks=(Hook("unlearners", "sld", told),), notes=notes)

    @staticmethod
    def hook(model: Model, *, words: str, strength: float, threshold: float, momentum: float, decay: float, warmup: float) -> Model:
        """`model`, steered away from the words."""
        _check(model)
        told = Level(0, strength, threshold, momentum, decay)

        def wrap(inner: Model) -> Model:
            @functools.cache
            def conditions() -> tuple[Condition, Condition]:
                both = inner.condition([words, ""])
                return both[:1], both[1:]

            def steer() -> Steer:
                return Steering(told, warmup, conditions)

            return Wrapped(inner, wrap, steer=steer, identity=f"sld {words} {told} {warmup}")

        return wrap(model) if strength > 0 else model


class Steering:
    """What is taken off along one path: gamma at every step, and the nu that it leaves."""

    def __init__(self, told: Level, warmup: float, conditions: Callable[[], tuple[Condition, Condition]]) -> None:
        self.told, self.warmup, self.conditions = told, warmup, conditions
        self.nu: Tensor | None = None

    def __call__(self, step: Step) -> Tensor:
        words, null = self.conditions()
        given = step.given.value
        unsafe = _answer(step, words)
        free = _answer(step, null) if step.free is None else step.free.value
        gap = given - unsafe
        scale = torch.where(gap < self.told.threshold, (gap.abs() * self.told.strength).clamp(max=1), torch.zeros_like(gap))
        gamma = scale * (unsafe - free)
        if self.nu is not None:
            gamma = gamma + self.told.momentum * self.nu
        self.nu = (1 - self.told.decay) * gamma + (0 if self.nu is None else self.told.decay * self.nu)
        return gamma if step.done >= self.warmup else torch.zeros_like(gamma)


def _answer(step: Step, told: Condition) -> Tensor:
    x_t = step.given.x_t
    return step.model.denoise(x_t, step.t, told.repeat(len(x_t))).value


def _check(model: Model) -> None:
    if model.distilled:
        raise Incompatible(f"{model.name} is told its guidance and predicts once; there is nothing to steer, choose another method")
