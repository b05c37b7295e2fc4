"""A method on a concept, over its edits: what its audits say together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vestige.compare.gathering import Audited
from vestige.compare.stored import as_told, at, logs_of, read_interval, spreads_of
from vestige.compare.verdicts import pooled_verdict
from vestige.errors import BadInput
from vestige.verdict import Interval, measure
from vestige.verdict.intervals import defined, jsonable, spanned, t_interval, two_sided, wilson
from vestige.verdict.pooling import Estimate, Values, against_each, averaged
from vestige.verdict.savings import Measures, saved

SURFACE, NEIGHBOURS = 0.1, 0.1  # decision 0007: plain rate, and fall of neighbours' accuracy, up to which a method is compared
GROUPS = ("neighbours", "unrelated")
UNATTACKED = {"speedup": None, "savings": None, "reach": None, "censored": False, "level": None}


@dataclass(frozen=True)
class PooledRow:
    """What audits of one method on one concept say together.

    Arguments:
        swept: The point of a grid's sweep of attacks' settings under which they were attacked; "" without one.
        audits: Each edit under each set of attack replicates once.
        found: By attack.
        values: By attack, log F of every edit in every replicate.
        estimates: By attack, log F over all of them.
        told: Plain data for pages and files.
    """

    method: str
    concept: str
    swept: str
    audits: tuple[Audited, ...]
    found: Mapping[str, Measures]
    values: Mapping[str, Values]
    estimates: Mapping[str, Estimate]
    told: Mapping[str, Any]

    @property
    def eligible(self) -> bool:
        return not self.told["not_compared"]


def row_of(method: str, concept: str, swept: str, given: Sequence[Audited], level: float = 0.95) -> PooledRow:
    """A row of a comparison."""
    audits = tuple({(one.edit, one.seeds): one for one in reversed(given)}.values())[::-1]
    names = [name for name in audits[0].result.get("attacks") or {} if all(name in (a.result.get("attacks") or {}) for a in audits)]
    found, values, estimates, remarks = dict[str, Measures](), dict[str, Values](), dict[str, Estimate](), list[str]()
    for name in names:
        found[name], values[name], estimates[name], remark = _measured(audits, name, 1 - (1 - level) / len(names))
        remarks += [remark] if remark else []
    plain, recall = _plain(audits), _recall(audits)
    usefulness = {g: {s: _together(audits, "utility", g, s) for s in ("before", "after")} for g in GROUPS}
    worst = max(names, key=lambda n: (not math.isnan(x := found[n].savings.value), x), default=None)
    shown = {name: _shown(found[name], estimates[name]) for name in names}
    edits = {one.edit for one in audits}
    seeds = {(one.result.get("provenance") or {}).get("edit_seed") for one in given}
    told = {
        "method": method,
        "concept": concept,
        "swept": swept,
        "edits": len(edits),
        "edit_seeds": len(seeds),
        "deterministic": len(edits) == 1 and len(seeds) > 1,
        "replicates": len({seed for one in audits for seed in one.seeds}),
        "audits": [str(one.folder) for one in given],
        "verdict": pooled_verdict(audits, found, recall),
        "attack": worst,
        **(shown[worst] if worst else UNATTACKED),
        "attacks": {name: {**shown[name], "utility": _left(audits, name)} for name in names},
        "plain": plain,
        "recall": recall.as_dict(),
        "utility": usefulness,
        "not_compared": _not_compared(all(one.unedited for one in audits), plain, usefulness["neighbours"]),
        "cost": _cost(audits),
        "sensitive": any(one.result.get("sensitive") for one in audits),
        "remarks": remarks,
    }
    return PooledRow(method, concept, swept, audits, found, values, estimates, told)


def _measured(audits: Sequence[Audited], attack: str, level: float) -> tuple[Measures, Values, Estimate, str]:
    """Savings and reach under an attack, log F of every edit in every replicate and over them, and what is to be said of them."""
    spreads, models = spreads_of(audits[0].result, attack)
    if len(audits) == 1:
        found, logs = as_told(audits[0].result, attack, level), logs_of(audits, attack)
        return found, logs, averaged(logs, (spreads[0], models), found.least[0]) if logs else Estimate(found.log_speedup.value), ""
    remark = ""
    try:
        keys, arms = against_each([(one.edit, one.result) for one in audits], attack)
        base = measure(arms, level)
        logs, reaches = (dict(zip(keys, rows, strict=True)) for rows in (base.log_speedups, base.reaches))
    except BadInput as error:
        remark = f"{attack}: every audit keeps its own levels, because {error}"
        every = [as_told(one.result, attack, level) for one in audits]
        base, once = every[0], [(one.edit, one.seeds[0] if one.seeds else 0) for one in audits]
        reaches = dict(zip(once, (found.reach.value for found in every), strict=True))
        if all(found.log_speedups and one.seeds for one, found in zip(audits, every, strict=True)):
            logs = dict(logs_of(audits, attack))
        else:
            remark += "; as not all tell log F of each replicate, each counts once"
            logs = dict(zip(once, (found.log_speedup.value for found in every), strict=True))
        base = replace(base, censored=any(found.censored for found in every), log_speedups=(*logs.values(),), reaches=(*reaches.values(),))
    edits = {edit for edit, _ in logs}
    pair = [
        averaged(values, (spread, models), least)
        for values, spread, least in zip((logs, reaches), spreads, base.least if models == base.controls else (0.0, 0.0), strict=True)
    ]
    if not pair[0].parts:
        remark = remark or f"{attack}: all edits met one attack replicate, so there is no interval; give each seeds of its own"
    count = len(edits) if len(edits) > 1 else len(logs)
    found = replace(_with(base, pair[0], pair[1], level), replicates=count, spreads=spreads, controls=models)
    return found, logs, pair[0], remark


def _with(base: Measures, fast: Estimate, far: Estimate, level: float) -> Measures:
    """Measures with other estimates."""
    x = fast.interval(level)
    speedup, savings = (Interval(*(turn(end) for end in (x.value, x.low, x.high))) for turn in (_times, saved))
    return replace(base, log_speedup=x, speedup=speedup, savings=savings, reach=far.interval(level), level=level)


def _plain(audits: Sequence[Audited]) -> dict[str, Any] | None:
    return _together(audits, "plain", "edited", every=True)


def _recall(audits: Sequence[Audited]) -> Interval:
    """Plain recall: of pictures pooled, and no narrower than what edits differ by."""
    each = [read_interval((one.result.get("plain") or {}).get("recall") or {}) for one in audits]
    if len(each) == 1:
        return each[0]
    told = [_together(audits, "plain", arm, every=True) for arm in ("edited", "never", "original")]
    if any(row is None for row in told):
        return Interval(float(np.mean([x.value for x in each])), min(x.low for x in each), max(x.high for x in each))
    rate, floor, ceiling = (row or {} for row in told)
    found = read_interval(rate).as_recall(floor["value"], ceiling["value"])
    by_edit: dict[str, list[float]] = {}
    for one, x in zip(audits, each, strict=True):
        by_edit.setdefault(one.edit, []).append(x.value)
    means = [float(np.mean(row)) for row in by_edit.values()]
    return spanned(found, [t_interval(means, 0.95, len(means))]) if len(means) > 1 else found


def _together(audits: Sequence[Audited], *keys: str, every: bool = False) -> dict[str, Any] | None:
    """A rate over all pictures; of every audit, or of each edit once."""
    chosen = audits if every else tuple({one.edit: one for one in audits}.values())
    rates = [rate for one in chosen if (rate := at(one.result, *keys)) and rate.get("value") is not None]
    count = sum(int(rate.get("count") or 0) for rate in rates)
    if not rates:
        return None
    if not count:
        return {"value": float(np.mean([rate["value"] for rate in rates])), "low": None, "high": None, "count": 0}
    hits = round(sum(rate["value"] * (rate.get("count") or 0) for rate in rates))
    return {**wilson(hits, count).as_dict(), "count": count}


def _left(audits: Sequence[Audited], attack: str) -> dict[str, Any]:
    return {group: _together(audits, "attacks", attack, "utility", group, every=True) for group in GROUPS}


def _not_compared(unedited: bool, plain: Mapping[str, Any] | None, neighbours: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """Why a method does not enter a comparison: the rule of decision 0007, which was fixed before any attack ran."""
    if unedited:
        return ["nothing was edited"]
    before, after = neighbours["before"], neighbours["after"]
    why = [] if plain is None or plain["value"] <= SURFACE else [f"plain rate {plain['value']:.2f} above {SURFACE}"]
    why += ["plain rate not known"] if plain is None else []
    if before is None or after is None:
        return [*why, "neighbours' accuracy not known"]
    lost = before["value"] - after["value"]
    return [*why, *([f"neighbours fell by {100 * lost:.0f} points, more than {100 * NEIGHBOURS:.0f}"] if lost > NEIGHBOURS + 1e-9 else [])]


def _cost(audits: Sequence[Audited]) -> dict[str, Any]:
    """Seconds that unlearning took, and calls of the denoiser that the audit rests on, the mean of each."""
    seconds = [at(one.result, "cost", "stages", "unlearn") for one in audits]
    calls = [at(one.result, "cost", "denoiser_calls") for one in audits]
    return {
        "unlearn_seconds": _mean(seconds),
        "denoiser_calls": _mean(calls),
        "audit_seconds": _mean([at(one.result, "cost", "seconds") for one in audits]),
    }


def _mean(values: Sequence[Any]) -> float | None:
    known = [float(x) for x in values if isinstance(x, int | float)]
    return float(np.mean(known)) if known else None


def _shown(found: Measures, estimate: Estimate) -> dict[str, Any]:
    told: dict[str, Any] = {key: getattr(found, key).as_dict() for key in ("speedup", "savings", "reach")}
    told |= {"log_speedup": found.log_speedup.as_dict(), "censored": found.censored, "level": jsonable(found.level)}
    p = two_sided(found.log_speedup, found.level, estimate.freedom) if estimate.parts else math.nan
    return {**told, "p": defined(p)}


def _times(x: float) -> float:
    return math.inf if x > 700 else math.exp(x)


def exponential(x: float) -> float | None:
    """F of a log F; None where that is not finite."""
    return math.exp(x) if math.isfinite(x) and x < 700 else None


def restricted(one: PooledRow, other: PooledRow, attack: str) -> tuple[Values, Values]:
    """log F of two rows over the attack replicates that both met, each normalised by those alone."""
    both = {seed for _, seed in one.values[attack]} & {seed for _, seed in other.values[attack]}
    return _over(one, attack, both), _over(other, attack, both)


def _over(row: PooledRow, attack: str, seeds: set[int]) -> Values:
    try:
        keys, arms = against_each([(a.edit, a.result) for a in row.audits], attack, seeds)
        return dict(zip(keys, measure(arms).log_speedups, strict=True))
    except BadInput:
        return {key: y for key, y in row.values[attack].items() if key[1] in seeds}
