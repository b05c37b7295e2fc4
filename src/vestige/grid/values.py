"""Values of a grid's file by themselves, before they are combined: names that nothing has, settings that no method accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from vestige import concepts, models, registry
from vestige.errors import UnknownName, VestigeError
from vestige.grid.cells import ALL
from vestige.harness import suites
from vestige.harness.settings import requested
from vestige.models import Card

Check = Callable[[Any], object]  # raises what is wrong


@dataclass(frozen=True)
class Sieve:
    """Lists without the values that cannot be by themselves, and what is wrong with these; a mistake is told once."""

    wrong: dict[str, None] = field(default_factory=dict)

    def kept(self, values: Iterable[Any], check: Check) -> list[Any]:
        """Those that raise nothing when they are looked at."""
        return [value for value in values if self._passes(check, value)]

    def all_known(self, kind: registry.Kind, names: Sequence[str]) -> bool:
        """Whether all are components; each that is none is told."""

        def there(name: str) -> None:
            if name not in known:
                raise UnknownName(kind[:-1], name, known)

        known = registry.names(kind)
        return len(self.kept(names, there)) == len(names)

    def settings(self, kind: registry.Kind, name: str, table: Mapping[str, Any]) -> dict[str, Any]:
        """A method's settings, each a value or a list of them, without the values that it does not accept."""
        made = {}
        for key, value in table.items():
            points = self.kept(value if isinstance(value, list) else [value], partial(registry.checked, kind, name, key))
            if points:
                made[key] = points if isinstance(value, list) else points[0]
        return made

    def _passes(self, check: Check, value: Any) -> bool:
        try:
            check(value)
        except (VestigeError, OSError) as error:
            self.wrong[error.brief if isinstance(error, UnknownName) else str(error)] = None
            return False
        return True


def sound(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The file without names that nothing has and settings that no method accepts, and what is wrong with each of them.

    So that one does not hide another, nor what is wrong with the cells of the rest.
    """
    sieve, axes = Sieve(), dict(raw.get("axes", {}))
    axes["models"] = sieve.kept(axes.get("models", ["wardrobe"]), models.card)
    by_any = partial(_by_any, [models.card(name) for name in axes["models"]] or [models.card("wardrobe")])
    checks: dict[str, Check] = {
        "concepts": by_any(requested),
        "suites": by_any(lambda suite, card: suites.load(suite, card.world)),
    }
    axes |= {axis: sieve.kept(axes[axis], check) for axis, check in checks.items() if axis in axes}
    if "attacks" in axes:
        axes["attacks"] = [names for names in axes["attacks"] if names == ALL or sieve.all_known("attacks", names.split("+"))]
    ways = [
        {**way, "settings": sieve.settings("unlearners", way["method"], way.get("settings", {}))} if "method" in way else way
        for way in raw["unlearners"]
        if way.get("method", "none") == "none" or sieve.all_known("unlearners", [way["method"]])
    ]
    named = [name for name in raw.get("attacks", {}) if sieve.all_known("attacks", [name])]
    swept = {name: sieve.settings("attacks", name, raw["attacks"][name]) for name in named}
    loads = by_any(lambda name, card: concepts.load(name, card.world))
    sequences = [
        table
        for table in raw.get("sequences", ())
        if (sieve.kept(table["requests"], loads) == table["requests"]) & sieve.all_known("attacks", table.get("attacks", ()))
    ]
    return {**raw, "axes": axes, "unlearners": ways, "attacks": swept, "sequences": sequences}, list(sieve.wrong)


def _by_any(cards: Sequence[Card], check: Callable[[Any, Card], object]) -> Check:
    """Raises what the last model's card raises, if all do; where some do not, their cells say which do."""

    def look(value: Any) -> None:
        for number, card in enumerate(cards, 1):
            try:
                check(value, card)
            except (VestigeError, OSError):
                if number == len(cards):
                    raise
            else:
                return

    return look
