"""The pictures of what an attack proposes: by its prompts, from where it begins, and of several tries the best by the selection judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vestige.concepts.concept import Prompt
from vestige.diffusion import Model
from vestige.diffusion.sampling import pictures
from vestige.harness.bench import Bench
from vestige.methods import Candidate
from vestige.seeds import derive

Wanted = tuple[Sequence[Prompt], tuple[int, str]]  # prompts, and whose seeds their pictures have


def pictures_for(bench: Bench, view: Model, prompts: Sequence[Prompt], candidate: Candidate, purpose: tuple[int, str]) -> Tensor:
    """Pictures for the prompts; with several tries, the best of them by the selection judge."""
    return Tries().pictures(bench, view, [(prompts, purpose)], candidate)[0]


@dataclass
class Tries:
    """The best pictures of a candidate by the seeds tried so far, (N, 3, H, W); more tries of the same candidate go on from there.

    Arguments:
        label: Which the best shows; "" is what the first prompt asks for.
    """

    label: str = ""
    of: tuple[Any, ...] = field(init=False, default=(None, None, None))  # whose they are
    tried: int = field(init=False, default=0)
    best: Tensor | None = field(init=False, default=None)
    score: Tensor | None = field(init=False, default=None)

    def pictures(self, bench: Bench, view: Model, wanted: Sequence[Wanted], candidate: Candidate) -> list[Tensor]:
        """Pictures for several sets of prompts, a tensor each; drawn in the same batches, which are fuller so."""
        dealt = candidate.start is not None or candidate.kept is not None
        if dealt and len(wanted) > 1:  # what pictures begin from, or keep, is dealt anew for every set
            return [Tries(label=self.label).pictures(bench, view, [one], candidate)[0] for one in wanted]
        sizes = [len(prompts) for prompts, _ in wanted]
        model, start, kept, *asked = self.of
        now = [candidate.churn, candidate.prompts, sizes]
        same = model is view and start is candidate.start and kept is candidate.kept and asked == now
        if not same or candidate.tries < self.tried:
            self.tried, self.best, self.score = 0, None, None
        self.of = (view, candidate.start, candidate.kept, *now)
        while self.tried < candidate.tries:
            self._try(bench, view, wanted, candidate)
        if self.best is None:
            raise ValueError("a candidate allows at least one try")
        return list(self.best.split(sizes))

    def _try(self, bench: Bench, view: Model, wanted: Sequence[Wanted], candidate: Candidate) -> None:
        """Draw once more, and keep of each picture the better one; a first one is judged when there is another."""
        label = self.label or next(iter(wanted[0][0][0].expects.values()))
        texts = [text for prompts, _ in wanted for text in _asked(prompts, candidate)]
        seeds = [derive(*purpose, i, self.tried) for prompts, purpose in wanted for i in range(len(prompts))]
        how = {"start": candidate.start, "churn": candidate.churn, "kept": candidate.kept}
        made = pictures(view, texts, seeds, bench.suite.protocol, **how)  # type: ignore[arg-type]
        self.tried += 1
        if self.best is None:
            self.best = made
            return
        score = _judged(bench, self.best, label) if self.score is None else self.score
        now = _judged(bench, made, label)
        better = now > score
        self.best, self.score = torch.where(better[:, None, None, None], made, self.best), torch.where(better, now, score)


def _asked(prompts: Sequence[Prompt], candidate: Candidate) -> list[str]:
    """The candidate's prompts in the places of the given ones, or those."""
    own = candidate.prompts
    return [own[i % len(own)] for i in range(len(prompts))] if own else [p.text for p in prompts]


def _judged(bench: Bench, drawn: Tensor, label: str) -> Tensor:
    return bench.select.shows(drawn, label).nan_to_num(-1.0)  # what could not be judged is chosen last
