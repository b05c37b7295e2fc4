"""Every contract in one sitting: Model, Unlearner, Attack, Judge, and the values that pass between them.

A *Model* predicts; an *Unlearner* turns (model, concept) into an Edit; an *Attack* turns (edited model, concept, budget)
into Candidates; a *Judge* looks at pictures. The audit alone samples, scores and decides.

Conventions. Pictures are (B, 3, H, W) float tensors in [0, 1]. Latents are (B, C, h, w). Time `t` is (B,), in the model's
own unit, large where noise dominates; `x_t = signal(t) * data + noise(t) * eps`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from vestige.errors import Incompatible

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from vestige.concepts import Concept
    from vestige.concepts.images import PictureSet
    from vestige.edits import Edit
    from vestige.methods import Data

Access = Literal["prompts", "gradients", "weights"]
Watch = Callable[[str, int, int], None]  # (stage, done, total)


def silent(stage: str, done: int, total: int) -> None:
    """The watcher that says nothing."""


@dataclass(frozen=True)
class Paper:
    """Where a method comes from."""

    title: str
    authors: str
    year: int
    arxiv: str = ""
    code: str = ""


@dataclass(frozen=True)
class Condition:
    """What the denoiser is told, for a batch of B: `text` (B, L, D), `pooled` (B, P) or None.

    `guidance` (B,) is for a distilled model alone, whose network is told how strongly to guide; None counts as 1.
    """

    text: Tensor
    pooled: Tensor | None = None
    guidance: Tensor | None = None

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, rows: slice | list[int] | Tensor) -> Condition:
        return self._each(lambda part: part[rows])

    def repeat(self, count: int) -> Condition:
        """`count` copies of every row, (B, ...) -> (B * count, ...), copies side by side."""
        return self._each(lambda part: part.repeat_interleave(count, 0))

    def join(self, other: Condition) -> Condition:
        """Rows of both, self first."""
        import torch

        pooled = None if self.pooled is None or other.pooled is None else torch.cat([self.pooled, other.pooled])
        told = [c.text.new_ones(len(c)) if c.guidance is None else c.guidance for c in (self, other)]
        guidance = None if self.guidance is None and other.guidance is None else torch.cat(told)
        return Condition(torch.cat([self.text, other.text]), pooled, guidance)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Condition:
        rest = (None if part is None else change(part) for part in (self.pooled, self.guidance))
        return Condition(change(self.text), *rest)


@dataclass(frozen=True)
class Prediction:
    """What the denoiser says of `x_t`, whichever of noise, data, velocity or flow the network predicts.

    Arguments:
        x_t: Noisy latents, (B, C, h, w).
        signal: Signal level at t, (B, 1, 1, 1).
        level: Noise level at t, (B, 1, 1, 1).
        value: The network's output, like x_t.
        kind: What `value` is. Velocity is `signal * noise - level * data` (Salimans and Ho, 2022); flow is `noise - data`, the
            velocity of rectified flow (Liu et al., 2023), where signal + level = 1.
    """

    x_t: Tensor
    signal: Tensor
    level: Tensor
    value: Tensor
    kind: Literal["noise", "data", "velocity", "flow"]

    @property
    def noise(self) -> Tensor:
        if self.kind == "noise":
            return self.value
        if self.kind == "data":
            return (self.x_t - self.signal * self.value) / self.level
        if self.kind == "flow":
            return (self.x_t + self.signal * self.value) / (self.signal + self.level)
        return (self.signal * self.value + self.level * self.x_t) / (self.signal**2 + self.level**2)

    @property
    def data(self) -> Tensor:
        if self.kind == "data":
            return self.value
        if self.kind == "noise":
            return (self.x_t - self.level * self.value) / self.signal
        if self.kind == "flow":
            return (self.x_t - self.level * self.value) / (self.signal + self.level)
        return (self.signal * self.x_t - self.level * self.value) / (self.signal**2 + self.level**2)

    @property
    def velocity(self) -> Tensor:
        if self.kind == "velocity":
            return self.value
        return self.signal * self.noise - self.level * self.data

    @property
    def flow(self) -> Tensor:
        return self.value if self.kind == "flow" else self.noise - self.data

    def guided(self, unconditional: Prediction, guidance: float) -> Prediction:
        """Classifier-free guidance: `unconditional + guidance * (self - unconditional)` (Ho and Salimans, 2022)."""
        return replace(self, value=unconditional.value + guidance * (self.value - unconditional.value))


Factors = dict[str, "tuple[Tensor, Tensor]"]  # weight name -> down (r, in), up (out, r)


class Model(ABC):
    """A conditional denoiser with its condition encoder, autoencoder and noise schedule behind one face.

    Its weights are never modified: `edited` and `trainable` return views that share every untouched tensor.
    """

    name: str
    latent_shape: tuple[int, int, int]  # (C, h, w)
    image_size: tuple[int, int]  # (H, W)
    distilled: bool = False  # guidance is built in: it is told to the network where that listens, and never made of two predictions

    @abstractmethod
    def condition(self, prompts: Sequence[str]) -> Condition:
        """Encode B prompts."""

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Token ids of B prompts as the condition encoder reads them, padded and cut to its length, (B, L)."""
        raise Incompatible(f"{self.name} reads no tokens; a model that reads prompts is needed")

    def embed(self, tokens: Tensor) -> Condition:
        """Encode token sequences, with gradients.

        Arguments:
            tokens: Ids (B, L) as from `tokens`, or weights over the vocabulary (B, L, V): a token is then the weighted sum of all
                embeddings, and a row with a single 1 is that token exactly. A hook on words (Remap) does not see them.
        """
        raise Incompatible(f"{self.name} reads no tokens; a model that reads prompts is needed")

    def tables(self) -> dict[str, slice]:
        """Tables of token embeddings by their weights' names, each with the columns of `tokens` that are read from it."""
        raise Incompatible(f"{self.name} reads no tokens; a model that reads prompts is needed")

    @abstractmethod
    def grid(self, steps: int) -> Tensor:
        """Sampling times, (steps + 1,), from the noisiest to the clean end."""

    @abstractmethod
    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise levels at times t, (B,) -> (B,), (B,)."""

    @abstractmethod
    def draw_times(self, count: int, rng: Generator) -> Tensor:
        """Training times, (count,), as the model was trained."""

    @abstractmethod
    def denoise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        """Predict from noisy latents (B, C, h, w) at times (B,)."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] -> latents (B, C, h, w), the mean of the posterior."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> pictures in [0, 1]."""

    @abstractmethod
    def scope(self, name: str) -> list[str]:
        """Names of the weights in a scope, e.g. "cross-attention"; never empty."""

    @abstractmethod
    def tensor(self, name: str) -> Tensor:
        """One weight by its qualified name, e.g. "unet.conv_in.weight"."""

    @abstractmethod
    def edited(self, edit: Edit) -> Model:
        """A view of this model under an edit; shares every tensor that the edit leaves alone."""

    @abstractmethod
    def trainable(self, names: Sequence[str]) -> tuple[Model, dict[str, Tensor]]:
        """A view whose named weights are fresh leaf copies with gradients, and those leaves."""

    @abstractmethod
    def adapted(self, names: Sequence[str], *, rank: int, alpha: float, init: str, rng: Generator) -> tuple[Model, Factors]:
        """A view with low-rank adapters on the named weights, and their leaves.

        Arguments:
            rank: Inner dimension r of the factors.
            alpha: The adapter adds `alpha / rank * up @ down`.
            init: Distribution of `down`: "gaussian" (deviation 1 / r) or "kaiming" (uniform); `up` starts at zero.
        """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of every weight and of the noise schedule; equal exactly for equal models."""


