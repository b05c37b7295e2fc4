"""SPEED: values of cross-attention that move the concept to the anchor, and move along no direction of what must stay.

    min_D  mean over prompts of sum_e |(W_0 + D) e - W_0 g|^2 + ridge |D|^2     with D v = 0 for every v that is protected

Protected are, of each matrix, the leading directions of the retained embeddings (eigenvalues of their mean product from `threshold`
on), and exactly the start token and a few centres of the empty prompt's padding. With V an orthonormal basis of those, P = I - V V',
and rows divided by the root of the number of prompts,

    D = W_0 (G - E)' E P (P E'E P + ridge I)^-1         E: rows e, G: rows g

Which embeddings count as retained is settled for each matrix: those that an unprotected edit would move more than their mean, and noisy
copies of these along the direction that the matrix weakens most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, final

import torch
from torch import Generator, Tensor

from vestige.concepts import Concept
from vestige.concepts.joint import targets
from vestige.diffusion import Model
from vestige.diffusion.attention import network
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit, precision
from vestige.errors import BadSetting
from vestige.methods import Data, Paper, Unlearner
from vestige.methods.closed_form import KEYS_AND_VALUES, LACK, Rule, Words, every_row, kept_rows, last_word, turn, word_rows, worded
from vestige.methods.ranges import above, at_least
from vestige.seeds import generator

MATRICES = {"values": (".to_v.",), "keys": (".to_k.",), "both": (".to_k.", ".to_v.")}
ROUNDS = 100  # most that centres are moved; they stand still long before
NONE_LEFT = 1e-6  # share of the concept's embeddings outside what is protected, below which it is rounding alone


@final
@dataclass(frozen=True, kw_only=True)
class SPEED(Unlearner):
    """Scalable, precise and efficient concept erasure: a closed form in the null space of what must stay (Li et al., 2025).

    Several targets that are one concept (`concepts.joint.Joint`) are moved at once: the mean runs over the prompts of all of them.

    Differs from the released code: (1) solved among the free directions, in float64, which is the same where the code's inverse exists
    and has a solution where it does not; its weight beside that inverse, 0 as released, is left out; (2) retained are the concept's
    neighbours and unrelated words, there a list of names; the empty prompt where there are none, as in the code; (3) centres begin far
    apart, there at random; (4) noisy copies are compared with the mean of all, there of every 128; (5) where rows of a whole prompt
    are taken they begin at the concept's last token, there at the first.

    Arguments:
        matrices: "values" (released), "keys" or "both".
        rule: Which embeddings stand for a text. "word": the row of the words' last token. "tail": every row from that token on, and of
            retained prompts every row. "auto": tail for unsafe concepts (released for nudity), else word.
        words: Which texts, of the concept as of what must stay: the words alone ("bare", released), its training prompts without a
            context ("plain"), or all of those ("all").
        threshold: Eigenvalue from which a direction is protected, >= 0. "auto": 1e-4 for people, else 0.1 (released).
        ridge: Weight of staying near W_0, > 0. "auto": 0.05 for people, else 1 (released).
        choose: Only what the edit would move more than the mean is retained. "auto": not for people (released).
        copies: Noisy copies of each of those; 0 none.
        centres: Of the empty prompt's rows after the start token, kept exactly; 0 none.
    """

    paper: ClassVar[Paper] = Paper(
        "SPEED: Scalable, Precise, and Efficient Concept Erasure for Diffusion Models",
        "Li et al.",
        2025,
        arxiv="2503.07392",
        code="Ouxiang-Li/SPEED",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prompts"})
    joint: ClassVar[bool] = True

    matrices: Literal["values", "keys", "both"] = "values"
    rule: Rule | Literal["auto"] = "auto"
    words: Words = "bare"
    threshold: float | Literal["auto"] = "auto"
    ridge: float | Literal["auto"] = "auto"
    choose: bool | Literal["auto"] = "auto"
    copies: int = 10
    centres: int = 3

    def __post_init__(self) -> None:
        at_least(0, self, "copies", "centres", *(() if self.threshold == "auto" else ("threshold",)))
        above(0, self, *(() if self.ridge == "auto" else ("ridge",)))

    def resolved(self, concept: Concept) -> SPEED:
        """The same method with every "auto" replaced by the released setting for this kind of concept."""
        many = concept.kind == "person"  # the released settings for lists of celebrities
        released: dict[str, Any] = {
            "rule": "tail" if concept.kind == "unsafe" else "word",
            "threshold": 1e-4 if many else 0.1,
            "ridge": 0.05 if many else 1.0,
            "choose": not many,
        }
        return replace(self, **{name: value for name, value in released.items() if getattr(self, name) == "auto"})

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        network(model, LACK)
        method = self.resolved(concept)
        names = [n for n in model.scope(KEYS_AND_VALUES) if any(kind in n for kind in MATRICES[method.matrices])]
        e, g = method.pairs(model, concept)
        kept, held = method.kept(model, concept), method.held(model)
        moved, tensors, free = turn(e, g, torch.zeros(()), ridge=1.0), dict[str, Tensor](), list[float]()
        for i, name in enumerate(names):
            base = model.tensor(name)
            wide = base.cpu().double()
            stays = method._retained(wide, wide @ moved, kept, generator(seed, "speed", name))
            change, share = constrained(e, g, kept_directions(stays, held, float(method.threshold)), float(method.ridge))
            tensors[name] = (wide + wide @ change).to(precision.wide(base))
            free.append(share)
            watch("solve", i + 1, len(names))
        if max(free) < NONE_LEFT:
            raise BadSetting(
                f"what must stay takes every direction of {concept.name}, and nothing of it can be moved; raise speed.threshold (now "
                f"{method.threshold}), or keep fewer words"
            )
        notes = {"concept": concept.name, "seed": seed, "free": free}
        return Edit(model.fingerprint, "speed", asdict(method), KEYS_AND_VALUES, tensors, notes=notes)

    def pairs(self, model: Model, concept: Concept) -> tuple[Tensor, Tensor]:
        """E and G, each (rows, D): the prompts of every target weigh together as much as those of any other."""
        parts, own, other = targets(concept), [], []
        for part in parts:
            e, g = word_rows(model, part, rule=self._rows(concept), anchor=part.anchor, words=self.words)
            weight = (len(parts) * len(worded(part, anchor=part.anchor, words=self.words)[0])) ** -0.5
            own.append(weight * e)
            other.append(weight * g)
        return torch.cat(own), torch.cat(other)

    def kept(self, model: Model, concept: Concept) -> Tensor:
        """Embeddings that must stay, (n, D): no word that holds a target's; the empty prompt's rows after its start token without words."""

        def clear(words: Sequence[str]) -> tuple[str, ...]:
            return tuple(word for word in words if not any(part.named(word) for part in targets(concept)))

        stays = replace(concept, neighbours=clear(concept.neighbours), unrelated=clear(concept.unrelated))
        words, rule = (*stays.neighbours, *stays.unrelated), self._rows(concept)
        if not words:
            return every_row(model, [""])[1:]
        if self.words != "bare":
            return kept_rows(model, stays, rule=rule)
        if rule == "tail":
            return every_row(model, words)
        states = model.condition(words).text.cpu().double()
        return torch.stack([rows[last_word(model, word, word)] for word, rows in zip(words, states, strict=True)])

    def _rows(self, concept: Concept) -> Rule:
        rule = self.resolved(concept).rule
        return "tail" if rule == "tail" else "word"

    def held(self, model: Model) -> Tensor:
        """What is protected exactly, (n, D): the empty prompt's start token, and centres of its other rows."""
        rows = every_row(model, [""])
        return torch.cat([rows[:1], centres(rows[1:], self.centres)])

    def _retained(self, weight: Tensor, moved: Tensor, kept: Tensor, rng: Generator) -> Tensor:
        """Mean product of the embeddings whose directions are protected in a matrix, (D, D).

        Arguments:
            weight: W_0, (out, D).
            moved: Change of it by an edit that protects nothing, (out, D).
        """
        rows = kept[_above_mean((kept @ moved.T).norm(dim=1))] if self.choose else kept
        if not self.copies:
            return rows.T @ rows / len(rows)
        weakest = torch.linalg.svd(weight, full_matrices=False)[2][-1]
        spread = torch.randn(self.copies, len(rows), generator=rng, dtype=torch.float64)
        # Copies r + z v are many: how far each is moved, and the sum of their products, without making any.
        far, along = rows @ moved.T, moved @ weakest
        size = far.square().sum(1) + 2 * spread * (far @ along) + spread.square() * along.square().sum()
        chosen = _above_mean(size.clamp_min(0).sqrt())
        line = ((spread * chosen).sum(0) @ rows)[:, None] * weakest
        products = (rows * (1 + chosen.sum(0))[:, None]).T @ rows + line + line.T
        products = products + (spread.square() * chosen).sum() * torch.outer(weakest, weakest)
        mean: Tensor = products / (len(rows) + chosen.sum())
        return mean


