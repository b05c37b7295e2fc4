"""States on a model's own guided sampling paths: what methods train at that need no pictures.

`rollouts` walks whole paths of a model that does not change, and keeps every state with the model's two predictions there; `stopped`
walks the paths of one that is being trained, as far as a random place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vestige.diffusion import Condition, Model
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.sampling import noise, predict, sample
from vestige.seeds import derive


@dataclass(frozen=True)
class Rollouts:
    """Every state of some paths, S in all.

    Arguments:
        x_t: (S, C, h, w).
        t: (S,).
        given: What the model predicts of each path's prompt, like `x_t`.
        free: What it predicts of the empty prompt.
        rows: Which row of `condition` is each state's prompt, (S,).
        condition: One row a prompt.
    """

    x_t: Tensor
    t: Tensor
    given: Tensor
    free: Tensor
    rows: Tensor
    condition: Condition

    def __len__(self) -> int:
        return len(self.x_t)

    def beyond(self, strength: float) -> Tensor:
        """free - strength (given - free), like `x_t`; from the prompt's side, so that at -1 it is the prediction itself, bit for bit."""
        return self.given - (1 + strength) * (self.given - self.free)


@torch.no_grad()
def rollouts(
    model: Model,
    texts: Sequence[str],
    *,
    count: int,
    steps: int,
    guidance: float,
    seed: int,
    watch: Watch = silent,
    stage: str = "rollouts",
) -> Rollouts:
    """Draw `count` paths of `steps` states, prompts in turn; 2 `count` `steps` calls of the denoiser, more of one told its guidance.

    A model that is told its guidance draws as it is told, and makes both predictions at guidance 1.
    """
    condition, null = model.condition(texts), model.condition([""])
    rows = torch.arange(count) % len(texts)
    x = noise(model.latent_shape, [derive(seed, "rollout", i) for i in range(count)]).to(condition.text)
    own, grid = condition[rows], model.grid(steps).to(x.device)
    states, given, free = [], [], []
    for i in range(steps):
        with_c = predict(model, x, grid[i], own, None, 1.0)
        without = predict(model, x, grid[i], null.repeat(len(x)), None, 1.0)
        states.append(x)
        given.append(with_c.value)
        free.append(without.value)
        guided = with_c.guided(without, guidance)
        if model.distilled:  # it was told guidance 1 above, which is not how it draws
            guided = predict(model, x, grid[i], own, None, guidance)
        signal, level = (v.to(x) for v in model.schedule(grid[i + 1].expand(1)))
        x = signal * guided.data + level * guided.noise
        watch(stage, i + 1, steps)
    times = grid[:-1].repeat_interleave(count)
    return Rollouts(torch.cat(states), times, torch.cat(given), torch.cat(free), rows.repeat(steps).to(x.device), condition)


def stopped(
    model: Model, given: Condition, null: Condition, rng: torch.Generator, *, steps: int, guidance: float, stop: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Where paths began, x (B, C, h, w), and their states x_t, all at one time t (B,), neither the first nor the last of `steps`.

    At a place that is drawn, on average half of a path's calls.

    Arguments:
        given: A row a path.
        null: The empty prompt's condition, one row.
        stop: The place, in [1, steps - 1]; None: drawn.
    """
    if stop is None:
        stop = int(torch.randint(1, steps, (1,), generator=rng))
    x = torch.randn(len(given), *model.latent_shape, generator=rng).to(given.text)
    x_t = sample(model, x, given, steps=steps, guidance=guidance, null=null, stop=stop)
    return x, x_t, model.grid(steps)[stop].to(x_t.device).expand(len(x_t))
