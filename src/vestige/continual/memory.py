"""What a sequence rehearses: pictures by the original, drawn once for each request's own words, or a folder of the user's.

The first request's neighbours and unrelated words fill the memory. Every later request adds its own words that none before it named, as
many pictures a word; so what a step rehearses depends on the requests up to it, and a longer list changes no step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from vestige.concepts import Concept
from vestige.concepts.album import Album
from vestige.concepts.concept import Prompt
from vestige.concepts.images import PictureSet, folder
from vestige.continual.plan import SequencePlan, new_words
from vestige.continual.probes import names
from vestige.diffusion import Model
from vestige.errors import BadInput
from vestige.harness.bench import Bench, shows
from vestige.methods import Data
from vestige.seeds import derive


@final
class Memory:
    """Every picture that steps may rehearse.

    Arguments:
        original: Draws them.
        album: Where drawn pictures are kept.
    """

    def __init__(self, chosen: SequencePlan, bench: Bench, original: Model, album: Album) -> None:
        self.plan, self.bench, self.original, self.album = chosen, bench, original, album
        order, size = chosen.order, original.image_size
        self.first = self._drawn(0) if order.retain == "drawn" else _captions(folder(order.retain, size))
        self.related = _captions(folder(order.related, size)) if order.related else None

    def _drawn(self, number: int) -> PictureSet:
        """What a request adds, counted from 0."""
        order, requests = self.plan.order, self.plan.requests
        concept, words = requests[number], new_words(requests)[number]
        words = words if number else (*concept.neighbours, *concept.unrelated)
        if not words and not number:
            raise BadInput(f"{concept.name} names neither neighbours nor unrelated concepts; a memory needs some")
        whole = len(new_words(requests)[0])
        count = order.memory if not number else min(order.memory, -(-order.memory // whole) * len(words))
        seed = derive(order.seed, "memory") if not number else derive(order.seed, "memory", concept.name)

        def told(stage: str, done: int, total: int) -> None:
            self.bench.watch("draw the memory", done, total)

        data = Data(cache=self.album.cache(self.bench.root))
        return data.drawn(self.original, concept.spread(count, "training", words=words), seed=seed, watch=told)

    def upto(self, step: int) -> PictureSet:
        """What there is to rehearse in a step."""
        found = self.first
        if self.plan.order.retain != "drawn":
            return found
        last = len(self.plan.requests) if self.plan.order.mode == "simultaneous" else step
        for number, words in enumerate(new_words(self.plan.requests)[:last]):
            if number and words:
                found = found.joined(self._drawn(number))
        return found

    def without(self, requests: Sequence[Concept], step: int) -> tuple[PictureSet, PictureSet | None]:
        """A step's memory, and the related pictures given apart, without whatever names one of the requests or may show one."""
        kept = self._without(self.upto(step), requests)
        if not len(kept):
            raise BadInput(f"of the memory's {len(self.upto(step))} pictures none is known to be without a request; raise --memory")
        if self.related is None:
            return kept, None
        near = self._without(self.related, requests)
        if not len(near):
            raise BadInput(f"of {len(self.related)} pictures in {self.related.source} none is known to be without a request; give others")
        return kept, near

    def _without(self, whole: PictureSet, requests: Sequence[Concept]) -> PictureSet:
        """By captions and labels, and by what each request's selection judge knows to show none of it."""
        shown = [shows(self.bench.of(concept).select, whole.images, concept) for concept in requests]
        labels = whole.labels or ({},) * len(whole)
        named = [any(names(Prompt(text, own), requests) for text in row) for row, own in zip(whole.captions, labels, strict=True)]
        return whole.take([i for i, away in enumerate(named) if not away and all(hits[i] is False for hits in shown)])


def _captions(given: PictureSet) -> PictureSet:
    """The same set; an error where it has no captions."""
    if not given.captions:
        raise BadInput(f"{given.source} has no captions, and what stays is rehearsed under some; put a metadata.jsonl beside the pictures")
    return given
