"""Cheap measurements of an edit that say why it may or may not resist relearning on retained data.

With L_r and L_u the denoising losses on what must stay and on what must go, w_0 the original's and w the edited weights:

    excess    L_r(w) - L_r(w_0): what training on retained data could still gain, and so how far it is drawn to move
    gradient  |dL_r/dw| at w: how hard it pulls at first
    cosine    of dL_r/dw and dL_u/dw at w: above 0, descending on retained data also descends on the forgotten
    distance  |w - w_0| / |w_0| over the denoiser
    line      L_u at w_0 + a (w - w_0), a = 0, 1/4, ..., 1: whether original and edited weights lie in one valley
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from vestige import edits
from vestige.concepts import Concept
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit
from vestige.methods import Data
from vestige.methods.contract import TRAINED
from vestige.methods.objectives import denoising
from vestige.methods.training_data import Pairs, paired
from vestige.seeds import derive, generator

LINE = (0.0, 0.25, 0.5, 0.75, 1.0)
SCOPE = "unet"  # what a relearner trains
COUNT = 48  # pictures each of what must stay and what must go
DRAWS, BATCH = 8, 32  # batches a loss, and pictures a batch


def diagnose(
    model: Model, edit: Edit, retain: Pairs, forget: Pairs, *, seed: int, draws: int = DRAWS, batch: int = BATCH, watch: Watch = silent
) -> dict[str, Any]:
    """The measurements above, at the same pictures, times and noise for every set of weights.

    Arguments:
        model: The original.
        retain: What must stay, with conditions as `model` encodes them: of an edit of the text encoder only the denoiser is seen.
        forget: What must go, likewise.
        draws: Batches a loss.
        batch: Pictures a batch.
    Returns:
        Plain numbers; "forget_loss_on_line" is a list in the order of LINE, empty for an edit that acts by hooks.
    """
    edited, names = model.edited(edit), model.scope(SCOPE)
    sizes = {"draws": draws, "batch": batch}
    pull = _gradient(edited, names, retain, seed, "retain", **sizes)
    push = _gradient(edited, names, forget, seed, "forget", **sizes)
    before, after = (_loss(m, retain, seed, "retain", **sizes) for m in (model, edited))
    line = []
    for i, share in enumerate(LINE if not edit.hooks else ()):
        line.append(_loss(model.edited(edits.scale(model, edit, share)), forget, seed, "forget", **sizes))
        watch("diagnose", i + 1, len(LINE))
    return {
        "retain_loss": after,
        "excess_retain_loss": after - before,
        "retain_gradient": _norm(pull),
        "forget_gradient": _norm(push),
        "gradient_cosine": _cosine(pull, push),
        "distance": _distance(model, edited, names),
        "forget_loss_on_line": line,
    }


def measured(model: Model, concept: Concept, edit: Edit, data: Data, *, seed: int, watch: Watch = silent) -> dict[str, Any]:
    """`diagnose` on pictures of their own: others than the method trained on where the model draws them, or from the same folders."""
    apart = derive(seed, "diagnostics")
    kept = data.retained(model, concept, COUNT, seed=apart, watch=watch)
    gone = data.targeted(model, concept, COUNT, seed=apart, watch=watch)
    return diagnose(model, edit, paired(model, kept), paired(model, gone), seed=seed, watch=watch)


def calls(picture: int, retained: int) -> int:
    """Single denoiser calls of `measured`, for forecasts; `picture` and `retained` are what drawing one takes, 0 where they are given."""
    return COUNT * (picture + retained) + DRAWS * BATCH * (2 * TRAINED + 2 + len(LINE))


def _draws(model: Model, pairs: Pairs, seed: int, name: str, draws: int, batch: int) -> Iterator[Tensor]:
    """The loss of every batch, each with a generator of its own."""
    for i in range(draws):
        rng = generator(seed, "diagnose", name, i)
        yield denoising(model, *pairs.draw(batch, rng), rng)


def _loss(model: Model, pairs: Pairs, seed: int, name: str, *, draws: int, batch: int) -> float:
    with torch.no_grad():
        return sum(float(loss) for loss in _draws(model, pairs, seed, name, draws, batch)) / draws


def _gradient(model: Model, names: Sequence[str], pairs: Pairs, seed: int, name: str, *, draws: int, batch: int) -> list[Tensor]:
    """The loss's gradient in every named weight."""
    student, leaves = model.trainable(names)
    sums = [torch.zeros_like(leaf) for leaf in leaves.values()]
    for loss in _draws(student, pairs, seed, name, draws, batch):
        for held, new in zip(sums, torch.autograd.grad(loss / draws, list(leaves.values()), materialize_grads=True), strict=True):
            held += new
    return sums


def _norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(t.cpu().double().square().sum()) for t in tensors))


def _cosine(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """0 where either is zero."""
    size = _norm(one) * _norm(other)
    return sum(float((a.cpu().double() * b.cpu().double()).sum()) for a, b in zip(one, other, strict=True)) / size if size else 0.0


def _distance(model: Model, edited: Model, names: Sequence[str]) -> float:
    return _norm([edited.tensor(n) - model.tensor(n) for n in names]) / _norm([model.tensor(n) for n in names])
