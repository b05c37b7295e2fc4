"""RACE: a finished ESD, trained on at the embeddings that bring its concept back best.

    attack   e' <- e + U(-epsilon, epsilon),   then   e' <- e' - pace epsilon sign d/de' mean |z_T - eps(x_t, e')|^2,
             after each back into |e' - e| <= epsilon and into [min e, max e]
    loss     mean |eps(x_t, e') - goal|^2
    goal     eps_0(x_t, null) - strength (eps_0(x_t, e) - eps_0(x_t, null))                                                  ESD's

e is the concept's prompt as the encoder gives it, eps the network that is trained, eps_0 the original, x_t a state on a guided path for
e and z_T the noise in which that path began: whoever predicts it goes where the path goes. The attack has one time step, so a training
step costs as many passes more as the attack has steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, final

import torch
from torch import Generator, Tensor

from vestige import registry
from vestige.concepts import Concept
from vestige.diffusion import Condition, Model
from vestige.diffusion.model import Watch, silent, within
from vestige.diffusion.sampling import predictions
from vestige.edits import Edit
from vestige.methods import Data, Paper, Training, Unlearner, fit
from vestige.methods.contract import TRAINED
from vestige.methods.ranges import above, at_least
from vestige.methods.rollouts import stopped
from vestige.seeds import derive


class States(NamedTuple):
    """States x_t (B, C, h, w) at times t (B,), the noise `began` in which their paths began, their goals, and their prompts' rows."""

    x_t: Tensor
    t: Tensor
    began: Tensor
    goal: Tensor
    given: Condition


