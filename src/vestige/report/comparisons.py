"""A comparison as Markdown, CSV, LaTeX or JSON; it reads what `vestige.compare` says and computes nothing."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vestige.errors import UnknownName
from vestige.report import page as pages
from vestige.report.audits import escaping

Form = Literal["markdown", "csv", "latex", "json"]
FORMS = ("markdown", "csv", "latex", "json")
Told = Mapping[str, Any]

SWEPT = "its settings"
AHEAD = "*"
ROWS = (
    "method",
    "concept",
    "edits",
    "replicates",
    "attack",
    "verdict",
    "F",
    "savings",
    "reach",
    "plain rate",
    "neighbours",
    "unrelated",
    "compared",
)
COSTS = {"unlearn_seconds": "seconds to unlearn", "denoiser_calls": "calls of the audit"}


@dataclass(frozen=True)
class Sheet:
    """A table with its title and what has to be said of it; numbers are mappings with their ends."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    note: str = ""


def written_as(found: Told, form: str) -> str:
    """A comparison in one of the forms.

    Arguments:
        found: What `vestige.compare.summarised` gives.
        form: "markdown" and "latex" (booktabs) print all tables; "csv" the pooled rows alone, unrounded; "json" everything.
    """
    if form not in FORMS:
        raise UnknownName("format", form, FORMS)
    if form == "json":
        return json.dumps(found, indent=2)
    if form == "csv":
        return as_csv(found)
    parts = [_plain(found["remarks"], form)] if found["remarks"] else []
    for field in found["fields"]:
        parts.append(_heading(field, form))
        parts += [_table(sheet, form) for sheet in sheets(field, found["level"])]
        parts += [_plain(told, form)] if (told := said(field)) else []
    return "\n\n".join(part for part in parts if part) + "\n"


def sheets(field: Told, level: float) -> Iterator[Sheet]:
    """The tables of a field."""
    swept = bool(field["swept"])
    rows = tuple(_row(row) for row in field["rows"])
    several = f", {len(field['attacks'])} attacks together" if len(field["attacks"]) > 1 else ""
    yield _apart(
        swept, field["rows"], "Methods", ROWS, rows, f"Brackets are {100 * level:g} % intervals over edits and attack replicates{several}."
    )
    if len(field["attacks"]) > 1:
        if not swept:
            yield _reaches(field["rows"])
        each = [(row, name, found) for row in field["rows"] for name, found in row["attacks"].items()]
        met = tuple(
            (row["method"], row["concept"], name, _speedup(found), found["reach"] or {}, found["p"], found["holm"])
            for row, name, found in each
        )
        note = (
            "Each attack apart; the first table holds the one that finds most. Brackets hold for all attacks of a row together; p is of "
            f"F = 1, the pace of a model that never knew. Comparisons that Holm's p counts: {field['comparisons']}."
        )
        head = ("method", "concept", "attack", "F", "reach", "p", "Holm's p")
        yield _apart(swept, [row for row, _, _ in each], "Attack by attack", head, met, note)
    paid = tuple((row["method"], row["concept"], *(row["cost"][key] for key in COSTS)) for row in field["rows"])
    note = "Means over edits. Calls are of the denoiser, those that other audits share counted in each."
    yield Sheet("Cost", ("method", "concept", *COSTS.values()), paid, note)
    if field["methods"]:
        over = tuple((m["method"], m["attack"], ", ".join(m["concepts"]), m["speedup"]) for m in field["methods"])
        note = "Geometric means; they speak of these concepts, not of others."
        yield _apart(swept, field["methods"], "Over concepts", ("method", "attack", "concepts", "F"), over, note)
    contrasts = field["contrasts"]
    if contrasts["rows"]:
        made = tuple(
            (c["method"], c["against"], c["attack"], ", ".join(c["concepts"]), c["ratio"], c["p"], c["holm"]) for c in contrasts["rows"]
        )
        note = f"Paired over attack replicates; above 1 it comes back faster. Comparisons that Holm's p counts: {contrasts['comparisons']}."
        head = ("method", "against", "attack", "concepts", "ratio of F", "p", "Holm's p")
        yield _apart(swept, contrasts["rows"], "Contrasts", head, made, note)
    if field["ranks"]:
        ranked = tuple((r["surface"], r["attack"], r["of"], str(r["rows"]), r["spearman"], r["kendall"], r["p"]) for r in field["ranks"])
        note = "Does what is seen without an attack order methods as the attack does? Intervals: bootstrap over methods; p is of tau."
        head = ("surface", "attack", "methods", "rows", "Spearman", "Kendall's tau", "p")
        yield _apart(swept, field["ranks"], "Surface and savings", head, ranked, note)


