"""Vestige: make diffusion models forget concepts, and find out whether they really forgot.

Public names load on first use, so importing the package loads neither torch nor diffusers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vestige.api import generate, run_audit, run_continual, unlearn
    from vestige.concepts import Concept
    from vestige.concepts import load as load_concept
    from vestige.diffusion import Model
    from vestige.edits import Edit
    from vestige.models import load as load_model

__version__ = "0.1.0"
__all__ = ["Concept", "Edit", "Model", "generate", "load_concept", "load_model", "run_audit", "run_continual", "unlearn"]

# No name here may be a module's: `from vestige import audit` would mean one or the other, depending on what ran before.
_PUBLIC = {
    "Concept": "vestige.concepts:Concept",
    "Edit": "vestige.edits:Edit",
    "Model": "vestige.diffusion:Model",
    "generate": "vestige.api:generate",
    "load_concept": "vestige.concepts:load",
    "load_model": "vestige.models:load",
    "run_audit": "vestige.api:run_audit",
    "run_continual": "vestige.api:run_continual",
    "unlearn": "vestige.api:unlearn",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
