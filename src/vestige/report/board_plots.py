"""Places in the board's pictures: intervals of F on one axis, the frontier, and the heat map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vestige.report import page as pages

Told = Mapping[str, Any]
LEAST_F, TOP_F, MOST_F = 0.25, 0.5, 64.0
TICKS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)
STEPS = (1.0, 1.5, 3.0, 6.0, 12.0)  # F from which a cell of the heat map is darker


def whiskers(rows: Sequence[Told]) -> dict[str, dict[str, float]]:
    """Places in percent of the width, of F and its interval, by method, concept and sweep, and of F = 1; arrows leave the axis."""
    made = {"axis": {"one": _share(1.0)}}
    for row in rows:
        told = row["speedup"] or {}
        value = pages.number(told.get("value"))
        if value is not None:
            ends = (pages.number(told.get(end)) for end in ("low", "high"))
            low, high = (edge if end is None else end for end, edge in zip(ends, (0.0, math.inf), strict=True))
            made[f"{row['method']}\n{row['concept']}\n{row['swept']}"] = {"value": _share(value), "low": _share(low), "high": _share(high)}
    return made


def _share(speedup: float) -> float:
    """Place on the axis of F, logarithmic and cut at its ends, in percent."""
    inside = min(max(speedup, LEAST_F), MOST_F)
    return round(100 * math.log(inside / LEAST_F) / math.log(MOST_F / LEAST_F), 2)


@dataclass(frozen=True)
class Box:
    """A picture's size, the plot's edges in it, and its two axes: share kept, and log F, turned so that high is forgotten."""

    width: int
    height: int
    left: int
    right: int
    bottom: int
    top: int = 18

    def x(self, share: float) -> float:
        return round(self.left + (self.right - self.left) * min(max(share, 0.0), 1.05) / 1.05, 1)

    def y(self, speedup: float) -> float:
        """F = 1/2 at the top."""
        inside = min(max(speedup, TOP_F), MOST_F)
        return round(self.top + (self.bottom - self.top) * math.log(inside / TOP_F) / math.log(MOST_F / TOP_F), 1)


WIDE, NARROW = Box(792, 440, 52, 780, 384), Box(350, 400, 40, 344, 346)


def frontiers(rows: Sequence[Told], concept: str, swept: str = "") -> dict[str, Any] | None:
    """Forgetting under the worst attack against what was kept: the worse of neighbours and unrelated, as a share of what was there."""
    known = [(row, kept, f) for row in rows if (kept := kept_share(row)) is not None and (f := _speedup(row)) is not None]
    if not known:
        return None
    compared = [
        one for one in known if not one[0]["not_compared"] and not one[0].get("censored")
    ]  # where F is a lower bound, nothing is gone
    best = [one in compared and not any(_beats(other[1:], one[1:]) for other in compared) for one in known]
    charts = [_chart(known, best, box) for box in (WIDE, NARROW)]
    winners = [row["method"] for (row, _, _), first in zip(known, best, strict=True) if first]
    return {"concept": concept, "swept": swept, "charts": charts, "best": winners}


def _chart(known: Sequence[tuple[Told, float, float]], best: Sequence[bool], box: Box) -> dict[str, Any]:
    points = []
    for (row, kept, speedup), first in zip(known, best, strict=True):
        low, high = (pages.number(row["speedup"].get(end)) for end in ("low", "high"))
        span = None if low is None or high is None else (box.y(high), box.y(low))
        span = (box.y(speedup), box.bottom) if row.get("censored") else span
        points.append({"row": row, "kept": kept, "x": box.x(kept), "y": box.y(speedup), "span": span, "best": first})
    places = _labels(points, box)
    return {
        "box": box,
        "points": [{**p, "label": places.get(i)} for i, p in enumerate(points)],
        "path": _stairs(sorted((p for p in points if p["best"]), key=lambda p: p["x"]), box),
        "levels": [(box.y(t), t) for t in TICKS if t >= TOP_F],
        "ticks": [(box.x(share), share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)],
    }


def _speedup(row: Told) -> float | None:
    return pages.number((row["speedup"] or {}).get("value"))


def kept_share(row: Told) -> float | None:
    """Accuracy on what must stay, after by before, the worse of the two groups; None where neither is known."""
    shares = []
    for stages in row["utility"].values():
        before, after = (pages.number((stages.get(stage) or {}).get("value")) for stage in ("before", "after"))
        if before and after is not None:
            shares.append(after / before)
    return min(shares) if shares else None


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether one kept no less and came back no faster, and not both the same; below F = 1 nothing is more forgotten."""
    (kept, f), (their_kept, their_f) = ((round(share, 9), max(1.0, speedup)) for share, speedup in (one, other))
    return kept >= their_kept and f <= their_f and (kept, f) != (their_kept, their_f)


def _stairs(best: Sequence[Told], box: Box) -> str:
    """The frontier as a path, from the left edge to the bottom."""
    if not best:
        return ""
    path = f"M{box.left},{best[0]['y']}"
    for one, after in zip(best, [*best[1:], None], strict=True):
        path += f"H{one['x']}V{after['y'] if after else box.bottom}"
    return path


def _labels(points: Sequence[Told], box: Box) -> dict[int, tuple[float, float, str]]:
    """Where names stand: beside their points, on the side that has room, where no other name or point is."""
    taken = [(p["x"] - 8, p["y"] - 8, p["x"] + 8, p["y"] + 8) for p in points]
    made: dict[int, tuple[float, float, str]] = {}
    for i, p in sorted(enumerate(points), key=lambda pair: not pair[1]["best"]):
        wide = 7.2 * min(len(str(p["row"]["method"])), 18)
        for anchor, dx, dy in (
            ("start", 12, 4),
            ("end", -12, 4),
            ("middle", 0, -13),
            ("middle", 0, 22),
            ("start", 10, -9),
            ("end", -10, -9),
        ):
            x, y = p["x"] + dx, p["y"] + dy
            left = x if anchor == "start" else x - wide if anchor == "end" else x - wide / 2
            room = (left, y - 12, left + wide, y + 3)
            inside = room[0] >= box.left and room[2] <= box.width and room[1] >= box.top - 14 and room[3] <= box.bottom
            own = taken[i]
            if inside and not any(overlap(room, other) for other in taken if other is not own):
                made[i] = (round(x, 1), round(y, 1), anchor)
                taken.append(room)
                break
    return made


def overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two rectangles, (left, top, right, bottom), share anything."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def heat(rows: Sequence[Told]) -> dict[str, Any]:
    """Methods x attacks: F, and how dark its cell is, 0 to 5."""
    attacks = list(dict.fromkeys(name for row in rows for name in row["attacks"]))
    lines = []
    for row in rows:
        cells = []
        for name in attacks:
            found = row["attacks"].get(name)
            value = pages.number(((found or {}).get("speedup") or {}).get("value"))
            cells.append(None if value is None else {"found": found, "shade": sum(value > step for step in STEPS)})
        lines.append({"row": row, "cells": cells})
    return {"attacks": attacks, "lines": lines}
