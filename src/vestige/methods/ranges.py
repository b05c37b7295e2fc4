"""Ranges of a method's settings: what lies outside is refused by its name, with what was given."""

from __future__ import annotations


def at_least(low: float, settings: object, *names: str) -> None:
    """Refuse settings below `low`, with ValueError."""
    for name in names:
        if not getattr(settings, name) >= low:
            raise ValueError(f"{name} is at least {low}; given {getattr(settings, name)}")


def above(low: float, settings: object, *names: str) -> None:
    """Refuse settings that are not above `low`, with ValueError."""
    for name in names:
        if not getattr(settings, name) > low:
            raise ValueError(f"{name} is above {low}; given {getattr(settings, name)}")


def below_one(settings: object, *names: str) -> None:
    """Refuse settings outside [0, 1), with ValueError."""
    for name in names:
        if not 0 <= getattr(settings, name) < 1:
            raise ValueError(f"{name} is at least 0 and below 1; given {getattr(settings, name)}")