def _apart(swept: bool, told: Sequence[Told], title: str, head: tuple[str, ...], rows: tuple[tuple[Any, ...], ...], note: str) -> Sheet:
    """A table, with the attacks' settings behind the attack where a grid varies them."""
    at = head.index("attack") + 1
    if not swept:
        return Sheet(title, head, rows, note)
    whole = tuple((*row[:at], one["swept"] or None, *row[at:]) for row, one in zip(rows, told, strict=True))
    return Sheet(title, (*head[:at], SWEPT, *head[at:]), whole, note)


def _row(row: Told) -> tuple[Any, ...]:
    kept = [change(row["utility"][group]) for group in ("neighbours", "unrelated")]
    why = "yes" if not row["not_compared"] else "; ".join(row["not_compared"])
    edits = f"{row['edits']} of {row['edit_seeds']} seeds" if row["deterministic"] else str(row["edits"])
    head = (row["method"], row["concept"], edits, str(row["replicates"]), row["attack"], row["verdict"]["kind"])
    return (*head, _speedup(row), row["savings"] or {}, row["reach"] or {}, row["plain"] or {}, *kept, why)


def _reaches(rows: Sequence[Told]) -> Sheet:
    """Methods by attacks."""
    names = list(dict.fromkeys(name for row in rows for name in row["attacks"]))
    reached = tuple((row["method"], row["concept"], *(_reached(row["attacks"].get(name)) for name in names)) for row in rows)
    note = f"How much further it ends than a model that never knew, the original being at 1. {AHEAD}: the interval below lies above 0."
    return Sheet("Reach under each attack", ("method", "concept", *names), reached, note)


def _reached(found: Told | None) -> str | None:
    """A reach, marked where its interval excludes that of a model that never knew."""
    value, low = (pages.number(((found or {}).get("reach") or {}).get(end)) for end in ("value", "low"))
    return None if value is None else f"{value:.2f}{AHEAD if low is not None and low > 0 else ''}"


def _speedup(found: Told) -> Told:
    """F, and whether it is a lower bound."""
    return {**(found["speedup"] or {}), "least": found["censored"]}


def change(stages: Told) -> float | None:
    """Points by which accuracy changed."""
    before, after = (pages.number((stages.get(stage) or {}).get("value")) for stage in ("before", "after"))
    return None if before is None or after is None else round(100 * (after - before), 1) + 0.0


def all_said(found: Told) -> list[str]:
    """What has to be said beside the pooled rows: of what was passed over, what was left out, and of every field."""
    return [*found["remarks"], *(told for field in found["fields"] for told in said(field))]


def said(field: Told) -> list[str]:
    """What is to be said of a field beside its tables."""
    told = list(field["remarks"])
    for kinds in field["kinds"]:
        told.append(kinds_said(kinds))
    without = field["contrasts"]["without"]
    if without:
        shown = "; ".join(without[:6]) + (f"; and {len(without) - 6} more" if len(without) > 6 else "")
        told.append(f"Not contrasted, because one of them does not enter the comparison or they met no attack replicate together: {shown}.")
    return [*told, *_left_out(field["left_out"])]


def _left_out(why: Mapping[str, str]) -> Iterator[str]:
    """Audits that are not compared, by reason."""
    for reason in dict.fromkeys(why.values()):
        names = [Path(folder).name for folder, other in why.items() if other == reason]
        yield f"{len(names)} audit{'' if len(names) == 1 else 's'} left out, {reason}: {', '.join(names)}."


