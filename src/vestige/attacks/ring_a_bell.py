"""Ring-A-Bell: prompts that mean the concept to the text encoder, made once, without the denoiser.

    v = mean over prompts p of  f(p naming the concept) - f(p naming something else)
    min over K tokens P*   |f(p) + strength v - f(P*)|^2,   by a genetic search

f is the encoder's whole output, every token's. Nothing but the text encoder is asked, so what is found does not depend on what the
denoiser unlearned: the same words are tried on any model, as anyone could.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.sampling import chunks
from vestige.methods import Attack, Budget, Candidate, Paper
from vestige.methods.contract import Access, Select
from vestige.methods.ranges import at_least
from vestige.methods.wording import around, read_back, vocabulary
from vestige.seeds import generator


@final
@dataclass(frozen=True, kw_only=True)
class RingABell(Attack):
    """Concept direction and genetic search over prompts (Tsai et al., 2024), black-box.

    Differs from the released code: (1) the best prompt of all generations is kept, which mutation may lose there; (2) what stands against
    the concept in the pairs are the concept's own training prompts with its anchor, or where it has none its neighbours, there pairs
    written by hand; (3) the population is drawn and rated as one batch; start, end and padding are no words to it; (4) it is called
    Ring-A-Bell in some evaluations to add `strength` v to the condition itself, which is not a prompt and is not this.

    The encoder is the attacked model's own, under hooks that act on words, which a prompt meets later: where an edit changed the encoder,
    an attacker with the public one is `restore` besides. A budget counts generations; no picture is drawn and nobody looks.

    Arguments:
        tokens: K, cut to what the model reads; 16 for nudity, 77 for violence in the released code.
        strength: 3 for nudity, 5.5 for violence there.
        population: Prompts of a generation, an even number.
        crossover: Chance that a pair of parents has two children by one cut; else they are copies.
        mutation: Chance that one token of a prompt is drawn anew, in parents too.
        targets: Prompts p that are strengthened, each with a search of its own.
    """

    paper: ClassVar[Paper] = Paper(
        "Ring-A-Bell! How Reliable are Concept Removal Methods for Diffusion Models?",
        "Tsai et al.",
        2024,
        arxiv="2310.10012",
        code="chiayi-hsu/Ring-A-Bell",
    )
    access: ClassVar[Access] = "prompts"
    needs: ClassVar[frozenset[str]] = frozenset()

    tokens: int = 16
    strength: float = 3.0
    population: int = 200
    crossover: float = 0.5
    mutation: float = 0.25
    targets: int = 8

    def __post_init__(self) -> None:
        at_least(1, self, "tokens", "targets")
        at_least(4, self, "population")
        if self.population % 2:
            raise ValueError(f"population is even, of which one half is kept; given {self.population}")
        if not (0 <= self.crossover <= 1 and 0 <= self.mutation <= 1):
            raise ValueError(f"crossover and mutation are chances in [0, 1]; given {self.crossover} and {self.mutation}")

    @torch.no_grad()
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
        began = time.monotonic()
        allowed, v = vocabulary(model), direction(model, concept)
        texts = [p.text for p in concept.spread(self.targets, "training", offset=seed * self.targets)]
        goals = encoded(model, model.tokens(texts)) + self.strength * v
        searches = [Genetic.begin(self, model, goal, allowed, seed, i) for i, goal in enumerate(goals)]
        for spent in range(budget.last + 1):
            if spent:
                searches = [search.next() for search in searches]
                watch("generation", spent, budget.last)
            if spent not in budget.points:
                continue
            made, whole = read_back(model, torch.stack([search.best for search in searches]))
            distances = [search.distance for search in searches]
            notes = {"distance": sum(distances) / len(distances), "round_trip": sum(whole) / len(whole)}
            encodings = (1 + spent) * self.population * self.targets
            cost = {"calls": 0, "encodings": encodings, "seconds": time.monotonic() - began}
            yield Candidate(spent, prompts=tuple(made) if spent else None, cost=cost, notes=notes)


@dataclass(frozen=True)
class Genetic:
    """A generation of one search, rated, and the best prompt so far.

    Arguments:
        goal: What the encoder should say, (L, D).
        allowed: Ids that a prompt may be made of.
        purpose: Seed and number of the search; every generation draws from a generator of its own.
        age: Generations behind it.
        prompts: Ids, (population, K).
        ratings: Squared distances from the goal, (population,).
        best: The best prompt's tokens with start, end and padding, (L,).
    """

    how: RingABell
    model: Model
    goal: Tensor
    allowed: Tensor
    purpose: tuple[int, int]
    age: int
    prompts: Tensor
    ratings: Tensor
    best: Tensor
    distance: float

    @staticmethod
    def begin(how: RingABell, model: Model, goal: Tensor, allowed: Tensor, seed: int, number: int) -> Genetic:
        count = min(how.tokens, model.tokens([""]).shape[1] - 2)
        first = torch.randint(len(allowed), (how.population, count), generator=generator(seed, "genetic", number, 0))
        blank = Genetic(how, model, goal, allowed, (seed, number), 0, first, torch.empty(0), first[0], float("inf"))
        return blank._rated(allowed[first], 0)

    def next(self) -> Genetic:
        """The next generation: the better half, its children, and mutants among all of them."""
        rng, (size, count) = generator(self.purpose[0], "genetic", self.purpose[1], self.age + 1), self.prompts.shape
        kept = self.prompts[self.ratings.argsort(stable=True)[: size // 2]]
        pairs = kept[torch.randint(len(kept), (-(-size // 4), 2), generator=rng)]  # (pairs, 2, K)
        cuts = torch.randint(1, max(2, count), (len(pairs), 1), generator=rng)
        crossed = torch.rand((len(pairs), 1), generator=rng) < self.how.crossover
        swapped = (torch.arange(count) >= cuts) & crossed
        one, other = pairs.unbind(1)
        children = torch.cat([torch.where(swapped, other, one), torch.where(swapped, one, other)])[: size - len(kept)]
        made = torch.cat([kept, children])
        changed = torch.rand(size, generator=rng) < self.how.mutation
        places = torch.randint(count, (size,), generator=rng)
        fresh = self.allowed[torch.randint(len(self.allowed), (size,), generator=rng)]
        made[changed, places[changed]] = fresh[changed]
        return self._rated(made, self.age + 1)

    def _rated(self, prompts: Tensor, age: int) -> Genetic:
        whole = around(self.model, prompts)
        ratings = torch.cat([(encoded(self.model, whole[part]) - self.goal).square().flatten(1).sum(1) for part in chunks(len(whole), 256)])
        first = int(ratings.argmin())
        better = float(ratings[first]) < self.distance
        best, distance = (whole[first], float(ratings[first])) if better else (self.best, self.distance)
        return Genetic(self.how, self.model, self.goal, self.allowed, self.purpose, age, prompts, ratings.cpu(), best, distance)


def direction(model: Model, concept: Concept) -> Tensor:
    """v of the equations above, (L, D)."""
    words = [concept.anchor] if concept.anchor else list(concept.neighbours) or [""]
    named = encoded(model, model.tokens([p.text for p in concept.prompts("training")]))
    return torch.stack([(named - encoded(model, model.tokens(concept.others(word)))).mean(0) for word in words]).mean(0)


def encoded(model: Model, ids: Tensor) -> Tensor:
    """What the encoder says of token rows (n, L), every token's state (n, L, D); a hook on words does not see them."""
    return model.embed(ids).text
