"""Gradient ascent: unlearn by un-training, the training loss on the target's pictures raised and that on all else held.

    loss = -L(target) + retain_weight * L(retain),   L = mean |prediction - truth|^2

L(target) has no upper end, so this loss has no lower one: it does not converge. Run on, the model is ruined, the retain term
notwithstanding; `steps` is where it is stopped, and the method's most important setting.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from vestige.concepts import Concept
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit
from vestige.methods import Data, Paper, Training, Unlearner, fit
from vestige.methods.contract import TRAINED
from vestige.methods.objectives import denoising, rehearsal
from vestige.methods.ranges import above, at_least, below_one
from vestige.methods.training_data import paired
from vestige.seeds import derive


@final
@dataclass(frozen=True, kw_only=True)
class GradientAscent(Unlearner):
    """Ascends the training loss on the target, descends it on everything else; unbounded below, so it must be stopped early.

    The negative gradient is an old baseline (Golatkar et al., 2020, on classifiers, without the retain term); all defaults are
    ours. Both losses are means over pictures and elements. Public code for small diffusion models sums one of its two losses
    over the elements and averages the other, so its weights are off by their number; they cannot be carried over. The whole
    gradient is clipped to norm 1, as the ascending part grows without limit.

    Arguments:
        steps: AdamW steps, without weight decay; where the ascent is stopped.
        batch: Pictures of the target a step, and as many of everything else.
        target_pictures: Pictures of the target, drawn by the model where none are given.
        retain_pictures: Pictures of neighbours and unrelated concepts, likewise.
        retain_weight: Weight of the loss on them, >= 0; 0 neither draws nor trains on any.
        dropout: Share of retain pictures trained under the empty prompt, so that guidance keeps its reference.
        scope: Weights that are trained; "unet" is the whole denoiser.
    """

    paper: ClassVar[Paper] = Paper(
        "Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep Networks",
        "Golatkar, Achille, Soatto",
        2020,
        arxiv="1911.04933",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prompts", "target", "retain"})

    steps: int = 100
    lr: float = 1e-5
    batch: int = 8
    target_pictures: int = 200
    retain_pictures: int = 200
    retain_weight: float = 1.0
    dropout: float = 0.1
    scope: str = "unet"

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "batch", "target_pictures", "retain_pictures")
        at_least(0, self, "retain_weight")
        above(0, self, "lr")
        below_one(self, "dropout")

    def calls(self, picture: int, retained: int) -> int:
        kept = self.retain_weight > 0
        drawn = self.target_pictures * picture + self.retain_pictures * retained * kept
        return drawn + TRAINED * self.steps * self.batch * (1 + kept)

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        data = data or Data()
        student, leaves = model.trainable(model.scope(self.scope))
        target = paired(model, data.targeted(model, concept, self.target_pictures, seed=seed, watch=watch))
        null, retain = model.condition([""]), None
        if self.retain_weight > 0:
            retain = paired(model, data.retained(model, concept, self.retain_pictures, seed=seed, watch=watch))

        def loss(rng: torch.Generator) -> Tensor:
            value = -denoising(student, *target.draw(self.batch, rng), rng)
            if retain is None:
                return value
            return value + self.retain_weight * rehearsal(student, retain, self.batch, rng, null=null, dropout=self.dropout)

        training = Training(steps=self.steps, lr=self.lr)
        for _ in fit(leaves, loss, training, seed=derive(seed, "gradient_ascent"), watch=watch):
            pass
        tensors = {name: leaf.detach().clone() for name, leaf in leaves.items()}
        notes = {"concept": concept.name, "seed": seed}
        return Edit(model.fingerprint, "gradient_ascent", asdict(self), self.scope, tensors, notes=notes)
