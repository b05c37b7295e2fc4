"""EraseDiff: keep the training loss on everything else low, subject to the forget loss being at its own minimum.

    min L_r(theta)  subject to  L_f(theta) <= L_f(theta_K),   theta_K = theta after K steps on L_f alone
    g = grad L_r(theta) + w grad [L_f(theta) - L_f(theta_K)]

    L_r = the training loss on retained pictures,   L_f = mean |eps_theta(x_t, c) - sg eps_theta(x_t, c')|^2

with x_t the target's own pictures under noise, c their prompt and c' the same prompt with another word. theta_K is held
constant in the first-order method (Liu et al., 2022, "BOME"), so grad [L_f(theta) - L_f(theta_K)] = grad L_f(theta): the K
inner steps are no part of the direction, nor of any of the three weights below, and are not run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from vestige.concepts import Concept
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit
from vestige.methods import Data, Paper, Training, Unlearner, fit
from vestige.methods.contract import TRAINED
from vestige.methods.objectives import matching, rehearsal
from vestige.methods.ranges import above, at_least, below_one
from vestige.methods.training_data import paired, renamed
from vestige.seeds import derive


@final
@dataclass(frozen=True, kw_only=True)
class EraseDiff(Unlearner):
    """Bilevel unlearning by a first-order value-function method (Wu et al., 2025).

    Differs from the released code, which does not run the formula above: (1) its "inner step" is a whole pass over the target,
    and the weights are set back to one snapshot before every outer pass, so all outer passes of an epoch but the last are lost;
    (2) L_f(theta_K) is a running mean of losses on the way; (3) the inner passes leave their marks in Adam's moments, which
    are not set back; (4) its loader starts anew at every step, so the target's first batch is the only one; (5) the code for
    small models puts retain times under forget pictures, and sums L_r over the elements where L_f is a mean: here both are
    means; (6) pictures are encoded twice, with other latent noise. One joint step of g is taken instead, as written; the
    gradient's norm is clipped to 1; a share of the retain batch is trained under the empty prompt; c' is the concept's
    anchor, where the code has one fixed prompt of something else, or a random other class.

    Arguments:
        towards: Words whose prediction the target's prompts are given; "auto" takes the concept's anchor, "" the empty prompt.
        forget_weight: w. A number >= 0 (the released scripts' 1); "cosine": max(0, margin - cos(grad L_r, grad L_f)), the
            released code's adaptive rule; "bome": max(0, margin - <grad L_r, grad L_f> / |grad L_f|^2), which makes
            <g, grad L_f> at least margin |grad L_f|^2, so a plain gradient step lowers L_f (Adam rescales it).
        margin: Of the adaptive rules, >= 0.
        steps: Adam steps.
        batch: Pictures of the target a step, and as many of everything else.
        target_pictures: Pictures of the target, drawn by the model where none are given.
        retain_pictures: Pictures of neighbours and unrelated concepts, likewise.
        dropout: Share of retain pictures trained under the empty prompt, so that guidance keeps its reference.
        scope: Weights that are trained; "unet" is the whole denoiser.
    """

    paper: ClassVar[Paper] = Paper(
        "Erasing Undesirable Influence in Diffusion Models",
        "Wu, Le, Hayat, Harandi",
        2025,
        arxiv="2401.05779",
        code="JingWu321/EraseDiff",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prompts", "target", "retain"})

    towards: str = "auto"
    forget_weight: float | Literal["cosine", "bome"] = 1.0
    margin: float = 0.1
    steps: int = 160
    lr: float = 1e-5
    batch: int = 16
    target_pictures: int = 800
    retain_pictures: int = 800
    dropout: float = 0.1
    scope: str = "unet"

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "batch", "target_pictures", "retain_pictures")
        at_least(0, self, "margin")
        above(0, self, "lr")
        below_one(self, "dropout")
        if not isinstance(self.forget_weight, str) and self.forget_weight < 0:
            raise ValueError(f'forget_weight is at least 0, "cosine" or "bome"; given {self.forget_weight}')

    def resolved(self, concept: Concept) -> EraseDiff:
        """The same method with "auto" replaced by the concept's anchor."""
        return replace(self, towards=concept.anchor) if self.towards == "auto" else self

    def calls(self, picture: int, retained: int) -> int:
        drawn = self.target_pictures * picture + self.retain_pictures * retained
        return drawn + self.steps * self.batch * (2 * TRAINED + 1)

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        method, data = self.resolved(concept), data or Data()
        student, leaves = model.trainable(model.scope(self.scope))
        given = data.targeted(model, concept, self.target_pictures, seed=seed, watch=watch)
        target, null = paired(model, given), model.condition([""])
        wrong = model.condition(renamed(given.texts, concept, method.towards))
        retain = paired(model, data.retained(model, concept, self.retain_pictures, seed=seed, watch=watch))

        def loss(rng: torch.Generator) -> Tensor:
            x, rows = target.pick(self.batch, rng)
            forget = matching(student, x, target.table[rows], wrong[rows], rng)
            keep = rehearsal(student, retain, self.batch, rng, null=null, dropout=self.dropout)
            return keep + self._weight(keep, forget, leaves) * forget

        training = Training(steps=self.steps, lr=self.lr)
        for _ in fit(leaves, loss, training, seed=derive(seed, "erasediff"), watch=watch):
            pass
        tensors = {name: leaf.detach().clone() for name, leaf in leaves.items()}
        notes = {"concept": concept.name, "seed": seed}
        return Edit(model.fingerprint, "erasediff", asdict(method), self.scope, tensors, notes=notes)

    def _weight(self, keep: Tensor, forget: Tensor, leaves: Mapping[str, Tensor]) -> float:
        """w, by the gradients of both losses where it adapts; 0 where the forget loss has none."""
        if not isinstance(self.forget_weight, str):
            return self.forget_weight
        params = list(leaves.values())
        kept, gone = (torch.autograd.grad(v, params, retain_graph=True, allow_unused=True, materialize_grads=True) for v in (keep, forget))
        along, size, other = (
            sum(float((a * b).sum()) for a, b in zip(p, q, strict=True)) for p, q in ((kept, gone), (gone, gone), (kept, kept))
        )
        if size == 0:
            return 0.0
        scale = size if self.forget_weight == "bome" else (size * other) ** 0.5
        return max(0.0, self.margin - (along / scale if scale else 0.0))
