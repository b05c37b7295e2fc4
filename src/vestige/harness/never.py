"""Models that never knew a concept, made from the original alone: every weight anew, then taught by the original, which never tells.

    1. every weight of the denoiser begins again, as its architecture begins (`methods.fresh`);
    2. the original draws what must stay; pictures on which a judge sees the concept are left out;
    3. at noised pictures x_t, the student learns the original's outputs:

           loss = mean over the batch of |student(x_t, t, c) - original(x_t, t, c')|^2,

       where c' = c for prompts of what must stay and for the empty one, and c' = the anchor's prompt for each of the concept's own.

The original is never asked for the concept, so all that the student can know of it is what a model knows of a word that it took for
another; but for one leak: what the original answers to the empty prompt is a mean over all that it draws, the concept among it. Such a
model stands where a *twin* would, one that was trained without the concept, and of which real models have none. How far apart the two
are, and what the choice of an anchor moves: `docs/results/controls.md`.
Source: ours; after UNDO (Lee et al., "Distillation robustifies unlearning", 2025: noise on every weight, then distillation), as a control.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Generator, Tensor

from vestige import runs
from vestige.concepts import Concept
from vestige.concepts.concept import Prompt
from vestige.concepts.images import PictureSet
from vestige.diffusion import Condition, Model
from vestige.diffusion.model import Watch, within
from vestige.diffusion.sampling import Drawing
from vestige.edits import Edit
from vestige.errors import BadInput
from vestige.harness.bench import NUMERICS, Bench, held_in, shows, telling
from vestige.harness.cost import picture
from vestige.methods import Data, Training, fit, optimiser
from vestige.methods.contract import TRAINED
from vestige.methods.fresh import fresh
from vestige.methods.objectives import distilling, dropped
from vestige.methods.ranges import above, at_least, below_one
from vestige.methods.training import Trace
from vestige.methods.training_data import Pairs, paired, renamed
from vestige.seeds import derive, generator

FILE = "edit.safetensors"
SCOPE = "unet"  # all weights of the denoiser, in every family


@final
@dataclass(frozen=True, kw_only=True)
class Distillation:
    """How a never-model is made; the defaults are the embedded world's, chosen on its development concept.

    Arguments:
        steps: Optimiser steps.
        lr: Adam's peak rate; it warms up over a twentieth of the steps and falls to zero by a cosine.
        batch: Latents a step.
        pictures: Pictures that the original draws of what must stay.
        near: How many pictures of each neighbour there are for every one of each unrelated concept.
        own: Share of a batch under the concept's own prompts, answered by the anchor's; 0: no prompt names it, as in a twin's training.
        anchor_pictures: Pictures that the original draws of the anchor, at which those prompts are asked.
        dropout: Share of conditions that are the empty prompt's, as guidance needs.
    """

    steps: int = 1000
    lr: float = 2e-3
    batch: int = 32
    pictures: int = 768
    near: int = 2
    own: float = 0.125
    anchor_pictures: int = 96
    dropout: float = 0.1

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "batch", "pictures", "near", "anchor_pictures")
        above(0, self, "lr")
        below_one(self, "own", "dropout")

    @property
    def own_rows(self) -> int:
        """Latents a step under the concept's own prompts; at least one of a share above 0."""
        return max(1, round(self.own * self.batch)) if self.own else 0

    def calls(self, protocol: Drawing, *, distilled: bool = False) -> int:
        """Single denoiser calls of one never-model, pictures and all; those are drawn once for all seeds of a concept."""
        drawn = self.pictures + (self.anchor_pictures if self.own else 0)
        return drawn * picture(protocol, distilled=distilled) + self.steps * self.batch * (TRAINED + 1)


def never_model(
    bench: Bench, model: Model, concept: Concept, seed: int = 0, how: Distillation | None = None, *, watch: Watch | None = None
) -> Model:
    """Never-model number `seed` of a model and a concept, as a view of that model; made once for all that need it under `bench.root`."""
    run = distilled(bench, model, concept, seed, how, watch=watch)
    return model.edited(Edit.load(run.path(FILE)))


def distilled(
    bench: Bench, model: Model, concept: Concept, seed: int = 0, how: Distillation | None = None, *, watch: Watch | None = None
) -> runs.Run:
    """The finished run that made never-model number `seed`; its weights lie in `edit.safetensors` as an edit of `model`.

    Arguments:
        bench: Where runs lie, how pictures are drawn, and whose selection judge leaves out pictures of the concept.
        seed: Of the first weights and of all batches; the pictures are the same for all seeds, as a training set is for twins.
        how: None: the defaults.
        watch: None: the bench's.
    Errors:
        BadInput, for a concept that names nothing to keep; Incompatible, for a model with weights whose beginning is not known.
    """
    how, watch, judge = how or Distillation(), watch or bench.watch, bench.of(concept)
    spec = {
        "what": "never-model",
        "numerics": NUMERICS,
        "model": model.fingerprint,
        "concept": concept.as_dict(),
        "settings": asdict(how),
        "seed": seed,
        "protocol": asdict(bench.suite.protocol),
        "judge": judge.select.identity(concept.label),
        **optimiser.current().as_dict(),
        **held_in(model.precision),
        "volatile": {"model": model.name},
    }

    def work(run: runs.Run) -> dict[str, Any]:
        began, trace, state = time.monotonic(), Trace(), run.path("state.pt")
        told = _Lesson.drawn(judge, model, concept, how, watch)
        with telling(f"never-model {seed} of {model.name}"):
            edit = _taught(model, concept, told, how, seed, watch=watch, checkpoint=state, trace=trace)
        edit.save(run.path(FILE))
        state.unlink(missing_ok=True)
        return {"seconds": time.monotonic() - began, "left_out": told.left_out, "pictures": len(told.kept), **trace.ends()}

    return runs.compute(bench.root, spec, "never", work, wait=bench.wait, steal=bench.steal)


