"""Deterministic sampling and its inverse over any Model, guidance, spherical interpolation, derived seeds.

One step of DDIM (Song et al., 2021, eq. 12 with sigma = 0) in the model's own signal and noise levels,

    x_s = signal(s) * data(x_t, t) + noise(s) * eps(x_t, t),

is the Euler step of rectified flow where signal = 1 - t and noise = t; so one pair of functions serves both. The inverse
walks the same grid upwards and evaluates the network once a step, at the lower latent and the upper time, as diffusers'
`DDIMInverseScheduler` does; `refine` re-evaluates at the latest guess of the upper latent, whose fixed point is the exact
inverse of the sampling step. For rectified flow it is the Euler step backwards, x_t = x_s + (t - s) (eps - data): what is carried
over is the network's own output, for at t = 1 its noise would be the guess itself, whatever the network says; so it is where a
rescaled schedule of velocities ends in pure noise. The grid index where `invert` stops is the index where `sample` resumes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vestige.diffusion.model import Condition, Model, Prediction, Steer, Step, Watch, silent
from vestige.diffusion.noising import Churn, Held, Kept, Start, dealt
from vestige.errors import BadSetting


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How pictures are drawn; the audit owns it.

    Arguments:
        steps: Sampling steps.
        guidance: Classifier-free guidance; 1 is the plain conditional prediction.
        batch: Pictures drawn at once.
    """

    steps: int = 20
    guidance: float = 3.0
    batch: int = 64

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise BadSetting(f"pictures are drawn in at least 1 step and 1 at once; given {self.steps} and {self.batch}")
        if not math.isfinite(self.guidance):
            raise BadSetting(f"guidance is a finite number; given {self.guidance}")


def predictions(guidance: float, *, distilled: bool = False) -> int:
    """What one step asks of the denoiser: a second call where it is guided; a distilled model is told its guidance, and asked once."""
    return 2 if guidance != 1 and not distilled else 1


