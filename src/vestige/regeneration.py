"""Self-regeneration: the training set that an edited model makes of itself from a few references, and the captions that go with it.

    1. invert the references' latents with the *edited* model and the concept's prompt, up to grid index `start`;
    2. slerp between the two of a pair at l = 0, 1/k, ..., 1;
    3. let the edited model re-render every point from `start` on.

This is MemoRa's data step (`vestige.attacks.memora` says what it owes to the released code). It is here because the controls of
that attack train something else on the very same pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from vestige.base import Condition, Model, Select, Watch, silent
from vestige.concepts import Concept
from vestige.errors import BadInput
from vestige.images import PictureSet
from vestige.sampling import chunks, invert, sample, slerp


class Recipe(Protocol):
    """The settings of the data step, as attacks carry them among their own fields."""

    @property
    def regenerate(self) -> bool: ...
    @property
    def start(self) -> int: ...
    @property
    def sampling_steps(self) -> int: ...
    @property
    def guidance(self) -> float: ...
    @property
    def render_guidance(self) -> float: ...
    @property
    def refine(self) -> int: ...
    @property
    def points(self) -> int: ...
    @property
    def interpolation(self) -> Literal["slerp", "none"]: ...
    @property
    def captions(self) -> Literal["concept", "templates"]: ...


@dataclass(frozen=True)
class TrainingSet:
    """What an attack trains on.

    Arguments:
        latents: (N, C, h, w).
        texts: Every caption once.
        rows: For each latent, which of `texts` it may be trained on.
        calls: Single denoiser calls that it cost.
        share: Share of the pictures that show the concept, by the selection judge.
    """

    latents: Tensor
    texts: list[str]
    rows: tuple[tuple[int, ...], ...]
    calls: int
    share: float


def check(how: Recipe) -> None:
    """Refuse settings that make no sense, in the words of every attack that has them."""
    if not 0 <= how.start <= how.sampling_steps:
        raise ValueError(f"start is a grid index within 0..{how.sampling_steps}; given {how.start}")
    if min(how.points, how.sampling_steps) < 1 or how.refine < 0:
        raise ValueError("points and sampling_steps are at least 1, refine at least 0")


def training_set(
    model: Model, concept: Concept, pictures: PictureSet | None, how: Recipe, select: Select, name: str, watch: Watch = silent
) -> TrainingSet:
    """Regenerated (or raw) latents of the references with their captions.

    Arguments:
        name: The attack, for the error where there are too few pictures.
    """
    if pictures is None or len(pictures) < 2:
        raise BadInput(f"{name} needs at least 2 reference pictures of {concept.name}")
    condition, null = model.condition([concept.prompt]), model.condition([""])
    latents, calls = regenerated(model, model.encode(pictures.images), condition, null, how, watch)
    share = select(model.decode(latents)).float().mean().item()
    return TrainingSet(latents, *captioned(concept, pictures, how, len(latents)), calls, share)


@torch.no_grad()
def regenerated(
    model: Model,
    latents: Tensor,
    condition: Condition,
    null: Condition,
    how: Recipe,
    watch: Watch = silent,
) -> tuple[Tensor, int]:
    """The training set from the references' latents (N, C, h, w), and how many single denoiser calls it cost.

    With slerp, consecutive references are pairs (an odd last one pairs with the first): N / 2 * (points + 1) latents.
    """
    if not how.regenerate:
        return latents, 0
    steps = how.sampling_steps
    deep = torch.cat([_inverted(model, latents[part], condition, null, how, watch) for part in chunks(len(latents), 32)])
    if how.interpolation == "slerp":
        pairs = [(i, i + 1 if i + 1 < len(deep) else 0) for i in range(0, len(deep), 2)]
        deep = torch.stack([slerp(deep[a], deep[b], j / how.points) for a, b in pairs for j in range(how.points + 1)])
    made = []
    for part in chunks(len(deep), 64):
        x = deep[part]
        given = condition.repeat(len(x))
        made.append(sample(model, x, given, steps=steps, guidance=how.render_guidance, null=null, start=how.start, watch=watch))
    guided = [2 if g != 1 and not model.distilled else 1 for g in (how.guidance, how.render_guidance)]
    calls = (steps - how.start) * (len(latents) * guided[0] * (1 + how.refine) + len(deep) * guided[1])
    return torch.cat(made), calls


def _inverted(model: Model, x: Tensor, condition: Condition, null: Condition, how: Recipe, watch: Watch) -> Tensor:
    return invert(
        model,
        x,
        condition.repeat(len(x)),
        steps=how.sampling_steps,
        guidance=how.guidance,
        null=null,
        stop=how.start,
        refine=how.refine,
        watch=watch,
    )


def captioned(concept: Concept, pictures: PictureSet, how: Recipe, count: int) -> tuple[list[str], tuple[tuple[int, ...], ...]]:
    """Every caption once, and for each of `count` training pictures the rows that it may be trained on."""
    if how.captions == "concept":
        return [concept.prompt], ((0,),) * count
    prompts = concept.prompts("training")
    context = [labels.get(concept.context_group) for labels in pictures.labels] or [None] * len(pictures)
    origin = list(range(count)) if count == len(context) else [o for i in range(0, len(context), 2) for o in _origins(i, len(context), how)]
    rows = []
    for i in origin:
        fits = [r for r, p in enumerate(prompts) if p.expects.get(concept.context_group, context[i]) == context[i]]
        rows.append(tuple(fits or range(len(prompts))))
    return [p.text for p in prompts], tuple(rows)


def _origins(first: int, total: int, how: Recipe) -> list[int]:
    """For the points of the pair that begins at `first`, the nearer of its two references."""
    second = first + 1 if first + 1 < total else 0
    return [first if 2 * j <= how.points else second for j in range(how.points + 1)]
