"""When a step of a sequence stands: limits on what it may leave of the requests, and on what it may cost.

    recall     highest rate of a request so far, of the original's rate
    ripple     drop of accuracy on the requests' neighbours
    erosion    drop of accuracy on what lies near no request

A step beyond a limit is rolled back: the next one starts from the model before it, and its request stands as not forgotten. Estimates are
compared and not the ends of their intervals, which stand beside them: with few pictures nothing would pass, or everything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vestige.errors import BadSetting

LIMITS = ("recall", "ripple", "erosion")


def limits(text: str) -> dict[str, float]:
    """Limits as they are typed, "recall=0.2,ripple=0.1"; {} for ""."""
    found: dict[str, float] = {}
    for part in (p.strip() for p in text.split(",") if p.strip()):
        name, _, value = part.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = math.nan
        if name not in LIMITS or not 0 <= found[name] <= 1:
            raise BadSetting(f"accept takes {', '.join(LIMITS)}, each from 0 to 1, as recall=0.2,erosion=0.05; given {part!r}")
    return found


def judged_from(row: Mapping[str, Any], first: Mapping[str, Any], asked: Sequence[str]) -> dict[str, float | None]:
    """What a step is judged by; None where it could not be measured.

    Arguments:
        row: The step of a result, and `first`: that of the original.
        asked: Names of the requests so far.
    """
    recalls = [_recall(row["rates"].get(name), first["rates"].get(name)) for name in asked]
    known = [value for value in recalls if value is not None]
    return {"recall": max(known) if len(known) == len(recalls) and known else None, **{k: _drop(row[k]) for k in ("ripple", "erosion")}}


def judged_by(conditions: Mapping[str, float], found: Mapping[str, float | None]) -> list[str]:
    """Why a step does not stand; [] where it does. What could not be measured does not pass."""
    reasons = []
    for name, limit in conditions.items():
        value = found[name]
        if value is None:
            reasons.append(f"{name} could not be measured, and at most {limit:.0%} is accepted")
        elif value > limit:
            reasons.append(f"{name} is {value:.0%}, and at most {limit:.0%} is accepted")
    return reasons


def _recall(now: Mapping[str, Any] | None, then: Mapping[str, Any] | None) -> float | None:
    """Of the original's rate; a request that the original does not show cannot be judged."""
    if now is None or then is None or now["value"] is None or not then["value"]:
        return None
    return float(now["value"]) / float(then["value"])


def _drop(found: Mapping[str, Any]) -> float | None:
    drop = found["drop"]
    return None if drop is None or drop["value"] is None else float(drop["value"])
