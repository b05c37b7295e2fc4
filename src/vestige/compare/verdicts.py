"""The verdict on a method over its edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vestige.compare.gathering import Audited
from vestige.verdict import Flag, Interval, Lines, decide
from vestige.verdict.decision import Top
from vestige.verdict.savings import Measures


def pooled_verdict(audits: Sequence[Audited], found: Mapping[str, Measures], recall: Interval) -> dict[str, Any]:
    """One audit's own, or the verdict on all edits together, under every flag that fired in any audit."""
    if len(audits) == 1:
        own = audits[0].result.get("verdict") or {}
        flags = [f"{flag.get('name')}" for flag in own.get("flags") or []]
        return {"kind": own.get("kind"), "reason": own.get("reason"), "between": own.get("between"), "flags": flags, "pooled": False}
    told = [flag for one in audits for flag in (one.result.get("verdict") or {}).get("flags") or []]
    every = [Flag(str(flag.get("name")), flag.get("kind") or "informing", str(flag.get("text") or "")) for flag in told]
    fired: dict[tuple[str, str], Flag] = {(flag.name, flag.kind): flag for flag in every}
    if any(one.result.get("positives_spared") for one in audits):
        text = "some of these audits attacked no positive control, for their own verdicts needed none"
        fired["no-positive-control", "capping"] = Flag("no-positive-control", "capping", text)
    stored = audits[0].result.get("lines") or {}
    lines = Lines(**{key: value for key, value in stored.items() if key in Lines.__dataclass_fields__ and value is not None})
    passive = frozenset(n for n in found if audits[0].result["attacks"][n].get("trains") is False)
    made = decide(recall, found, tuple(fired.values()), lines, Top(untrained=passive))
    blocked = any(kind == "blocking" for _, kind in fired)
    if not blocked and made.kind != "not forgotten" and (asked := _unforgotten(audits)):
        made = replace(made, kind="not forgotten", reason=asked, between=None)
    between = list(made.between) if made.between else None
    return {"kind": made.kind, "reason": made.reason, "between": between, "flags": [name for name, _ in fired], "pooled": True}


def _unforgotten(audits: Sequence[Audited]) -> str:
    """The bank of prompts by which an edit is not forgotten, whatever attacks found; "" where none is."""
    for one in audits:
        for bank in one.result.get("banks") or []:
            if bank.get("verdict") == "not forgotten":
                return f"asked by {bank.get('name')}, an edit of these draws the concept"
    return ""