TRAINED = 3  # what a denoiser call that is trained through costs, in calls: the way back takes about twice as long as the way there


class Unlearner(ABC):
    """(model, concept) -> Edit. Subclasses are final frozen dataclasses; their fields are their settings."""

    paper: ClassVar[Paper]
    needs: ClassVar[frozenset[str]]  # of {"prompts", "target", "retain"}: what it trains on

    @abstractmethod
    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        """Make `model` forget `concept`; the model itself stays as it is.

        Arguments:
            data: Pictures to train on; None lets the model draw what `needs` names.
        """

    def calls(self, picture: int, retained: int) -> int:
        """Single denoiser calls (one latent, one condition) of an edit, for forecasts; one that is trained through counts `TRAINED`.

        Arguments:
            picture: Calls that drawing one picture takes; 0 where the concept's are given.
            retained: The same of what must stay.
        """
        return 0

    def resolved(self, concept: Concept) -> Unlearner:
        """The same method with every "auto" replaced by its value for this concept."""
        return self


@dataclass(frozen=True)
class Budget:
    """At which costs an attack is scored: rising numbers of optimiser steps (or tries), the first of them 0."""

    points: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.points or self.points[0] != 0 or list(self.points) != sorted(set(self.points)):
            raise ValueError(f"a budget rises from 0 without repeats, e.g. (0, 2, 5, 10); given {self.points}")

    @property
    def last(self) -> int:
        return self.points[-1]


