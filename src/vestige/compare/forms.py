"""What stands where in an audit's result, as far as tables and pages read it: one that holds something else is damaged, or is another's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vestige.errors import shortened

EACH = "*"  # in a table: whatever the name


@dataclass(frozen=True)
class Leaf:
    """A value that is neither a table nor a list: in which words it is told what it should be, and whether null is none."""

    words: str
    holds: Callable[[Any], bool]
    needed: bool = False


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


NUMBER = Leaf("a finite number", _finite)
SHARE = Leaf("a number from 0 to 1", lambda value: _finite(value) and 0 <= value <= 1)
COUNT = Leaf("a whole number from 0 on", lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0)
SEED = replace(COUNT, needed=True)
TEXT = Leaf("a text", lambda value: isinstance(value, str))
DOUBT = Leaf("blocking, capping or informing", lambda value: value in ("blocking", "capping", "informing"))

INTERVAL = dict.fromkeys(("value", "low", "high"), NUMBER)
RATE = {"value": SHARE, "low": NUMBER, "high": NUMBER, "count": COUNT, "replicates": [SHARE]}
ARM = {"replicates": [[SHARE]], "curve": [{"budget": COUNT, "score": SHARE}]}
MEASURED = dict.fromkeys(("speedup", "savings", "reach"), INTERVAL)
ATTACK = {
    **MEASURED,
    "log_speedups": [NUMBER],
    "level": SHARE,
    "least": [NUMBER],
    "settings": {},
    "spread": {"sd": NUMBER, "freedom": NUMBER, "concepts": COUNT, "own": COUNT, "reach": NUMBER},
    "arms": {EACH: ARM},
    "utility": {EACH: RATE},
}
AUDIT = {
    **MEASURED,
    **dict.fromkeys(("suite", "model", "concept", "headline"), TEXT),
    "edit": {"method": TEXT, "settings": {}},
    "verdict": {"kind": TEXT, "reason": TEXT, "between": [TEXT], "flags": [{"name": TEXT, "kind": DOUBT, "text": TEXT}]},
    "control": {"kind": TEXT, "names": [TEXT]},
    "plain": {"recall": INTERVAL, EACH: RATE},
    "attacks": {EACH: ATTACK},
    "utility": {EACH: {EACH: RATE}},
    "lines": dict.fromkeys(("surface", "savings_long", "savings_short", "reach_long", "reach_short"), SHARE) | {"replicates": COUNT},
    "detector": {},
    "protocol": {"held_out_prompts": [TEXT], "pictures": COUNT},
    "cost": {"seconds": NUMBER, "denoiser_calls": NUMBER, "stages": {EACH: NUMBER}},
    "provenance": {"model_hash": TEXT, "edited_hash": TEXT, "seeds": [SEED], "edit_seed": COUNT},
    "strips": [{"file": TEXT}],
    "banks": [{"name": TEXT, "verdict": TEXT}],
    "looks": [{}],
}


def damage(result: Mapping[str, Any]) -> str:
    """The first place where an audit's result holds what cannot be there, and what; "" where all is well.

    Null is what is not told, and may stand wherever no list or table is one of several.
    """
    return next(_odd(result, AUDIT, ""), "")


def _odd(value: Any, form: Any, place: str, *, needed: bool = False) -> Iterator[str]:
    if value is None and not needed:
        return
    kind, words = _right(form)
    if not kind(value):
        yield f"{place} is {words}; given {shortened(str(value), 40)}"
    elif isinstance(form, list):
        for number, one in enumerate(value):
            yield from _odd(one, form[0], f"{place}[{number}]", needed=not isinstance(form[0], Leaf) or form[0].needed)
    elif isinstance(form, Mapping):
        for name, one in value.items():
            if name in form or EACH in form:
                several = name not in form and form is AUDIT["attacks"]
                yield from _odd(one, form.get(name, form.get(EACH)), f"{place}.{name}" if place else name, needed=several)


def _right(form: Any) -> tuple[Callable[[Any], bool], str]:
    """Whether a value is of a form, what it holds aside; and what that form is called."""
    if isinstance(form, Leaf):
        return form.holds, form.words
    return (lambda value: isinstance(value, list), "a list") if isinstance(form, list) else (lambda v: isinstance(v, Mapping), "a table")
