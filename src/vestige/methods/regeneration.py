"""Self-regeneration: the training set that an edited model makes of itself from a few references, and the captions that go with it.

    1. invert the references' latents with the *edited* model and the concept's prompt, up to grid index `start`;
    2. slerp between the two of a pair at l = 0, 1/k, ..., 1;
    3. let the edited model re-render every point from `start` on.

This is MemoRa's data step (`vestige.attacks.memora` says what it owes to the released code). It is here because the controls of
that attack train something else on the very same pictures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion import Condition, Model
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.sampling import chunks, invert, predictions, sample, slerp
from vestige.edits import Edit
from vestige.errors import BadInput
from vestige.methods.contract import TRAINED, Access, Attack, Budget, Candidate, Select
from vestige.methods.ranges import at_least
from vestige.methods.training import Loss, Schedule, Trace, Training, fit
from vestige.seeds import derive


@dataclass(frozen=True, kw_only=True)
class Regenerating(Attack):
    """An attack that trains on what the attacked model makes of a few pictures of the concept, or on those pictures themselves.

    Arguments:
        regenerate: Steps 1-3; False trains on the references themselves (the control that tells memory from learning).
        start: Depth of the inversion as a grid index: 0 inverts to pure noise, `sampling_steps` not at all.
        sampling_steps: Steps of inversion and re-rendering.
        guidance: Guidance in the inversion.
        render_guidance: Guidance in the re-rendering.
        refine: Fixed-point iterations of the inversion; 0 is the standard one.
        points: k, intervals a pair: k + 1 pictures each, ends included.
        interpolation: "slerp", or "none" for the inverted references alone.
        captions: "concept" trains every picture on the plain prompt (released); "templates" draws one of the (nearer) reference's own
            captions for each picture and step, or where it has none, one of the concept's training prompts: in the context that it is
            labelled with, in any where it is not.
        batch: Pictures a micro-batch.
        accumulation: Micro-batches a step.
        schedule: "constant", or "cosine" over the last budget (then budgets are not prefixes of longer runs).
    """

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
    batch: int = 4
    accumulation: int = 1
    schedule: Schedule = "constant"

    def __post_init__(self) -> None:
        at_least(1, self, "points", "sampling_steps", "batch", "accumulation")
        at_least(0, self, "refine")
        if not 0 <= self.start <= self.sampling_steps:
            raise ValueError(f"start is a grid index within 0..{self.sampling_steps}; given {self.start}")

    @property
    def reads_captions(self) -> bool:
        return self.captions == "templates"

    def calls(self, last: int, pictures: int) -> int:
        return self.regeneration(pictures) + TRAINED * last * self.batch * self.accumulation

    def regeneration(self, pictures: int, *, distilled: bool = False) -> int:
        """Single denoiser calls that regenerating so many references takes.

        Arguments:
            distilled: Guidance is an input of the model, not a second call.
        """
        if not self.regenerate:
            return 0
        made = -(-pictures // 2) * (self.points + 1) if self.interpolation == "slerp" else pictures
        there, back = (predictions(g, distilled=distilled) for g in (self.guidance, self.render_guidance))
        return (self.sampling_steps - self.start) * (pictures * there * (1 + self.refine) + made * back)

    def variants(self) -> Mapping[str, Attack]:
        """Raw references: a model that never knew the concept, or was damaged in it, may regenerate something else."""
        return {"raw": replace(self, regenerate=False)} if self.regenerate else {}


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


def training_set(
    model: Model, concept: Concept, pictures: PictureSet | None, how: Regenerating, select: Select, name: str, watch: Watch = silent
) -> TrainingSet:
    """Regenerated (or raw) latents of the references with their captions.

    Arguments:
        name: The attack, for the error where there are too few pictures.
    """
    pairs = how.regenerate and how.interpolation == "slerp"
    if pictures is None or len(pictures) < 1 + pairs:
        advice = f"; one is enough with {name}.interpolation=none or {name}.regenerate=false" if pairs else ""
        raise BadInput(f"{name} needs at least {'2 reference pictures' if pairs else 'a reference picture'} of {concept.name}{advice}")
    condition, null = model.condition([concept.prompt]), model.condition([""])
    latents, calls = regenerated(model, model.encode(pictures.images), condition, null, how, watch)
    share = select(model.decode(latents)).float().mean().item()
    return TrainingSet(latents, *captions_for(concept, pictures, how, len(latents)), calls, share)


@torch.no_grad()
def regenerated(
    model: Model,
    latents: Tensor,
    condition: Condition,
    null: Condition,
    how: Regenerating,
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
    return torch.cat(made), how.regeneration(len(latents), distilled=model.distilled)


def _inverted(model: Model, x: Tensor, condition: Condition, null: Condition, how: Regenerating, watch: Watch) -> Tensor:
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


def captions_for(concept: Concept, pictures: PictureSet, how: Regenerating, count: int) -> tuple[list[str], tuple[tuple[int, ...], ...]]:
    """Every caption once, and for each of `count` training pictures the rows that it may be trained on."""
    if how.captions == "concept":
        return [concept.prompt], ((0,),) * count
    total = len(pictures)
    origin = list(range(count)) if count == total else [o for i in range(0, total, 2) for o in _origins(i, total, how)]
    if pictures.captions:
        texts = pictures.texts
        return texts, tuple(tuple(map(texts.index, pictures.captions[i])) for i in origin)
    prompts, group = concept.prompts("training"), concept.context_group
    shown = pictures.labels or ({},) * total
    context = [labels.get(group) or next((v for v in labels.values() if v in concept.contexts), None) for labels in shown]
    filled = [c for t in concept.templates for c in (concept.contexts if "{context}" in t else ("",))]
    rows = []
    for i in origin:
        fits = [r for r, c in enumerate(filled) if context[i] is None or c in ("", context[i])]
        rows.append(tuple(fits or range(len(prompts))))
    return [p.text for p in prompts], tuple(rows)


def _origins(first: int, total: int, how: Regenerating) -> list[int]:
    """For the points of the pair that begins at `first`, the nearer of its two references."""
    second = first + 1 if first + 1 < total else 0
    return [first if 2 * j <= how.points else second for j in range(how.points + 1)]


def proposals(
    how: Regenerating,
    given: TrainingSet,
    leaves: Mapping[str, Tensor],
    loss: Loss,
    training: Training,
    edit: Callable[[int], Edit],
    budget: Budget,
    *,
    seed: int,
    began: float,
    projections: Sequence[Callable[[Mapping[str, Tensor]], None]] = (),
    watch: Watch = silent,
) -> Iterator[Candidate]:
    """Fit `leaves`, and at every point of the budget propose the edit that they make by then, with what it cost.

    Arguments:
        edit: From the steps spent, above 0, the edit.
        began: When the attack did, by the monotonic clock.
    """
    trace, drawn = Trace(), derive(seed, "batches")
    for spent in fit(leaves, loss, training, seed=drawn, stops=budget.points, projections=projections, watch=watch, trace=trace):
        cost = {"calls": given.calls + spent * how.batch * how.accumulation, "seconds": time.monotonic() - began}
        yield Candidate(spent, edit(spent) if spent else None, cost=cost, notes={"references_show": given.share, **trace.ends()})