@final
@dataclass(frozen=True, kw_only=True)
class RACE(Unlearner):
    """Robust adversarial concept erasure (Kim et al., 2024). It makes the ESD itself; strength, weights, prompts and paths are that one's.

    Differs from the released code: (1) a state's time is the path's own grid time, neither the first nor the last, where the code draws
    one in the step that the path ends in; (2) z_T is compared with the noise that the prediction amounts to, which is what the network
    puts out where it predicts noise; (3) several states a step are attacked side by side, each in its own range; (4) weights whose names
    begin with `out.` or hold `time_embed`, which its "noxattn" leaves out, belong to ESD's variant "u" here; (5) its flag for the number
    of the attack's steps is not handed on, and always 10; here it is a setting.

    Where a model is told more than a sequence (a pooled state, a time), the sequence alone is attacked; of a class-conditional model, e is
    the row of weights over its classes, and e' a mixture of them.

    Arguments:
        esd: The ESD's settings, each NAME=VALUE; what is not named keeps its default.
        epsilon: How far the attack may go in every element of the embedding; 0 attacks nothing, and trains ESD on.
        attack_steps: Its steps, after a random one; 0 leaves that.
        pace: What a step moves every element by, in units of epsilon.
        paths: Whose states are trained at: "own", the trained network's, drawn anew in every step as released, or "original", ESD's pool
            of the original's.
        lasso: Weight of the mean |theta - theta_ESD| of every tensor; the code's option has 0.1.
        steps: Adam steps from the finished ESD on; 0 leaves that.
        batch: States a step.
    """

    paper: ClassVar[Paper] = Paper(
        "R.A.C.E.: Robust Adversarial Concept Erasure for Secure Text-to-Image Diffusion Model",
        "Kim, Min, Yang",
        2024,
        arxiv="2405.16341",
        code="chkimmmmm/R.A.C.E.",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prompts"})
    joint: ClassVar[bool] = True

    esd: tuple[str, ...] = ()
    epsilon: float = 0.1
    attack_steps: int = 10
    pace: float = 0.25
    paths: Literal["own", "original"] = "own"
    lasso: float = 0.0
    steps: int = 1000
    lr: float = 1e-5
    batch: int = 1

    def __post_init__(self) -> None:
        at_least(1, self, "batch")
        at_least(0, self, "epsilon", "attack_steps", "lasso", "steps")
        above(0, self, "lr", "pace")
        if any("=" not in item for item in self.esd):
            raise ValueError(f"esd lists settings as NAME=VALUE; given {list(self.esd)}")
        inner = self.begin()  # what it does not accept is told now
        if self.paths == "own" and inner.rollout_steps < 2:
            raise ValueError("a path that stops on the way has at least 2 steps; given rollout_steps=1")

    def begin(self) -> Any:
        """The ESD that is hardened."""
        return registry.build("unlearners", "esd", dict(item.split("=", 1) for item in self.esd))

    def calls(self, picture: int, retained: int) -> int:
        esd, attacked = self.begin(), self.attack_steps if self.epsilon else 0
        path = esd.rollout_steps / 2 * predictions(esd.rollout_guidance) + 2  # they stop anywhere on the way
        pool = 2 * esd.rollouts * esd.rollout_steps
        drawn = self.steps * self.batch * path if self.paths == "own" else pool
        return int(esd.calls(picture, retained) + round(drawn) + self.steps * self.batch * TRAINED * (attacked + 1))

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        esd = self.begin().resolved(concept)
        begun = esd(model, concept, seed=seed, watch=within("esd", watch)).tensors
        student, leaves = model.trainable(model.scope(esd.scope))
        with torch.no_grad():
            for name, leaf in leaves.items():
                leaf.copy_(begun[name])
        states = self._pooled(model, esd, concept, seed, watch) if self.paths == "original" else self._drawn(model, student, esd, concept)
        loss = partial(self._loss, student, states, leaves, {name: leaf.detach().clone() for name, leaf in leaves.items()})
        for _ in fit(leaves, loss, Training(steps=self.steps, lr=self.lr, clip=0.0), seed=derive(seed, "race"), watch=watch):
            pass
        tensors = {name: leaf.detach().clone() for name, leaf in leaves.items()}
        notes = {"concept": concept.name, "seed": seed}
        return Edit(model.fingerprint, "race", registry.settings(self), esd.scope, tensors, notes=notes)

    def _loss(
        self,
        student: Model,
        states: Callable[[Generator], States],
        leaves: Mapping[str, Tensor],
        begun: Mapping[str, Tensor],
        rng: Generator,
    ) -> Tensor:
        found = states(rng)
        told = self.attacked(student, found, rng)
        value = (student.denoise(found.x_t, found.t, told).value - found.goal).square().mean()
        if self.lasso > 0:
            value = value + self.lasso * torch.stack([(leaf - begun[name]).abs().mean() for name, leaf in leaves.items()]).sum()
        return value

    def _pooled(self, model: Model, esd: Any, concept: Concept, seed: int, watch: Watch) -> Callable[[Generator], States]:
        """ESD's own states, drawn as it draws them."""
        x, t, goals, rows, condition = esd.pool(model, concept, seed, watch)

        def states(rng: Generator) -> States:
            picked = torch.randint(len(x), (self.batch,), generator=rng).to(x.device)
            return States(x[picked], t[picked], x[picked % esd.rollouts], goals[picked], condition[rows[picked]])

        return states

    def _drawn(self, model: Model, student: Model, esd: Any, concept: Concept) -> Callable[[Generator], States]:
        """States on the trained network's own paths, with the original's goals."""
        table, null = model.condition(esd.texts(concept)), model.condition([""])

        def states(rng: Generator) -> States:
            given = table[torch.randint(len(table), (self.batch,), generator=rng).tolist()]
            x, x_t, t = stopped(student, given, null, rng, steps=esd.rollout_steps, guidance=esd.rollout_guidance)
            with torch.no_grad():
                own, free = (model.denoise(x_t, t, told).value for told in (given, null.repeat(self.batch)))
            return States(x_t, t, x, own - (1 + esd.strength) * (own - free), given)

        return states

    def attacked(self, student: Model, states: States, rng: Generator) -> Condition:
        """The prompts at embeddings by which the student predicts better where their paths began."""
        if not self.epsilon:
            return states.given
        e = states.given.text
        low, high = e.amin((1, 2), keepdim=True), e.amax((1, 2), keepdim=True)
        at = e + self.epsilon * (2 * torch.rand(e.shape, generator=rng) - 1).to(e)
        at = at.clamp(low, high)
        for _ in range(self.attack_steps):
            at = at.detach().requires_grad_()
            seen = student.denoise(states.x_t, states.t, replace(states.given, text=at))
            (slope,) = torch.autograd.grad((seen.noise - states.began).square().mean(), [at])
            moved = at.detach() - self.pace * self.epsilon * slope.sign() - e
            at = (e + moved.clamp(-self.epsilon, self.epsilon)).clamp(low, high)
        return replace(states.given, text=at.detach())
