"""Retrain: the answer that every other method is an approximation of, a model trained without the concept from the start.

    edit = (weights of the twin) - (weights of the model)

It trains nothing: it hands out the *twin*, a model of the same recipe that never drew the concept. The embedded world ships
some; for any other model, train one and name its folder.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import ClassVar, final

from vestige import models
from vestige.concepts import Concept
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit, difference
from vestige.errors import BadInput, Incompatible
from vestige.methods import Data, Paper, Unlearner


@final
@dataclass(frozen=True, kw_only=True)
class Retrain(Unlearner):
    """Hands out a model that never drew the concept, as the difference from the one that did. Ours; no paper.

    Where several twins are known, the last of the closest is taken. An audit of this edit leaves it out of its controls; where it is the
    only twin, another control has to be given.

    Arguments:
        twin: Built-in model or pipeline folder; "" takes one that the model's card knows. A built-in model must be known never to have
            drawn the concept; of a folder that is believed.
    """

    paper: ClassVar[Paper] = Paper("Vestige's negative control", "the Vestige authors", 2026)
    needs: ClassVar[frozenset[str]] = frozenset()  # it trains on nothing

    twin: str = ""

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        method = replace(self, twin=self._known(model, concept))
        other = models.load(method.twin)
        edit = difference(model, other, model.scope("all"), method="retrain")
        if not edit.tensors:
            raise BadInput(f"{method.twin} equals {model.name} in every weight; a twin is trained without {concept.name}")
        if model.edited(edit).fingerprint != other.fingerprint:
            raise Incompatible(
                f"{method.twin} differs from {model.name} beyond what an edit holds (autoencoder, noise schedule, tokenizer or "
                "configuration); share the rest"
            )
        notes = {"concept": concept.name, "seed": seed}
        return replace(edit, settings=asdict(method), notes=notes)

    def _known(self, model: Model, concept: Concept) -> str:
        """The twin's name: as given where it can be one, else from the model's card."""
        if not self.twin:
            found = models.twins(model.name, concept.name)
            if not found:
                raise BadInput(f"no model is known that is like {model.name} and never drew {concept.name}; name one with twin=FOLDER")
            closest = len(models.card(found[0]).never_drew)
            return [name for name in found if len(models.card(name).never_drew) == closest][-1]
        known = models.cards()
        if self.twin in known and concept.name not in known[self.twin].never_drew:
            raise BadInput(f"{self.twin} is not known never to have drawn {concept.name}; give one that is, or a folder of your own")
        return self.twin
