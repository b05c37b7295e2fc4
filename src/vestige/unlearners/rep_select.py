"""RepSelect: one gradient of the forget loss, freed of what the concept shares with the rest, followed as far as utility allows.

    1. elicit     an adapter learns the concept's pictures, so that what must go is there to be seen
    2. gather     G = gradient of the forget loss for every matrix, over all of the pictures, the adapter on and held
    3. select     G' = G with its leading singular directions damped on both sides       (`methods.collapse`)
    4. step       theta = theta_0 - s |theta_0| G' / |G'|,   s the largest within the budget of what must stay

Forget losses: "anchor", mean |eps_theta(x_t, c) - eps_0(x_t, c')|^2 with c' the same prompt about the anchor, which is bounded below;
"away", minus the training loss under c. x_t are the concept's own pictures under noise. The code takes the same step again and again until
its budget is spent; as the gradient is never taken anew, that walks along one line, and how far is found here by halving.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from vestige.concepts import Concept
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.sampling import chunks
from vestige.edits import Edit
from vestige.edits.precision import wide
from vestige.edits.surgery import folded
from vestige.methods import Data, Paper, Training, Unlearner, fit
from vestige.methods.collapse import How, collapsed
from vestige.methods.contract import TRAINED
from vestige.methods.looking import looking
from vestige.methods.objectives import denoising, distilling
from vestige.methods.ranges import above, at_least
from vestige.methods.training_data import Pairs, paired, renamed
from vestige.seeds import derive, generator


@final
@dataclass(frozen=True, kw_only=True)
class RepSelect(Unlearner):
    """Selective gradients against relearning (2606.17168), carried over from language models.

    Differs from the released code, which is for language models: (1) the adapter lies on attention, which every family has, there on
    feed-forward maps, and learns by AdamW, there by plain descent; (2) of the two forget losses the bounded one is the default and is
    ours, the other is the code's; (3) an exact factorisation, of at most half of a matrix's directions; kernels count as matrices; (4) the
    budget is the training loss on pictures of what must stay, there a benchmark's loss, and the length of the step is sought by halving.
    What the released code damps it finds in the forget gradient alone; so does this.

    Arguments:
        aim: "anchor" or "away", see above.
        directions: Most singular directions that are damped in a matrix, on either side; 0 none.
        how: "soft", "quadratic" or "hard", see `methods.collapse`.
        budget: How far the loss on what must stay may rise, as a share of what it was.
        reach: Longest step that is tried, as a share of the weights' norm.
        looks: Halvings of it.
        steps: Steps of the eliciting adapter; 0 leaves it out.
        lr: Its rate.
        rank: Its rank.
        batch: Pictures a pass.
        target_pictures: Pictures of the target, drawn by the model where none are given.
        retain_pictures: Pictures of neighbours and unrelated concepts, likewise, on which the budget is measured.
        scope: Weights among which matrices and kernels move.
    """

    paper: ClassVar[Paper] = Paper("RepSelect", "the authors of its code", 2026, arxiv="2606.17168", code="filyp/RepSelect")
    needs: ClassVar[frozenset[str]] = frozenset({"prompts", "target", "retain"})

    aim: Literal["anchor", "away"] = "anchor"
    directions: int = 512
    how: How = "soft"
    budget: float = 0.02
    reach: float = 0.5
    looks: int = 10
    steps: int = 25
    lr: float = 1e-3
    rank: int = 4
    batch: int = 8
    target_pictures: int = 200
    retain_pictures: int = 200
    scope: str = "transformers"

    def __post_init__(self) -> None:
        at_least(1, self, "looks", "rank", "batch", "target_pictures", "retain_pictures")
        at_least(0, self, "directions", "steps", "budget")
        above(0, self, "lr", "reach")

    def calls(self, picture: int, retained: int) -> int:
        drawn = self.target_pictures * picture + self.retain_pictures * retained
        gathered = self.target_pictures * (TRAINED + (self.aim == "anchor"))
        return drawn + TRAINED * self.steps * self.batch + gathered + (1 + self.looks) * self.retain_pictures

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        data = data or Data()
        names = [name for name in model.scope(self.scope) if model.tensor(name).dim() > 1]
        given = data.targeted(model, concept, self.target_pictures, seed=seed, watch=watch)
        target, kept = paired(model, given), paired(model, data.retained(model, concept, self.retain_pictures, seed=seed, watch=watch))
        wrong = model.condition(renamed(given.texts, concept, concept.anchor))
        shown = self._elicited(model, target, seed, watch)
        slopes = self._gathered(model, shown, names, target, wrong, seed, watch)
        chosen = {name: collapsed(slope, self.directions, self.how) for name, slope in slopes.items()}
        base = {name: wide(model.tensor(name)) for name in names}
        size = norm(chosen)
        unit = {name: step * (norm(base) / size) for name, step in chosen.items()} if size > 0 else chosen

        def at(length: float) -> dict[str, Tensor]:
            return {name: base[name] - length * unit[name].to(base[name]) for name in names}

        def loss(length: float) -> float:
            moved = model.edited(Edit(model.fingerprint, "rep_select", {}, self.scope, at(length))) if length else model
            return kept_loss(moved, kept, self.batch, derive(seed, "budget"))

        length, losses = farthest(loss, self.budget, self.reach, self.looks, watch)
        notes: dict[str, Any] = {"concept": concept.name, "seed": seed, "length": length, "retain_loss": losses}
        return Edit(model.fingerprint, "rep_select", asdict(self), self.scope, at(length), notes=notes)

    def _elicited(self, model: Model, target: Pairs, seed: int, watch: Watch) -> Model:
        """The model with an adapter on it that learnt the target's pictures."""
        if self.steps == 0:
            return model
        names, rng = model.scope("attention"), generator(seed, "adapter")
        view, leaves = model.adapted(names, rank=self.rank, alpha=float(self.rank), init="gaussian", rng=rng)
        flat = {f"{name}:{side}": leaf for name, pair in leaves.items() for side, leaf in zip(("down", "up"), pair, strict=True)}
        training = Training(steps=self.steps, lr=self.lr)
        for _ in fit(
            flat, lambda rng: denoising(view, *target.draw(self.batch, rng), rng), training, seed=derive(seed, "elicit"), watch=watch
        ):
            pass
        factors = folded(leaves, rank=self.rank, alpha=float(self.rank))
        return model.edited(Edit(model.fingerprint, "rep_select", {}, "attention", factors=factors))

    def _gathered(
        self, model: Model, shown: Model, names: list[str], target: Pairs, wrong: Any, seed: int, watch: Watch
    ) -> dict[str, Tensor]:
        """The forget loss's gradient for every matrix, from one pass over the target's pictures, each under its first caption."""
        view, leaves = shown.trainable(names)
        for part in chunks(len(target), self.batch):
            x, rows, rng = target.latents[part], [rows[0] for rows in target.rows[part]], generator(seed, "gather", part.start)
            with looking():
                if self.aim == "away":
                    value = -denoising(view, x, target.table[rows], rng)
                else:
                    value = distilling(view, model, x, target.table[rows], wrong[rows], rng)
                (value * (len(x) / len(target))).backward()
            watch("gather", part.stop, len(target))
        return {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}


def norm(values: Mapping[str, Tensor]) -> float:
    """Euclidean, of all values together."""
    return float(torch.stack([value.double().square().sum() for value in values.values()]).sum().sqrt())


@torch.no_grad()
def kept_loss(model: Model, kept: Pairs, batch: int, seed: int) -> float:
    """The training loss on all pictures, each under its first caption, at the same times and noise every time."""
    total = 0.0
    for part in chunks(len(kept), batch):
        x, rows = kept.latents[part], [rows[0] for rows in kept.rows[part]]
        total += float(denoising(model, x, kept.table[rows], generator(seed, part.start))) * len(x)
    return total / len(kept)


def farthest(loss: Callable[[float], float], budget: float, reach: float, looks: int, watch: Watch = silent) -> tuple[float, list[float]]:
    """By halving [0, reach], how far one may go until the loss is `budget` times what it was above that, and the losses at 0 and there."""
    start = loss(0.0)
    low, high, found = 0.0, reach, start
    for look in range(looks):
        middle = (low + high) / 2
        if (value := loss(middle)) <= start * (1 + budget):
            low, found = middle, value
        else:
            high = middle
        watch("step", look + 1, looks)
    return low, [start, found]
