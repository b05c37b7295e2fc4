"""What is minimised: the one forward process, and losses of what a model predicts at noised latents."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from vestige.diffusion import Condition, Model, Prediction
from vestige.diffusion.layers import handed_on
from vestige.methods.training_data import Pairs
from vestige.seeds import generator

TINY = 1e-12  # mean square of a state below which it is rounding


def noisy(model: Model, data: Tensor, rng: torch.Generator, t: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The forward process: times t (B,), noise eps and x_t = signal * data + noise * eps, both like data (B, C, h, w).

    Arguments:
        t: None draws them as the model was trained.
    """
    t = (model.draw_times(len(data), rng) if t is None else t).to(data.device)
    eps = torch.randn(data.shape, generator=rng).to(data)
    signal, level = (v.to(data).reshape(-1, 1, 1, 1) for v in model.schedule(t))
    return t, eps, signal * data + level * eps


def stratified(model: Model, count: int, rng: torch.Generator, *, each: int = 16) -> Tensor:
    """Times (count,), each distributed as the model was trained and all of them spread evenly: one of every stratum of many, shuffled."""
    many = model.draw_times(count * each, rng).sort().values.reshape(count, each)
    chosen = many.gather(1, torch.randint(each, (count, 1), generator=rng).to(many.device))[:, 0]
    return chosen[torch.randperm(count, generator=rng).to(many.device)]


def denoising(model: Model, data: Tensor, condition: Condition, rng: torch.Generator) -> Tensor:
    """The model's own training loss on latents (B, C, h, w): mean squared error in what its network predicts, noise, velocity or flow."""
    t, eps, x_t = noisy(model, data, rng)
    seen = model.denoise(x_t, t, condition)
    return (seen.value - true_value(seen, data, eps)).square().mean()


def true_value(seen: Prediction, data: Tensor, eps: Tensor) -> Tensor:
    """What a network should have put out of latents (B, C, h, w) that were noised by eps, like them."""
    velocity = seen.signal * eps - seen.level * data  # from the data themselves: where no signal is left, x_t does not hold them
    return {"noise": eps, "data": data, "velocity": velocity, "flow": eps - data}[seen.kind]


def matching(model: Model, data: Tensor, condition: Condition, other: Condition, rng: torch.Generator) -> Tensor:
    """Mean squared distance of the prediction under `condition` from the model's own under `other`, at the same noisy latents.

    The second prediction is a goal: no gradient flows through it, but it moves as the model does.
    """
    t, _, x_t = noisy(model, data, rng)
    with torch.no_grad():
        goal = model.denoise(x_t, t, other).value
    return (model.denoise(x_t, t, condition).value - goal).square().mean()


def distilling(
    student: Model,
    teacher: Model,
    data: Tensor,
    asked: Condition,
    told: Condition,
    rng: torch.Generator,
    t: Tensor | None = None,
    *,
    hints: float = 0.0,
    snr_gamma: float | None = None,
) -> Tensor:
    """Mean squared distance of a student's prediction under `asked` from a teacher's under `told`, at the same noised latents.

        mean w(t) |eps_s - eps_t|^2  +  hints mean over states h between layers of |h_s - h_t|^2 / |h_t|^2

    Hints (Romero et al., 2015) are of one layer there, and here of all; that each is measured by its own size is ours.

    Arguments:
        data: Clean latents, (B, C, h, w).
        t: Times, (B,); None draws them as the teacher was trained.
        hints: Weight of what layers hand on, the prediction among it; student and teacher are then networks of one shape.
        snr_gamma: Weighs times by `min_snr`; None weighs all alike.
    """
    t, _, x_t = noisy(teacher, data, rng, t)
    with torch.no_grad(), _heard(teacher, hints) as theirs:
        goal = teacher.denoise(x_t, t, told).value
    with _heard(student, hints) as ours:
        seen = student.denoise(x_t, t, asked)
    apart = (seen.value - goal).square()
    distance = (apart if snr_gamma is None else min_snr(seen, snr_gamma) * apart).mean()
    return distance + hints * _apart(ours, theirs) if hints else distance


def min_snr(seen: Prediction, gamma: float) -> Tensor:
    """Weights w(t), (B, 1, 1, 1), that make a squared error of what the network puts out one of the data, times min(SNR, gamma).

        noise  min(1, gamma / SNR),    velocity, flow  min(signal^2, gamma level^2),    data  min(SNR, gamma),    SNR = (signal / level)^2

    Where hardly any noise is left, predicting it is hard and of no use to the picture: unweighted, those times are most of the loss.
    Source: Hang et al., "Efficient diffusion training via Min-SNR weighting strategy", 2023.

    Arguments:
        gamma: Above 0, the largest signal-to-noise ratio that counts; they take 5.
    """
    signal, level = seen.signal.square(), seen.level.square()
    if seen.kind == "noise":
        return (gamma * level / signal).clamp(max=1)
    if seen.kind == "data":
        return (signal / level).clamp(max=gamma)
    return torch.minimum(signal, gamma * level)  # signal^2 + level^2 = 1 under velocity, signal + level = 1 under flow


def _heard(model: Model, hints: float) -> AbstractContextManager[list[Tensor]]:
    return handed_on(model) if hints else nullcontext([])


def _apart(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """Mean over states of their squared distance in units of the teacher's own size."""
    pairs = [(a.float(), b.float()) for a, b in zip(ours, theirs, strict=True)]
    return torch.stack([(a - b).square().mean() / b.square().mean().clamp_min(TINY) for a, b in pairs]).mean()


def importance(model: Model, names: Sequence[str], data: Tensor, condition: Condition, *, seed: int) -> dict[str, Tensor]:
    """How much each weight matters to the prediction on latents (N, C, h, w): memory-aware synapses (Aljundi et al., 2018).

        Omega_k = mean over the data of |d |eps|^2 / d theta_k|, scaled to mean 1 over all named weights

    It needs no labels. One latent at a time: the mean of absolute slopes is not the slope of a batch.
    """
    view, leaves = model.trainable(names)
    total = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    for i in range(len(data)):
        t, _, x_t = noisy(view, data[i : i + 1], generator(seed, "importance", i))
        size = view.denoise(x_t, t, condition[i : i + 1]).noise.square().sum()
        for name, slope in zip(leaves, torch.autograd.grad(size, list(leaves.values())), strict=True):
            total[name] += slope.abs()
    mean = torch.cat([value.flatten() for value in total.values()]).mean()
    return {name: value / mean for name, value in total.items()}


def dropped(condition: Condition, null: Condition, share: float, rng: torch.Generator) -> Condition:
    """A batch in which each condition is the empty prompt's with probability `share`, as guidance is trained (Ho and Salimans, 2022)."""
    if share <= 0:
        return condition
    away = torch.rand(len(condition), generator=rng) < share
    rows = [len(condition) if gone else i for i, gone in enumerate(away.tolist())]
    return condition.join(null)[rows]


def rehearsal(model: Model, pairs: Pairs, batch: int, rng: torch.Generator, *, null: Condition, dropout: float = 0.0) -> Tensor:
    """The denoising loss of `batch` pairs, drawn here, some of whose conditions are dropped: as a model is trained."""
    data, condition = pairs.draw(batch, rng)
    return denoising(model, data, dropped(condition, null, dropout, rng), rng)
