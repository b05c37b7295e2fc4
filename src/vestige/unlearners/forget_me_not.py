"""Forget-Me-Not: let no place of a picture attend to the concept's words.

    loss = | A[layers, heads, pixels, P] |_2,   P the columns of the concept's tokens, and by default of the end token

A the cross-attention probabilities at noised pictures of the concept under its prompt. The network's output is not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, final

import torch
from torch import Generator, Tensor

from vestige import registry
from vestige.concepts import Concept
from vestige.diffusion import Model
from vestige.diffusion.attention import Layers, Maps, columns, endings, network, recording
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit
from vestige.methods import Data, Paper, Training, Unlearner, fit
from vestige.methods.contract import TRAINED
from vestige.methods.objectives import noisy, rehearsal
from vestige.methods.ranges import above, at_least, below_one
from vestige.methods.training_data import Pairs, paired
from vestige.seeds import derive


@final
@dataclass(frozen=True, kw_only=True)
class ForgetMeNot(Unlearner):
    """Minimises the attention that a concept's words get, on pictures of it (Zhang et al., 2024).

    Differs from the released code: (1) its first stage, which can learn new tokens for the concept from pictures, is left out: the
    prompt's own words stand for it; (2) pictures are encoded once, without random crops; (3) the norm is taken a picture, and
    averaged over the batch, where the code joins the batch: the same at its batch of 1; (4) its clipping has no effect when the whole
    U-Net is trained, since its list of weights is used up by then; `clip` clips always; (5) nothing is trained in half precision; (6) the
    retain term is ours: the code holds on to nothing.

    Arguments:
        objective: "norm" is the released code's, "squares" the sum of squares that the paper writes.
        endings: Which end tokens count beside the words. "released": every position with the end token's number; where padding is
            that token too, as in Stable Diffusion 1.x, that is all of the padding. "first": the end token alone. "none": no other.
        layers: "all", or parts of layers' names and resolutions, e.g. "mid_block,8x8".
        scope: "unet" trains all of it (released), "cross-attention" its cross-attention.
        retain_weight: Weight of the model's own training loss on pictures of neighbours and unrelated concepts; 0 trains none.
        target_pictures: Pictures of the concept.
        retain_pictures: Pictures of other concepts, where `retain_weight` is above 0.
        dropout: Share of the other pictures' prompts replaced by the empty one.
        weight_decay: AdamW's.
        clip: Largest gradient norm; 0 does not clip.
        steps: AdamW steps. A few more destroy the model, a few fewer do nothing.
        batch: Pictures a step.
    """

    paper: ClassVar[Paper] = Paper(
        "Forget-Me-Not: Learning to Forget in Text-to-Image Diffusion Models",
        "Zhang et al.",
        2024,
        arxiv="2303.17591",
        code="SHI-Labs/Forget-Me-Not",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"target", "retain"})

    objective: Literal["norm", "squares"] = "norm"
    endings: Literal["released", "first", "none"] = "released"
    layers: Layers = "all"
    scope: Literal["unet", "cross-attention"] = "unet"
    retain_weight: float = 0.0
    target_pictures: int = 10
    retain_pictures: int = 20
    dropout: float = 0.0
    weight_decay: float = 1e-2
    clip: float = 1.0
    steps: int = 35
    lr: float = 2e-6
    batch: int = 1

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "batch", "target_pictures", "retain_pictures")
        at_least(0, self, "retain_weight", "weight_decay", "clip")
        above(0, self, "lr")
        below_one(self, "dropout")

    def calls(self, picture: int, retained: int) -> int:
        kept = self.retain_weight > 0
        drawn = self.target_pictures * picture + self.retain_pictures * retained * kept
        return drawn + TRAINED * self.steps * self.batch * (1 + kept)

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        network(model)
        data = data or Data()
        given = data.targeted(model, concept, self.target_pictures, seed=seed, watch=watch)
        pairs = paired(model, given)
        counted = self._counted(model, given.texts, concept.target).to(pairs.latents)
        student, leaves = model.trainable(model.scope(self.scope))
        rehearse = None
        if self.retain_weight > 0:
            others = paired(model, data.retained(model, concept, self.retain_pictures, seed=seed, watch=watch))
            rehearse = partial(rehearsal, student, others, self.batch, null=model.condition([""]), dropout=self.dropout)

        def loss(rng: Generator) -> Tensor:
            value = self._attention(student, pairs, counted, rng)
            return value if rehearse is None else value + self.retain_weight * rehearse(rng)

        training = Training(steps=self.steps, lr=self.lr, weight_decay=self.weight_decay, clip=self.clip)
        for _ in fit(leaves, loss, training, seed=derive(seed, "forget_me_not"), watch=watch):
            pass
        tensors = {name: leaf.detach().clone() for name, leaf in leaves.items()}
        notes = {"concept": concept.name, "seed": seed}
        return Edit(model.fingerprint, "forget_me_not", registry.settings(self), self.scope, tensors, notes=notes)

    def _counted(self, model: Model, texts: list[str], words: str) -> Tensor:
        """Which columns of the maps count for each prompt, (R, tokens) of 0 and 1."""
        counted = torch.zeros(model.condition(texts).text.shape[:2])
        for row, text in enumerate(texts):
            counted[row, columns(model, text, words)] = 1
            if self.endings != "none":
                counted[row, endings(model, text, padding=self.endings == "released")] = 1
        return counted

    def _attention(self, student: Model, pairs: Pairs, counted: Tensor, rng: Generator) -> Tensor:
        latents, rows = pairs.pick(self.batch, rng)
        t, _, x_t = noisy(student, latents, rng)
        with recording(student, self.layers) as maps:
            student.denoise(x_t, t, pairs.table[rows])
        return self._size(maps, counted[rows])

    def _size(self, maps: Maps, counted: Tensor) -> Tensor:
        """Of the counted attention (B, tokens), over all layers, heads and pixels; mean over the batch."""
        squares = torch.stack([(a.square() * counted[:, None, None]).sum((1, 2, 3)) for a in maps.values()]).sum(0)  # (B,)
        return squares.mean() if self.objective == "squares" else squares.sqrt().mean()
