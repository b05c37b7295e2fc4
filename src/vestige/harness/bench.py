"""What the arms of an audit share: where runs lie, the protocol, the two judges, and how pictures are judged and kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vestige.concepts import Concept
from vestige.concepts.album import Album, Keep
from vestige.concepts.concept import Prompt
from vestige.diffusion.model import Watch, silent
from vestige.errors import Diverged
from vestige.harness.suites import Suite
from vestige.metrics import Judge
from vestige.metrics.alignment import ClipScore
from vestige.metrics.judge import Extractor
from vestige.metrics.score import crossed


@dataclass(frozen=True)
class Bench:
    """What all arms of an audit share: where runs lie, the protocol, and the two judges.

    Arguments:
        root: Folder of runs.
        verify: Judge whose scores are reported.
        select: Judge by which attacks and best-so-far choose; another network.
        own: Both judges of concepts that are not judged by these, by name.
        measured_by: Who measures by pictures what an edit cost the rest; None: nobody does.
        features: Whose features distances between pictures are measured in; None: the verification judge's.
    """

    root: Path
    suite: Suite
    verify: Judge
    select: Judge
    wait: float = 3600.0
    steal: bool = False
    watch: Watch = silent
    keep: Keep = "all"
    own: Mapping[str, tuple[Judge, Judge]] = field(default_factory=dict)
    features: Extractor | None = None
    measured_by: ClipScore | Extractor | None = None

    def of(self, concept: Concept) -> Bench:
        """The bench with the judges of a concept."""
        pair = self.own.get(concept.name)
        return self if pair is None else replace(self, verify=pair[0], select=pair[1])

    @property
    def extractor(self) -> Extractor | None:
        """Features for distances; None where nobody gives any."""
        if self.features is not None:
            return self.features
        return self.verify if self.verify.embeds else None

    def album(self, concept: Concept) -> Album:
        """How a concept's pictures are kept."""
        return Album(concept.sensitive, self.keep)

    @property
    def kept(self) -> dict[str, Any]:
        """What specs of runs that write pictures say of it; empty for what is usual."""
        return {} if self.keep == "all" else {"keep_images": self.keep}


def shows(judge: Judge, pictures_: Tensor, concept: Concept) -> list[bool | None]:
    """Whether each picture shows the concept, by the judge's threshold; None where it could not be judged."""
    return crossed(judge.shows(pictures_, concept.label), judge.threshold(concept.label))


def right(seen: Mapping[str, str], expects: Mapping[str, str]) -> bool | None:
    """Whether a picture shows all that was asked for; None where the judge saw nothing, or nothing of a group."""
    return None if not expects.keys() <= seen.keys() else all(seen[group] == label for group, label in expects.items())


NUMERICS = "2"  # raised whenever a run of an unchanged spec would give other numbers


def held_in(precision: str) -> dict[str, Any]:
    """What specs say of training on weights of this precision; empty for float32, whose leaves are the weights' own."""
    return {} if precision == "float32" else {"leaves": "float32"}


@contextmanager
def telling(who: str) -> Iterator[None]:
    """Say who it was whose numbers are finite no longer."""
    try:
        yield
    except FloatingPointError as error:
        raise Diverged(f"{who}: {error}") from error


def tells(judge: Judge, prompt: Prompt) -> bool:
    """Whether the judge knows every label that a prompt asks for."""
    return all(judge.knows(label) for label in prompt.expects.values())


def answered(judge: Judge, drawn: Tensor, prompts: Sequence[Prompt]) -> list[bool | None]:
    """Whether each picture shows all that was asked for; None where the judge cannot tell that word or saw nothing."""
    seen = judge.labelled(drawn)
    return [right(s, p.expects) if tells(judge, p) else None for s, p in zip(seen, prompts, strict=True)]