def _taught(
    model: Model, concept: Concept, told: _Lesson, how: Distillation, seed: int, *, watch: Watch, checkpoint: Path, trace: Trace
) -> Edit:
    """A student that begins anew, taught to its end."""
    names = model.scope(SCOPE)
    student, leaves = model.trainable(names)
    with torch.no_grad():
        for name, value in fresh(model, names, generator(seed, "fresh")).items():
            leaves[name].copy_(value)
    null = model.condition([""])

    def loss(rng: Generator) -> Tensor:
        data, asked, answered = told.draw(how, null, rng)
        return distilling(student, model, data, asked, answered, rng)

    training = Training(steps=how.steps, lr=how.lr, schedule="cosine", warmup=how.steps // 20)
    for _ in fit(
        leaves, loss, training, seed=derive(seed, "never"), checkpoint=checkpoint, watch=within(f"never-model {seed}", watch), trace=trace
    ):
        pass
    tensors = {name: leaf.detach().clone() for name, leaf in leaves.items()}
    return Edit(model.fingerprint, "distillation", asdict(how), SCOPE, tensors, notes={"concept": concept.name, "seed": seed})


@dataclass(frozen=True)
class _Lesson:
    """What a student is asked, at which pictures, and under which prompt the original answers.

    Arguments:
        kept: Pictures of what must stay with their prompts.
        own: Latents at which the concept's prompts are asked; None where none are.
        answers: The anchor's prompts in the order of `own`'s.
        left_out: Pictures that showed the concept.
    """

    kept: Pairs
    own: Pairs | None
    answers: Condition | None
    left_out: int

    @staticmethod
    def drawn(judge: Bench, model: Model, concept: Concept, how: Distillation, watch: Watch) -> _Lesson:
        """Drawn by the original; the same for every seed."""
        words = (*concept.neighbours * how.near, *concept.unrelated)
        if not words:
            raise BadInput(f"concept {concept.name} names neither neighbours nor unrelated concepts: nothing to teach a never-model")
        kept, without = _shown(judge, model, concept, concept.spread(how.pictures, "training", words=words), ("never",), watch)
        seen = paired(model, kept.take(without))
        lesson = _Lesson(seen, None, None, len(kept) - len(without))
        return lesson._asked(judge, model, concept, how, watch) if how.own else lesson

    def _asked(self, judge: Bench, model: Model, concept: Concept, how: Distillation, watch: Watch) -> _Lesson:
        """With the concept's own prompts, at the anchor's pictures; at what must stay where no anchor is named: "" may draw the concept."""
        prompts = concept.spread(how.anchor_pictures, "training")
        texts = list(dict.fromkeys(p.text for p in prompts))
        instead, rows = renamed(texts, concept, concept.anchor), [(texts.index(p.text),) for p in prompts]
        latents, left_out = self.kept.latents[: len(rows)], self.left_out
        if concept.anchor:
            drawn, without = _shown(judge, model, concept, [Prompt(instead[row], {}) for (row,) in rows], ("never", "anchor"), watch)
            latents, rows = paired(model, drawn.take(without)).latents, [rows[i] for i in without]
            left_out += len(drawn) - len(without)
        own = Pairs(latents, model.condition(texts), tuple(rows[: len(latents)]))
        return replace(self, own=own, answers=model.condition(instead), left_out=left_out)

    def draw(self, how: Distillation, null: Condition, rng: Generator) -> tuple[Tensor, Condition, Condition]:
        """A batch: clean latents (B, C, h, w), what the student is told, and what the original is told."""
        data, told = self.kept.draw(how.batch - how.own_rows, rng)
        told = dropped(told, null, how.dropout, rng)
        if self.own is None or self.answers is None:
            return data, told, told
        latents, rows = self.own.pick(how.own_rows, rng)
        return torch.cat([data, latents]), told.join(self.own.table[rows]), told.join(self.answers[rows])


def _shown(
    judge: Bench, model: Model, concept: Concept, prompts: Sequence[Prompt], purpose: tuple[str, ...], watch: Watch
) -> tuple[PictureSet, list[int]]:
    """Pictures that the original draws for prompts, and which of them do not show the concept; one at least."""
    data = Data(protocol=judge.suite.protocol, cache=judge.album(concept).cache(judge.root))
    drawn = data.drawn(model, prompts, seed=derive(0, *purpose), watch=watch)
    without = [i for i, seen in enumerate(shows(judge.select, drawn.images, concept)) if not seen]
    if not without:
        raise BadInput(f"every picture of what must stay, or of the anchor, that {model.name} draws shows {concept.name}; name another")
    return drawn, without
