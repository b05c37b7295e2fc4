"""ConceptPrune: weights behind hidden units that the concept wakes are set to zero; nothing is trained.

W (out, in) is the last linear map of a feed-forward block, h its hidden units, s a step of sampling. With every token's h brought to
length 1, and the sum running over tokens and prompts,

    a_j(s) = (sum h_j^2)^1/2        S(s)_ij = |W_ij| a_j(s)

once under prompts that name the concept, S, and once under the same without it, S', from the same starting noise. A step votes for (i, j)
if S_ij is among the largest `ratio` of its row and S_ij > S'_ij. What more than a share `select` of the first steps vote for goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import ClassVar, Literal, final

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from vestige.concepts import Concept
from vestige.concepts.joint import targets
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent, within
from vestige.diffusion.sampling import chunks, noise, predictions, sample
from vestige.diffusion.units import hearing, last_maps
from vestige.edits import Edit
from vestige.edits.precision import wide
from vestige.errors import Incompatible
from vestige.methods import Data, Paper, Unlearner
from vestige.methods.ranges import above, at_least, below_one
from vestige.seeds import derive, generator

SCOPE = "transformers"  # the last maps of feed-forward blocks lie in it
LACK = "there are no hidden units to prune"


@final
@dataclass(frozen=True, kw_only=True)
class ConceptPrune(Unlearner):
    """Skilled neuron pruning: Wanda scores of feed-forward blocks with the concept against without it (Chavhan et al., 2024).

    Several targets that are one concept (`concepts.joint.Joint`) are heard one after another, and what any of them votes for goes.

    Differs from the released code: (1) prompts are the concept's own, in turn, and without the concept they are the same with its words
    left out; the code has lists of things and scenes; (2) every prompt has its own starting noise, the same with and without the concept;
    the code has one for all; (3) only the first steps are drawn, as later ones have no vote; (4) at least one weight of a row is among
    the largest, where the code rounds down to none in narrow networks; (5) transformers with joint attention (FLUX, SD3) have two
    blocks' maps, of picture and of text, and both count; (6) `fill` is ours. As in the code, the empty prompt's half of a guided pass
    is heard too.

    Zeros tell whoever reads the file what was cut, and a matrix of low rank completes them (2603.06640). `fill` hides where they are.

    Arguments:
        ratio: Share of a row whose scores count as its largest, in (0, 1]; the code's scripts take 0.02 for objects, too.
        select: Share of the first steps that have to vote for more than that, in [0, 1).
        first: Steps that vote, of `rollout_steps`.
        without: What prompts without the concept are: "words", its words left out (released), which of a model that is told a class is
            the null class; "anchor", the anchor in their place; "empty", the empty prompt (released for memorised pictures).
        fill: What stands where weights were cut. "zero" (released), or "row": weights of the same row that stay, drawn at random.
        prompts: "plain" takes the concept's plain prompts, "all" its training prompts in their order.
        rollouts: Prompts that are drawn, in turn, with and without the concept; 12 to 20 in the code.
        rollout_steps: Sampling steps.
        rollout_guidance: Guidance.
        batch: Drawn at once; makes no difference but for speed.
    """

    paper: ClassVar[Paper] = Paper(
        "ConceptPrune: Concept Editing in Diffusion Models via Skilled Neuron Pruning",
        "Chavhan, Li and Hospedales",
        2024,
        arxiv="2405.19237",
        code="ruchikachavhan/concept-prune",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prompts"})
    joint: ClassVar[bool] = True
    per_target: ClassVar[bool] = True

    ratio: float = 0.01
    select: float = 0.0
    first: int = 10
    without: Literal["words", "anchor", "empty"] = "words"
    fill: Literal["zero", "row"] = "zero"
    prompts: Literal["plain", "all"] = "all"
    rollouts: int = 20
    rollout_steps: int = 50
    rollout_guidance: float = 7.5
    batch: int = 20

    def __post_init__(self) -> None:
        at_least(1, self, "first", "rollouts", "rollout_steps", "batch")
        below_one(self, "select")
        above(0, self, "ratio")
        if self.ratio > 1:
            raise ValueError(f"ratio is at most 1; given {self.ratio}")

    def calls(self, picture: int, retained: int) -> int:
        return 2 * self.rollouts * min(self.first, self.rollout_steps) * predictions(self.rollout_guidance)

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        names = last_maps(model, LACK)
        weights = {name: wide(model.tensor(name)) for name in names}
        cut = {name: torch.zeros(weight.shape, dtype=torch.bool) for name, weight in weights.items()}
        parts = targets(concept)
        for part in parts:
            told = watch if len(parts) == 1 else within(part.name, watch)
            with_it, without = self.texts(model, part)
            target, base = (
                self.heard(model, names, texts, seed, within(how, told)) for how, texts in (("with", with_it), ("without", without))
            )
            for name, weight in weights.items():
                cut[name] |= voted(weight.cpu().abs(), target[name], base[name], self.ratio, self.select)
        found = {name: mask for name, mask in cut.items() if mask.any()}
        if not found:
            raise Incompatible(f"no hidden unit of {model.name} is more awake with {concept.name} than without; nothing is cut")
        tensors = {}
        for name, mask in found.items():
            rng = generator(seed, "fill", name)
            tensors[name] = (zeroed if self.fill == "zero" else partial(refilled, rng=rng))(weights[name], mask.to(weights[name].device))
        total = sum(model.tensor(name).numel() for name in model.scope("unet"))
        gone = sum(int(mask.sum()) for mask in found.values())
        notes = {"concept": concept.name, "seed": seed, "cut": gone, "share": gone / total}
        return Edit(model.fingerprint, "concept_prune", asdict(self), SCOPE, tensors, notes=notes)

    def texts(self, model: Model, part: Concept) -> tuple[list[str], list[str]]:
        """Prompts with the concept and, in the same order, without it."""
        shown = part.prompts("training")
        if self.without == "words" and not _told_classes(model):
            other = [" ".join(p.text.split()) for p in part.prompts("training", "")]
        else:
            other = part.others(part.anchor if self.without == "anchor" else "")
        bare = set(part.plain()) if self.prompts == "plain" else {p.text for p in shown}
        pairs = [(p.text, text) for p, text in zip(shown, other, strict=True) if p.text in bare]
        return [one for one, _ in pairs], [text for _, text in pairs]

    def heard(self, model: Model, names: Sequence[str], texts: Sequence[str], seed: int, watch: Watch = silent) -> dict[str, Tensor]:
        """a by weight's name, (steps, in) in float64: over the first steps of sampling, one picture a prompt."""
        steps, guidance = min(self.first, self.rollout_steps), self.rollout_guidance
        sums = {name: torch.zeros(steps, model.tensor(name).shape[1], dtype=torch.float64) for name in names}
        table, null, at = model.condition(texts), model.condition([""]), 0

        def told(name: str, hidden: Tensor) -> None:
            units = F.normalize(hidden.detach().flatten(0, -2).float(), dim=1)
            sums[name][at] += units.square().sum(0).cpu().double()

        def step(stage: str, done: int, total: int) -> None:
            nonlocal at
            at = done

        for part in chunks(self.rollouts, self.batch):
            rows, at = [i % len(texts) for i in range(part.start, part.stop)], 0
            x = noise(model.latent_shape, [derive(seed, "rollout", i) for i in range(part.start, part.stop)]).to(table.text)
            with hearing(model, names, told):
                sample(model, x, table[rows], steps=self.rollout_steps, guidance=guidance, null=null, stop=steps, watch=step)
            watch("pictures", part.stop, self.rollouts)
        return {name: value.sqrt() for name, value in sums.items()}


