"""Inversion: look for the starting noise from which the unchanged model draws the concept.

    1. walk pictures of the concept up the model's own deterministic path: z is where they come from (DDIM inversion);
    2. move z until what the model predicts on its path from there, under the concept's prompt, leads to the picture:

           min_z  sum over t  |eps_theta(z_t, t, c) - (z_t - signal(t) x_0) / level(t)|^2,   |z|^2 = d

An unlearner that took the way from common noise to the concept may have left rarer ways. Every model draws something of a picture that it
was inverted from: what says anything is the never arm, inverted by the same pictures. On the embedded world it finds no more in edits than
in the twin (docs/results/attacks.md).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion import Condition, Model
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.noising import Start
from vestige.diffusion.sampling import invert, noise, predictions
from vestige.methods import Attack, Budget, Candidate, Paper, Training, fit
from vestige.methods.contract import TRAINED, Access, Select
from vestige.methods.ranges import above, at_least
from vestige.methods.training import Trace
from vestige.methods.training_data import given_some
from vestige.seeds import derive


@final
@dataclass(frozen=True, kw_only=True)
class Inversion(Attack):
    """Starting latents by inversion (after Rusanovsky et al., 2025) and by search (after IVO, 2026).

    Differs from the released code: that inverts by ReNoise and scores the picture that is drawn again without guidance, and the likelihood
    of z; any near-lossless inverter passes that test, on any model. Here z is used: the audit draws from it under its own held-out prompts
    and guidance, and the never arm is inverted alike.

    Of IVO (arXiv 2602.00175) the abstract alone was available: it moves the starting latent until the edited model's predicted noise agrees
    with the original's. The form above is our choice: the picture's true noise is what is agreed with, so that no original is needed; the
    path's points follow z as a rigid shift (their own slope is left out, for memory's sake); the norm is held at sqrt(d) in every step.

    A budget of 1 is the inversion alone; n makes n - 1 steps of the search.

    Arguments:
        begin: Where the search begins: "inverted" pictures, or "noise".
        sampling_steps: Steps of the inversion.
        guidance: Its guidance, under the concept's plain prompt.
        times: Points of the path in each step of the search.
        lr: Adam's rate.
        fresh: How much of z the drawn picture's own noise takes the place of, in [0, 1]: how wide the way is.
        targets: Pictures, each with a z of its own; the i-th picture drawn begins from number i modulo as many.
    """

    paper: ClassVar[Paper] = Paper(
        "Memories of Forgotten Concepts",
        "Rusanovsky et al.",
        2025,
        arxiv="2412.00782",
        code="matanr/Memories_of_Forgotten_Concepts",
    )
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[str]] = frozenset({"pictures"})

    begin: Literal["inverted", "noise"] = "inverted"
    sampling_steps: int = 50
    guidance: float = 1.0
    times: int = 4
    lr: float = 0.01
    fresh: float = 0.0
    targets: int = 8

    def __post_init__(self) -> None:
        at_least(1, self, "sampling_steps", "times", "targets")
        at_least(0, self, "fresh")
        above(0, self, "lr")
        if self.fresh > 1:
            raise ValueError(f"fresh lies in [0, 1]; given {self.fresh}")

    def calls(self, last: int, pictures: int) -> int:
        count = min(self.targets, pictures)
        return self._inverting(count) + TRAINED * max(0, last - 1) * self.times * count

    def _inverting(self, count: int) -> int:
        return count * self.sampling_steps * predictions(self.guidance) if self.begin == "inverted" else 0

    def __call__(
        self,
        model: Model,
        concept: Concept,
        budget: Budget,
        *,
        seed: int,
        select: Select,
        pictures: PictureSet | None = None,
        watch: Watch = silent,
    ) -> Iterator[Candidate]:
        pictures = given_some(pictures, "inversion", concept, "to invert")
        began, trace = time.monotonic(), Trace()
        count = min(self.targets, len(pictures))
        data = model.encode(pictures.images[:count])
        condition, null = model.condition([concept.prompt]), model.condition([""])
        if self.begin == "noise":
            z = noise(model.latent_shape, [derive(seed, "latent", i) for i in range(count)]).to(data)
        else:
            how = {"steps": self.sampling_steps, "guidance": self.guidance}
            z = invert(model, data, condition.repeat(count), null=null, watch=watch, **how)  # type: ignore[arg-type]
        inverting, last = self._inverting(count), max(0, budget.last - 1)
        stops = [max(0, spent - 1) for spent in budget.points]
        reached = {0: on_sphere(z) if self.begin == "noise" else z}
        yield Candidate(0, cost={"calls": inverting, "seconds": time.monotonic() - began})
        found = self.search(model, data, condition, reached[0], last, stops, seed=seed, watch=watch, trace=trace)
        for spent in budget.points[1:]:
            if spent - 1 not in reached:
                reached = {spent - 1: next(latent for done, latent in found if done == spent - 1)}
            latent = reached[spent - 1]
            cost = {"calls": inverting + (spent - 1) * self.times * count, "seconds": time.monotonic() - began}
            size = latent.square().flatten(1).sum(1).mean().item() / latent[0].numel()
            start = Start(latent.clone(), 0.0, found=True, fresh=self.fresh)
            yield Candidate(spent, start=start, cost=cost, notes={"size": size, **trace.ends()})

    def search(
        self,
        model: Model,
        data: Tensor,
        condition: Condition,
        start: Tensor,
        steps: int,
        stops: list[int],
        *,
        seed: int,
        watch: Watch = silent,
        trace: Trace | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """Steps done and the latents by then, (n, C, h, w), at every stop.

        Arguments:
            data: Clean latents that the paths should lead to, (n, C, h, w).
            condition: One row.
            start: Where the search begins, like `data`.
        """
        z = start.clone().float().requires_grad_(True)
        told = condition.repeat(len(data))

        def loss(rng: torch.Generator) -> Tensor:
            with torch.no_grad():
                z.copy_(on_sphere(z))  # the projection that ends the step before
            return path_error(model, z, data, told, self.times)

        training = Training(steps=steps, lr=self.lr, clip=0.0)
        for done in fit({"z": z}, loss, training, seed=derive(seed, "latent"), stops=stops, watch=watch, trace=trace):
            yield done, on_sphere(z.detach())


def on_sphere(z: Tensor) -> Tensor:
    """Latents (n, C, h, w) with the norm that noise has, sqrt(C h w)."""
    size = z.flatten(1).norm(dim=1).reshape(-1, *[1] * (z.dim() - 1))
    made: Tensor = z / size * float(z[0].numel()) ** 0.5
    return made


def path_error(model: Model, z: Tensor, data: Tensor, condition: Condition, times: int) -> Tensor:
    """Sum over pictures and points of the path from z of the mean squared error of the predicted noise.

    The path is walked by DDIM in `times` steps; a point moves with z and otherwise stands still.
    """
    grid = model.grid(times).to(z.device)
    signal, level = (v.to(z).reshape(-1, 1, 1, 1, 1) for v in model.schedule(grid))
    x, total = z.detach().to(data), z.new_zeros(())
    for i in range(times):
        x_t = x + (z - z.detach()).to(x)
        seen = model.denoise(x_t, grid[i].expand(len(x)), condition)
        # What noise is left to predict, in the network's own terms of x_t: no division by a signal that is not there.
        wanted = (x_t - signal[i] * data) / level[i]
        total = total + (seen.noise - wanted).square().flatten(1).mean(1).sum()
        x = (signal[i + 1] * seen.data + level[i + 1] * seen.noise).detach()
    return total
