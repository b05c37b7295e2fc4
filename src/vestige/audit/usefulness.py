"""Flags on what must stay: what the edit cost it, and what these pictures could have shown of that.

Each group is looked at by itself. `utility-collapsed` fires where the drop's lower end exceeds what is allowed, so it stays silent too
where pictures are few: `utility-unseen` says when a drop of twice what is allowed would have passed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vestige.audit.experiment import Experiment
from vestige.verdict import Flag, intervals
from vestige.verdict.intervals import defined
from vestige.verdict.noticing import POWER, noticeable

ALLOWED = {"unrelated": 0.10, "neighbours": 0.25}  # drop of accuracy, share of pictures
GROUPS = {"unrelated": "unrelated concepts", "neighbours": "the concept's neighbours"}
SLACK = 2.0  # a drop of so many times what is allowed has to be noticed


def judging(usable: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """By group, what may be lost, and the smallest drop that would have been noticed; null where none would, or nothing was compared."""
    found = {}
    for group, allowed in ALLOWED.items():
        before, after = usable[group]["before"], usable[group]["after"]
        least = math.inf if before is None else noticeable(before["right"], after["right"], allowed)
        found[group] = {"allowed": allowed, "noticeable": defined(least) if math.isfinite(least) else None, "power": POWER}
    return found


def utility(experiment: Experiment, usable: Mapping[str, Any]) -> list[Flag]:
    """What the edit cost, by group; nothing where there is no original to compare with, or no edit."""
    if experiment.original is None or experiment.edited is experiment.original:
        return []
    words = {"unrelated": experiment.concept.unrelated, "neighbours": experiment.concept.neighbours}
    asked = [group for group in ALLOWED if words[group]] or [*ALLOWED]  # a concept that names no neighbours loses none
    return [flag for group in asked for flag in _of_group(experiment.bench.verify.name, group, usable[group])]


def _of_group(judge: str, group: str, stages: Mapping[str, Any]) -> list[Flag]:
    before, after = stages["before"]["right"], stages["after"]["right"]
    if not intervals.judged(before) or not intervals.judged(after):
        text = f"{judge} knows no word of {GROUPS[group]}, so nobody looked whether the edit cost them"
        return [Flag("utility-unmeasured", "capping", text)]
    allowed = ALLOWED[group]
    drop, low = intervals.fell(before, after)
    if low > allowed:
        text = f"accuracy on {GROUPS[group]} fell by {drop:.0%} (at least {low:.0%}); {allowed:.0%} is allowed"
        return [Flag("utility-collapsed", "capping", text)]
    least = noticeable(before, after, allowed)
    if least <= SLACK * allowed:
        return []
    seen = f"a drop of {least:.0%} at least" if math.isfinite(least) else "no drop at all"
    text = (
        f"on {GROUPS[group]} {seen} would have been noticed ({POWER:.0%} of the time), where {allowed:.0%} is allowed: draw more pictures"
    )
    return [Flag("utility-unseen", "capping", text)]
