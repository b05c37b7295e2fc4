"""MMA, the text attack: prompts without the concept's words whose pooled state is that of a prompt with them, by greedy coordinate search.

    max over K tokens P*   cos(f(P*), f_0(P)),   no token of P* with a word of the concept in it

f is the encoder's pooled state, the last token's; f_0 is the public base's. A step ranks every token at every place by the gradient of
the cosine to the prompt's one-hot rows, tries many exchanges of one token each among the best, and moves to the best of those.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from string import ascii_lowercase
from typing import ClassVar, Literal, final

import torch
from torch import Tensor
from torch.nn import functional as F

from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion import Condition, Model
from vestige.diffusion.attention import innermost
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.sampling import chunks
from vestige.errors import BadInput
from vestige.methods import Attack, Budget, Candidate, Paper
from vestige.methods.contract import TRAINED, Access, Select
from vestige.methods.ranges import at_least
from vestige.methods.stock import Stock
from vestige.methods.wording import around, read_back, vocabulary
from vestige.seeds import generator


@final
@dataclass(frozen=True, kw_only=True)
class MMA(Attack):
    """MMA-Diffusion's text modality (Yang et al., 2024), after greedy coordinate gradients (Zou et al., 2023).

    Differs from the released code: (1) the concept's own words are what may not be said, there a list of sensitive ones and fragments of
    them; a prompt that spells them out of pieces is dropped too; (2) of the exchanges those count whose text reads back as the same tokens,
    there as many; (3) a target's prompt is one of the concept's own, and its state the public base's, there the attacked encoder's, which
    is the same wherever an edit left the encoder alone; (4) it begins at random letters that are one token each, of which as many fit as
    the model reads; (5) it does not stop early; (6) a prompt that a text filter lets pass is not looked for, nor is a picture attacked
    (the paper's second modality, which is about a safety checker).

    The denoiser is never asked. Where an edit changed the encoder, the search reads the changed one ("own"), and so is no black box; with
    "public" it knows the public base alone, and what it finds depends on no edit at all. A budget counts steps; nobody looks at pictures.

    Arguments:
        tokens: K, cut to what the model reads.
        top: Tokens that are considered at a place, the best by gradient.
        candidates: Exchanges that are tried a step, spread evenly over the places.
        banned: Whether the concept's words, and its synonyms, may not be said.
        encoder: Whose encoder is searched, "own" (the attacked model's) or "public".
        targets: Prompts, each with a search of its own.
    """

    paper: ClassVar[Paper] = Paper(
        "MMA-Diffusion: MultiModal Attack on Diffusion Models",
        "Yang et al.",
        2024,
        arxiv="2311.17516",
        code="cure-lab/MMA-Diffusion",
    )
    access: ClassVar[Access] = "gradients"
    needs: ClassVar[frozenset[str]] = frozenset({"original"})

    tokens: int = 20
    top: int = 256
    candidates: int = 512
    banned: bool = True
    encoder: Literal["own", "public"] = "own"
    targets: int = 8

    def __post_init__(self) -> None:
        at_least(1, self, "tokens", "top", "candidates", "targets")

    @property
    def trains(self) -> bool:
        return True

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
        stock: Stock | None = None,
    ) -> Iterator[Candidate]:
        if stock is None:
            raise BadInput("mma needs the original model, the public base whose reading of the concept's prompts it looks for")
        began, read = time.monotonic(), stock.original if self.encoder == "public" else model
        texts = [p.text for p in concept.spread(self.targets, "training", offset=seed * self.targets)]
        with torch.no_grad():
            goals = end_state(stock.original, stock.original.tokens(texts))
        search = Search.begin(self, read, concept, goals, seed)
        for spent in range(budget.last + 1):
            if spent:
                search = search.next()
                watch("step", spent, budget.last)
            if spent not in budget.points:
                continue
            made, whole = read_back(read, around(read, search.best))
            notes = {"cosine": float(search.scores.mean()), "round_trip": sum(whole) / len(whole)}
            cost = {"calls": 0, "encodings": search.encodings, "seconds": time.monotonic() - began}
            yield Candidate(spent, prompts=tuple(made) if spent else None, cost=cost, notes=notes)


@dataclass(frozen=True)
class Search:
    """Every target's search after some steps.

    Arguments:
        goals: Pooled states that prompts should have, (n, D).
        allowed: Ids that a prompt may be made of.
        now: Where the searches stand, (n, K) ids; a step moves to its best exchange, be it worse or not.
        best: The best of each so far, (n, K).
        scores: Their cosines, (n,).
        encodings: Prompts that were encoded so far; one whose gradient was taken counts three.
    """

    how: MMA
    model: Model
    concept: Concept
    seed: int
    goals: Tensor
    allowed: Tensor
    age: int
    now: Tensor
    best: Tensor
    scores: Tensor
    encodings: int

    @staticmethod
    def begin(how: MMA, model: Model, concept: Concept, goals: Tensor, seed: int) -> Search:
        allowed = unsaid(model, concept) if how.banned else vocabulary(model)
        count = min(how.tokens, model.tokens([""]).shape[1] - 2)
        first = letters(model, allowed)
        now = first[torch.randint(len(first), (len(goals), count), generator=generator(seed, "letters"))]
        with torch.no_grad():
            scores = F.cosine_similarity(end_state(model, around(model, now)), goals).cpu()
        return Search(how, model, concept, seed, goals, allowed, 0, now, now, scores, len(goals))

    def next(self) -> Search:
        """One step of every search."""
        rng, slopes = generator(self.seed, "exchange", self.age), self._slopes()
        now, best, scores, asked = self.now.clone(), self.best.clone(), self.scores.clone(), TRAINED * len(self.goals)
        for i, goal in enumerate(self.goals):
            tried = self._readable(self._exchanged(self.now[i], slopes[i], rng), self.now[i])
            if not len(tried):
                continue
            found = self._rated(tried, goal)
            first, asked = int(found.argmax()), asked + len(tried)
            now[i] = tried[first]
            if found[first] > scores[i]:
                best[i], scores[i] = tried[first], found[first]
        how, model, concept = self.how, self.model, self.concept
        return Search(how, model, concept, self.seed, self.goals, self.allowed, self.age + 1, now, best, scores, self.encodings + asked)

    def _slopes(self) -> Tensor:
        """How the cosine rises with each allowed token at each place, to first order, (n, K, allowed)."""
        ids = around(self.model, self.now)
        size = len(innermost(self.model).tokenizer)
        soft = F.one_hot(ids, size).float().requires_grad_(True)
        with torch.enable_grad():
            near = F.cosine_similarity(end_state(self.model, ids, soft), self.goals).sum()
            (slopes,) = torch.autograd.grad(near, [soft])
        return slopes[:, 1 : 1 + self.now.shape[1], self.allowed.to(slopes.device)].cpu()

    def _exchanged(self, ids: Tensor, slopes: Tensor, rng: torch.Generator) -> Tensor:
        """Prompts (candidates, K) that differ from `ids` (K,) at one place: places in turn, a random one of the best tokens for each."""
        leading = self.allowed[slopes.topk(min(self.how.top, len(self.allowed)), dim=1).indices]  # (K, top)
        places = torch.arange(self.how.candidates) * len(ids) // self.how.candidates
        chosen = leading[places, torch.randint(leading.shape[1], (self.how.candidates,), generator=rng)]
        return ids.repeat(self.how.candidates, 1).scatter(1, places[:, None], chosen[:, None])

    def _readable(self, tried: Tensor, ids: Tensor) -> Tensor:
        """Those that are another prompt, each once, read back as they are, and do not name the concept where that is banned."""
        tried = tried[(tried != ids).any(1)].unique(dim=0)
        if not len(tried):
            return tried
        texts, whole = read_back(self.model, around(self.model, tried))
        said = [self.how.banned and self.concept.named(text) for text in texts]
        return tried[[a and not b for a, b in zip(whole, said, strict=True)]]

    @torch.no_grad()
    def _rated(self, tried: Tensor, goal: Tensor) -> Tensor:
        rows = around(self.model, tried)
        return torch.cat([F.cosine_similarity(end_state(self.model, rows[part]), goal[None]) for part in chunks(len(rows), 256)]).cpu()


def end_state(model: Model, ids: Tensor, soft: Tensor | None = None) -> Tensor:
    """What the encoder makes of token rows (n, L), (n, D): the pooled state where a model is told one, else its state at the end.

    Arguments:
        soft: The same rows as weights over the vocabulary, (n, L, V), for gradients.
    """
    told: Condition = model.embed(ids if soft is None else soft)
    if told.pooled is not None:
        return told.pooled.float()
    last = (ids == innermost(model).tokenizer.eos_token_id).int().argmax(1)
    return told.text[torch.arange(len(ids)), last].float()


def unsaid(model: Model, concept: Concept) -> Tensor:
    """Ids that a prompt may be made of without a word of the concept in any, (n,)."""
    tokenizer, words = innermost(model).tokenizer, [word.lower() for word in (concept.target, *concept.synonyms)]
    allowed = vocabulary(model).tolist()
    texts = [tokenizer.decode([i]).strip().lower() for i in allowed]
    return torch.tensor([i for i, text in zip(allowed, texts, strict=True) if not any(word in text for word in words)])


def letters(model: Model, allowed: Tensor) -> Tensor:
    """Letters that are one token each, (n,); any token where there is none."""
    tokenizer, known = innermost(model).tokenizer, set(allowed.tolist())
    found = [tokenizer(letter, add_special_tokens=False).input_ids for letter in ascii_lowercase]
    single = [row[0] for row in found if len(row) == 1 and row[0] in known]
    return torch.tensor(single) if single else allowed
