"""UNDO: unlearn by any method, then shrink and noise every weight, and let the unlearned model teach what is left of itself.

    1. suppress   theta_T, the teacher, by another unlearner
    2. noise      theta = (1 - share) theta_T + share noise N        (`methods.fresh.shrunk`)
    3. distil     mean |eps_theta(x_t, c) - eps_T(x_t, c)|^2,   c: prompts of what must stay, the empty one, and the concept's own

Suppression hides what weights still hold, and a student that is made of those weights relearns fast; one that only ever saw the
teacher's answers knows what the teacher says. How much of the old weights is left is `share`, which is paid for in steps. x_t are
noised pictures of what must stay, which the teacher draws: no picture of the concept is seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, final

import torch
from torch import Generator, Tensor

from vestige import registry
from vestige.concepts import Concept
from vestige.diffusion import Condition, Model
from vestige.diffusion.model import Watch, silent, within
from vestige.edits import Edit
from vestige.methods import Data, Paper, Training, Unlearner, fit
from vestige.methods.contract import TRAINED
from vestige.methods.fresh import shrunk
from vestige.methods.objectives import distilling
from vestige.methods.ranges import above, at_least, below_one
from vestige.methods.training import Trace
from vestige.methods.training_data import Pairs, paired
from vestige.seeds import derive, generator

SCOPE = "unet"  # all weights of the denoiser, in every family


@final
@dataclass(frozen=True, kw_only=True)
class UNDO(Unlearner):
    """Unlearn, noise, distil on outputs (Lee et al., 2025), carried over from language models.

    The student reads prompts with the original's text encoders and has no hook, whatever the teacher has: a teacher that changes only
    how prompts are read, such as `remap`'s, becomes weights. Token embeddings of the concept are not touched.

    Differs from the released code, which is for language models: (1) the squared distance of predictions in the place of the
    divergence of next tokens; (2) kernels and gains, see `methods.fresh.shrunk`; (3) a fixed number of steps, where the code stops
    once the student's score on what must stay is within 0.05 of the teacher's; (4) rates fall to zero by a cosine, where the code's
    fall to a tenth; (5) one distilling set, drawn by the teacher, in the place of pre-training data. What prompts are asked, and in
    which shares, is ours.

    Arguments:
        suppress: The unlearner that makes the teacher.
        suppressing: Its settings, each NAME=VALUE; what is not named keeps its default.
        share: alpha, in [0, 1]; the paper shows 0.2 to 0.8, the default is ours.
        noise: beta, at least 0 (the paper's for its tasks; 0 for its largest model).
        retain_pictures: Pictures of what must stay, drawn by the teacher where none are given.
        near: How many pictures of each neighbour there are for every one of each unrelated concept.
        own: Share of a batch under the concept's own prompts.
        dropout: Share of the other prompts replaced by the empty one.
        warmup: Steps of linear warm-up.
        steps: AdamW steps.
        batch: Pictures a step.
    """

    paper: ClassVar[Paper] = Paper(
        "Distillation Robustifies Unlearning",
        "Lee et al.",
        2025,
        arxiv="2506.06278",
        code="AddieFoote/distillation-robustify-unlearning",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prompts", "retain"})
    joint: ClassVar[bool] = True

    suppress: str = "esd"
    suppressing: tuple[str, ...] = ()
    share: float = 0.6
    noise: float = 0.1
    retain_pictures: int = 256
    near: int = 4
    own: float = 0.125
    dropout: float = 0.1
    warmup: int = 50
    steps: int = 1000
    lr: float = 7e-4
    batch: int = 32

    def __post_init__(self) -> None:
        at_least(1, self, "retain_pictures", "near", "steps", "batch")
        at_least(0, self, "share", "noise", "warmup")
        above(0, self, "lr")
        below_one(self, "own", "dropout")
        if self.share > 1:
            raise ValueError(f"share lies in [0, 1]; given {self.share}")
        if self.suppress == "undo":
            raise ValueError("undo takes another unlearner's model for its teacher; given undo itself")
        if any("=" not in item for item in self.suppressing):
            raise ValueError(f"suppressing lists settings as NAME=VALUE; given {list(self.suppressing)}")
        self.teaching()

    def teaching(self) -> Unlearner:
        """The unlearner that makes the teacher."""
        made: Unlearner = registry.build("unlearners", self.suppress, dict(item.split("=", 1) for item in self.suppressing))
        return made

    @property
    def apart(self) -> str:
        inner = self.teaching()
        return "" if inner.joint and not inner.apart else f"suppress={self.suppress}"

    def calls(self, picture: int, retained: int) -> int:
        distilled = self.steps * self.batch * (TRAINED + 1)
        return self.teaching().calls(picture, retained) + self.retain_pictures * retained + distilled

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        data, inner, names = data or Data(), self.teaching(), model.scope(SCOPE)
        told = inner(model, concept, seed=derive(seed, "suppress"), data=data, watch=within(self.suppress, watch))
        teacher, near = model.edited(told), replace(concept, neighbours=concept.neighbours * self.near)
        given = data.retained(teacher, near, self.retain_pictures, seed=derive(seed, "undo"), watch=watch)
        texts = [*given.texts, *dict.fromkeys(p.text for p in concept.prompts("training")), ""]
        questions = Questions(paired(model, given), model.condition(texts), teacher.condition(texts))
        student, leaves = model.trainable(names)
        with torch.no_grad():
            for name, value in shrunk(teacher, names, generator(seed, "noise"), share=self.share, noise=self.noise).items():
                leaves[name].copy_(value)
        loss, trace = partial(self._distance, student, teacher, questions), Trace()
        training = Training(steps=self.steps, lr=self.lr, schedule="cosine", warmup=self.warmup)
        for _ in fit(leaves, loss, training, seed=derive(seed, "undo"), watch=watch, trace=trace):
            pass
        tensors = {name: leaf.detach().clone() for name, leaf in leaves.items()}
        notes = {"concept": concept.name, "seed": seed, **trace.ends()}
        return Edit(model.fingerprint, "undo", registry.settings(self), SCOPE, tensors, notes=notes)

    def _distance(self, student: Model, teacher: Model, questions: Questions, rng: Generator) -> Tensor:
        latents, rows = questions.kept.pick(self.batch, rng)
        rows = questions.asked_instead(rows, self.own, self.dropout, rng)
        return distilling(student, teacher, latents, questions.asked[rows], questions.told[rows], rng)


@dataclass(frozen=True)
class Questions:
    """What the student is asked, and how the teacher reads the same prompts.

    Arguments:
        kept: Pictures of what must stay; their captions are the first rows of both tables.
        asked: The captions, the concept's own prompts, and last the empty one, one row each.
        told: The same, as the teacher reads them.
    """

    kept: Pairs
    asked: Condition
    told: Condition

    def asked_instead(self, rows: list[int], own: float, dropout: float, rng: Generator) -> list[int]:
        """Rows of captions, each replaced by one of the concept's own with probability `own`, else by the empty one with `dropout`."""
        first, last, count = len(self.kept.table), len(self.asked) - 1, len(rows)
        others = torch.randint(first, last, (count,), generator=rng).tolist()
        swap, drop = (torch.rand(count, generator=rng) < share for share in (own, dropout))
        return [o if s else last if d else row for row, o, s, d in zip(rows, others, swap.tolist(), drop.tolist(), strict=True)]
