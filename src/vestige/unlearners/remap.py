"""Remap: read another word instead of the concept's; the network is not touched. The most superficial way to forget.

    prompt -> prompt with the target's words replaced by the anchor's

Every weight still draws the concept, so an audit with access to weights or embeddings must expose it. It is here as that
known answer, and because some services filter exactly so. Ours; no paper.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, final

from vestige.concepts import Concept
from vestige.diffusion import Condition, Model
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.views import Wrapped
from vestige.edits import Edit, Hook
from vestige.methods import Data, Paper, Unlearner


@final
@dataclass(frozen=True, kw_only=True)
class Remap(Unlearner):
    """Replaces the target's words in every prompt.

    Arguments:
        towards: Words that stand in; "auto" takes the concept's anchor.
    """

    paper: ClassVar[Paper] = Paper("Vestige's positive control", "the Vestige authors", 2026)
    needs: ClassVar[frozenset[str]] = frozenset({"prompts"})

    towards: str = "auto"

    def resolved(self, concept: Concept) -> Remap:
        """The same method with "auto" replaced by the concept's anchor."""
        return replace(self, towards=concept.anchor) if self.towards == "auto" else self

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        method = self.resolved(concept)
        hook = Hook("unlearners", "remap", {"words": concept.target, "towards": method.towards})
        return Edit(model.fingerprint, "remap", asdict(method), "prompts", hooks=(hook,), notes={"concept": concept.name, "seed": seed})

    @staticmethod
    def hook(model: Model, *, words: str, towards: str) -> Model:
        """`model` reading `towards` wherever a prompt says `words`."""
        pattern = re.compile(rf"\b{re.escape(words)}\b", re.IGNORECASE)

        def wrap(inner: Model) -> Model:
            def condition(prompts: Sequence[str]) -> Condition:
                return inner.condition([pattern.sub(towards, p) for p in prompts])

            return Wrapped(inner, wrap, condition=condition, identity=f"remap {words} {towards}")

        return wrap(model)
