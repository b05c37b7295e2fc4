"""SPM: one-dimensional adapters that steer the concept's prediction away, and are held to do nothing to any other embedding.

    y <- y + alpha / rank * up(down(x))      on every linear map and convolution of the transformers, rank 1
    goal = eps_0(n) - strength * (eps_0(c) - eps_0(n))
    loss = mean |eps(x_t, c) - goal|^2  +  anchoring * mean |eps(x_t, c') - eps_0(x_t, c')|^2

eps_0 is the network without its adapters, n the neutral prompt, x_t a state on the adapted network's own guided path for c, and
c' random embeddings: Gaussian directions, as long as c's embedding times a factor from 0.8 to 1.2 (latent anchoring).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Generator, Tensor

from vestige.concepts import Concept
from vestige.diffusion import Condition, Model
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.sampling import predictions, sample
from vestige.edits import Edit
from vestige.edits.surgery import folded
from vestige.methods import Data, Paper, Training, Unlearner, fit
from vestige.methods.contract import TRAINED
from vestige.methods.ranges import above, at_least
from vestige.methods.training import Schedule
from vestige.seeds import derive, generator


@final
@dataclass(frozen=True, kw_only=True)
class SPM(Unlearner):
    """Trains semi-permeable membranes: rank-one adapters with a random-embedding anchor (Lyu et al., 2024).

    Its third part is not here: facilitated transport, which scales each adapter at every prompt by how near the prompt is to the
    concept. An edit's factors are always on, so this is the membrane at full strength, as published audits of SPM load it too.

    Differs from the released code: (1) facilitated transport, see above; (2) a random embedding is not rejected with the cosine to the
    concept as its probability: in so many dimensions that cosine is about 0; (3) anchors stand alone, where the code pairs each with
    the empty prompt at guidance 1, which cancels; (4) the state's time is the path's own grid time, which the code rounds to;
    (5) one cosine over all steps, without restarts, which the warm-up multiplies; (6) the model's own resolution; (7) AdamW in 32 bits
    without decay.

    Arguments:
        strength: Distance past the neutral prediction, >= -1; -1 leaves the model as it is.
        neutral: n. "empty" is the empty prompt, "anchor" the prompt with the anchor in the concept's place.
        anchoring: Weight of latent anchoring.
        anchors: Random embeddings a state.
        rank: Rank of the adapters.
        alpha: Their scale is alpha / rank.
        scope: "transformers" is every linear map and convolution there (released), "attention" its projections alone.
        rollout_steps: Sampling steps of a whole path; it stops at a random one, neither the first nor the last.
        rollout_guidance: Guidance on the path.
        prompts: "plain" trains on the concept's plain prompts, "all" also on those with contexts.
        schedule: "cosine" over all steps, or "constant"; the warm-up multiplies either.
        warmup: Steps of linear warm-up.
        steps: AdamW steps.
        batch: States a step, all at one time.
    """

    paper: ClassVar[Paper] = Paper(
        "One-dimensional Adapter to Rule Them All: Concepts, Diffusion Models and Erasing Applications",
        "Lyu et al.",
        2024,
        arxiv="2312.16145",
        code="Con6924/SPM",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prompts"})

    strength: float = 1.0
    neutral: Literal["empty", "anchor"] = "empty"
    anchoring: float = 1000.0
    anchors: int = 4
    rank: int = 1
    alpha: float = 1.0
    scope: Literal["transformers", "attention"] = "transformers"
    rollout_steps: int = 30
    rollout_guidance: float = 3.0
    prompts: Literal["plain", "all"] = "plain"
    schedule: Schedule = "cosine"
    warmup: int = 500
    steps: int = 3000
    lr: float = 1e-4
    batch: int = 1

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "batch", "anchors", "rank")
        at_least(2, self, "rollout_steps")
        at_least(0, self, "anchoring", "warmup")
        at_least(-1, self, "strength")
        above(0, self, "lr", "alpha")

    def calls(self, picture: int, retained: int) -> int:
        rollout = self.rollout_steps / 2 * predictions(self.rollout_guidance)  # they stop anywhere on the way
        anchors = self.anchors * (self.anchoring > 0)
        return round(self.steps * self.batch * (rollout + 2 + anchors + TRAINED * (1 + anchors)))

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        texts, others = self._texts(concept)
        given, neutral, null = model.condition(texts), model.condition(others), model.condition([""])
        names = model.scope(self.scope)
        rng = generator(seed, "adapter")
        student, leaves = model.adapted(names, rank=self.rank, alpha=self.alpha, init="kaiming", rng=rng)

        def loss(rng: Generator) -> Tensor:
            rows = torch.randint(len(texts), (self.batch,), generator=rng).tolist()
            x_t, t = self._state(student, given[rows], null, rng)
            value = self._erasing(student, model, x_t, t, given[rows], neutral[rows])
            if self.anchoring > 0:
                value = value + self.anchoring * self._anchoring(student, model, x_t, t, given[rows], rng)
            return value

        flat = {f"{n}:{side}": leaf for n, pair in leaves.items() for side, leaf in zip(("down", "up"), pair, strict=True)}
        training = Training(steps=self.steps, lr=self.lr, schedule=self.schedule, warmup=self.warmup, clip=0.0)
        for _ in fit(flat, loss, training, seed=derive(seed, "spm"), watch=watch):
            pass
        factors = folded(leaves, rank=self.rank, alpha=self.alpha)
        notes = {"concept": concept.name, "seed": seed}
        return Edit(model.fingerprint, "spm", asdict(self), self.scope, factors=factors, notes=notes)

    def _texts(self, concept: Concept) -> tuple[list[str], list[str]]:
        """The concept's prompts, each once, and the neutral one for each."""
        pairs = dict(zip((p.text for p in concept.prompts("training")), concept.others(concept.anchor), strict=True))
        texts = concept.plain() if self.prompts == "plain" else list(pairs)
        return texts, [pairs[text] if self.neutral == "anchor" else "" for text in texts]

    def _state(self, student: Model, given: Condition, null: Condition, rng: Generator) -> tuple[Tensor, Tensor]:
        """States (B, C, h, w) on the student's own path, all at one time (B,)."""
        stop = int(torch.randint(1, self.rollout_steps, (1,), generator=rng))
        x = torch.randn(len(given), *student.latent_shape, generator=rng).to(given.text)
        x_t = sample(student, x, given, steps=self.rollout_steps, guidance=self.rollout_guidance, null=null, stop=stop)
        return x_t, student.grid(self.rollout_steps)[stop].to(x_t.device).expand(len(x_t))

    def _erasing(self, student: Model, model: Model, x_t: Tensor, t: Tensor, given: Condition, neutral: Condition) -> Tensor:
        with torch.no_grad():
            own, free = model.denoise(x_t, t, given).value, model.denoise(x_t, t, neutral).value
            # From the concept's side: at strength -1 the goal is the network's own prediction exactly.
            goal = own - (1 + self.strength) * (own - free)
        return (student.denoise(x_t, t, given).value - goal).square().mean()

    def _anchoring(self, student: Model, model: Model, x_t: Tensor, t: Tensor, given: Condition, rng: Generator) -> Tensor:
        x_t, t = x_t.repeat_interleave(self.anchors, 0), t.repeat_interleave(self.anchors)
        random = anchored(given.repeat(self.anchors), rng)
        with torch.no_grad():
            goal = model.denoise(x_t, t, random).value
        return (student.denoise(x_t, t, random).value - goal).square().mean()


def anchored(given: Condition, rng: Generator) -> Condition:
    """A random embedding for each row: a Gaussian direction, 0.8 to 1.2 times as long as the row's text; pooled text stays."""
    direction = torch.randn(given.text.shape, generator=rng).to(given.text)
    length = given.text.flatten(1).norm(dim=1) * (0.8 + 0.4 * torch.rand(len(given), generator=rng).to(given.text))
    scale = length / direction.flatten(1).norm(dim=1)
    return Condition(direction * scale[:, None, None], given.pooled)
