"""Guards hold back a step's training around any method that trains weights, without its knowledge.

The view that the method trains carries them: an L2 pull, a choice of weights by saliency, and a projection that is part of the
weight itself,

    L + pull mean_k (theta_k - phi_k)^2        mask_k = |theta_k dL/dtheta_k| among the largest share        W = W_0 + V P

with V trained and P = I - C (C'C + rho I)^-1 C' for the columns C of protected words' embeddings. What the optimiser makes of a
projected gradient is not in the projected space; what it makes of V is, whichever optimiser it is. `damp` passes every gradient through
RepSelect's selection (`methods.collapse`), whatever loss it is of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, final

import torch
from torch import Tensor

from vestige import registry
from vestige.concepts import Concept
from vestige.diffusion import Model, attention
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.views import Wrapped
from vestige.edits import Edit
from vestige.edits.precision import leaves, read_through, wide
from vestige.errors import BadInput, BadSetting, Incompatible
from vestige.methods import Data, Paper, Unlearner, optimiser
from vestige.methods.collapse import collapsed
from vestige.methods.looking import only_looks

PASSES = 16  # batches whose gradients choose the weights that may move
KEYS = "cross-attention-kv"  # the scope that a projection holds; nothing else reads the text


@dataclass(frozen=True, kw_only=True)
class Guards:
    """What holds a step's training back, around any method that trains weights.

    Arguments:
        pull: lambda of `lambda * mean over trained weights k of (theta_k - phi_k)^2`, added to the method's own loss; 0 adds nothing.
        pull_towards: phi: "previous", the model that enters the step, or "original". Many small moves may still add up under "previous".
        share: Share of the trained weights that may move, those with the largest |theta_k dL/dtheta_k|; 1 moves all.
        project: Keys and values of the words that must stay, and of earlier requests, do not move.
        damp: Leading singular directions that are damped in every matrix's gradient of every pass; 0 damps none.
    """

    pull: float = 0.0
    pull_towards: Literal["previous", "original"] = "previous"
    share: float = 1.0
    project: bool = False
    damp: int = 0

    def __post_init__(self) -> None:
        if self.damp < 0:
            raise BadSetting(f"damp is a number of directions, at least 0; given {self.damp}")
        if self.damp and self.share < 1:
            raise BadSetting("damping spreads a gradient over weights that are not chosen, so either damp or give a share below 1")
        if self.pull < 0 or not 0 < self.share <= 1:
            raise BadSetting(f"pull is at least 0, share above 0 and at most 1; given {self.pull} and {self.share}")
        if self.pull_towards not in ("previous", "original"):
            raise BadSetting(f"pull_towards is previous or original; given {self.pull_towards!r}")
        if self.project and self.share < 1:
            raise BadSetting("a projected update moves weights that are not chosen, so either project or give a share below 1")

    @property
    def active(self) -> bool:
        """Whether anything is held."""
        return self.pull > 0 or self.share < 1 or self.project or self.damp > 0

    def as_dict(self) -> dict[str, Any]:
        """What a run's spec holds; what came later and is not used is not there, so that runs from before keep their keys."""
        return {name: value for name, value in asdict(self).items() if name != "damp" or value}

    def check(self, name: str, method: Any) -> None:
        """Refuse a method, called `name`, that has no training to hold back."""
        if self.active and not method.trains:
            raise BadSetting(f"pull, share, project and damp hold back training, and {name} does not train; choose a method that does")


