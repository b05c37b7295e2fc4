"""What is known beforehand of controls: how never-models of a concept differ, and how far proxies stand from them.

Measured on worlds whose never-models are at hand (`tools/calibrate.py`), under a suite's version and an attack of it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vestige import data
from vestige.verdict.spread import LEAST, Spread, fitted, moderated

Rows = list[list[float]]  # never-models x replicates
BORROWED = "memora"  # the armed attack of every suite: whose spread stands in for one that was never measured
MEASURES = 2  # log F, and reach


@dataclass(frozen=True)
class Calibration:
    """What an attack of a suite finds on a world where nothing is to be found.

    Arguments:
        never: Concept -> what each of its never-models learned: the areas of the rise over log(1 + b), and the recalls at the last budget.
        models: Concept -> the names of these never-models, in their order.
        proxy: Concept with a twin -> (value, low, high) of F against the proxy divided by F against the twin.
        further: Concept with a twin -> reach against the proxy less reach against the twin.
        distilled: Concept with a twin -> as `proxy`, of a never-model that was made of the original.
    """

    never: Mapping[str, tuple[Rows, Rows]] = field(default_factory=dict)
    models: Mapping[str, Sequence[str]] = field(default_factory=dict)
    proxy: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    further: Mapping[str, float] = field(default_factory=dict)
    distilled: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Known:
    """How controls differ in log F and in reach, as far as it is known before this audit's own; None where nothing is.

    Arguments:
        borrowed: Where that was measured, in words, if not on this model's world under this protocol.
    """

    speed: Spread | None = None
    far: Spread | None = None
    borrowed: str = ""

    @property
    def both(self) -> tuple[Spread | None, Spread | None]:
        """For log F, and for reach."""
        return self.speed, self.far


def calibration(world: str, version: str, attack: str) -> Calibration:
    """What is known of an attack under a suite's version on a world; empty where it was not measured."""
    found = data.shipped_table("calibration").get(world, {}).get(version, {}).get(attack, {})
    never, names = measured_rows(found)
    proxy, distilled = ({name: tuple(x) for name, x in found.get(part, {}).items()} for part in ("proxy", "distilled"))
    return Calibration(never, names, proxy, found.get("further", {}), distilled)


def measured_rows(found: Mapping[str, Any]) -> tuple[dict[str, tuple[Rows, Rows]], dict[str, tuple[str, ...]]]:
    """By concept what its never-models learned, and their names, from what a file says of an attack."""
    never = found.get("never", {})
    return {c: (rows["areas"], rows["ends"]) for c, rows in never.items()}, {c: tuple(rows["models"]) for c, rows in never.items()}


def against_distilled() -> dict[str, tuple[float, float, float]]:
    """Where it was measured, in words -> F against a never-model made of the original divided by F against a twin, and its interval."""
    table = data.shipped_table("calibration")
    rows = ((w, v, a, calibration(w, v, a).distilled) for w in table for v in table[w] for a in table[w][v])
    return {f"{name} of {w} under {v}'s {a}": x for w, v, a, found in rows for name, x in found.items()}


def known(
    world: str,
    version: str,
    attack: str,
    concept: str,
    replicates: int,
    *,
    proxies: bool = False,
    own: bool = False,
    also: Mapping[str, Calibration] | None = None,
    attacked: Collection[str] = (),
) -> Known:
    """How much controls of a concept differ under an attack.

    Never-models: fitted to every world's other concepts, and moderated by the concept's own where they were measured, without those that
    this audit attacks itself: it adds what they show, and they count once. Proxies: the mean
    square of their distance from true twins, which is no spread about a mean but an error, and known by as many concepts.

    Arguments:
        world: Of the model under audit; "" for a user's own.
        replicates: Of the audit.
        proxies: The controls are proxies.
        own: The attack is not run as its suite runs it.
        also: World, or where it was in words -> what a suite of a user's own says was measured under it.
        attacked: Names of the audit's own models, its controls and the one under audit.
    """
    for source, by, where in _sources(version, attack):
        measured = {w: calibration(w, source, by) for w in data.shipped_table("calibration")}
        measured |= also if also and (source, by) == (version, attack) else {}
        found = _proxies(measured) if proxies else _never(measured, (world, concept), replicates, attacked)
        if found is None:
            continue
        here = world in measured and not where and not own
        there = " and ".join(w for w, one in measured.items() if (one.proxy if proxies else one.never))
        return Known(*found, "" if here else f"{where or f'with the settings of {source}'} on {there}")
    return Known()


def _sources(version: str, attack: str) -> Iterator[tuple[str, str, str]]:
    """Versions and attacks in which to look, and that in words where it is another: what is measured nearest first."""
    yield version, attack, ""
    versions = sorted({name for found in data.shipped_table("calibration").values() for name in found}, reverse=True)
    for by in dict.fromkeys((attack, BORROWED)):
        for name in versions:
            if (name, by) != (version, attack):
                yield name, by, f"with {by} under {name}"


def _never(
    measured: Mapping[str, Calibration], own: tuple[str, str], replicates: int, attacked: Collection[str]
) -> tuple[Spread, Spread] | None:
    """Of never-models; None where none was measured."""
    rows = {(w, name): both for w, one in measured.items() for name, both in one.never.items() if len(both[0]) > 1}
    others = {key: both for key, both in rows.items() if key != own}
    theirs = [i for i, name in enumerate(measured[own[0]].models[own[1]]) if name not in attacked] if own in rows else []
    source = ", ".join(f"{name} of {w}" for w, name in rows if (w, name) != own or len(theirs) > 1)
    found: list[Spread | None] = []
    for part in range(MEASURES):
        groups = {f"{name} of {w}": both[part] for (w, name), both in others.items()}
        mine = [float(np.mean(rows[own][part][i])) for i in theirs]
        found.append(moderated(fitted(groups, replicates, source) if groups else None, mine))
    return None if found[0] is None or found[1] is None else (found[0], found[1])


def _proxies(measured: Mapping[str, Calibration]) -> tuple[Spread, Spread] | None:
    """Of proxies; None where none was measured."""
    fast = {f"{name} of {w}": math.log(x[0]) for w, one in measured.items() for name, x in one.proxy.items()}
    far = {f"{name} of {w}": x for w, one in measured.items() for name, x in one.further.items()}
    if not fast or not far:
        return None
    made = [Spread(max(LEAST, float(np.mean(np.square(list(e.values()))))), float(len(e)), len(e), 0, ", ".join(e)) for e in (fast, far)]
    return made[0], made[1]
