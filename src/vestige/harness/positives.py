"""Positive controls: edits that are known to hide a concept, so that an audit shows what its attacks find where something is left.

    remap     reads the anchor's words for the concept's; no weight is touched
    uce       answers the concept's words with the anchor's keys and values in cross-attention
    negation  adapters trained to answer the concept's prompts with the anchor's predictions, where there is no cross-attention

Each is made on the untouched original by its own settings, whatever edit is under audit, and is a run that audits share.
Source: ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vestige import registry
from vestige.concepts import Concept
from vestige.concepts.joint import Joint
from vestige.diffusion import Model
from vestige.edits import Edit
from vestige.errors import BadInput, Diverged, Incompatible
from vestige.harness.bench import Bench
from vestige.harness.settings import configured
from vestige.harness.suites import Suite
from vestige.harness.unlearning import unlearned
from vestige.models import Card

NEGATION = "negation"  # a preset of the unlearner that it is
CROSS_ATTENDING = "latent"  # the family whose text enters by cross-attention alone


@dataclass(frozen=True)
class Positive:
    """How a positive control is made: an unlearner by its name, with its settings."""

    unlearner: str
    method: Any

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for specs."""
        return {"method": self.unlearner, "settings": registry.settings(self.method)}


def hiding(suite: Suite, card: Card, concept: Concept) -> dict[str, Positive]:
    """A suite's positive controls for a model, by name, of several concepts those that hide several.

    Negation stands in for what needs cross-attention where there is none.
    """
    made = {}
    for name in suite.positives:
        known = NEGATION if name == "uce" and card.family != CROSS_ATTENDING else name
        unlearner, preset = ("spm", NEGATION) if known == NEGATION else (known, "")
        method = configured("unlearners", unlearner, card.world, preset, {}, model=card.name).resolved(concept)
        if not isinstance(concept, Joint) or (method.joint and not method.apart):
            made[known] = Positive(unlearner, method)
    return made


def hidden(bench: Bench, original: Model, concept: Concept, positives: Mapping[str, Positive]) -> dict[str, Model | str]:
    """The original under each positive control; what went wrong, in words, where one could not be made."""
    made: dict[str, Model | str] = {}
    for name, own in positives.items():
        settled = (own.unlearner, own.method, 0)
        try:
            run = unlearned(bench.root, original, concept, *settled, watch=bench.watch, wait=bench.wait)
            made[name] = original.edited(Edit.load(run.path("edit.safetensors")))
        except (BadInput, Diverged, Incompatible) as error:
            made[name] = str(error)
    return made