def voted(weight: Tensor, target: Tensor, base: Tensor, ratio: float, select: float) -> Tensor:
    """Which weights go, (out, in).

    Arguments:
        weight: |W|, (out, in).
        target: a with the concept, (steps, in).
        base: a without it, likewise.
    """
    votes, count = torch.zeros(weight.shape), max(1, int(ratio * weight.shape[1]))
    for a, b in zip(target, base, strict=True):
        score = weight * a
        top = torch.zeros(weight.shape, dtype=torch.bool).scatter(1, score.topk(count, 1).indices, True)
        votes += top & (score > weight * b)
    return votes > select * len(target)


def zeroed(weight: Tensor, cut: Tensor) -> Tensor:
    """The weight without what is cut."""
    return weight.masked_fill(cut, 0)


def refilled(weight: Tensor, cut: Tensor, rng: Generator) -> Tensor:
    """The weight with others of the same row, drawn with replacement, in the place of what is cut; a row that goes whole is zeros."""
    kept = (~cut).double().cpu()
    empty = kept.sum(1) == 0
    picks = torch.multinomial(kept + empty[:, None], int(cut.sum(1).max()), replacement=True, generator=rng).to(weight.device)
    order = (cut.cumsum(1) - 1).clamp(0, picks.shape[1] - 1)  # how many cut ones of the row lie before
    drawn = zeroed(weight, cut).gather(1, picks).gather(1, order)
    return torch.where(cut, drawn, weight)


def _told_classes(model: Model) -> bool:
    try:
        model.tokens([""])
    except Incompatible:
        return True
    return False
