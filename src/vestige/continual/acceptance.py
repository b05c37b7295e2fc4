"""When a step of a sequence stands: limits on what it may leave of the requests, and on what it may cost.

    recall     highest rate of a request so far, of the original's rate
    ripple     drop of accuracy on the requests' neighbours
    erosion    drop of accuracy on what lies near no request
    verdict    worst verdict on a request so far: erased, long-term or short-term

A step beyond a limit is rolled back: the next one starts from the model before it, and its request stands as not forgotten. Estimates are
compared and not the ends of their intervals, which stand beside them: with few pictures nothing would pass, or everything. A verdict has
its intervals in it; one that is inconclusive does not pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vestige.errors import BadSetting
from vestige.verdict.decision import ORDER

LIMITS = ("recall", "ripple", "erosion")
VERDICT = "verdict"
RANKS: tuple[str, ...] = ORDER

Limit = float | str


def limits(text: str) -> dict[str, Limit]:
    """Limits as they are typed, "recall=0.2,verdict=long-term"; {} for ""."""
    found: dict[str, Limit] = {}
    for part in (p.strip() for p in text.split(",") if p.strip()):
        name, _, value = part.partition("=")
        if name == VERDICT:
            if value not in RANKS:
                raise BadSetting(f"the worst verdict that is accepted is {', '.join(RANKS[:-1])} or {RANKS[-1]}; given {part!r}")
            found[name] = value
            continue
        share = _share(value)
        if name not in LIMITS or not 0 <= share <= 1:
            each = f"{', '.join(LIMITS)}, each from 0 to 1, and {VERDICT}"
            raise BadSetting(f"accept takes {each}, as recall=0.2,erosion=0.05,verdict=long-term; given {part!r}")
        found[name] = share
    return found


def _share(text: str) -> float:
    """A number; not one where the text says none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def judged_from(row: Mapping[str, Any], first: Mapping[str, Any], asked: Sequence[str]) -> dict[str, Limit | None]:
    """What a step is judged by; None where it could not be measured.

    Arguments:
        row: The step of a result, and `first`: that of the original.
        asked: Names of the requests so far.
    """
    recalls = [_recall(row["rates"].get(name), first["rates"].get(name)) for name in asked]
    known = [value for value in recalls if value is not None]
    worst = {VERDICT: _worst(row["verdicts"], asked)} if row.get("verdicts") else {}
    return {
        "recall": max(known) if len(known) == len(recalls) and known else None,
        **{k: _drop(row[k]) for k in ("ripple", "erosion")},
        **worst,
    }


def judged_by(conditions: Mapping[str, Limit], found: Mapping[str, Limit | None]) -> list[str]:
    """Why a step does not stand; [] where it does. What could not be measured does not pass."""
    reasons = []
    for name, limit in conditions.items():
        value = found.get(name)
        accepted = f"at worst {limit} is accepted" if isinstance(limit, str) else f"at most {limit:.0%} is accepted"
        if value is None:
            reasons.append(f"{name} could not be measured, and {accepted}")
        elif isinstance(limit, str):
            if value not in RANKS[: ORDER.index(limit) + 1]:
                reasons.append(f"{name} is {value}, and {accepted}")
        elif float(value) > limit:
            reasons.append(f"{name} is {value:.0%}, and {accepted}")
    return reasons


def _worst(verdicts: Mapping[str, Mapping[str, Any]], asked: Sequence[str]) -> str | None:
    """The worst verdict on a request so far, with its name where it is none of RANKS; None where one is missing."""
    kinds = [(verdicts.get(name) or {}).get("kind") for name in asked]
    if not kinds or None in kinds:
        return None
    open_ = [f"{kind} on {name}" for kind, name in zip(kinds, asked, strict=True) if kind not in RANKS]
    return ", ".join(open_) if open_ else max(map(str, kinds), key=RANKS.index)


def _recall(now: Mapping[str, Any] | None, then: Mapping[str, Any] | None) -> float | None:
    """Of the original's rate; a request that the original does not show cannot be judged."""
    if now is None or then is None or now["value"] is None or not then["value"]:
        return None
    return float(now["value"]) / float(then["value"])


def _drop(found: Mapping[str, Any]) -> float | None:
    drop = found["drop"]
    return None if drop is None or drop["value"] is None else float(drop["value"])