@dataclass(frozen=True)
class Start:
    """Where drawing begins instead of pure noise: pictures, noised to some place on the way.

    Arguments:
        latents: Clean latents, (N, C, h, w); the i-th picture drawn begins from number i modulo N.
        share: Of the sampling grid, how much is skipped, in [0, 1]; a place that is no grid point is rounded to one.
    """

    latents: Tensor
    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share lies in [0, 1]; given {self.share}")


@dataclass(frozen=True)
class Candidate:
    """What an attack proposes after spending `spent`: an edit on top, and how many seeds may be tried for a picture.

    Arguments:
        spent: Optimiser steps (weights, gradients) or tries (prompts).
        edit: Change on top of the attacked model; None leaves it as it is.
        tries: Seeds drawn for each picture; the selection judge keeps the best.
        prompts: Prompts instead of the held-out ones; None keeps those.
        start: Where pictures begin; None is pure noise.
        cost: Other costs so far, e.g. {"calls": denoiser calls, "seconds": wall time}.
        notes: Measurements of the attack itself, e.g. the share of regenerated references that show the concept.
    """

    spent: int
    edit: Edit | None = None
    tries: int = 1
    prompts: tuple[str, ...] | None = None
    start: Start | None = None
    cost: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


# Pictures (B, 3, H, W) -> whether the selection judge sees the concept, (B,): 0 or 1, and 0.5 where it could not judge. A filter that
# drops from 0.5 on then drops what nobody judged, and a search that needs more than half does not stop at it.
Select = Callable[["Tensor"], "Tensor"]


class Attack(ABC):
    """(edited model, concept, budget) -> Candidates. Subclasses are final frozen dataclasses; their fields are settings."""

    paper: ClassVar[Paper]
    access: ClassVar[Access]
    needs: ClassVar[frozenset[str]]  # of {"pictures", "retain"}: references of the concept, pictures of everything else

    @abstractmethod
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
        """Yield one candidate for each point of the budget, cheapest first; `model` stays as it is."""

    @property
    def reads_captions(self) -> bool:
        """Whether pictures' captions make a difference to it."""
        return "retain" in self.needs

    def calls(self, last: int, pictures: int) -> int:
        """Single denoiser calls of one arm, scoring left out, for forecasts; one that is trained through counts `TRAINED`.

        Arguments:
            last: The budget's end.
            pictures: How many it is given.
        """
        return 0

    def tries(self, spent: int) -> int:
        """Seeds tried for a picture at a point of the budget."""
        return 1

    def variants(self) -> Mapping[str, Attack]:
        """Other ways to run the attack; on each model of an audit the one that works best counts."""
        return {}


@dataclass(frozen=True)
class Score:
    """A rate among the pictures that could be judged, with its 95 % interval, and who measured it; NaN where none could be.

    Arguments:
        count: Pictures that were judged.
        detector: Whose scores were counted, and by `version`, `weights_hash` and `threshold`, which of its states.
        missing: Pictures that could not be judged; they are in no rate.
    """

    value: float
    low: float
    high: float
    count: int
    detector: str
    version: str = ""
    weights_hash: str = ""
    threshold: float | None = None
    missing: int = 0

    def __str__(self) -> str:
        told = f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]" if self.count else "undefined"
        lost = f", {self.missing} missing" if self.missing else ""
        level = "" if self.threshold is None else f" from {self.threshold:g}"
        return f"{told} of {self.count}{lost} by {self.detector} {self.version}{level}"


class Judge(Protocol):
    """Looks at pictures. Carries its identity: every score names it."""

    name: str
    version: str
    weights_hash: str

    def shows(self, images: Tensor, label: str) -> Tensor:
        """Probability that each picture shows the label, (B,); NaN where it could not be judged."""

    def threshold(self, label: str) -> float:
        """Calibrated probability above which a picture counts as showing the label."""

    def knows(self, label: str) -> bool:
        """Whether it can tell that a picture shows this label rather than another."""

    def labelled(self, images: Tensor) -> list[dict[str, str]]:
        """The most likely label of every group, for each picture: {"object": ..., "style": ...}; {} for one that it could not judge."""

    def features(self, images: Tensor) -> Tensor:
        """Features for distances between sets of pictures, (B, F)."""
