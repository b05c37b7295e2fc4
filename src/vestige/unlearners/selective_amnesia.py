"""Selective Amnesia: teach the target's prompts other pictures, replay the rest, and hold the weights that mattered.

    loss = L(surrogate, c) + retain_weight * L(replay) + strength * sum_i F_i (theta_i - theta*_i)^2
    F_i = mean over the original's own samples of ( d/d theta_i  sum_t L_t(sample) )^2

Forgetting as continual learning: surrogate pictures stand under the target's prompts c, pictures drawn by the original under
other prompts are trained on again, and an elastic pull towards the original's weights theta* is as strong as the diagonal of
its Fisher information F says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from vestige.concepts import Concept
from vestige.concepts.concept import Prompt
from vestige.concepts.images import PictureSet
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.sampling import chunks
from vestige.edits import Edit
from vestige.methods import Data, Paper, Training, Unlearner, fit
from vestige.methods.contract import TRAINED
from vestige.methods.looking import looking
from vestige.methods.objectives import denoising, rehearsal
from vestige.methods.ranges import above, at_least, below_one
from vestige.methods.training import Pull
from vestige.methods.training_data import Pairs, paired, renamed
from vestige.seeds import derive, generator

TIMES = 1000  # F's unit is the loss summed over so many times, as in the released code; `strength` is in the same unit


@final
@dataclass(frozen=True, kw_only=True)
class SelectiveAmnesia(Unlearner):
    """Continual learning of a surrogate for the target, with Fisher-weighted elasticity and replay (Heng and Soh, 2023).

    F is the mean of per-sample squares: each sample's gradient is summed over its times first, squared, and then averaged over
    samples. A batch holds times of one sample, never several samples, whose mean gradient would cancel before it is squared.
    The sum over a sample's times is estimated from few, so F gains their variance; more times lower it.

    Differs from the released code: (1) far smaller by default (it sums all 1,000 times of 1,000 samples, and trains for 12,500
    steps or more of 16 pictures): a lite setting; (2) losses are means over pictures and elements, where the code for small
    models sums over elements, in F too, so its strength of 10 is of another unit; (3) a share of the replay is under the empty
    prompt, where the code has none and the unconditional branch may drift; (4) the weights themselves are the result, not
    their moving average; (5) the surrogate is the concept's anchor in the same context, and noise is not offered.

    Arguments:
        surrogate: Words whose pictures the target's prompts shall give; "auto" takes the concept's anchor, "" what the model
            draws unasked.
        strength: Weight of the elastic pull, >= 0; 0 is plain training.
        fisher_pictures: Samples in F, the first of the replayed pictures; pictures that are given stand for the model's own.
        fisher_times: Independently drawn times a sample.
        steps: AdamW steps, without weight decay; the whole gradient is clipped to norm 1.
        lr: Rate; the released code's 1e-5 is multiplied by its 16 pictures a step.
        batch: Surrogates a step, and as many replayed pictures.
        surrogate_pictures: Surrogates, drawn by the model.
        retain_pictures: Replayed pictures of neighbours and unrelated concepts, drawn by the model where none are given.
        retain_weight: Weight of the loss on them, >= 0; they are drawn in any case, for F.
        dropout: Share of them trained under the empty prompt, so that guidance keeps its reference.
        scope: Weights that are trained and held; "unet" is the whole denoiser.
    """

    paper: ClassVar[Paper] = Paper(
        "Selective Amnesia: A Continual Learning Approach to Forgetting in Deep Generative Models",
        "Heng, Soh",
        2023,
        arxiv="2305.10120",
        code="clear-nus/selective-amnesia",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prompts", "retain"})

    surrogate: str = "auto"
    strength: float = 50.0
    fisher_pictures: int = 50
    fisher_times: int = 100
    steps: int = 2000
    lr: float = 1.6e-4
    batch: int = 16
    surrogate_pictures: int = 1000
    retain_pictures: int = 1000
    retain_weight: float = 1.0
    dropout: float = 0.1
    scope: str = "unet"

    def __post_init__(self) -> None:
        at_least(1, self, "fisher_pictures", "fisher_times", "steps", "batch", "surrogate_pictures", "retain_pictures")
        at_least(0, self, "strength", "retain_weight")
        above(0, self, "lr")
        below_one(self, "dropout")

    def resolved(self, concept: Concept) -> SelectiveAmnesia:
        """The same method with "auto" replaced by the concept's anchor."""
        return replace(self, surrogate=concept.anchor) if self.surrogate == "auto" else self

    def calls(self, picture: int, retained: int) -> int:
        drawn = self.surrogate_pictures * picture + self.retain_pictures * retained
        fisher = self.fisher_pictures * self.fisher_times * (self.strength > 0)
        return drawn + TRAINED * (fisher + 2 * self.steps * self.batch)

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        method, data = self.resolved(concept), data or Data()
        student, leaves = model.trainable(model.scope(self.scope))
        surrogates = paired(model, method._surrogates(model, concept, data, seed, watch))
        replay = paired(model, data.retained(model, concept, self.retain_pictures, seed=seed, watch=watch))
        null, pulls = model.condition([""]), []
        if self.strength > 0:
            held = fisher(student, leaves, replay, self.fisher_pictures, self.fisher_times, seed=seed, batch=self.batch, watch=watch)
            # A pull takes means over each tensor; times its size, they are the formula's sum.
            importance = {name: value * value.numel() for name, value in held.items()}
            pulls = [Pull(self.strength, {name: model.tensor(name) for name in leaves}, importance)]

        def loss(rng: torch.Generator) -> Tensor:
            value = denoising(student, *surrogates.draw(self.batch, rng), rng)
            return value + self.retain_weight * rehearsal(student, replay, self.batch, rng, null=null, dropout=self.dropout)

        training = Training(steps=self.steps, lr=self.lr)
        for _ in fit(leaves, loss, training, seed=derive(seed, "selective_amnesia"), pulls=pulls, watch=watch):
            pass
        tensors = {name: leaf.detach().clone() for name, leaf in leaves.items()}
        notes = {"concept": concept.name, "seed": seed}
        return Edit(model.fingerprint, "selective_amnesia", asdict(method), self.scope, tensors, notes=notes)

    def _surrogates(self, model: Model, concept: Concept, data: Data, seed: int, watch: Watch) -> PictureSet:
        """Pictures of the surrogate in the target's contexts, under the target's prompts."""
        asked = [p.text for p in concept.spread(self.surrogate_pictures, "training")]
        prompts = [Prompt(text, {}) for text in renamed(asked, concept, self.surrogate)]

        def told(stage: str, done: int, total: int) -> None:
            watch(f"{stage} surrogates", done, total)

        made = data.drawn(model, prompts, seed=derive(seed, "surrogate"), watch=told)
        return replace(made, captions=tuple((text,) for text in asked))


def fisher(
    model: Model, leaves: Mapping[str, Tensor], pairs: Pairs, count: int, times: int, *, seed: int, batch: int, watch: Watch = silent
) -> dict[str, Tensor]:
    """The diagonal Fisher information of `model` at its present leaves, like them, on the first `count` pairs.

    Arguments:
        leaves: Weights of `model` that require gradients; their gradients are cleared.
        times: Training times drawn for each sample.
        batch: Times in one pass.
    """
    total, count = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}, min(count, len(pairs))
    for i in range(count):
        rng = generator(seed, "fisher", i)
        for part in chunks(times, batch):
            size = part.stop - part.start
            x, condition = pairs.latents[i : i + 1].repeat(size, 1, 1, 1), pairs.table[[pairs.rows[i][0]]].repeat(size)
            with looking():
                (denoising(model, x, condition, rng) * (TIMES * size / times)).backward()
        for name, leaf in leaves.items():
            if leaf.grad is not None:
                total[name] += leaf.grad.square() / count
            leaf.grad = None
        watch("fisher", i + 1, count)
    return total
