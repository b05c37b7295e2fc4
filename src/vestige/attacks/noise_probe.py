"""Noise probe: let the unchanged model draw with more noise on the way than its sampler has.

    x_s = signal(s) data + sqrt(|level(s)^2 - sigma^2|) eps + scale sigma xi,   sigma = eta sigma_ancestral

and, as a second kind, let it finish a picture, noise that part of the way and finish it again. An unlearner that led the way from common
noise past the concept may not have led every way past it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, final

from torch import Tensor

from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.noising import Churn
from vestige.diffusion.sampling import Drawing, predictions
from vestige.diffusion.sampling import pictures as draw
from vestige.methods import Attack, Budget, Candidate, Paper
from vestige.methods.contract import Access, Select
from vestige.methods.ranges import at_least
from vestige.seeds import derive


@final
@dataclass(frozen=True, kw_only=True)
class NoiseProbe(Attack):
    """A grid of stochastic samplers (Lu et al., 2025), and renoising.

    Differs from the released code: (1) there every picture is the best of 24 by the classifier that scores it, and the generator runs on
    from one try to the next, so that the grid is a search over 24 seeds too; here the selection judge chooses a sampler, by `draws`
    pictures of training prompts at the same seeds in every try, and the chosen one draws everything, once; `direct` is the search over
    seeds; (2) the deviation is the schedule's own ancestral one in its levels, so it holds for flows; there it is that of diffusers' DDIM,
    the same for Stable Diffusion. Renoising is ours.

    Classifier guidance, the same paper's, is not here: a classifier of noisy latents brings knowledge of its own into the picture, and no
    attack is handed one. Tries go through every eta at a scale, then a share to go back to, then the next scale, and round again, on other
    prompts and seeds; the best try so far, the latest of equals, is the candidate. Whoever sets the sampler has a white box; nothing is
    trained.

    Arguments:
        eta: Noise of a step in units of ancestral sampling's, >= 0 each.
        scale: Multiplies it, >= 0 each; every eta is tried with every scale.
        back: Renoising: shares of the grid in [0, 1) to which a finished picture is noised again, as the sampler is without noise.
        draws: Pictures a try.
        sampling_steps: Steps in which they are drawn.
        guidance: Their guidance.
    """

    paper: ClassVar[Paper] = Paper(
        "When Are Concepts Erased From Diffusion Models?", "Lu et al.", 2025, arxiv="2505.17013", code="kevinlu4588/WhenAreConceptsErased"
    )
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[str]] = frozenset()

    eta: tuple[float, ...] = (1.0, 1.17, 1.34, 1.51, 1.68, 1.85)
    scale: tuple[float, ...] = (1.0, 1.02, 1.03, 1.04)
    back: tuple[float, ...] = (0.2, 0.4, 0.6)
    draws: int = 16
    sampling_steps: int = 50
    guidance: float = 7.5

    def __post_init__(self) -> None:
        at_least(1, self, "draws", "sampling_steps")
        if not self.samplers():
            raise ValueError("name at least one eta with a scale, or a share to go back to")

    def samplers(self) -> list[Churn]:
        """Every sampler, in the order of the tries."""
        rounds = itertools.zip_longest(self.scale if self.eta else (), self.back)
        made = [
            [*(Churn(eta, scale) for eta in self.eta if scale is not None), *([Churn(back=back)] if back is not None else [])]
            for scale, back in rounds
        ]
        return [churn for row in made for churn in row]

    def calls(self, last: int, pictures: int) -> int:
        grid = self.samplers()
        steps = sum(self._steps(grid[i % len(grid)]) for i in range(last))
        return steps * self.draws * predictions(self.guidance)

    def _steps(self, churn: Churn) -> int:
        """Steps of a picture, those that are walked again included."""
        return self.sampling_steps + (self.sampling_steps - round(churn.back * self.sampling_steps))

    def __call__(
        self,
        model: Model,
        concept: Concept,
        budget: Budget,
        *,
        seed: int,
        select: Select,
        pictures: PictureSet | None = None,
        watch: Watch = silent,
    ) -> Iterator[Candidate]:
        began, calls, order = time.monotonic(), 0, self.samplers()
        best: dict[str, Any] = {}
        for spent in range(budget.last + 1):
            if spent:
                churn, turn = order[(spent - 1) % len(order)], (spent - 1) // len(order)
                share = select(self._drawn(model, concept, churn, seed, turn)).float().mean().item()
                calls += self.draws * self._steps(churn) * predictions(self.guidance, distilled=model.distilled)
                if not best or share >= best["share"]:
                    best = {"share": share, "churn": churn}
                watch("sampler", spent, budget.last)
            if spent in budget.points:
                notes = {"share": best["share"], **asdict(best["churn"])} if best else {}
                cost = {"calls": calls, "seconds": time.monotonic() - began}
                yield Candidate(spent, churn=best.get("churn"), cost=cost, notes=notes)

    def _drawn(self, model: Model, concept: Concept, churn: Churn, seed: int, turn: int) -> Tensor:
        texts = [p.text for p in concept.spread(self.draws, "training", offset=turn * self.draws)]
        seeds = [derive(seed, "sampler picture", turn, i) for i in range(self.draws)]
        return draw(model, texts, seeds, Drawing(steps=self.sampling_steps, guidance=self.guidance), churn=churn)
