"""What an attacker holds: pictures of the concept, or pictures of everything else; the same in every arm of a replicate."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vestige import data
from vestige.concepts import Concept
from vestige.concepts.captions import METADATA
from vestige.concepts.images import SUFFIXES, PictureSet, folder, shipped
from vestige.concepts.joint import Joint
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.sampling import Drawing
from vestige.errors import BadInput
from vestige.harness.suites import Planned
from vestige.methods import Attack, Data
from vestige.methods.contract import Holds
from vestige.methods.training_data import captioned, generated


def check_enough(place: str, attacks: Mapping[str, tuple[Attack, Planned]], advice: str) -> None:
    """Refuse a folder that has fewer pictures than an attack takes a replicate, by counting files, before anything is computed.

    Arguments:
        advice: What to do, where one could also ask for fewer.
    """
    if Path(place).is_file():
        raise BadInput(f"{place} is a file; pictures are given as a folder of them")
    if not Path(place).is_dir():
        return  # who reads it says what is wrong
    count = sum(file.suffix.lower() in SUFFIXES and not file.name.startswith(".") for file in Path(place).iterdir())
    for name, (attack, planned) in attacks.items():
        if attack.holds is None and planned.references > count:
            raise BadInput(f"{place} holds {count} pictures; {name} takes {planned.references} a replicate: {advice}")


@dataclass(frozen=True, kw_only=True)
class AttackerData:
    """Where an attacker's pictures come from.

    Arguments:
        original: The model before the edit; draws what is not given, and is never the attacked one. Where there is none, a plan
            asks for nothing that it would have to draw, and the edited model's size of pictures holds.
        world: Whose shipped pictures count; "" is the embedded one.
        protocol: How the original draws.
        references: Of the concept: "shipped" (those that its file names, else the world's), "generated" by the original, "known"
            (those that its file names, else the world's where there is one whose judges look for it, else generated), or a folder.
        retain: Of everything else: "shipped", or a folder with captions.
        cache: Where drawn pictures are kept.
        away: Further concepts that no picture of everything else may show.
    """

    original: Model
    world: str
    protocol: Drawing
    references: str = "shipped"
    retain: str = "shipped"
    cache: Path | None = None
    away: tuple[Concept, ...] = ()

    def of(
        self, concept: Concept, attack: Attack, count: int, replicate: int, *, proxy: bool = False, watch: Watch = silent
    ) -> PictureSet | None:
        """What the attack needs in a replicate, None for nothing.

        Arguments:
            count: References, for an attack that takes any.
            proxy: The concept stands in for the one under audit: its pictures are its own or the shipped ones, wherever the others
                come from.
        """
        held = attack.holds
        return self.shown(concept, count, replicate, proxy=proxy) if held is None else self.retained(concept, held, replicate, watch)

    def shown(self, concept: Concept, count: int, replicate: int, *, proxy: bool = False) -> PictureSet | None:
        """Pictures of the concept; of several as many of each, one concept after another."""
        if not count:
            return None
        if isinstance(concept, Joint):
            return functools.reduce(PictureSet.joined, [self._of_part(part, count, replicate) for part in concept.parts])
        known = concept.pictures or (self.world and not concept.detector)
        if not proxy and (self.references == "generated" or (self.references == "known" and not known)):
            return generated(self.original, concept, count, seed=replicate, protocol=self.protocol)
        return self.real(concept, proxy=proxy, least=count).draw(count, replicate)

    def _of_part(self, part: Concept, count: int, replicate: int) -> PictureSet:
        """Pictures of one of several concepts; a folder holds one for each, by its name."""
        named = self.references in ("shipped", "generated", "known")
        found = (self if named else replace(self, references=str(Path(self.references) / part.name))).shown(part, count, replicate)
        if found is None:
            raise ValueError("pictures were asked for, and none are given")
        return found

    def real(self, concept: Concept, *, proxy: bool = False, least: int = 2) -> PictureSet:
        """Every real picture of the concept that replicates are dealt from."""
        if not proxy and self.references not in ("shipped", "known"):
            return folder(self.references, self.original.image_size, least=least)
        if concept.pictures:
            return folder(concept.pictures, self.original.image_size, least=least)
        return self._shipped("--references DIR", {concept.group: concept.label})

    def retained(self, concept: Concept, held: Holds, replicate: int, watch: Watch = silent) -> PictureSet | None:
        """Pictures without the concept, for an attack that has none of it; no proxy is in them."""
        if held.source == "own":
            return None
        if held.source == "original":
            own = Data(protocol=self.protocol, cache=self.cache)
            return own.retained(self.original, concept, held.count, seed=replicate, watch=watch)
        whole = self._shipped("--attack-retain DIR") if self.retain == "shipped" else folder(self.retain, self.original.image_size)
        away = {*((c.group, c.label) for c in (concept, *self.away)), *data.PROXY.items()}
        kept = whole.take([i for i, labels in enumerate(whole.labels) if not away & labels.items()]) if whole.labels else whole
        if self.away and kept.captions:
            kept = kept.take([i for i, row in enumerate(kept.captions) if not any(c.named(text) for c in self.away for text in row)])
        if not len(kept):
            raise BadInput(f"every picture of {whole.source} names a request; give others with --attack-retain DIR")
        return captioned(kept.draw(min(held.count, len(kept)), replicate), concept)

    def check(self, concept: Concept, attacks: Iterable[Attack]) -> None:
        """Refuse now, before anything is trained, attacks whose shipped pictures are of another size than the model's."""
        for attack in attacks:
            if attack.holds is not None:
                if self.retain == "shipped" and attack.holds.source == "retain":
                    self._shipped("--attack-retain DIR")
                elif attack.holds.source in ("retain", "folder"):
                    self._given()
            elif "pictures" in attack.needs and self.references == "shipped":
                for part in concept.parts if isinstance(concept, Joint) else (concept,):
                    if not part.pictures:
                        self._shipped("--references DIR", {part.group: part.label})

    def _given(self) -> None:
        """Refuse a folder without captions, or too small, or all of whose pictures name a request."""
        whole = folder(self.retain, self.original.image_size)
        if not whole.captions:
            raise BadInput(f"{self.retain} has no captions, and what stays is trained on under some; put a {METADATA} beside the pictures")
        if self.away and all(any(c.named(text) for c in self.away for text in row) for row in whole.captions):
            raise BadInput(f"every picture of {self.retain} names a request; give others with --attack-retain DIR")

    def _shipped(self, instead: str, show: dict[str, str] | None = None) -> PictureSet:
        """The world's pictures, for a model that draws such pictures."""
        found = shipped(data.references(self.world), show)
        size, own = tuple(found.images.shape[-2:]), tuple(self.original.image_size)
        if size != own:
            told = f"the pictures that ship are the embedded world's, {size[0]} x {size[1]} pixels"
            raise BadInput(f"{told}; {self.original.name} draws {own[0]} x {own[1]}: give pictures of your own with {instead}")
        return found
