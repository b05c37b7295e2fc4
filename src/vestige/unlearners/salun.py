"""SalUn: relabel the target's pictures, and let only those weights move that the target's loss depends on most.

    G = sum over batches of the target of grad mean |eps - guided eps_theta(x_t, c)|^2
    M = 1 for the `share` of weights with the largest |G|, else 0
    loss = mean |eps_theta(x_t, c) - sg eps_theta(x_t, c')|^2 + retain_weight * L(retain),   gradients times M

x_t are the target's own pictures under noise, c their prompt, c' the same prompt with another word, and sg makes the model's
own present prediction a goal. L is the training loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from vestige.concepts import Concept
from vestige.diffusion import Condition, Model
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.sampling import chunks
from vestige.edits import Edit
from vestige.methods import Data, Paper, Training, Unlearner, fit
from vestige.methods.contract import TRAINED
from vestige.methods.looking import looking
from vestige.methods.objectives import matching, noisy, rehearsal
from vestige.methods.ranges import above, at_least, below_one
from vestige.methods.training_data import Pairs, paired, renamed
from vestige.seeds import derive, generator


@final
@dataclass(frozen=True, kw_only=True)
class SalUn(Unlearner):
    """Trains towards a wrong label under a saliency mask over the weights (Fan et al., 2024).

    The mask holds round(share * number of weights in the scope) weights exactly; of equal gradients the first in order go in.
    The others are those of the base bit for bit: masked gradients leave Adam's moments at zero, nothing is clipped, no weight
    decays, and the edit takes them from the base.

    Differs from the released code: (1) every picture is encoded once, to the mean of its latent, where the code draws it from
    the encoder twice, so that student and goal see slightly different pictures; (2) both losses are means over pictures and
    elements; the code for small models sums the retain loss over the elements, so its weight of 1e-3 is about 3 here; (3) a
    share of the retain batch is trained under the empty prompt, and the mask and the batches draw independent noise; (4) the
    wrong label is the concept's anchor, where the code takes the next class, or clothes for nudity. Our defaults follow its
    runs on Stable Diffusion.

    Arguments:
        towards: Words whose prediction the target's prompts are given; "auto" takes the concept's anchor, "" the empty prompt.
        share: Share of the scope's weights that may move, in (0, 1].
        mask_guidance: Guidance of the prediction in the mask's loss; 8.5 is the code's, which counts it as 7.5.
        steps: Adam steps.
        batch: Pictures of the target a step, and as many of everything else.
        target_pictures: Pictures of the target, drawn by the model where none are given.
        retain_pictures: Pictures of neighbours and unrelated concepts, likewise.
        retain_weight: Weight of the loss on them, >= 0; 0 neither draws nor trains on any.
        dropout: Share of retain pictures trained under the empty prompt, so that guidance keeps its reference.
        scope: Weights among which the mask chooses; "unet" is the whole denoiser.
    """

    paper: ClassVar[Paper] = Paper(
        "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both Image Classification and Generation",
        "Fan et al.",
        2024,
        arxiv="2310.12508",
        code="OPTML-Group/Unlearn-Saliency",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prompts", "target", "retain"})

    towards: str = "auto"
    share: float = 0.5
    mask_guidance: float = 8.5
    steps: int = 600
    lr: float = 1e-5
    batch: int = 8
    target_pictures: int = 800
    retain_pictures: int = 800
    retain_weight: float = 0.5
    dropout: float = 0.1
    scope: str = "unet"

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "batch", "target_pictures", "retain_pictures")
        at_least(0, self, "retain_weight")
        above(0, self, "lr", "share")
        below_one(self, "dropout")
        if self.share > 1:
            raise ValueError(f"share is above 0 and at most 1; given {self.share}")

    def resolved(self, concept: Concept) -> SalUn:
        """The same method with "auto" replaced by the concept's anchor."""
        return replace(self, towards=concept.anchor) if self.towards == "auto" else self

    def calls(self, picture: int, retained: int) -> int:
        kept = self.retain_weight > 0
        drawn = self.target_pictures * picture + self.retain_pictures * retained * kept
        return drawn + 2 * TRAINED * self.target_pictures + self.steps * self.batch * (1 + TRAINED * (1 + kept))

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        method, data = self.resolved(concept), data or Data()
        names = model.scope(self.scope)
        given = data.targeted(model, concept, self.target_pictures, seed=seed, watch=watch)
        target, null, retain = paired(model, given), model.condition([""]), None
        wrong = model.condition(renamed(given.texts, concept, method.towards))
        if self.retain_weight > 0:
            retain = paired(model, data.retained(model, concept, self.retain_pictures, seed=seed, watch=watch))
        mask = self._mask(model, names, target, null, seed, watch)
        student, leaves = model.trainable(names)

        def loss(rng: torch.Generator) -> Tensor:
            x, rows = target.pick(self.batch, rng)
            value = matching(student, x, target.table[rows], wrong[rows], rng)
            if retain is None:
                return value
            return value + self.retain_weight * rehearsal(student, retain, self.batch, rng, null=null, dropout=self.dropout)

        def masked(gradients: Mapping[str, Tensor]) -> None:
            for name, gradient in gradients.items():
                gradient.mul_(mask[name])

        training = Training(steps=self.steps, lr=self.lr, clip=0.0)  # clipping would count the gradients that the mask drops
        for _ in fit(leaves, loss, training, seed=derive(seed, "salun"), projections=[masked], watch=watch):
            pass
        tensors = {name: torch.where(mask[name], leaf.detach(), model.tensor(name)) for name, leaf in leaves.items()}
        notes = {"concept": concept.name, "seed": seed, "movable": sum(int(m.sum()) for m in mask.values())}
        return Edit(model.fingerprint, "salun", asdict(method), self.scope, tensors, notes=notes)

    def _mask(self, model: Model, names: list[str], target: Pairs, null: Condition, seed: int, watch: Watch) -> dict[str, Tensor]:
        """Which weights may move, from one pass over the target's pictures, each under its first caption."""
        view, leaves = model.trainable(names)
        for part in chunks(len(target), self.batch):
            x, condition = target.latents[part], target.table[[rows[0] for rows in target.rows[part]]]
            t, eps, x_t = noisy(view, x, generator(seed, "mask", part.start))
            seen = view.denoise(x_t, t, condition)
            guided = seen.guided(view.denoise(x_t, t, null.repeat(len(x))), self.mask_guidance)
            with looking():
                (guided.noise - eps).square().mean().backward()
            watch("mask", part.stop, len(target))
        sizes = {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.abs() for name, leaf in leaves.items()}
        return largest(sizes, round(self.share * sum(size.numel() for size in sizes.values())))


def largest(sizes: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Masks of exactly the `count` largest elements of all tensors together; of equal ones, the first in order."""
    flat = torch.cat([size.flatten() for size in sizes.values()])
    chosen = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    if count > 0:
        line = flat.kthvalue(len(flat) - count + 1).values
        chosen = flat > line
        chosen[(flat == line).nonzero().flatten()[: count - int(chosen.sum())]] = True
    parts = chosen.split([size.numel() for size in sizes.values()])
    return {name: part.reshape(size.shape) for (name, size), part in zip(sizes.items(), parts, strict=True)}
