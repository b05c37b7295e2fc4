"""Full fine-tuning: teach the concept back by moving the weights themselves, on MemoRa's pictures. A control of that attack.

    loss = |eps - eps_theta(x_t, t, c)|^2   over every weight of a scope, on regenerated or raw references

It answers whether MemoRa's speed is the adapter's doing: same pictures, same captions, same loss; only what is trained differs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from vestige import regeneration
from vestige.base import Access, Attack, Budget, Candidate, Model, Paper, Select, Watch, silent
from vestige.concepts import Concept
from vestige.edits import Edit
from vestige.images import Pairs, PictureSet
from vestige.sampling import derive
from vestige.training import Schedule, Trace, Training, denoising, fit


@final
@dataclass(frozen=True, kw_only=True)
class FineTune(Attack):
    """Trains a scope of weights of the edited model with the plain denoising loss. Ours, as a control; no paper.

    The text encoder stays frozen. With `regenerate` off it is naive fine-tuning on the raw pictures.

    Arguments:
        regenerate: Train on what the edited model makes of the references; False trains on the references themselves.
        start: Depth of the inversion as a grid index: 0 inverts to pure noise, `sampling_steps` not at all.
        sampling_steps: Steps of inversion and re-rendering.
        guidance: Guidance in the inversion.
        render_guidance: Guidance in the re-rendering.
        refine: Fixed-point iterations of the inversion; 0 is the standard one.
        points: Intervals a pair of references.
        interpolation: "slerp", or "none" for the inverted references alone.
        captions: "concept" trains every picture on the plain prompt, "templates" on the concept's training prompts.
        scope: Weights that are trained.
        lr: AdamW's rate.
        batch: Pictures a micro-batch.
        accumulation: Micro-batches a step.
        schedule: "constant", or "cosine" over the last budget (then budgets are not prefixes of longer runs).
        weight_decay: AdamW's; it pulls towards zero, not towards the edited model.
        clip: Largest gradient norm; 0 does not clip.
    """

    paper: ClassVar[Paper] = Paper("Full fine-tuning on a few pictures", "the Vestige authors", 2026)
    access: ClassVar[Access] = "weights"
    needs: ClassVar[frozenset[str]] = frozenset({"pictures"})

    regenerate: bool = True
    start: int = 15
    sampling_steps: int = 50
    guidance: float = 7.5
    render_guidance: float = 7.5
    refine: int = 0
    points: int = 10
    interpolation: Literal["slerp", "none"] = "slerp"
    captions: Literal["concept", "templates"] = "concept"
    scope: Literal["unet", "attention", "cross-attention", "cross-attention-kv"] = "unet"
    lr: float = 1e-5
    batch: int = 4
    accumulation: int = 1
    schedule: Schedule = "constant"
    weight_decay: float = 0.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        regeneration.check(self)
        if min(self.batch, self.accumulation) < 1 or self.lr <= 0 or min(self.clip, self.weight_decay) < 0:
            raise ValueError("batch and accumulation are at least 1, lr above 0, clip and weight_decay at least 0")

    def variants(self) -> Mapping[str, Attack]:
        """Raw references: a model that never knew the concept, or was damaged in it, may regenerate something else."""
        return {"raw": replace(self, regenerate=False)} if self.regenerate else {}

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
        began, trace = time.monotonic(), Trace()
        given = regeneration.training_set(model, concept, pictures, self, select, "finetune", watch)
        pairs = Pairs(given.latents, model.condition(given.texts), given.rows)
        student, leaves = model.trainable(model.scope(self.scope))

        def loss(rng: torch.Generator) -> Tensor:
            return denoising(student, *pairs.draw(self.batch, rng), rng)

        for spent in fit(leaves, loss, self._training(budget), seed=derive(seed, "batches"), stops=budget.points, watch=watch, trace=trace):
            values = {name: leaf.detach().clone() for name, leaf in leaves.items()}
            edit = Edit(model.fingerprint, "finetune", asdict(self), self.scope, values, notes={"concept": concept.name, "steps": spent})
            calls = given.calls + spent * self.batch * self.accumulation
            notes = {"references_show": given.share, **trace.ends()}
            cost = {"calls": calls, "seconds": time.monotonic() - began}
            yield Candidate(spent, edit if spent else None, cost=cost, notes=notes)

    def _training(self, budget: Budget) -> Training:
        return Training(
            steps=budget.last,
            lr=self.lr,
            accumulation=self.accumulation,
            schedule=self.schedule,
            clip=self.clip,
            weight_decay=self.weight_decay,
        )
