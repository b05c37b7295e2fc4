"""Methods against each other: paired contrasts, whether the surface tells what an attack finds, and how many kinds of forgetting."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vestige.compare.rows import PooledRow, exponential, restricted
from vestige.compare.stored import at
from vestige.errors import BadInput, UnknownName
from vestige.verdict.comparison import agreement
from vestige.verdict.intervals import defined
from vestige.verdict.kinds import FEWEST_VALUES, two_kinds
from vestige.verdict.pooling import Estimate, across, concordance, holm, paired_difference

FEWEST_ROWS = 4  # of a rank correlation
Seen = Callable[[PooledRow], "float | None"]
SURFACES: Mapping[str, Seen] = {
    "plain rate": lambda row: at(row.told, "plain", "value"),
    "neighbours' accuracy": lambda row: at(row.told, "utility", "neighbours", "after", "value"),
    "unrelated accuracy": lambda row: at(row.told, "utility", "unrelated", "after", "value"),
}


def contrasts(rows: Sequence[PooledRow], attacks: Sequence[str], against: str = "", level: float = 0.95) -> dict[str, Any]:
    """Paired contrasts of log F between methods that enter the comparison, over the concepts that both have.

    Under every point of a sweep of attacks' settings by itself: a method attacked one way is not set against another attacked otherwise.
    p-values are Holm's, over every contrast that is printed; intervals are of `level` each, and not widened.

    Arguments:
        against: The method that all others are compared with; "": all pairs.

    Raises:
        UnknownName: No method of that name.
    """
    methods = list(dict.fromkeys(row.method for row in rows))
    if against and against not in methods:
        raise UnknownName("method", against, methods)
    made, without = list[dict[str, Any]](), list[str]()
    for swept in dict.fromkeys(row.swept for row in rows):
        alike = [row for row in rows if row.swept == swept]
        there = [method for method in methods if any(row.method == method for row in alike)]
        pairs = ((m, against) for m in there if m != against) if against else itertools.combinations(there, 2)
        for one, other in pairs:
            found = [row for attack in attacks if (row := _contrast(alike, one, other, attack, level)) is not None]
            made += [{**row, "swept": swept} for row in found]
            without += [] if found else [f"{one} and {other}{f' under {swept}' if swept else ''}"]
    return {"against": against or None, "comparisons": corrected(made), "rows": made, "without": without}


def corrected(made: Sequence[dict[str, Any]]) -> int:
    """Gives every "p" of these comparisons its "holm", over all of them; how many there are to correct for."""
    for one, p in zip(made, holm([math.nan if one["p"] is None else one["p"] for one in made]), strict=True):
        one["holm"] = defined(p)
    return sum(one["p"] is not None for one in made)


def _contrast(rows: Sequence[PooledRow], one: str, other: str, attack: str, level: float) -> dict[str, Any] | None:
    """log F of one method less another's; None where no concept has both."""
    found: dict[str, Estimate] = {}
    for concept in dict.fromkeys(row.concept for row in rows):
        pair = [row for name in (one, other) for row in rows if (row.method, row.concept) == (name, concept)]
        if len(pair) == 2 and all(row.eligible and attack in row.values for row in pair):
            try:
                found[concept] = paired_difference(*restricted(pair[0], pair[1], attack))
            except BadInput:
                continue
    if not found:
        return None
    whole = across(list(found.values()))
    told = whole.interval(level)
    ratio = {end: exponential(getattr(told, end)) for end in ("value", "low", "high")}
    return {
        "method": one,
        "against": other,
        "attack": attack,
        "log_ratio": told.as_dict(),
        "ratio": ratio,
        "p": defined(whole.two_sided()),
        "concepts": {concept: defined(estimate.value) for concept, estimate in found.items()},
    }


def ranks(
    rows: Sequence[PooledRow], attacks: Sequence[str], level: float = 0.95, surfaces: Mapping[str, Seen] = SURFACES
) -> list[dict[str, Any]]:
    """Rank agreement of what is seen without an attack with log F: of all methods, and of those alone that enter the comparison.

    Arguments:
        surfaces: What is seen of a row, by its name; None where a row has it not.
    """
    edited = [row for row in rows if row.told["not_compared"] != ["nothing was edited"]]
    made = []
    for who, chosen in (("all", edited), ("compared", [row for row in edited if row.eligible])):
        for attack, surface in itertools.product(attacks, surfaces):
            pairs = list(_pairs(chosen, attack, surfaces[surface]))
            if len(pairs) < FEWEST_ROWS:
                continue
            seen, hidden, methods = (list(side) for side in zip(*pairs, strict=True))
            tau, p = concordance(seen, hidden)
            rho = agreement(seen, hidden, methods, level=level)
            told = {"spearman": rho.as_dict(), "kendall": defined(tau), "p": defined(p)}
            made.append({"of": who, "surface": surface, "attack": attack, "rows": len(pairs), "methods": len(set(methods)), **told})
    return made


def _pairs(rows: Sequence[PooledRow], attack: str, seen: Seen) -> Iterator[tuple[float, float, str]]:
    for row in rows:
        value, found = seen(row), row.found.get(attack)
        if value is not None and found is not None and math.isfinite(found.log_speedup.value):
            yield value, found.log_speedup.value, row.method


def kinds_of(rows: Sequence[PooledRow], attack: str) -> dict[str, Any]:
    """Two kinds of forgetting or one: a value a method, the mean of log F over its concepts, of methods that enter the comparison."""
    by_method: dict[str, list[float]] = {}
    for row in rows:
        if row.eligible and attack in row.found and math.isfinite(x := row.found[attack].log_speedup.value):
            by_method.setdefault(row.method, []).append(x)
    found = two_kinds([float(np.mean(values)) for values in by_method.values()])
    told: dict[str, Any] = {"attack": attack, "methods": len(by_method), "needed": FEWEST_VALUES, "p": None}
    if found is None:
        return told
    return {**told, "p": found.chance, "ratio": found.ratio, "speedups": [math.exp(c) for c in found.centres], "share": found.share}
