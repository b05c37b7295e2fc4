"""Perturb: what deployment does to a model by itself. Nothing is trained, and no picture is needed.

    quantise(b)   w' = d round(w / d),  d = max |w| / (2^(b-1) - 1)          a matrix or kernel at a time
    prune(p)      w' = 0 where |w| is among the smallest p of its tensor
    noise(r)      w' = w + r std(w) xi

An edit whose changes lie below a bin of the quantiser, or in the weights that pruning takes away, comes off when the model is made
smaller; one that balances on a narrow ridge comes off under noise.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from vestige import registry
from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit, Hook
from vestige.edits.precision import wide
from vestige.methods import Attack, Budget, Candidate, Paper
from vestige.methods.contract import Access, Select
from vestige.seeds import derive, generator

Kind = Literal["quantise", "prune", "noise"]


@final
@dataclass(frozen=True, kw_only=True)
class Perturb(Attack):
    """A ladder of losses of precision, the slightest first (ours; no paper).

    That 4-bit quantisation undoes unlearning is known of language models, where updates lie far below a bin (as the abstracts of papers
    have it); we know of no systematic study of diffusion. The quantiser is the plainest there is, symmetric and per tensor, rounding to
    nearest, halves to even; pruning is by magnitude within each tensor; both are of matrices and kernels alone, as biases and norms stay
    as they are in practice. The values of the ladder are our choice.

    A budget of n is the n-th rung and no effort: the ladder takes one of each kind in turn, the slightest first, and its last rung stands
    for all budgets beyond. A candidate is a hook with a rung's few numbers, not a copy of the weights.

    Arguments:
        bits: To which weights are quantised, 2 to 16 each.
        noise: Deviation of the noise in units of each tensor's own, > 0 each.
        prune: Share of a tensor's weights that becomes zero, in (0, 1) each.
        scope: What loses precision: the denoiser, "unet" in every family, or whatever scope the model knows.
    """

    paper: ClassVar[Paper] = Paper("Loss of precision as an attack on unlearned weights", "the Vestige authors", 2026)
    access: ClassVar[Access] = "weights"
    needs: ClassVar[frozenset[str]] = frozenset()

    bits: tuple[int, ...] = (8, 6, 4)
    noise: tuple[float, ...] = (0.01, 0.03, 0.1)
    prune: tuple[float, ...] = (0.1, 0.3, 0.5)
    scope: str = "unet"

    def __post_init__(self) -> None:
        if not self.ladder():
            raise ValueError("name at least one strength among bits, noise and prune")
        if not all(2 <= b <= 16 for b in self.bits):
            raise ValueError(f"bits are from 2 to 16; given {list(self.bits)}")
        if not all(n > 0 for n in self.noise) or not all(0 < p < 1 for p in self.prune):
            raise ValueError(f"noise is above 0, prune within (0, 1); given {list(self.noise)} and {list(self.prune)}")

    def ladder(self) -> list[tuple[Kind, float]]:
        """Kind and strength of every rung."""
        sides: dict[Kind, list[float]] = {
            "quantise": [float(b) for b in sorted(self.bits, reverse=True)],
            "noise": sorted(self.noise),
            "prune": sorted(self.prune),
        }
        rounds = itertools.zip_longest(*([(kind, strength) for strength in values] for kind, values in sides.items()))
        return [rung for row in rounds for rung in row if rung is not None]

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
        began, ladder = time.monotonic(), self.ladder()
        model.scope(self.scope)  # an unknown scope is told before anything is drawn
        for spent in budget.points:
            cost = {"calls": 0, "seconds": time.monotonic() - began}
            if not spent:
                yield Candidate(0, cost=cost)
                continue
            kind, strength = ladder[min(spent, len(ladder)) - 1]
            told = {"kind": kind, "strength": strength, "scope": self.scope, "seed": derive(seed, kind, strength) if kind == "noise" else 0}
            hooks, about = (Hook("attacks", "perturb", told),), {"concept": concept.name, "kind": kind, "strength": strength}
            edit = Edit(model.fingerprint, "perturb", registry.settings(self), self.scope, hooks=hooks, notes=about)
            yield Candidate(spent, edit, cost=cost, notes={"kind": kind, "strength": strength})

    @staticmethod
    def hook(model: Model, *, kind: Kind, strength: float, scope: str, seed: int) -> Model:
        """`model` with every matrix and kernel of a scope changed by one rung.

        Arguments:
            seed: Of the noise; every tensor draws from a generator of its own.
        """
        changed = {}
        for name in model.scope(scope):
            value = wide(model.tensor(name))
            if value.dim() < 2:
                continue
            if kind == "quantise":
                changed[name] = quantised(value, int(strength))
            elif kind == "prune":
                changed[name] = pruned(value, strength)
            else:
                xi = torch.randn(value.shape, generator=generator(seed, name)).to(value)
                changed[name] = value + strength * value.std(correction=0) * xi
        return model.edited(Edit(model.fingerprint, "perturb", {}, scope, changed))


def quantised(value: Tensor, bits: int) -> Tensor:
    """The nearest of 2^bits - 1 evenly spaced values between minus and plus the largest magnitude, which is among them."""
    step = value.abs().amax() / (2 ** (bits - 1) - 1)
    return (value / step).round() * step + 0.0 if step > 0 else value.clone()  # + 0.0, so that there is one zero


def pruned(value: Tensor, share: float) -> Tensor:
    """The same with the smallest `share` of its elements zero, rounded down to whole elements."""
    kept = value.flatten().clone()
    kept[kept.abs().argsort(stable=True)[: int(share * kept.numel())]] = 0
    return kept.reshape(value.shape)