def kinds_said(kinds: Told) -> str:
    """Whether there are two kinds of forgetting, as a sentence."""
    under = f"{kinds['attack']}{f', {swept}' if (swept := kinds.get('swept')) else ''}"
    if kinds["p"] is None:
        few = f"{kinds['methods']} method{'' if kinds['methods'] == 1 else 's'} cannot tell one kind of forgetting from two"
        return f"{under}: {few}; {kinds['needed']} are needed."
    low, high = kinds["speedups"]
    found = "two kinds of forgetting" if kinds["p"] < 0.05 else "no sign of two kinds of forgetting"
    centres = f"centres at F {low:.2g} and {high:.2g}, {kinds['share']:.0%} in the lower one"
    return f"{under}: {found} (p = {kinds['p']:.2g}, {kinds['methods']} methods; {centres})."


def as_csv(found: Told) -> str:
    """The pooled rows of all fields, every bound a column, unrounded."""
    numbers = ("F", "savings", "reach", "plain rate")
    head = [name for column in ROWS for name in ([column, f"{column}_low", f"{column}_high"] if column in numbers else [column])]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    swept = any(field["swept"] for field in found["fields"])  # a column of its own only where a grid varies attacks
    names = (name.replace(" ", "_") for name in head)
    writer.writerow(["suite", "form", "model", *(["swept"] if swept else []), *names, "F_is_lower_bound"])
    for field in found["fields"]:
        for row in field["rows"]:
            cells = [field["suite"], field["form"], field["model"], *([row["swept"]] if swept else [])]
            for value in _row(row):
                cells += [value.get(end) for end in ("value", "low", "high")] if isinstance(value, Mapping) else [value]
            writer.writerow([*cells, "yes" if row["censored"] else "no"])
    return stream.getvalue()


def _heading(field: Told, form: str) -> str:
    text = f"{field['model']}, suite {field['suite']}, form {field['form']} of the verdict: {field['audits']} audits"
    return f"## {_clean(text, form)}" if form == "markdown" else f"\\section*{{{_clean(text, form)}}}"


def _plain(told: Sequence[str], form: str) -> str:
    lines = [_clean(line, form) for line in told]
    return "\n".join(f"- {line}" for line in lines) if form == "markdown" else "\n\n".join(lines)


def _table(sheet: Sheet, form: str) -> str:
    body = [[_text(value, name, form) for name, value in zip(sheet.head, row, strict=True)] for row in sheet.rows]
    head = [_clean(name, form) for name in sheet.head]
    note = _clean(sheet.note, form)
    if form == "markdown":
        lines = [head, [":--" for _ in head], *body]
        return f"### {sheet.title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + (f"\n\n{note}" if note else "")
    rows = "".join(f"  {' & '.join(line)} \\\\\n" for line in body)
    top = f"\\begin{{tabular}}{{{'l' * len(head)}}}\n  \\toprule\n  {' & '.join(head)} \\\\\n  \\midrule\n"
    return f"\\subsection*{{{sheet.title}}}\n{top}{rows}  \\bottomrule\n\\end{{tabular}}\n\n{note}"


def _text(value: Any, name: str, form: str) -> str:
    if isinstance(value, Mapping):
        kind = "times" if name in ("F", "ratio of F") else "decimal"
        least = "at least " if value.get("least") and value.get("value") is not None else ""
        shown = f"{least}{pages.figure(value.get('value'), kind, False)} {pages.interval(value, kind)}".strip()
        return shown.replace("−", "-")
    if name in ("p", "Holm's p"):
        less = "<0.001" if form == "markdown" else _clean("<0.001", form)
        return "–" if value is None else less if value < 0.001 else f"{value:.2g}"
    if isinstance(value, float) and name in COSTS.values():
        return f"{value:,.0f}"
    if isinstance(value, float):
        return f"{value:+.1f}" if name in ("neighbours", "unrelated") else f"{value:.2f}"
    return "–" if value is None else _clean(str(value), form)


def _clean(text: str, form: str) -> str:
    return " ".join(text.split()).translate(escaping(form))