def protected(concept: Concept, earlier: Sequence[Concept]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Words whose keys and values a step leaves alone, each with its prompts: what must stay, and what is redirected already."""
    near = {w: concept.prompts("training", w) for w in (*concept.neighbours, *concept.unrelated)}
    gone = {c.target: c.prompts("training") for c in earlier}
    return tuple((word, tuple(p.text for p in prompts)) for word, prompts in {**near, **gone}.items())


class _Enough(Exception):
    """Enough gradients were seen."""


@final
@dataclass(frozen=True, kw_only=True)
class Guarded(Unlearner):
    """A method that trains weights, held back by guards. Fields are plain data, so that a run's spec holds them.

    The pull is added to gradients and the mask multiplies them, before any clipping. Weights are chosen in a run of the method that is
    broken off after `PASSES` batches: its own loss at the weights that enter the step, with none of them moved (but for weight decay).
    What a method sees before it trains (SalUn's saliency, Selective Amnesia's Fisher information, DUGE's gradient norms) is no such batch,
    has no pull in it, and shows no gradient of a weight that may not move.
    The projection is of the trained weight, not of the gradient; it holds keys and values alone, and with rho above 0 leaks by
    rho / (s^2 + rho) along a singular direction s of C. C has one column a word: the mean of its tokens' embeddings over its
    prompts. What else of a prompt carries the word, in a causal encoder whatever follows it, is not protected.

    From the public code: the three guards, importance |theta dL/dtheta|, rho. Differs from the released code: it projects the gradient
    before AdamW, after which the update is not in the space; it sums the importance over sampled states; its auxiliary words
    are a language model's.

    Arguments:
        method: Name of the method.
        settings: Its settings.
        guards: Fields of `Guards`.
        protected: (word, its prompts) for every word that a projection protects.
    """

    paper = Paper("A Regularization Perspective (CUIG)", "", 2025, arxiv="2511.07970", code="justinhylee135/CUIG")

    method: str
    settings: Mapping[str, Any]
    guards: Mapping[str, Any]
    protected: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def inner(self) -> Any:
        """The method itself."""
        return registry.build("unlearners", self.method, self.settings)

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset(self.inner.needs)

    @property
    def trains(self) -> bool:
        trains: bool = self.inner.trains
        return trains

    def resolved(self, concept: Concept) -> Guarded:
        return replace(self, settings=registry.settings(self.inner.resolved(concept)))

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        guards = Guards(**self.guards)
        data = data or Data()
        hold = Hold(model, guards, data.original if guards.pull_towards == "original" and data.original else model)
        if guards.project:
            hold.projection = projection(word_embeddings(model, self.protected))
        if guards.share < 1:
            hold.seen = {}
            with suppress(_Enough):
                self.inner(hold.model(), concept, seed=seed, data=data)
            hold.choose()
        edit: Edit = self.inner(hold.model(), concept, seed=seed, data=data, watch=watch)
        if edit.factors or edit.hooks:
            raise Incompatible(f"{self.method} does not train weights in place; pull, share, project and damp cannot hold it")
        tensors = {name: hold.finished(name, value) for name, value in edit.tensors.items()}
        notes = {**edit.notes, "guards": dict(self.guards), "protected": [word for word, _ in self.protected]}
        return replace(edit, base=model.fingerprint, tensors=tensors, notes=notes)


@final
class Hold:
    """A model whose trained views are held; see `Guarded`.

    Arguments:
        start: The model that enters the step.
        goal: Whose weights the pull goes towards.
    """

    def __init__(self, start: Model, guards: Guards, goal: Model) -> None:
        self.start, self.guards, self.goal = start, guards, goal
        self.projection: Tensor | None = None
        self.mask: dict[str, Tensor] | None = None
        self.seen: dict[str, tuple[Tensor, int]] | None = None  # name -> sum of gradients, batches; while they are measured

    def model(self) -> Model:
        """The starting model, whose views are instrumented when something is made trainable."""
        return Wrapped(self.start, self._instrumented, identity="guarded")

    def _instrumented(self, view: Model) -> Model:
        parts = attention.innermost(view).parts
        trained = {f"{part}.{n}": leaf for part, module in parts.items() for n, leaf in leaves(module).items()}
        count = sum(p.numel() for p in trained.values())
        for name, leaf in trained.items():
            try:
                first, goal = self.start.tensor(name), self.goal.tensor(name)
            except Incompatible:
                raise Incompatible(
                    f"pull, share, project and damp hold weights that are trained in place; {name} is an adapter's"
                ) from None
            leaf.register_post_accumulate_grad_hook(_Held(self, name, goal, count))
            leaf.register_hook(partial(self._chosen, name))
            if self.projected(name):
                part, _, short = name.partition(".")
                read_through(parts[part], short, _Projected(first, self.projection))
        return view

    def _chosen(self, name: str, slope: Tensor) -> Tensor | None:
        """A gradient without what may not move, however it is asked for; a pass's, damped. None leaves it as it is."""
        if self.guards.damp and not only_looks():
            return collapsed(slope, self.guards.damp)
        return None if self.mask is None else slope * self.mask.get(name, 0)

    def projected(self, name: str) -> bool:
        """Whether a weight is under the projection."""
        return self.projection is not None and name in self.start.scope(KEYS)

    def choose(self) -> None:
        """Let the share of the measured weights move that matters most to the loss, counted over all of them together."""
        found = {name: (self.start.tensor(name) * total).abs() for name, (total, _) in (self.seen or {}).items()}
        if not found:
            raise Incompatible("the method trained nothing, so no weights can be chosen by their gradients")
        flat = torch.cat([value.flatten() for value in found.values()])
        chosen = torch.zeros_like(flat, dtype=torch.bool)
        chosen[flat.topk(max(1, round(self.guards.share * len(flat)))).indices] = True
        pieces = chosen.split([value.numel() for value in found.values()])
        self.mask = {name: piece.reshape(value.shape) for (name, value), piece in zip(found.items(), pieces, strict=True)}
        self.seen = None

    def finished(self, name: str, value: Tensor) -> Tensor:
        """A trained leaf as the weight that the model had."""
        first = self.start.tensor(name)
        if self.mask is not None:
            return torch.where(self.mask[name], value, first) if name in self.mask else first.clone()
        return _Projected(first, self.projection)(value) if self.projected(name) else value


@dataclass(frozen=True)
class _Held:
    """What is done to a leaf's gradient as soon as it is there."""

    hold: Hold
    name: str
    goal: Tensor
    count: int

    @torch.no_grad()
    def __call__(self, leaf: Tensor) -> None:
        hold, slope = self.hold, leaf.grad
        if slope is None or only_looks():
            return
        if hold.seen is not None:
            total, batches = hold.seen.get(self.name, (torch.zeros_like(leaf), 0))
            if batches == PASSES:
                raise _Enough
            hold.seen[self.name] = (total + slope, batches + 1)
            slope.zero_()
            return
        if hold.guards.pull:
            backward = optimiser.current().accumulation * optimiser.processes()  # passes a step, each of which comes here
            slope += 2 * hold.guards.pull / self.count / backward * (leaf - self.goal)
        if hold.mask is not None:
            slope *= hold.mask.get(self.name, 0)


@dataclass(frozen=True)
class _Projected:
    """W = W_0 + (V - W_0) P."""

    first: Tensor
    projection: Tensor | None

    def __call__(self, value: Tensor) -> Tensor:
        if self.projection is None:
            return value
        first = wide(self.first)
        return first + (value - first) @ self.projection.to(value)


def projection(held: Tensor) -> Tensor:
    """P = I - C (C'C + rho I)^-1 C' for the columns C of `held`, (D, n) -> (D, D), float64; rho = max(1e-4, 1e-6 tr(C'C) / n)."""
    columns_ = held.cpu().double()
    gram = columns_.T @ columns_
    rho = max(1e-4, 1e-6 * float(gram.trace()) / max(1, len(gram)))
    ridge = rho * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    made: Tensor = torch.eye(len(columns_), dtype=gram.dtype, device=gram.device) - columns_ @ torch.linalg.solve(gram + ridge, columns_.T)
    return made


@torch.no_grad()
def word_embeddings(model: Model, words: Sequence[tuple[str, Sequence[str]]]) -> Tensor:
    """The mean embedding of each word's tokens over its prompts, one column a word, (D, n)."""
    if not words:
        raise BadInput("a projection protects words, and the request names neither neighbours nor unrelated concepts")
    made = []
    for word, texts in words:
        rows = wide(model.condition(texts).text)
        made.append(torch.cat([row[attention.columns(model, text, word)] for row, text in zip(rows, texts, strict=True)]).mean(0))
    return torch.stack(made, 1)
