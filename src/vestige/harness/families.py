"""What is usual for a published family of models, and what a plan says of it: how pictures are drawn, how MemoRa is run.

A suite that ships fixes how it draws, whatever the model; of an attack's settings it gives those of the embedded world alone. So a model of
a user's own gets its family's, and is told how far the suite is from what is usual.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from vestige import data, models, registry
from vestige.errors import VestigeError
from vestige.harness.suites import Planned, Suite
from vestige.methods import Attack
from vestige.models import Card
from vestige.models.lineage import lineage


@dataclass(frozen=True)
class Customs:
    """How a family is usually drawn and attacked.

    Arguments:
        about: Its name for people.
        steps, guidance, pixels: Of a picture; pixels along a side.
        source: Where these are from.
        attacks: Attack -> "settings", "budget" (steps at which it would be scored) and "source".
    """

    name: str
    about: str
    steps: int
    guidance: float
    pixels: int
    pipeline: str
    source: str
    attacks: Mapping[str, Mapping[str, Any]]


def customs(card: Card) -> Customs | None:
    """What is usual for a model of a user's own; None for one that ships."""
    name = lineage(card)
    return _table().get(name)


def _table() -> dict[str, Customs]:
    return {name: Customs(name=name, **raw) for name, raw in data.shipped_table("families").items()}


def usual_settings(attack: str, model: str) -> dict[str, Any]:
    """An attack's settings for the family of a model by its name; {} where there are none."""
    with suppress(VestigeError):
        own = customs(models.card(model))
        return dict(own.attacks.get(attack, {}).get("settings", {})) if own is not None else {}
    return {}


def remarks(card: Card, suite: Suite, attacks: Mapping[str, tuple[Attack, Planned]], model: str) -> list[str]:
    """What a plan says of a model of a user's own: what is usual for it, and whose settings hold; [] for a model that ships."""
    own = customs(card)
    if own is None:
        return []
    drawn = suite.protocol
    usual = f"{own.steps} steps at guidance {own.guidance:g}, {own.pixels} pixels ({own.source})"
    made = [f"{model} is read as {own.about}, usually drawn in {usual}; {suite.version} draws in {drawn.steps} at {drawn.guidance:g}"]
    for name, (method, planned) in attacks.items():
        if name in own.attacks:
            made.append(_attacked(name, registry.settings(method), planned, own))
        elif method.trains:
            made.append(f"{name} runs by its own defaults, which nobody chose for such a model")
    if not suite.file:
        made.append(
            f"{suite.version} was made for the embedded world: `vestige list suites --template FILE.toml --model {model}` writes one"
        )
    return made


def _attacked(name: str, settings: Mapping[str, Any], planned: Planned, own: Customs) -> str:
    """Whose settings an attack runs by, and how far its budget is from what is usual."""
    usual = own.attacks[name]
    other = [f"{key} {settings[key]} for {value}" for key, value in usual["settings"].items() if settings[key] != value]
    whose = f"with {', '.join(other)} of what is usual" if other else f"by the settings that are usual for {own.about} ({usual['source']})"
    return f"{name} runs {whose}, for up to {planned.budget.last} steps; usual are up to {usual['budget'][-1]}"
