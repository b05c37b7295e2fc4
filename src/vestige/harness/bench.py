"""What the arms of an audit share: where runs lie, the protocol, the two judges, and how pictures are judged and kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vestige.concepts import Concept
from vestige.concepts.album import Album, Keep
from vestige.diffusion.model import Watch, silent
from vestige.harness.suites import Suite
from vestige.metrics import Detector
from vestige.metrics.judge import Extractor, crossed


@dataclass(frozen=True)
class Bench:
    """What all arms of an audit share: where runs lie, the protocol, and the two judges.

    Arguments:
        root: Folder of runs.
        verify: Judge whose scores are reported.
        select: Judge by which attacks and best-so-far choose; another network.
        own: Both judges of concepts that are not judged by these, by name.
        features: Whose features distances between pictures are measured in; None: the verification judge's.
    """

    root: Path
    suite: Suite
    verify: Any
    select: Any
    wait: float = 3600.0
    steal: bool = False
    watch: Watch = silent
    keep: Keep = "all"
    own: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    features: Any = None

    def of(self, concept: Concept) -> Bench:
        """The bench with the judges of a concept."""
        pair = self.own.get(concept.name)
        return self if pair is None else replace(self, verify=pair[0], select=pair[1])

    @property
    def extractor(self) -> Extractor | None:
        """Features for distances; None where nobody gives any."""
        chosen = self.verify if self.features is None else self.features
        return None if isinstance(chosen, Detector) and chosen.embed is None else chosen

    def album(self, concept: Concept) -> Album:
        """How a concept's pictures are kept."""
        return Album(concept.sensitive, self.keep)

    @property
    def kept(self) -> dict[str, Any]:
        """What specs of runs that write pictures say of it; empty for what is usual."""
        return {} if self.keep == "all" else {"keep_images": self.keep}


def shows(judge: Any, pictures_: Tensor, concept: Concept) -> list[bool | None]:
    """Whether each picture shows the concept, by the judge's threshold; None where it could not be judged."""
    return crossed(judge.shows(pictures_, concept.label), judge.threshold(concept.label))


def right(seen: Mapping[str, str], expects: Mapping[str, str]) -> bool | None:
    """Whether a picture shows all that was asked for; None where the judge saw nothing, or nothing of a group."""
    return None if not expects.keys() <= seen.keys() else all(seen[group] == label for group, label in expects.items())
