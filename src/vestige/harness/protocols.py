"""How a method is evaluated in public, as data: prompts, seeds and how pictures are drawn. So far DUGE's, which no suite runs yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vestige import data
from vestige.diffusion.sampling import Drawing


@dataclass(frozen=True)
class Published:
    """The evaluation that is public for DUGE (`data/protocols/duge.toml` says what is from where).

    Arguments:
        prompts: Concept -> prompt, in the order that fixes the seeds.
        unclassified: Concepts that the classifier has no class for.
        sequence: Requests in order; ours.
        protocol: How pictures are drawn.
        pictures: Pictures a prompt.
        first_seed: Seed of the first picture of all.
    """

    prompts: Mapping[str, str]
    unclassified: tuple[str, ...]
    sequence: tuple[str, ...]
    protocol: Drawing
    pictures: int
    first_seed: int

    def seeds(self, name: str) -> list[int]:
        """The seeds of a concept's pictures."""
        start = self.first_seed + self.pictures * list(self.prompts).index(name)
        return list(range(start, start + self.pictures))


def published() -> Published:
    """DUGE's published evaluation protocol."""
    raw = data.shipped_table("protocols/duge")
    drawing = Drawing(steps=raw["steps"], guidance=raw["guidance"])
    names = tuple(raw["unclassified"]["names"])
    return Published(raw["prompts"], names, tuple(raw["sequence"]), drawing, raw["pictures"], raw["first_seed"])
