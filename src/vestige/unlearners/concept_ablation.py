"""Concept ablation: on pictures of the anchor, let the concept's prompt predict what the anchor's predicts.

    model:  loss = |eps(x_t, c) - sg eps(x_t, a)|^2          noise:  loss = |eps(x_t, c) - eps|^2

x_t a noised picture of the anchor, a its prompt, c the same prompt with the concept in the anchor's place, sg: no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar, Literal, final

import torch
from torch import Generator, Tensor

from vestige.concepts import Concept
from vestige.concepts.concept import Prompt
from vestige.diffusion import Condition, Model
from vestige.diffusion.attention import joint_attention, layers, network
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit
from vestige.methods import Data, Paper, Training, Unlearner, fit
from vestige.methods.contract import TRAINED
from vestige.methods.objectives import denoising, matching, noisy, rehearsal
from vestige.methods.ranges import above, at_least, below_one
from vestige.methods.training_data import Pairs, paired, renamed
from vestige.seeds import derive


@final
@dataclass(frozen=True, kw_only=True)
class ConceptAblation(Unlearner):
    """Ties the concept's prompts to the anchor's pictures (Kumari et al., 2023).

    Differs from the released code: (1) captions are the concept's own templates, with the concept or the anchor in place, where the
    code has a language model write captions for objects and fixed lists for styles; (2) pictures are drawn by the original by DDIM;
    (3) no pictures are rescaled, so there is no mask; (4) `lr` is the rate in effect: the code multiplies its 2e-6 by batch and
    devices. The anchor's prompts and pictures come from the concept's `anchor`; without one, they are the empty prompt's.

    Arguments:
        variant: "model" matches the prediction under the anchor's prompt, "noise" the noise that was added.
        teacher: Whose prediction "model" matches. "current": the trained network's own, as it moves (released). "original": the
            network before the edit.
        scope: "cross-attention-kv" (released for objects and styles), "attention" (for unsafe content), "unet".
        detach_start: No gradient through keys and values of the start token, in every cross-attention, as released: it is the same
            for all prompts. Joint attention (FLUX, SD3) has no such row, and nothing is detached there.
        retain_weight: Weight of the model's own training loss on pictures that must stay.
        retain: Which those are. "anchor": the anchor's own, under its prompts (released, where it is on). "others": neighbours and
            unrelated concepts (ours).
        anchor_pictures: Pictures of the anchor.
        retain_pictures: Pictures of others, where they are retained.
        dropout: Share of the retained pictures' prompts replaced by the empty one.
        weight_decay: AdamW's.
        steps: AdamW steps.
        batch: Pictures a step.
    """

    paper: ClassVar[Paper] = Paper(
        "Ablating Concepts in Text-to-Image Diffusion Models",
        "Kumari et al.",
        2023,
        arxiv="2303.13516",
        code="nupurkmr9/concept-ablation",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prompts", "retain"})
    joint: ClassVar[bool] = True

    variant: Literal["model", "noise"] = "model"
    teacher: Literal["current", "original"] = "current"
    scope: Literal["cross-attention-kv", "attention", "unet"] = "cross-attention-kv"
    detach_start: bool = True
    retain_weight: float = 0.0
    retain: Literal["anchor", "others"] = "anchor"
    anchor_pictures: int = 1000
    retain_pictures: int = 200
    dropout: float = 0.0
    weight_decay: float = 1e-2
    steps: int = 100
    lr: float = 1.6e-5
    batch: int = 8

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "batch", "anchor_pictures", "retain_pictures")
        at_least(0, self, "retain_weight", "weight_decay")
        above(0, self, "lr")
        below_one(self, "dropout")

    def calls(self, picture: int, retained: int) -> int:
        drawn, passes = self.anchor_pictures * picture, TRAINED + (self.variant != "noise")
        if self.retain_weight > 0:
            drawn, passes = drawn + self.retain_pictures * retained * (self.retain == "others"), passes + TRAINED
        return drawn + self.steps * self.batch * passes

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        if not joint_attention(model):
            network(model)
        data = data or Data()
        pairs, anchors = self._anchors(model, concept, data, seed, watch)
        kept = replaced(pairs, anchors)
        if self.retain_weight > 0 and self.retain == "others":
            kept = paired(model, data.retained(model, concept, self.retain_pictures, seed=seed, watch=watch))
        student, leaves = model.trainable(model.scope(self.scope))
        forget = partial(self._forgetting, student, model, pairs, anchors)
        keep = partial(rehearsal, student, kept, self.batch, null=model.condition([""]), dropout=self.dropout)

        def loss(rng: Generator) -> Tensor:
            value = forget(rng)
            return value + self.retain_weight * keep(rng) if self.retain_weight > 0 else value

        training = Training(steps=self.steps, lr=self.lr, weight_decay=self.weight_decay)
        with start_detached(student) if self.detach_start and not joint_attention(model) else ExitStack():
            for _ in fit(leaves, loss, training, seed=derive(seed, "concept_ablation"), watch=watch):
                pass
        tensors = {name: leaf.detach().clone() for name, leaf in leaves.items()}
        notes = {"concept": concept.name, "seed": seed}
        return Edit(model.fingerprint, "concept_ablation", asdict(self), self.scope, tensors, notes=notes)

    def _anchors(self, model: Model, concept: Concept, data: Data, seed: int, watch: Watch) -> tuple[Pairs, Condition]:
        """The anchor's pictures with the concept's prompts, and the anchor's prompts in the table's order."""
        prompts = concept.spread(self.anchor_pictures, "training")
        swapped = renamed([p.text for p in prompts], concept, concept.anchor)
        drawn = data.drawn(model, [Prompt(text, {}) for text in swapped], seed=derive(seed, "anchor"), watch=watch)
        texts = list(dict.fromkeys(p.text for p in prompts))
        rows = tuple((texts.index(p.text),) for p in prompts)
        latents = paired(model, drawn).latents
        return Pairs(latents, model.condition(texts), rows), model.condition(renamed(texts, concept, concept.anchor))

    def _forgetting(self, student: Model, model: Model, pairs: Pairs, anchors: Condition, rng: Generator) -> Tensor:
        latents, rows = pairs.pick(self.batch, rng)
        if self.variant == "noise":
            return denoising(student, latents, pairs.table[rows], rng)
        if self.teacher == "current":
            return matching(student, latents, pairs.table[rows], anchors[rows], rng)
        t, _, x_t = noisy(model, latents, rng)
        with torch.no_grad():
            goal = model.denoise(x_t, t, anchors[rows]).value
        return (student.denoise(x_t, t, pairs.table[rows]).value - goal).square().mean()


def replaced(pairs: Pairs, table: Condition) -> Pairs:
    """The same latents under other prompts in the same order."""
    return Pairs(pairs.latents, table, pairs.rows)


@contextmanager
def start_detached(model: Model) -> Iterator[None]:
    """Within, no gradient flows through what the start token's row becomes in keys and values of cross-attention."""

    def cut(module: Any, arguments: Any, output: Tensor) -> Tensor:
        return torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1)

    with ExitStack() as stack:
        for name in layers(model):
            for side in ("to_k", "to_v"):
                handle = network(model).get_submodule(f"{name}.{side}").register_forward_hook(cut)
                stack.callback(handle.remove)
        yield
