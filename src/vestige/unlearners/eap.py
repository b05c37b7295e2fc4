"""EAP: erased as ESD erases, while what suffers most from it is looked for in every step, and kept.

    kept     c_r = sum_k w_k e_k,   w = softmax((pi + g) / temperature)              e_k prompts of what may suffer, g Gumbel noise
             pi <- pi + choice_lr Adam[d/dpi mean |x0_theta(x_r, c_r) - x0(x_r, c_r)|^2]
    loss     mean |x0_theta(x_t, c) - goal|^2 + retain_weight mean |x0_theta(x_r, c_r) - x0(x_r, c_r)|^2
    goal     x0(x_t, null) - strength (x0(x_t, c) - x0(x_t, null))

x0 are the clean latents that a prediction amounts to, of the trained network (x0_theta) and of the original; x_t and x_r are states on
the trained network's own guided paths for c and c_r. The mixture c_r is of encoded prompts, and pi begins alike for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

import torch
from torch import Generator, Tensor

from vestige import registry
from vestige.concepts import Concept
from vestige.concepts.joint import targets
from vestige.diffusion import Condition, Model
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.sampling import predictions
from vestige.edits import Edit
from vestige.edits.precision import wide
from vestige.methods import Data, Paper, Training, Unlearner, fit
from vestige.methods.contract import TRAINED
from vestige.methods.ranges import above, at_least
from vestige.methods.rollouts import stopped
from vestige.seeds import derive

SCOPE = {"x": "cross-attention", "u": "non-cross-attention"}
GOLDEN = (5**0.5 - 1) / 2


@final
@dataclass(frozen=True, kw_only=True)
class EAP(Unlearner):
    """Erasing with adversarial preservation (Bui et al., 2024).

    Several targets have a pool and a choice each; a step erases one of them.

    Differs from the released code: (1) what may suffer is the concept's neighbours and unrelated words, or words that are given, in its
    own prompts; the code has one word, alone, of each of 100 clusters of the 1000 nearest of 3000 English ones; (2) the
    concept's prompts are its own, drawn at random, where the code takes its words alone; (3) a path stops neither at its first nor at its
    last place, dealt out evenly over all steps, where the code draws one; a state's time is the path's own grid time, which the code draws
    from the step that follows, under the level of the grid; (4) each state of a batch has a mixture of its own; (5) the code's odd
    iterations, which move pi alone, belong to the step that follows here: `steps` counts its even ones; (6) its `train_method` has no
    default; here "auto" is ESD's, and weights whose names begin with `out.` or hold `time_embed` belong to "u".

    Arguments:
        variant: "x" trains cross-attention, "u" every linear and convolution outside it; "auto" is x for styles and persons, u otherwise.
        strength: Distance past the unconditional prediction, >= -1.
        words: What may suffer; () is the concept's neighbours and unrelated words, the empty prompt where it names none.
        pool: Prompts of them at most: those whose encoded form is nearest to the concept's prompt.
        temperature: Of the mixture; towards 0 it is one prompt, drawn by pi.
        choice_lr: Adam's rate of pi.
        ascents: Steps of pi between two of the network.
        retain_weight: Weight of what is kept; 0 drops it.
        compared: Where predictions are compared: "data" as clean latents, which weighs noisy states up, "output" as the network puts out.
        rollout_steps: Sampling steps of a whole path.
        rollout_guidance: Guidance on the path.
        prompts: "plain" trains on plain prompts, the concept's and those of what may suffer, "all" also on those with contexts.
        steps: Adam steps of the network.
        batch: States of the concept a step, and as many of what is kept, all at one time.
    """

    paper: ClassVar[Paper] = Paper(
        "Erasing Undesirable Concepts in Diffusion Models with Adversarial Preservation",
        "Bui et al.",
        2024,
        arxiv="2410.15618",
        code="tuananhbui89/Erasing-Adversarial-Preservation",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prompts"})
    joint: ClassVar[bool] = True

    variant: Literal["auto", "x", "u"] = "auto"
    strength: float = 1.0
    words: tuple[str, ...] = ()
    pool: int = 100
    temperature: float = 2.0
    choice_lr: float = 1e-3
    ascents: int = 1
    retain_weight: float = 1.0
    compared: Literal["data", "output"] = "data"
    rollout_steps: int = 50
    rollout_guidance: float = 3.0
    prompts: Literal["plain", "all"] = "plain"
    steps: int = 1000
    lr: float = 1e-5
    batch: int = 1

    def __post_init__(self) -> None:
        at_least(1, self, "pool", "steps", "batch")
        at_least(2, self, "rollout_steps")
        at_least(0, self, "ascents", "retain_weight")
        at_least(-1, self, "strength")
        above(0, self, "lr", "choice_lr", "temperature")

    def resolved(self, concept: Concept) -> EAP:
        """The same method with "auto" replaced by the variant for this kind of concept."""
        if self.variant != "auto":
            return self
        return replace(self, variant="x" if concept.kind in ("style", "person") else "u")

    def calls(self, picture: int, retained: int) -> int:
        if self.strength == -1:
            return 0
        kept, stops = self.retain_weight > 0, places(self.rollout_steps)
        walked, each = 0, 1 + TRAINED
        for step in range(self.steps):
            for _ in range(self.ascents if kept and step else 0):
                walked += next(stops) * predictions(self.rollout_guidance) + each
            walked += (1 + kept) * (next(stops) * predictions(self.rollout_guidance) + each) + 1
        return self.batch * walked

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        method = self.resolved(concept)
        student, leaves = model.trainable(model.scope(SCOPE[method.variant]))
        erasing = _Erasing(method, model, student, concept)
        training = Training(steps=self.steps, lr=self.lr, clip=0.0)
        if self.strength > -1:  # at -1 there is nothing to learn, and Adam would amplify rounding errors into steps
            for _ in fit(leaves, erasing.loss, training, seed=derive(seed, "eap"), watch=watch):
                pass
        tensors = {name: leaf.detach().clone() for name, leaf in leaves.items()}
        notes = {"concept": concept.name, "seed": seed, "kept": [part.foremost() for part in erasing.parts]}
        return Edit(model.fingerprint, "eap", registry.settings(method), SCOPE[method.variant], tensors, notes=notes)


@dataclass(frozen=True)
class Choice:
    """A target's prompts, and those of what may suffer from its erasure.

    Arguments:
        given: The target's, a row a prompt.
        texts: P prompts of what may suffer, each once.
        kept: The same as they are encoded.
        pi: How much each is chosen, (P,): what the softmax takes, a leaf in float32, or the model's float64.
    """

    given: Condition
    texts: list[str]
    kept: Condition
    pi: Tensor

    @staticmethod
    def of(method: EAP, model: Model, part: Concept) -> Choice:
        own = part.plain() if method.prompts == "plain" else [p.text for p in part.prompts("training")]
        texts = may_suffer(part, method.words, contexts=method.prompts == "all")
        kept = model.condition(texts)
        apart = (kept.text - model.condition([part.prompt]).text).flatten(1).norm(dim=1)
        near = apart.argsort(stable=True)[: method.pool].sort().values.tolist()  # in the order in which they are named
        kind = torch.promote_types(kept.text.dtype, torch.float32)
        pi = torch.full((len(near),), 1 / len(near), dtype=kind, device=kept.text.device).requires_grad_()
        return Choice(model.condition(list(dict.fromkeys(own))), [texts[i] for i in near], kept[near], pi)

    def foremost(self) -> str:
        """The prompt that is chosen most."""
        return self.texts[int(self.pi.argmax())]

    def mixed(self, count: int, temperature: float, rng: Generator) -> Condition:
        """`count` mixtures, through which gradients flow into pi."""
        drawn = torch.rand(count, len(self.texts), generator=rng).to(self.pi).clamp_min(1e-10)
        weights = ((self.pi - (-drawn.log()).log()) / temperature).softmax(-1)  # (count, P)

        def mix(part: Tensor) -> Tensor:
            return (weights.to(part) @ part.reshape(len(part), -1)).reshape(count, *part.shape[1:])

        rest = (None if part is None else mix(part) for part in (self.kept.pooled, self.kept.guidance))
        return Condition(mix(self.kept.text), *rest)


class _Erasing:
    """The loss of a step, and the choice of what is kept, which moves between steps."""

    def __init__(self, method: EAP, model: Model, student: Model, concept: Concept) -> None:
        self.method, self.model, self.student = method, model, student
        self.parts, self.null = [Choice.of(method, model, part) for part in targets(concept)], model.condition([""])
        choices = [part.pi for part in self.parts]
        self.adam = torch.optim.Adam(choices, lr=method.choice_lr, maximize=True)
        self.stops, self.begun = places(method.rollout_steps), False

    def loss(self, rng: Generator) -> Tensor:
        method, kept = self.method, self.method.retain_weight > 0
        for _ in range(method.ascents if kept and self.begun else 0):
            self.ascend(rng)
        self.begun = True
        part = self._drawn(rng)
        told = part.given[torch.randint(len(part.given), (method.batch,), generator=rng).tolist()]
        if kept:
            with torch.no_grad():
                told = told.join(part.mixed(method.batch, method.temperature, rng))
        x_t, t = self._states(told, rng)
        value = self._seen(self.student, x_t, t, told)
        erased = slice(method.batch)
        with torch.no_grad():
            own = self._seen(self.model, x_t, t, told)
            free = self._seen(self.model, x_t[erased], t[erased], self.null.repeat(method.batch))
        goal = own[erased] - (1 + method.strength) * (own[erased] - free)
        lost = (value[erased] - goal).square().mean()
        return lost + method.retain_weight * (value[method.batch :] - own[method.batch :]).square().mean() if kept else lost

    def ascend(self, rng: Generator) -> None:
        """One step of pi towards what suffers more. The original's side is a goal: no gradient flows through it, as in the code."""
        part = self._drawn(rng)
        told = part.mixed(self.method.batch, self.method.temperature, rng)
        x_t, t = self._states(told, rng)
        with torch.no_grad():
            own = self._seen(self.model, x_t, t, told)
        harm = (self._seen(self.student, x_t, t, told) - own).square().mean()
        self.adam.zero_grad()
        (part.pi.grad,) = torch.autograd.grad(harm, [part.pi])
        self.adam.step()

    def _drawn(self, rng: Generator) -> Choice:
        return self.parts[int(torch.randint(len(self.parts), (1,), generator=rng))]

    @torch.no_grad()
    def _states(self, told: Condition, rng: Generator) -> tuple[Tensor, Tensor]:
        """States (B, C, h, w) on the student's own paths, all at one time (B,)."""
        method = self.method
        stop = next(self.stops)
        _, x_t, t = stopped(self.student, told, self.null, rng, steps=method.rollout_steps, guidance=method.rollout_guidance, stop=stop)
        return x_t, t

    def _seen(self, model: Model, x_t: Tensor, t: Tensor, told: Condition) -> Tensor:
        found = model.denoise(x_t, t, told)
        if self.method.compared == "output":
            return found.value
        # of noisy states large numbers, of which two networks' differ by little
        x, signal, level, value = (wide(part) for part in (found.x_t, found.signal, found.level, found.value))
        return replace(found, x_t=x, signal=signal, level=level, value=value).data


def places(steps: int) -> Iterator[int]:
    """Places on paths of so many steps, neither the first nor the last: multiples of the golden ratio, which fill every gap evenly."""
    k = 0
    while True:
        yield 1 + int((steps - 1) * (k * GOLDEN % 1))
        k += 1


def may_suffer(concept: Concept, words: Sequence[str] = (), *, contexts: bool = False) -> list[str]:
    """Prompts of words that must stay, each once; none that names the concept. The empty one where there are none.

    Arguments:
        words: () is the concept's neighbours and unrelated words.
        contexts: Also those with contexts.
    """
    plain = {template for template in concept.templates if contexts or "{context}" not in template} or set(concept.templates)
    asked = replace(concept, templates=tuple(template for template in concept.templates if template in plain))
    texts = [prompt.text for word in words or (*concept.neighbours, *concept.unrelated) for prompt in asked.prompts("training", word)]
    return list(dict.fromkeys(text for text in texts if not concept.named(text))) or [""]
