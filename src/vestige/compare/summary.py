"""Everything that a comparison says, as plain data for tables and pages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vestige.compare.fields import Field, fields_of
from vestige.compare.gathering import Gathered
from vestige.compare.relations import contrasts, corrected, kinds_of, ranks
from vestige.compare.rows import PooledRow, exponential, row_of
from vestige.verdict.pooling import across

SCHEMA = "vestige-comparison-1"
BEST = ("erased", "long-term", "inconclusive", "short-term", "not forgotten")


def summarised(found: Gathered, *, against: str = "", level: float = 0.95) -> dict[str, Any]:
    """Audits pooled by method and concept, contrasted and ranked, field by field.

    Arguments:
        against: The method that all others are contrasted with; "": all pairs.
        level: Coverage of a row's intervals, over its attacks together (Bonferroni).

    Raises:
        UnknownName: No field has the method that is named.
    """
    fields = fields_of(found.audits)
    names = {method for field in fields for method, _, _ in field.rows}
    told = [_told(field, against if against in {m for m, _, _ in field.rows} or against not in names else "", level) for field in fields]
    return {
        "schema": SCHEMA,
        "audits": len(found.audits),
        "level": level,
        "fields": told,
        "remarks": [*found.remarks, *_apart(fields)],
    }


def _apart(fields: Sequence[Field]) -> list[str]:
    """What it means that there are several fields."""
    if len(fields) < 2:
        return []
    differ = {
        "suites": {f.suite for f in fields},
        "forms of the verdict": {f.form for f in fields},
        "models": {f.model for f in fields},
    }
    what = [f"{name} ({', '.join(sorted(values))})" for name, values in differ.items() if len(values) > 1]
    return [
        f"These audits differ in {' and '.join(what) or 'their models'}: numbers do not compare from one to the next, so each stands alone."
    ]


def _told(field: Field, against: str, level: float) -> dict[str, Any]:
    """One field."""
    rows = [row_of(*which, audits, level) for which, audits in field.rows.items()]
    rows.sort(key=lambda row: (row.concept, _numbered(row.swept), _place(row)))
    attacks = _common(rows)
    compared = corrected([found for row in rows for found in row.told["attacks"].values()])
    points = {swept: [row for row in rows if row.swept == swept] for swept in sorted({row.swept for row in rows}, key=_numbered)}
    audits = [one for group in field.rows.values() for one in group]
    return {
        "suite": field.suite,
        "form": field.form,
        "model": field.model,
        "concepts": list(dict.fromkeys(row.concept for row in rows)),
        "swept": [swept for swept in points if swept],
        "attacks": attacks,
        "audits": len(audits),
        "rows": [row.told for row in rows],
        "comparisons": compared,
        "methods": _over_concepts(rows, attacks, level),
        "contrasts": contrasts(rows, attacks, against, level),
        "ranks": [{**rank, "swept": swept} for swept, own in points.items() for rank in ranks(own, attacks, level)],
        "kinds": [{**kinds_of(own, attack), "swept": swept} for swept, own in points.items() for attack in attacks],
        "left_out": dict(field.left_out),
        "versions": _versions([one.result.get("provenance") or {} for one in audits]),
        "remarks": _remarks(rows, audits),
    }


def _numbered(swept: str) -> list[tuple[str, float]]:
    """A point of a sweep for sorting, its numbers by their size."""
    words = re.split(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", swept)
    return [(word, float(number)) for word, number in zip(words[::2], [*words[1::2], "0"], strict=True)]


def _place(row: PooledRow) -> tuple[bool, int, float]:
    """Forgotten best first: of methods that enter the comparison by verdict and then F, the others behind them."""
    kind, value = row.told["verdict"]["kind"], (row.told["speedup"] or {}).get("value")
    return not row.eligible, BEST.index(kind) if kind in BEST else len(BEST), float("inf") if value is None else float(value)


def _common(rows: Sequence[PooledRow]) -> list[str]:
    """Attacks that every row has; where there is none, those of most."""
    tried = [list(row.found) for row in rows]
    shared = [name for name in tried[0] if all(name in names for names in tried)]
    if shared:
        return shared
    every = [name for names in tried for name in names]
    return [max(dict.fromkeys(every), key=every.count)] if every else []


def _over_concepts(rows: Sequence[PooledRow], attacks: Sequence[str], level: float) -> list[dict[str, Any]]:
    """Each method over the concepts where it enters the comparison, by attack and its settings; nothing where there is one concept only."""
    if len({row.concept for row in rows}) < 2:
        return []
    made = []
    for method, swept in dict.fromkeys((row.method, row.swept) for row in rows):
        alike = [row for row in rows if (row.method, row.swept) == (method, swept)]
        own = [row for row in alike if row.eligible and set(attacks) <= set(row.estimates)]
        for attack in attacks if own else ():
            whole = across([row.estimates[attack] for row in own]).interval(1 - (1 - level) / max(1, len(attacks)))
            speedup = {end: exponential(getattr(whole, end)) for end in ("value", "low", "high")}
            concepts = [row.concept for row in own]
            made.append({"method": method, "swept": swept, "attack": attack, "concepts": concepts, "speedup": speedup})
    return made


def _versions(told: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """What computed the audits."""
    names = ("vestige", "torch", "diffusers", "transformers", "peft", "python")
    return {name: sorted({str(row[name]) for row in told if name in row}) for name in names}


def _remarks(rows: Sequence[PooledRow], audits: Sequence[Any]) -> list[str]:
    """What a reader of a field has to know."""
    same = list(dict.fromkeys(f"{row.method} ({row.concept})" for row in rows if row.told["deterministic"]))
    told = [f"Equal to the bit under every seed, and counted as one edit: {', '.join(same)}."] if same else []
    if any(len(one.result.get("looks") or []) > 1 for one in audits) and any(len(row.audits) > 1 for row in rows):
        told.append("Some audits added replicates until they decided; intervals over several edits do not allow for that.")
    names = [f"{row.method} ({', '.join(filter(None, (row.concept, row.swept)))})" for row in rows]
    return [*told, *(f"{name}: {remark}" for name, row in zip(names, rows, strict=True) for remark in row.told["remarks"])]
