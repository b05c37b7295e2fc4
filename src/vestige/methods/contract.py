"""The contracts of methods: an *Unlearner* turns (model, concept) into an Edit, an *Attack* (edited model, budget) into Candidates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vestige.concepts.joint import Joint
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.noising import Churn, Kept, Start
from vestige.errors import BadSetting

if TYPE_CHECKING:
    from torch import Tensor

    from vestige.concepts import Concept
    from vestige.concepts.images import PictureSet
    from vestige.diffusion import Model
    from vestige.edits import Edit
    from vestige.methods.training_data import Data

Access = Literal["prompts", "gradients", "weights"]
Brings = Literal["one", "several", "any"]


@dataclass(frozen=True)
class Paper:
    """Where a method comes from."""

    title: str
    authors: str
    year: int
    arxiv: str = ""
    code: str = ""


TRAINED = 3  # what a denoiser call that is trained through costs, in calls: the way back takes about twice as long as the way there


class Unlearner(ABC):
    """(model, concept) -> Edit. Subclasses are final frozen dataclasses; their fields are their settings."""

    paper: ClassVar[Paper]
    needs: ClassVar[frozenset[str]]  # of {"prompts", "target", "retain"}: what it trains on
    joint: ClassVar[bool] = False  # its target may be several concepts (a `Joint`): a set of prompts or pictures, whose union it takes
    per_target: ClassVar[bool] = False  # it is `joint`, and what `calls` counts it does once for each of several targets

    memorises: ClassVar[bool] = False  # it may be given pictures that stand in for the target (`Data.alternative`)

    @property
    def apart(self) -> str:
        """Which of its settings keeps it to one target although it is `joint`, as NAME=VALUE; "" for none."""
        return ""

    @abstractmethod
    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        """Make `model` forget `concept`; the model itself stays as it is.

        Arguments:
            data: Pictures to train on; None lets the model draw what `needs` names.
        """

    @property
    def trains(self) -> bool:
        """Whether it follows gradients, as whatever has a learning rate does; float16 is then refused."""
        return hasattr(self, "lr")

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
class Candidate:
    """What an attack proposes after spending `spent`: an edit on top, and how many seeds may be tried for a picture.

    Arguments:
        spent: Optimiser steps (weights, gradients) or tries (prompts).
        edit: Change on top of the attacked model; None leaves it as it is.
        tries: Seeds drawn for each picture; the selection judge keeps the best.
        prompts: Prompts instead of the held-out ones; None keeps those.
        start: Where pictures begin; None is pure noise.
        churn: Noise that is added on the way; None is none.
        kept: A part of true pictures that is put back on the way; None is none.
        cost: Other costs so far, e.g. {"calls": denoiser calls, "seconds": wall time}.
        notes: Measurements of the attack itself, e.g. the share of regenerated references that show the concept.
    """

    spent: int
    edit: Edit | None = None
    tries: int = 1
    prompts: tuple[str, ...] | None = None
    start: Start | None = None
    churn: Churn | None = None
    kept: Kept | None = None
    cost: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


# Pictures (B, 3, H, W) -> whether the selection judge sees the concept, (B,): 0 or 1, and 0.5 where it could not judge. A filter that
# drops from 0.5 on then drops what nobody judged, and a search that needs more than half does not stop at it.
Select = Callable[["Tensor"], "Tensor"]


@dataclass(frozen=True)
class Holds:
    """Pictures of everything but the concept that an attack trains on.

    Arguments:
        source: Who gives them: "retain" (what ships, or a user's folder), "folder" (a user's alone), "original" (the model before the
            edit draws them), or "own" (the attacked model draws them, and nobody gives any).
        count: How many; all where fewer were given.
    """

    source: Literal["retain", "folder", "original", "own"]
    count: int


class Attack(ABC):
    """(edited model, concept, budget) -> Candidates. Subclasses are final frozen dataclasses; their fields are settings."""

    paper: ClassVar[Paper]
    access: ClassVar[Access]
    needs: ClassVar[frozenset[str]]  # of {"pictures", "retain", "original"}: references, pictures of everything else, the public base
    restores: ClassVar[bool] = False  # it puts the original's parts back, and its budget counts those of the edit that come apart
    brings: ClassVar[Brings] = "one"  # what it brings back; "several": a `Joint`, and `calls` counts what it does for each
    counterpart: ClassVar[str] = ""  # the attack that does the same to one concept, or to several

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
        """Yield one candidate for each point of the budget, cheapest first; `model` stays as it is.

        One that needs "original" takes `stock` besides, the public base and the edit on it (`methods.stock.Stock`).
        """

    @property
    def trains(self) -> bool:
        """Whether it follows gradients, as whatever has a learning rate does; float16 is then refused."""
        return hasattr(self, "lr")

    def check(self, concept: Concept) -> None:
        """Refuse a concept that it cannot bring back.

        Raises:
            BadSetting: It is for one concept and given several, or the other way round.
        """
        together = isinstance(concept, Joint)
        if self.brings == ("one" if together else "several"):
            name = type(self).__name__.lower()
            able = "one concept" if together else "several concepts that were erased together"
            instead = f"; use {self.counterpart}" if self.counterpart else ""
            raise BadSetting(f"{name} brings back {able}, and {concept.name} is {'several' if together else 'one'}{instead}")

    @property
    def holds(self) -> Holds | None:
        """What an attack that needs "retain" is given of it; None for one that does not."""
        return None

    @property
    def lesson(self) -> Attack | None:
        """The way of it by which an audit teaches a new concept, to see whether a model still learns; None: it is not used for that."""
        return None

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

    def ways(self) -> dict[str, Attack]:
        """Every way to run the attack, by name; as it is given, "", comes first."""
        return {"": self, **self.variants()}
