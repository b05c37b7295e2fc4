"""How a method is evaluated in public, as data: prompts, seeds and how pictures are drawn. So far DUGE's (`continual --protocol duge`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vestige import data
from vestige.concepts.published import AskedAs
from vestige.diffusion.sampling import Drawing
from vestige.errors import UnknownName


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
        labels: What the classifier calls a concept, where it is another word.
    """

    prompts: Mapping[str, str]
    unclassified: tuple[str, ...]
    sequence: tuple[str, ...]
    protocol: Drawing
    pictures: int
    first_seed: int
    labels: Mapping[str, str] = field(default_factory=dict)

    def seeds(self, name: str) -> list[int]:
        """The seeds of a concept's pictures."""
        start = self.first_seed + self.pictures * list(self.prompts).index(name)
        return list(range(start, start + self.pictures))

    def concept(self, name: str, detector: str = "", selector: str = "") -> AskedAs:
        """A concept of the protocol; what must stay are all others.

        Arguments:
            detector: Who looks for it, as a concept file names it, and `selector`, by whom attacks choose.
        """
        if name not in self.prompts:
            raise UnknownName("concept of the protocol", name, self.prompts)
        label = self.labels.get(name, name)
        return AskedAs(
            name=name,
            target=name,
            label=label,
            templates=("a photo of a {concept}", "a picture of a {concept}", "a {concept}"),
            unrelated=tuple(word for word in self.prompts if word != name),
            source="duge",
            detector=detector,
            labels=(label,) if detector else (),
            selector=selector,
            selector_labels=(label,) if selector else (),
            texts=tuple(self.prompts.items()),
            calls=tuple(self.labels.items()),
            firsts=tuple((word, self.seeds(word)[0]) for word in self.prompts),
        )


def published() -> Published:
    """DUGE's published evaluation protocol."""
    raw = data.shipped_table("protocols/duge")
    drawing = Drawing(steps=raw["steps"], guidance=raw["guidance"])
    names = tuple(raw["unclassified"]["names"])
    return Published(raw["prompts"], names, tuple(raw["sequence"]), drawing, raw["pictures"], raw["first_seed"], raw["labels"])
