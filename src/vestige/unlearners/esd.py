"""Erased Stable Diffusion: steer the prompt's noise prediction to the far side of the unconditional one.

    goal = eps_0(x_t, null) - strength * (eps_0(x_t, c) - eps_0(x_t, null)),   loss = mean |eps(x_t, c) - goal|^2

with eps_0 the frozen original and x_t on its own guided sampling path for the prompt c. The paper's strength is 1.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from vestige.concepts import Concept
from vestige.diffusion import Condition, Model
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit
from vestige.methods import Data, Paper, Training, Unlearner, fit
from vestige.methods.contract import TRAINED
from vestige.methods.ranges import above, at_least
from vestige.methods.rollouts import rollouts
from vestige.seeds import derive

Variant = Literal["auto", "x", "u", "strict", "attention"]
SCOPE = {"x": "cross-attention", "u": "non-cross-attention", "strict": "cross-attention-kv", "attention": "attention"}


@final
@dataclass(frozen=True, kw_only=True)
class ESD(Unlearner):
    """Fine-tunes a scope of weights towards the negatively guided prediction of the original (Gandikota et al., 2023, eq. 7).

    Differs from the released code: (1) its current `negative_guidance` measures from the concept's own prediction, so it
    equals `strength + 1`; (2) the original's sampling paths are drawn in batches once, every state on a path is kept with
    the original's two predictions there (guided sampling computes them anyway), and steps draw from this pool, where the
    code draws one new path a step; the state at a given index has the same distribution; (3) the first release followed
    the student's paths and scored them two to three sampling steps off, which is not reproduced; (4) weights stay float32. On a
    model that is told its guidance (FLUX dev) paths are drawn as it is told and both predictions made at guidance 1, as released.

    Arguments:
        variant: "x" cross-attention (concepts named in the prompt), "u" every linear and convolution outside it (global
            concepts), "strict" keys and values of cross-attention only, "attention" all projections of all attention, which the
            released code for FLUX calls x; "auto" is x for styles and people, u otherwise. Where attention is joint (FLUX, SD3),
            cross-attention is what the text's own stream brings to it.
        strength: Distance past the unconditional prediction, >= -1; -1 leaves the model as it is, 0 regresses to the
            unconditional prediction.
        steps: Adam steps.
        batch: States a step.
        rollouts: Sampling paths in the pool.
        rollout_steps: Sampling steps of a path.
        rollout_guidance: Guidance on the path.
        prompts: "plain" trains on the concept's plain prompts, "all" on its training prompts in their order, of which the plain ones are
            last. One path a prompt, in turn: where there are more prompts than rollouts, those at the end have none.
    """

    paper: ClassVar[Paper] = Paper(
        "Erasing Concepts from Diffusion Models", "Gandikota et al.", 2023, arxiv="2303.07345", code="rohitgandikota/erasing"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prompts"})
    joint: ClassVar[bool] = True

    variant: Variant = "auto"
    strength: float = 1.0
    steps: int = 1000
    lr: float = 1e-5
    batch: int = 1
    rollouts: int = 20
    rollout_steps: int = 50
    rollout_guidance: float = 3.0
    prompts: Literal["plain", "all"] = "plain"

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "batch", "rollouts", "rollout_steps")
        at_least(-1, self, "strength")
        above(0, self, "lr")

    def resolved(self, concept: Concept) -> ESD:
        """The same method with "auto" replaced by the variant for this kind of concept."""
        if self.variant != "auto":
            return self
        return replace(self, variant="x" if concept.kind in ("style", "person") else "u")

    def calls(self, picture: int, retained: int) -> int:
        return 2 * self.rollouts * self.rollout_steps + TRAINED * self.steps * self.batch * (self.strength > -1)

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        method = self.resolved(concept)
        x, t, goals, rows, condition = method.pool(model, concept, seed, watch)
        student, leaves = model.trainable(model.scope(method.scope))

        def loss(rng: torch.Generator) -> Tensor:
            picked = torch.randint(len(x), (self.batch,), generator=rng).to(x.device)
            seen = student.denoise(x[picked], t[picked], condition[rows[picked]])
            return (seen.value - goals[picked]).square().mean()

        training = Training(steps=self.steps, lr=self.lr, clip=0.0)
        if self.strength > -1:  # at -1 there is nothing to learn, and Adam would amplify rounding errors into steps
            for _ in fit(leaves, loss, training, seed=derive(seed, "esd"), watch=watch):
                pass
        tensors = {name: leaf.detach().clone() for name, leaf in leaves.items()}
        notes = {"concept": concept.name, "seed": seed}
        return Edit(model.fingerprint, "esd", asdict(method), method.scope, tensors, notes=notes)

    @property
    def scope(self) -> str:
        """What its variant trains."""
        return SCOPE[self.variant]

    def texts(self, concept: Concept) -> list[str]:
        """Prompts that are erased, each once."""
        return list(dict.fromkeys(concept.plain() if self.prompts == "plain" else [p.text for p in concept.prompts("training")]))

    def pool(self, model: Model, concept: Concept, seed: int, watch: Watch) -> tuple[Tensor, Tensor, Tensor, Tensor, Condition]:
        """States on the original's paths (S, C, h, w), their times (S,), goals like states, prompt rows (S,), and conditions."""
        texts, how = self.texts(concept), self.rollout_guidance
        made = rollouts(model, texts, count=self.rollouts, steps=self.rollout_steps, guidance=how, seed=seed, watch=watch)
        return made.x_t, made.t, made.beyond(self.strength), made.rows, made.condition
