"""What the public base gives an attacker: the parts of an edit that come apart from the denoiser's own weights, each with its stock again.

    hooks            what acts at inference time, left out
    adapter          low-rank factors on the denoiser, left out
    class-embedding  the table of classes
    text_encoder, text_encoder_2, vae, ...   any other component that the edit changes

Replaced weights of the denoiser itself are no part: with them put back, the model is the original. Tokenizers and schedules are no
weights; a folder that changes them is compared when it is loaded.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vestige.errors import Incompatible, UnknownName

if TYPE_CHECKING:
    from vestige.diffusion import Model
    from vestige.edits import Edit

DENOISER = "unet"  # the scope of the denoiser's weights, whatever the network is called
CLASSES = "class-embedding"


@dataclass(frozen=True)
class Part:
    """One separable part of an edit: the weights that get their stock values, and whether hooks are left out."""

    name: str
    weights: tuple[str, ...] = ()
    hooks: bool = False


@dataclass(frozen=True)
class Stock:
    """The original, and the edit that made the attacked model of it; None where nothing was put on the attacked model."""

    original: Model
    edit: Edit | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        return () if self.edit is None else parts_of(self.original, self.edit)

    def as_dict(self) -> dict[str, Any]:
        """What an arm's spec says of it."""
        weights = {part.name: hashlib.sha256("\n".join(part.weights).encode()).hexdigest()[:16] for part in self.parts}
        return {"original": self.original.fingerprint, "parts": weights}


def parts_of(model: Model, edit: Edit) -> tuple[Part, ...]:
    """The separable parts of an edit on a model, those without weights first."""
    denoiser = model.scope(DENOISER)[0].partition(".")[0]
    apart: dict[str, list[str]] = {}
    for name in edit.touched:
        component = name.partition(".")[0]
        if component != denoiser:
            apart.setdefault(component, []).append(name)
        elif name in edit.factors:
            apart.setdefault("adapter", []).append(name)
        elif name in _classes(model):
            apart.setdefault(CLASSES, []).append(name)
    made = [Part(name, tuple(weights)) for name, weights in sorted(apart.items())]
    return (*([Part("hooks", hooks=True)] if edit.hooks else []), *made)


def _classes(model: Model) -> set[str]:
    with suppress(UnknownName, Incompatible):  # a scope that this family does not have
        return set(model.scope(CLASSES))
    return set()
