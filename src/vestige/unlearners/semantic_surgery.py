"""Semantic Surgery: the concept's direction is taken out of the prompt's embedding, as far as the prompt asks for it.

    s_i = mean over positions of cos(E(c_i) - E(null), E(p)),     alpha_i = sigmoid((s_i + shift) / width)
    E'(p) = E(p) - strength max alpha_i [E("c_i, c_j, ...") - E(null)]     over the concepts with alpha_i > 1/2; without any, E(p)

E are the hidden states that cross-attention reads. No weight changes: whoever draws without the hook has the original.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from vestige.concepts import Concept
from vestige.concepts.joint import targets
from vestige.diffusion import Condition, Model
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.views import Wrapped
from vestige.edits import Edit, Hook
from vestige.methods import Data, Paper, Unlearner
from vestige.methods.ranges import above, at_least

SHIFTS = {"object": -0.12, "person": -0.28, "unsafe": -0.06, "style": -0.12}


@final
@dataclass(frozen=True, kw_only=True)
class SemanticSurgery(Unlearner):
    """Edits every prompt's embedding at inference (Xiong et al., 2025). A hook; nothing is trained.

    Several targets that are one concept are told apart at every prompt.

    Differs from the released code: (1) its second pass, in which a detector's score on the picture raises alpha, is not here; (2) the
    empty prompt is left as it is wherever it is asked for, as the code leaves the negative one; (3) pooled text, where a model has any,
    loses the same share of its own difference: ours; (4) positions at which a concept differs from the empty prompt by rounding alone
    (the start token) count as a cosine of 0; (5) soft tokens are operated on as words are, and gradients pass.

    Arguments:
        shift: beta, added to the cosine before the sigmoid. "auto": -0.12 for objects, -0.28 for people, -0.06 for unsafe concepts
            (released), -0.12 for styles (ours). "measured": minus the middle between the smallest s of the concept's training prompts
            and the largest of what must stay, by the model's own encoder: ours, as released numbers are CLIP-L's.
        width: gamma of the sigmoid, > 0.
        strength: How much of the difference goes, at least 0 (released: 1); 0 changes nothing, bit for bit.
    """

    paper: ClassVar[Paper] = Paper(
        "Semantic Surgery: Zero-Shot Concept Erasure in Diffusion Models",
        "Xiong et al.",
        2025,
        code="Lexiang-Xiong/Semantic-Surgery",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prompts"})
    joint: ClassVar[bool] = True

    shift: float | Literal["auto", "measured"] = "auto"
    width: float = 0.02
    strength: float = 1.0

    def __post_init__(self) -> None:
        above(0, self, "width")
        at_least(0, self, "strength")

    def resolved(self, concept: Concept) -> SemanticSurgery:
        """The same method with "auto" replaced by the released shift for this kind of concept."""
        return replace(self, shift=SHIFTS[concept.kind]) if self.shift == "auto" else self

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        model.tokens([""])  # refused by a model that reads no prompts
        method, words = self.resolved(concept), [part.target for part in targets(concept)]
        shift = measured_shift(model, concept, words) if method.shift == "measured" else float(method.shift)
        told = {"words": words, "shift": shift, "width": self.width, "strength": self.strength}
        hook, notes = Hook("unlearners", "semantic_surgery", told), {"concept": concept.name, "seed": seed}
        return Edit(model.fingerprint, "semantic_surgery", asdict(method), "prompts", hooks=(hook,), notes=notes)

    @staticmethod
    def hook(model: Model, *, words: Sequence[str], shift: float, width: float, strength: float) -> Model:
        """`model` reading prompts without the words."""

        def wrap(inner: Model) -> Model:
            @functools.cache
            def knife() -> Knife:
                return Knife.of(inner, words, shift, width, strength)

            def condition(prompts: Sequence[str]) -> Condition:
                return knife().cut(inner.condition(prompts), torch.tensor([not prompt for prompt in prompts]))

            def embed(tokens: Tensor) -> Condition:
                read = inner.embed(tokens)
                return knife().cut(read, (read.text.detach() - knife().null.text).abs().amax((1, 2)) < 1e-5)

            told = f"semantic_surgery {list(words)} {shift} {width} {strength}"
            return Wrapped(inner, wrap, condition=condition, embed=embed, identity=told)

        return wrap(model) if strength > 0 else model


@dataclass(frozen=True)
class Knife:
    """What a model's encoder says of the words.

    Arguments:
        null: The empty prompt, one row.
        each: A row for each of the words.
    """

    model: Model
    words: tuple[str, ...]
    shift: float
    width: float
    strength: float
    null: Condition
    each: Condition

    @staticmethod
    def of(model: Model, words: Sequence[str], shift: float, width: float, strength: float) -> Knife:
        read = model.condition(["", *words])
        return Knife(model, tuple(words), shift, width, strength, read[:1], read[1:])

    def cut(self, given: Condition, empty: Tensor) -> Condition:
        """E'(p) of every row but the empty ones.

        Arguments:
            empty: Which rows are the empty prompt, (B,) of bool.
        """
        alpha = torch.sigmoid((closeness(given.text, self.each.text - self.null.text) + self.shift) / self.width)  # (B, concepts)
        rows = []
        for i, own in enumerate(alpha):
            chosen = [word for word, share in zip(self.words, own.tolist(), strict=True) if share > 0.5]
            rows.append(given[i : i + 1] if not chosen or empty[i] else self._without(given[i : i + 1], chosen, own.max()))
        made = rows[0]
        for row in rows[1:]:
            made = made.join(row)
        return made

    def _without(self, given: Condition, chosen: Sequence[str], share: Tensor) -> Condition:
        both, share = self.model.condition([", ".join(chosen)]), self.strength * share
        text = given.text - share * (both.text - self.null.text)
        if given.pooled is None or both.pooled is None or self.null.pooled is None:
            return replace(given, text=text)
        return replace(given, text=text, pooled=given.pooled - share * (both.pooled - self.null.pooled))


def closeness(text: Tensor, directions: Tensor) -> Tensor:
    """s of every prompt and concept, (B, concepts).

    Arguments:
        text: E(p), (B, L, D).
        directions: E(c) - E(null), (concepts, L, D).
    """
    found = torch.nn.functional.cosine_similarity(text[:, None].float(), directions[None].float(), dim=-1)  # (B, concepts, L)
    sizes = directions.float().norm(dim=-1)
    return found.masked_fill((sizes < 1e-4 * sizes.amax(-1, keepdim=True))[None], 0).mean(-1)


def measured_shift(model: Model, concept: Concept, words: Sequence[str]) -> float:
    """The shift at which prompts of the concept and those of what must stay lie equally far from the threshold."""
    read = model.condition(["", *words])
    directions = read.text[1:] - read.text[:1]
    kept = [p.text for word in (*concept.neighbours, *concept.unrelated) for p in concept.prompts("training", word)] or [""]
    own, rest = (
        closeness(model.condition(texts).text, directions).amax(1) for texts in ([p.text for p in concept.prompts("training")], kept)
    )
    return -float(own.min() + rest.max()) / 2