def noise(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Standard normal latents, one seed each: (len(seeds), *shape), on the CPU, whatever the batch size."""
    return torch.stack([torch.randn(tuple(shape), generator=torch.Generator().manual_seed(s)) for s in seeds])


def predict(
    model: Model,
    x_t: Tensor,
    t: Tensor,
    condition: Condition,
    null: Condition | None,
    guidance: float,
    *,
    steers: Sequence[Steer] | None = None,
    done: float = 0.0,
) -> Prediction:
    """One guided prediction; the conditional and the unconditional half share one forward pass. A distilled model is told the guidance.

        free + guidance (given - free - what hooks on guidance take off)

    Arguments:
        x_t: Latents, (B, C, h, w).
        t: Time, a scalar tensor.
        null: The empty prompt's condition, one row; None draws without guidance.
        guidance: 1 leaves the conditional prediction as it is.
        steers: The model's hooks on guidance with what they remember of this path; None: with no memory. A distilled model has none.
        done: Share of the path that lies behind.
    """
    times = t.expand(len(x_t))
    if model.distilled:
        return model.denoise(x_t, times, replace(condition, guidance=torch.full((len(x_t),), guidance, device=x_t.device)))
    steers = model.steers() if steers is None else steers
    if null is None or guidance == 1:
        alone = model.denoise(x_t, times, condition)
        return _steered(alone, 1.0, steers, Step(model, times, alone, None, done))
    both = model.denoise(torch.cat([x_t, x_t]), torch.cat([times, times]), condition.join(null.repeat(len(x_t))))
    half = len(x_t)
    given, free = (
        Prediction(x_t, both.signal[part], both.level[part], both.value[part], both.kind) for part in (slice(half), slice(half, None))
    )
    return _steered(given.guided(free, guidance), guidance, steers, Step(model, times, given, free, done))


def _steered(guided: Prediction, guidance: float, steers: Sequence[Steer], step: Step) -> Prediction:
    for steer in steers:
        guided = replace(guided, value=guided.value - guidance * steer(step))
    return guided


def _levels(model: Model, grid: Tensor, like: Tensor) -> list[tuple[Tensor, Tensor]]:
    signal, level = model.schedule(grid)
    shape = (1,) * like.dim()
    return [(a.to(like).reshape(shape), s.to(like).reshape(shape)) for a, s in zip(signal, level, strict=True)]


@torch.no_grad()
def sample(
    model: Model,
    x: Tensor,
    condition: Condition,
    *,
    steps: int,
    guidance: float = 1.0,
    null: Condition | None = None,
    start: int = 0,
    stop: int | None = None,
    churn: Churn | None = None,
    own: Sequence[torch.Generator] = (),
    held: Held | None = None,
    watch: Watch = silent,
) -> Tensor:
    """Draw latents by DDIM from grid index `start` (0 is pure noise) to `stop` (the clean end by default).

    Arguments:
        x: Latents at the noise level of grid index `start`, (B, C, h, w).
        condition: B rows.
        null: Encoded empty prompt, one row; needed where guidance differs from 1.
        churn: Noise of every step; None is none. Whether to go back is the caller's business.
        own: Who draws it, a generator a row.
        held: What is put back after every step; None is nothing.
    Returns:
        Latents at grid index `stop`, (B, C, h, w).
    """
    grid = model.grid(steps).to(x.device)
    stop = steps if stop is None else stop
    if not 0 <= start <= stop <= steps:
        raise ValueError(f"sampling runs from start to stop within 0..{steps}; given {start} and {stop}")
    levels, steers = _levels(model, grid, x), model.steers()
    for i in range(start, stop):
        seen = predict(model, x, grid[i], condition, null, guidance, steers=steers, done=i / steps)
        signal, level = levels[i + 1]
        if churn is None or not churn.eta:
            x = signal * seen.data + level * seen.noise
        else:
            sigma = churn.eta * level * (1 - (levels[i][0] * level / (signal * levels[i][1])).square()).clamp_min(0).sqrt()
            kept = (level.square() - sigma.square()).abs().sqrt()
            x = signal * seen.data + kept * seen.noise + churn.scale * sigma * _drawn_by(own, x)
        x = x if held is None else held.put(x, signal, level)
        watch("sample", i + 1 - start, stop - start)
    return x


def _streams(shape: Sequence[int], seeds: Sequence[int]) -> list[torch.Generator]:
    """The generators of `noise`, each past the starting noise that it has drawn."""
    made = [torch.Generator().manual_seed(s) for s in seeds]
    for rng in made:
        torch.randn(tuple(shape), generator=rng)
    return made


def _drawn_by(own: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """Standard normal noise, a row a generator."""
    return torch.stack([torch.randn(like.shape[1:], generator=rng) for rng in own]).to(like)


@torch.no_grad()
def invert(
    model: Model,
    x: Tensor,
    condition: Condition,
    *,
    steps: int,
    guidance: float = 1.0,
    null: Condition | None = None,
    stop: int = 0,
    refine: int = 0,
    watch: Watch = silent,
) -> Tensor:
    """Walk clean latents up the same grid to index `stop`, where `sample(start=stop)` resumes.

    Arguments:
        x: Clean latents, (B, C, h, w).
        refine: Fixed-point iterations a step; 0 is the standard one-evaluation inverse. Converges where the step's map is
            a contraction: for strong guidance or coarse grids the error stops falling.
    Returns:
        Latents at the noise level of grid index `stop`, (B, C, h, w).
    """
    grid = model.grid(steps).to(x.device)
    if not 0 <= stop <= steps:
        raise ValueError(f"stop is a grid index within 0..{steps}; given {stop}")
    levels = _levels(model, grid, x)
    for i in range(steps - 1, stop - 1, -1):
        (a_t, s_t), (a_s, s_s) = levels[i], levels[i + 1]
        x_s, x_t = x, x
        for _ in range(1 + refine):
            # The network reads (x_t's guess, t); what it says there stands for what it says in the sampling step.
            seen = predict(model, x_t, grid[i], condition, null, guidance, done=i / steps)
            if seen.kind == "flow":
                x_t = ((a_t + s_t) * x_s - (s_s * a_t - a_s * s_t) * seen.value) / (a_s + s_s)
                continue
            if seen.kind == "velocity" and not a_t.any():  # pure noise: of it, the noise is the guess itself, whatever the network says
                x_t = (x_s + a_s * s_t * seen.value) / (s_s * s_t)
                continue
            signal, level = a_t.expand(len(x), 1, 1, 1), s_t.expand(len(x), 1, 1, 1)
            eps = Prediction(x_t, signal, level, seen.value, seen.kind).noise
            x_t = a_t / a_s * (x_s - s_s * eps) + s_t * eps
        x = x_t
        watch("invert", steps - i, steps - stop)
    return x


def slerp(a: Tensor, b: Tensor, weight: float | Tensor) -> Tensor:
    """Spherical interpolation of whole tensors, magnitudes kept: `weight` 0 gives a, 1 gives b.

        [sin((1 - w) omega) a + sin(w omega) b] / sin(omega),   cos(omega) = <a, b> / (|a| |b|)

    The cosine is clamped to [-1, 1]; where sin(omega) is below 1e-4 (parallel, opposite or zero tensors) the straight line
    takes over. Differs from the released MemoRa code, which has neither and returns NaN for equal latents.
    """
    one, other = a.cpu().double(), b.cpu().double()  # not every device has doubles
    size = one.norm() * other.norm()
    omega = torch.arccos(((one * other).sum() / size).clamp(-1, 1)) if size > 0 else torch.zeros_like(size)
    sin = torch.sin(omega)
    w = torch.as_tensor(weight, dtype=torch.float64).cpu()
    if sin < 1e-4:
        return torch.lerp(one, other, w).to(a)
    mixed = (torch.sin((1 - w) * omega) * one + torch.sin(w * omega) * other) / sin
    return mixed.to(a)


@torch.no_grad()
def pictures(
    model: Model,
    prompts: Sequence[str],
    seeds: Sequence[int],
    protocol: Drawing,
    watch: Watch = silent,
    start: Start | None = None,
    churn: Churn | None = None,
    kept: Kept | None = None,
) -> Tensor:
    """Draw one picture a prompt from its seed, (len(prompts), 3, H, W) in [0, 1]; the batch size changes nothing but speed.

    Arguments:
        start: Pictures to begin from instead of pure noise: number i's latents, noised by its seed to the start's grid point.
        churn: Noise on the way, number i's from its seed too.
        kept: What of other pictures is put back on the way.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"one seed a prompt: {len(prompts)} prompts, {len(seeds)} seeds")
    unique = list(dict.fromkeys(prompts))
    row = {prompt: i for i, prompt in enumerate(unique)}
    table, null = model.condition(unique), model.condition([""])
    made, first = [], round(start.share * protocol.steps) if start is not None else 0
    for part in chunks(len(prompts), protocol.batch):
        x = noise(model.latent_shape, seeds[part]).to(table.text)
        held = kept.of(range(part.start, part.stop), x) if kept is not None else None
        if start is not None and (first or start.found):  # the grid's first point is pure noise by convention
            given = dealt(start.latents, range(part.start, part.stop)).to(x)
            levels = _levels(model, model.grid(protocol.steps).to(x.device), x)[first]
            x = math.sqrt(1 - start.fresh**2) * given + start.fresh * x if start.found else levels[0] * given + levels[1] * x
        told: dict[str, Any] = {"condition": table[[row[p] for p in prompts[part]]], "null": null, "guidance": protocol.guidance}
        own = _streams(model.latent_shape, seeds[part]) if churn is not None else []
        drawn = sample(model, x, steps=protocol.steps, start=first, churn=churn, own=own, held=held, **told)
        if churn is not None and churn.back < 1:
            again = round(churn.back * protocol.steps)
            signal, level = _levels(model, model.grid(protocol.steps).to(x.device), x)[again]
            x = signal * drawn + level * _drawn_by(own, drawn)
            drawn = sample(model, x, steps=protocol.steps, start=again, churn=churn, own=own, held=held, **told)
        made.append(model.decode(drawn).cpu())  # where judges look, and where there is room
        watch("draw", part.stop, len(prompts))
    return torch.cat(made)


def chunks(total: int, size: int) -> Iterator[slice]:
    """Slices that cover `range(total)` in pieces of at most `size`."""
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
