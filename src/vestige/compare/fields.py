"""Which audits may stand beside each other, and what their methods are called.

A *field* is what one suite, one form of the verdict and one model have in common; numbers of two fields are never set side by side. Within
a field the audits of a concept share control, prompts, judges, sampler and the attacks' settings; those that do not are left out, and said.
Settings of attacks that a grid varies on purpose are a part of what a row is: under each point of a sweep the others have to agree.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vestige.compare.gathering import Audited

NO_EDIT = "no edit"
Row = tuple[str, str, str]  # a method, a concept, and the point of a grid's sweep of attacks, "" without one


@dataclass(frozen=True)
class Field:
    """Audits that may be compared.

    Arguments:
        suite: Its name, with its digits.
        form: Of the verdict.
        model: Whose edits they are, by name.
        rows: By method, concept and point of a sweep, an audit each edit and replicate.
        left_out: An audit's folder -> why.
    """

    suite: str
    form: str
    model: str
    rows: Mapping[Row, tuple[Audited, ...]]
    left_out: Mapping[str, str]


def fields_of(audits: Sequence[Audited]) -> list[Field]:
    """Every field, the largest first."""
    apart: dict[tuple[str, ...], list[Audited]] = {}
    for one in audits:
        mark = str((one.result.get("provenance") or {}).get("model_hash") or one.result.get("model"))
        apart.setdefault((str(one.result.get("suite")), one.form, mark), []).append(one)
    return sorted((_field(group) for group in apart.values()), key=lambda f: -sum(map(len, f.rows.values())))


def _field(audits: Sequence[Audited]) -> Field:
    kept, left_out = list[Audited](), dict[str, str]()
    for concept, swept in dict.fromkeys((a.concept, a.swept) for a in audits):
        alike = [a for a in audits if (a.concept, a.swept) == (concept, swept)]
        usual = _usual([_terms(a) for a in alike])
        for one in alike:
            others = [name for name, term in _terms(one).items() if name in usual and usual[name] != term]
            if others:
                left_out[str(one.folder)] = f"because {' and '.join(others)} differ from those of most audits of {concept} here"
            else:
                kept.append(one)
    names = _names(kept)
    rows: dict[Row, list[Audited]] = {}
    for one in kept:
        rows.setdefault((names[str(one.folder)], one.concept, one.swept), []).append(one)
    first = audits[0]
    model = str(first.result.get("model"))
    return Field(str(first.result.get("suite")), first.form, model, {row: tuple(group) for row, group in rows.items()}, left_out)


def _terms(audit: Audited) -> dict[str, str]:
    """What audits of one concept have to agree in, as text."""
    result, control = audit.result, audit.result.get("control") or {}
    judges = {
        role: [judge.get(key) for key in ("name", "version", "weights_hash", "threshold")]
        for role, judge in (result.get("detector") or {}).items()
        if isinstance(judge, Mapping)
    }
    protocol = {key: value for key, value in (result.get("protocol") or {}).items() if key not in ("replicates", "held_out_prompts")}
    prompts = audit.spec.get("concept") or (result.get("protocol") or {}).get("held_out_prompts")
    told: dict[str, Any] = {
        "never-models": [control.get("kind"), control.get("names") or control.get("name")],
        "prompts": prompts,
        "judges": judges,
        "sampler and budgets": protocol,
    }
    for name, found in sorted((result.get("attacks") or {}).items()):
        told[f"settings of {name}"] = [found.get("settings"), found.get("references")]
    return {name: json.dumps(value, sort_keys=True) for name, value in told.items()}


def _usual(terms: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The terms of most audits, together; of an attack that most do not run, the most frequent settings."""
    rows = list(terms)
    core = Counter(tuple(sorted((k, v) for k, v in row.items() if not k.startswith("settings of "))) for row in rows).most_common(1)[0][0]
    attacks = Counter((k, v) for row in rows for k, v in row.items() if k.startswith("settings of "))
    usual = dict(core)
    for (name, value), _ in attacks.most_common():
        usual.setdefault(name, value)
    return usual


def _names(audits: Sequence[Audited]) -> dict[str, str]:
    """Folder -> method: as a grid calls it, else the edit's method, with method and settings by which it differs from its namesakes."""
    names = dict[str, str]()
    groups: dict[tuple[str, bool, str], dict[str, list[Audited]]] = {}
    for one in audits:
        alike = groups.setdefault((one.name or _method(one), bool(one.name), one.concept), {})
        alike.setdefault(_method(one), []).append(one)
    for (name, *_), methods in groups.items():
        for method, group in methods.items():
            told = [_settings(one) for one in group]
            keys = varied(told)
            for one, row in zip(group, told, strict=True):
                more = [*([method] if len(methods) > 1 else []), *(f"{key} {row.get(key)}" for key in keys)]
                names[str(one.folder)] = f"{name} ({', '.join(more)})" if more else name
    return names


def varied(told: Sequence[Mapping[str, Any]]) -> list[str]:
    """Settings in which namesakes differ, in the order of their names."""
    keys = sorted({key for row in told for key in row})
    return [key for key in keys if len({json.dumps(row.get(key), sort_keys=True) for row in told}) > 1]


def _method(audit: Audited) -> str:
    edit = audit.result.get("edit") or {}
    return NO_EDIT if audit.unedited else str(edit.get("method") or "an unnamed method")


def _settings(audit: Audited) -> Mapping[str, Any]:
    edit = audit.result.get("edit") or {}
    return edit.get("settings") or {}