def constrained(e: Tensor, g: Tensor, basis: Tensor, ridge: float) -> tuple[Tensor, float]:
    """X of D = W_0 X, (D, D), and which share of the embeddings' length lies outside the protected directions.

    Arguments:
        basis: V, orthonormal columns (D, k).
    """
    free = e - e @ basis @ basis.T
    return turn(free, free + g - e, torch.zeros(()), ridge=ridge), float(free.norm() / e.norm())


def kept_directions(stays: Tensor, held: Tensor, threshold: float) -> Tensor:
    """V, (D, k): leading directions of a mean product (D, D), and what is held exactly, (n, D)."""
    values, vectors = torch.linalg.eigh(stays)
    leading = vectors[:, values.clamp_min(0) >= threshold]  # those that no row has are 0 up to rounding
    left, sizes, _ = torch.linalg.svd((held - held @ leading @ leading.T).T, full_matrices=False)
    return torch.cat([leading, left[:, sizes > 1e-9 * held.norm()]], 1)


def centres(rows: Tensor, count: int) -> Tensor:
    """Means of `count` groups of rows, each row in the group whose mean is nearest (Lloyd, 1982); fewer where fewer rows differ."""
    if count == 0:
        return rows[:0]
    found = rows[:1]
    while len(found) < count and float((far := torch.cdist(rows, found).min(1).values).max()) > 0:
        found = torch.cat([found, rows[far.argmax()][None]])
    for _ in range(ROUNDS):
        group = torch.cdist(rows, found).argmin(1)
        after = torch.stack([rows[group == i].mean(0) for i in range(len(found)) if (group == i).any()])
        if after.shape == found.shape and torch.equal(after, found):
            break
        found = after
    return found


def _above_mean(far: Tensor) -> Tensor:
    """Which numbers are no less than their mean; all where rounding lets none be."""
    chosen = far >= far.mean()
    return chosen if bool(chosen.any()) else torch.ones_like(chosen)
