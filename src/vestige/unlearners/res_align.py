"""ResAlign: adapters that go on forgetting after a fine-tuning that is acted out in every step, and differentiated through implicitly.

    F(theta, theta*) = (1 - share) l(theta) + share l(theta*) + w R(theta)          theta*: theta after some steps on the concept's pictures
    l                "ascent": minus the denoising loss on the concept's pictures;   "esd": mean |eps(x_t, c) - goal|^2
    goal             eps_0(x_t, a) - strength (eps_0(x_t, c) - eps_0(x_t, null))                 a: c with the anchor in the concept's place
    R                mean |eps(x_t, r) - eps_0(x_t, r)|^2 on pictures of what stays, r their prompts
    slope            dF/dtheta + (I + H)^-1 dF/dtheta*,   H the Hessian of the fine-tuning's loss at theta*

The slope is F's own where theta* is the least of that loss + |. - theta|^2 / 2. The inverse is a few terms of its series. theta are the
factors of adapters in every attention; eps_0 is the original, x_t a noised picture of the concept and c its prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, final

import torch
from torch import Generator, Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vestige import registry
from vestige.concepts import Concept
from vestige.diffusion import Condition, Model
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit
from vestige.edits.surgery import Factors, folded
from vestige.methods import Data, Paper, Training, Unlearner, fit, optimiser
from vestige.methods.contract import TRAINED
from vestige.methods.implicit import hypergradient, shaped, slopes
from vestige.methods.objectives import denoising, distilling, noisy, true_value
from vestige.methods.ranges import above, at_least
from vestige.methods.training_data import Pairs, paired, renamed
from vestige.seeds import derive, generator

SCOPE = "attention"
RELEASED: tuple[str, ...] = ("gd:20:1e-4", "gd:30:1e-4", "adam:5:1e-4", "gd:5:1e-4", "adam:30:1e-4", "gd:30:1e-5", "gd:5:1e-5")
RELEASED += ("gd:10:1e-5", "gd:10:1e-4", "adam:10:1e-5", "gd:30:1e-5", "gd:20:1e-6", "adam:10:1e-5")


@final
@dataclass(frozen=True, kw_only=True)
class ResAlign(Unlearner):
    """Resilient alignment (Li et al., 2025): low-rank adapters, trained against fine-tunings.

    Differs from the released code: (1) of its 15 fine-tunings the 13 that tune the adapters on captioned pictures, in turn, where it draws
    three a step; those of all weights and of DreamBooth are left out; (2) Adam begins anew in each, where the code keeps its moments and
    corrects their bias twice; (3) l(theta) and l(theta*) see the same states, in the code the same pictures and times under other noise;
    (4) fine-tunings and l share their pictures, of which the code has several folders; (5) whether the series diverges is asked of the
    whole vector, in the code of the mean over tensors; (6) its factor of 0.3 on the slope is left out, because Adam divides it out again;
    (7) in "esd", c and a are the pictures' prompts, in the code words.

    Minus a loss has no least: "ascent" is the code's default, and "esd" the bounded one of its two.

    Arguments:
        forget: What l is.
        strength: Of "esd", >= 0; 0 asks for the anchor.
        forget_weight: Weight of both l; the code has 1. At 0, adapters that begin at nothing stay there.
        share: Of l at theta*, in [0, 1]; the code's lambda.
        tunings: Fine-tunings, each OPTIMISER:STEPS:RATE with gd or adam for the optimiser, e.g. adam:5:1e-4.
        simulations: How many of them a step acts out; their slopes are averaged.
        tune_batch: Pictures a step of a fine-tuning.
        terms: Of the series of the inverse; 1 is the first-order variant, without H.
        limit: Largest norm of a slope; 0 has none.
        halvings: How often the series is tried again at half the pace, where it diverges or its slope is above `limit`; then dF/dtheta
            alone is taken.
        retain_weight: w in the first half of the steps; 0 drops R where `retain_end` is 0 too.
        retain_end: w at the end, which it nears along a sigmoid over the second half.
        retain_batch: Pictures of what stays in each simulation.
        rank: Inner dimension of the adapters.
        down_spread: Deviation of the factors `down` at first.
        up_spread: Likewise of `up`; 0 begins at the original.
        weight_decay: AdamW's, of the factors.
        target_pictures: Pictures of the concept.
        retain_pictures: Pictures of what stays.
        steps: AdamW steps.
        batch: Pictures in l, in each simulation.
    """

    paper: ClassVar[Paper] = Paper(
        "Towards Resilient Safety-driven Unlearning for Diffusion Models against Downstream Fine-tuning",
        "Li et al.",
        2025,
        arxiv="2507.16302",
        code="AntigoneRandy/ResAlign",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prompts", "target", "retain"})

    forget: Literal["ascent", "esd"] = "ascent"
    strength: float = 1.0
    forget_weight: float = 1.0
    share: float = 0.8
    tunings: tuple[str, ...] = RELEASED
    simulations: int = 3
    tune_batch: int = 1
    terms: int = 5
    limit: float = 0.2
    halvings: int = 5
    retain_weight: float = 1.6
    retain_end: float = 2.0
    retain_batch: int = 4
    rank: int = 4
    down_spread: float = 8e-3
    up_spread: float = 2e-3
    weight_decay: float = 1e-2
    target_pictures: int = 100
    retain_pictures: int = 100
    steps: int = 160
    lr: float = 2e-4
    batch: int = 1

    def __post_init__(self) -> None:
        at_least(1, self, "simulations", "tune_batch", "terms", "retain_batch", "rank", "target_pictures", "retain_pictures", "batch")
        at_least(0, self, "strength", "forget_weight", "share", "limit", "halvings", "retain_weight", "retain_end", "steps")
        at_least(0, self, "down_spread", "up_spread", "weight_decay")
        above(0, self, "lr")
        if self.share > 1:
            raise ValueError(f"share is at most 1; given {self.share}")
        if not self.tunings:
            raise ValueError("tunings name at least one fine-tuning, e.g. gd:20:1e-4")
        for text in self.tunings:
            Tuning.of(text)

    def calls(self, picture: int, retained: int) -> int:
        """A product with H differentiates what was predicted already, and counts as no call."""
        tuned = sum(self.tuning(k).steps for k in range(self.steps * self.simulations))
        each = self.batch * (2 * TRAINED + 3 * (self.forget == "esd")) + self.tune_batch * TRAINED * (self.terms > 1)
        each += self.retain_batch * (1 + TRAINED) * self._keeps
        drawn = self.target_pictures * picture + self.retain_pictures * retained * self._keeps
        return drawn + tuned * self.tune_batch * TRAINED + self.steps * self.simulations * each

    def tuning(self, number: int) -> Tuning:
        """The fine-tuning of a simulation, counted from 0 over all steps."""
        return Tuning.of(self.tunings[number % len(self.tunings)])

    @property
    def _keeps(self) -> bool:
        return max(self.retain_weight, self.retain_end) > 0

    def retaining(self, step: int) -> float:
        """w at a step, counted from 0."""
        half = self.steps / 2
        if step < half:
            return self.retain_weight
        return self.retain_weight + (self.retain_end - self.retain_weight) / (1 + math.exp(-10 * ((step - half) / half - 0.5)))

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        data = data or Data()
        given = data.targeted(model, concept, self.target_pictures, seed=seed, watch=watch)
        retain = paired(model, data.retained(model, concept, self.retain_pictures, seed=seed, watch=watch)) if self._keeps else None
        bilevel = _Bilevel(self, model, paired(model, given), model.condition(renamed(given.texts, concept, concept.anchor)), retain, seed)
        training = Training(steps=self.steps, lr=self.lr, weight_decay=self.weight_decay, clip=0.0)
        for _ in fit(bilevel.leaves, bilevel.loss, training, seed=derive(seed, "res_align"), watch=watch):
            pass
        factors = folded(bilevel.factors, rank=self.rank, alpha=self.rank)
        notes = {"concept": concept.name, "seed": seed, "simulations": bilevel.acted, "direct": bilevel.direct}
        return Edit(model.fingerprint, "res_align", registry.settings(self), SCOPE, factors=factors, notes=notes)


class Tuning(NamedTuple):
    """A fine-tuning that is acted out: "gd" or "adam", its steps and its rate."""

    kind: str
    steps: int
    lr: float

    @staticmethod
    def of(text: str) -> Tuning:
        """Read OPTIMISER:STEPS:RATE; ValueError says what it should be."""
        kind, _, rest = text.partition(":")
        steps, _, rate = rest.partition(":")
        try:
            made = Tuning(kind, int(steps), float(rate))
        except ValueError:
            made = Tuning("", 0, 0.0)
        if made.kind not in ("gd", "adam") or made.steps < 0 or not 0 < made.lr < math.inf:
            raise ValueError(f"tunings are OPTIMISER:STEPS:RATE with gd or adam, e.g. adam:5:1e-4; given {text!r}")
        return made

    def begin(self, params: Sequence[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=self.lr) if self.kind == "gd" else torch.optim.Adam(params, lr=self.lr)


class _Bilevel:
    """F and its slope: the adapters theta, a second set of them for theta*, and how many slopes had to do without theta*."""

    def __init__(self, method: ResAlign, model: Model, target: Pairs, anchors: Condition, retain: Pairs | None, seed: int) -> None:
        self.method, self.model, self.target, self.retain = method, model, target, retain
        self.anchors, self.null = anchors, model.condition([""])
        self.student, self.factors = self._adapted(generator(seed, "adapters"))
        self.tuned, after = self._adapted(generator(seed, "adapters"))
        self.leaves, self.after = named(self.factors), list(named(after).values())
        self.asked = self.acted = self.direct = 0

    def _adapted(self, rng: Generator) -> tuple[Model, Factors]:
        method = self.method
        view, factors = self.model.adapted(self.model.scope(SCOPE), rank=method.rank, alpha=method.rank, init="gaussian", rng=rng)
        with torch.no_grad():
            for pair in factors.values():
                for leaf, spread in zip(pair, (method.down_spread, method.up_spread), strict=True):
                    leaf.copy_(spread * torch.randn(leaf.shape, generator=rng))
        return view, factors

    def loss(self, rng: Generator) -> Tensor:
        """F, whose gradient by the leaves is the slope."""
        count, leaves = self.method.simulations, list(self.leaves.values())
        found = [self.simulated(rng) for _ in range(count)]
        self.asked += 1
        slope = torch.stack([slope for _, slope in found]).mean(0)
        along = torch.stack([(leaf * part).sum() for leaf, part in zip(leaves, shaped(slope, leaves), strict=True)]).sum()
        return along - along.detach() + sum(value for value, _ in found) / count

    def simulated(self, rng: Generator) -> tuple[float, Tensor]:
        """F and its slope (n,) with one fine-tuning acted out."""
        method, leaves = self.method, list(self.leaves.values())
        self.tune(method.tuning(self.acted), rng)
        self.acted += 1
        now, then = (method.forget_weight * lost for lost in self.forgetting((self.student, self.tuned), rng))
        value = (1 - method.share) * now
        if self.retain is not None:
            x, given = self.retain.draw(method.retain_batch, rng)
            weight = method.retaining(self.asked // optimiser.current().accumulation)
            value = value + weight * distilling(self.student, self.model, x, given, given, rng)
        own = slopes(value, leaves)
        through = slopes(method.share * then, self.after)
        curvature = self._curvature(rng) if method.terms > 1 else torch.zeros_like
        slope, pace = hypergradient(own, through, curvature, terms=method.terms, halvings=method.halvings, limit=method.limit)
        self.direct += pace == 0
        return float(value.detach() + method.share * then.detach()), slope

    def tune(self, tuning: Tuning, rng: Generator) -> None:
        """Let theta* be theta after this fine-tuning."""
        with torch.no_grad():
            for leaf, begun in zip(self.after, self.leaves.values(), strict=True):
                leaf.copy_(begun)
        steps = tuning.begin(self.after)
        for _ in range(tuning.steps):
            lost = self._tuning_loss(rng)
            for leaf, part in zip(self.after, shaped(slopes(lost, self.after), self.after), strict=True):
                leaf.grad = part
            steps.step()
        steps.zero_grad()

    def _tuning_loss(self, rng: Generator) -> Tensor:
        return denoising(self.tuned, *self.target.draw(self.method.tune_batch, rng), rng)

    def _curvature(self, rng: Generator) -> Callable[[Tensor], Tensor]:
        """v (n,) -> H v, of a batch of the fine-tuning at theta*."""
        with sdpa_kernel(SDPBackend.MATH):  # faster kernels of attention cannot be differentiated twice
            lost = self._tuning_loss(rng)
        first = slopes(lost, self.after, twice=True)
        return lambda v: slopes(first, self.after, along=v)

    def forgetting(self, views: Sequence[Model], rng: Generator) -> list[Tensor]:
        """l of each view, at the same states."""
        x, rows = self.target.pick(self.method.batch, rng)
        given = self.target.table[rows]
        t, eps, x_t = noisy(self.model, x, rng)
        seen = [view.denoise(x_t, t, given) for view in views]
        if self.method.forget == "ascent":
            return [-(found.value - true_value(found, x, eps)).square().mean() for found in seen]
        with torch.no_grad():
            told = (self.anchors[rows], given, self.null.repeat(len(x)))
            other, own, free = (self.model.denoise(x_t, t, condition).value for condition in told)
        goal = other - self.method.strength * (own - free)
        return [(found.value - goal).square().mean() for found in seen]


def named(factors: Factors) -> dict[str, Tensor]:
    """Leaves of adapters by name."""
    return {f"{name}:{side}": leaf for name, pair in factors.items() for side, leaf in zip(("down", "up"), pair, strict=True)}
