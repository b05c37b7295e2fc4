"""A ledger's result to its page and its table: what was forgotten, what returned, and what was lost, step by step.

Lays out what a sequence wrote and measures nothing; the frame and the plots are those of an audit's page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vestige.errors import BadInput
from vestige.report import audits, page

SCHEMA = "vestige-continual"
_LOST = {"erosion": "erosion", "ripple": "ripple", "reversal": "reversal"}
_DRIFT = {"original": "to original", "previous": "this step"}
_KINDS = {"erosion": "edited", "ripple": "never", "original": "edited", "previous": "original"}


def is_ledger(run: Path) -> bool:
    """Whether a folder holds the result of a sequence."""
    try:
        return str(json.loads((run / "result.json").read_text("utf-8"))["schema"]).startswith(SCHEMA)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write(run: Path, out: Path | None = None) -> Path:
    """Write a ledger's page; `report.html` inside it if `out` is None."""
    if not is_ledger(run):
        raise BadInput(f"{run} holds no result of a `vestige continual`; finish it by repeating its command")
    result = json.loads((run / "result.json").read_text("utf-8"))
    for place in _audited(result):
        if _within(run, place) and (run / place / "result.json").is_file():
            audits.write(run / place)
    return page.write_page(render(result, run), run / "report.html" if out is None else out)


def render(result: Mapping[str, Any], folder: Path) -> str:
    """The page of one sequence.

    Arguments:
        result: Content of `result.json`.
        folder: Directory that the picture strips' paths start from; a path that leaves it is not followed.
    """
    steps, requests = _steps(result), _requests(result)
    lost = {key: [(s["step"], s.get(key) if key == "reversal" else _at(s, key, "drop")) for s in steps] for key in _LOST}
    drift = {key: [(s["step"], {"value": _at(s, "drift", key)}) for s in steps] for key in _DRIFT}
    said = ("Share of pictures, by step.", "Relative distance of the weights, by step.")
    view = {
        "heads": [_head(s) for s in steps],
        "heat": [_row(name, requests, result, [_at(s, "rates", name) for s in steps]) for name in requests],
        "unasked": _unasked(requests, result, steps),
        "returns": [_returns(name, requests, result, steps) for name in page.mappings(result.get("attacks"))],
        "judged": _judged(requests, steps, folder),
        "lost": _charts(lost, _LOST, said=said[0], kind="percent"),
        "drift": _charts(drift, _DRIFT, said=said[1], kind="decimal"),
        "strips": [] if result.get("keep_images") == "none" else _strips(requests, steps, folder),
        "looks": _looks(result),
        "diagnosed": [(_head(s), found) for s in steps if isinstance(found := s.get("diagnostics"), Mapping) and found],
        "noted": [(_head(s), found) for s in steps if isinstance(found := _at(s, "edit", "notes"), Mapping) and found],
        "sensitive": any(_at(r, "sensitive") for r in result.get("requests") or []),
    }
    last = steps[-1] if steps else {}
    return str(page.template("continual").render(result=result, steps=steps, last=last, requests=requests, view=view))


def _audited(result: Mapping[str, Any]) -> list[str]:
    """The folders of the audits that gave verdicts."""
    found = [row.get("run") for step in _steps(result) for row in page.mappings(step.get("verdicts")).values()]
    return sorted({str(place) for place in found if place})


def _within(folder: Path, place: str) -> bool:
    return (folder / place).resolve().is_relative_to(folder.resolve())


def _judged(requests: Sequence[str], steps: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """Verdicts as rows of requests by columns of steps, and of each request the latest in words; {} where none was asked for."""
    asked = [step for step in steps if page.mappings(step.get("verdicts"))]
    rows = [{"name": name, "cells": [_verdict(_at(step, "verdicts", name), folder) for step in asked]} for name in requests]
    latest = [(row["name"], [cell for cell in row["cells"] if cell]) for row in rows]
    return {"heads": [_head(s) for s in asked], "rows": rows, "latest": [(name, c[-1]) for name, c in latest if c]} if asked else {}


def _verdict(found: Any, folder: Path) -> dict[str, Any] | None:
    """A verdict, and where its page lies if that is within the sequence's folder."""
    if not isinstance(found, Mapping):
        return None
    place = str(found.get("run") or "")
    return {"found": found, "page": f"{place}/report.html" if place and not Path(place).is_absolute() and _within(folder, place) else ""}


def _at(value: Any, *keys: str | int) -> Any:
    """What lies at a path in a result, None where the path ends early."""
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list) and isinstance(key, int) and 0 <= key < len(value):
            value = value[key]
        else:
            return None
    return value


def _steps(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [s for s in result.get("steps") or [] if page.number(_at(s, "step")) is not None]


def _requests(result: Mapping[str, Any]) -> list[str]:
    return [str(_at(r, "name")) for r in result.get("requests") or []]


def _looks(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The requests whose files name who looks for them."""
    named = [(r, _at(r, "looks")) for r in result.get("requests") or []]
    return [{"name": str(_at(r, "name")), "found": found} for r, found in named if isinstance(found, Mapping)]


def _head(step: Mapping[str, Any]) -> str:
    return f"{step['step']} {step['request']}" if step.get("request") else "original"


def _row(name: str, requests: Sequence[str], result: Mapping[str, Any], rates: Sequence[Any]) -> dict[str, Any]:
    """A request's rates over the steps; each cell says whether the request was still to come, just made, or made before."""
    asked, chained = requests.index(name) + 1, result.get("mode") != "independent"
    asked = 1 if result.get("mode") == "simultaneous" else asked
    cells = []
    for step, found in enumerate(rates):
        when = "now" if step == asked else "after" if step > asked and chained else "before"
        value = page.number(_at(found, "value"))
        cells.append({"found": found, "value": value, "rate": None if value is None else round(min(max(value, 0.0), 1.0), 3), "when": when})
    return {"name": name, "cells": cells}


def _unasked(requests: Sequence[str], result: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same for prompts that do not name a request, of those requests that give any."""
    given = [name for name in requests if any(_at(s, "leakage", "rates", name) for s in steps)]
    return [_row(name, requests, result, [_at(s, "leakage", "rates", name) for s in steps]) for name in given]


def _returns(attack: str, requests: Sequence[str], result: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What an attack brought back, as one heat map each for its first, middle and last budget."""
    budgets = _at(result, "attacks", attack, "budget") or []
    tables = []
    for at in sorted({0, len(budgets) // 2, len(budgets) - 1}) if isinstance(budgets, list) and budgets else []:
        found = {name: [_at(s, "attacks", attack, name, "curve", at) for s in steps] for name in requests}
        tables.append({"budget": budgets[at], "rows": [_row(name, requests, result, rates) for name, rates in found.items()]})
    return {"name": attack, "tables": tables, "failed": left_out(result, attack)}


def left_out(result: Mapping[str, Any], attack: str) -> list[str]:
    """After which step, and why, an attack has no numbers for a request."""
    made = [(step, name, row) for step in _steps(result) for name, row in page.mappings(_at(step, "attacks", attack)).items()]
    return [f"{_head(step)}, against {name}: {row['failed']}" for step, name, row in made if row.get("failed")]


def _strips(requests: Sequence[str], steps: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Pictures at equal seeds, one row a step, for every request and for the words near none; nothing where none were kept."""

    def rows(*place: str) -> list[dict[str, Any]]:
        return [page.strip_view({"title": _head(step), "file": _at(step, "strips", *place) or ""}, folder) for step in steps]

    others = rows("unrelated")
    made = [{"name": name, "rows": rows("requests", name)} for name in requests]
    return [*made, *([{"name": "near no request", "rows": others}] if any("source" in row for row in others) else [])]


@dataclass(frozen=True)
class _Plot:
    """A picture's size, the plot's edges in it, and two plain axes: the step, and a quantity from `low` to `high`."""

    width: int
    right: int
    height: int
    bottom: int
    last: int
    low: float
    high: float
    left: int = 46
    top: int = 14

    def x(self, place: float) -> float:
        return round(self.left + (self.right - self.left) * place / max(1, self.last), 1)

    def y(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.bottom - (self.bottom - self.top) * share, 1)

    def ticks(self) -> list[tuple[float, float]]:
        every = max(1, math.ceil(self.last * 26 / max(1, self.right - self.left)))
        return [(self.x(step), step) for step in range(0, self.last + 1, every)]

    def levels(self) -> list[tuple[float, float]]:
        gap = _gap(self.high - self.low)
        first, last = math.ceil(self.low / gap - 1e-9), math.floor(self.high / gap + 1e-9)
        return [(self.y(k * gap), round(k * gap, 9) + 0.0) for k in range(first, last + 1)]


def _gap(span: float) -> float:
    """A round distance between levels, four to eight of them."""
    power: float = 10.0 ** math.floor(math.log10(span / 4))
    return max(power * factor for factor in (1, 2, 5) if power * factor <= span / 4 * (1 + 1e-9))


def _charts(quantities: Mapping[str, Sequence[tuple[int, Any]]], names: Mapping[str, str], *, said: str, kind: str) -> list[dict[str, Any]]:
    """A wide and a narrow plot of quantities over the steps; what was measured once is no curve."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for name, row in quantities.items():
        found = [{"dots": [], "budget": step, **q} for step, q in row if isinstance(q, Mapping) and page.number(q.get("value")) is not None]
        if len(found) > 1:
            curves[name] = found
    ends = [page.number(p.get(k)) for points in curves.values() for p in points for k in ("value", "low", "high")]
    known = [end for end in ends if end is not None]
    if not known:
        return []
    last = max(int(p["budget"]) for points in curves.values() for p in points)
    low, high = min(0.0, *known), max(0.1, *known)
    words = {"said": said, "axis": "step", "unit": "step", "kind": kind}
    plots = [_Plot(740, 636, 300, 252, last, low, high), _Plot(350, 246, 280, 232, last, low, high)]
    return [page.chart(curves, names, plot, _KINDS, **words) for plot in plots]


def table(result: Mapping[str, Any]) -> str:
    """The result as Markdown: every request's rate after every step, and what each step cost."""
    steps, requests = _steps(result), _requests(result)
    rates = [[name, *(_said(_at(s, "rates", name), "percent") for s in steps)] for name in requests]
    columns = ["step", "unlearned", "reversal", "unasked", "ripple", "erosion", "KID", "drift"]
    rows = []
    for step in steps:
        shown = (step.get("unlearning_accuracy"), step.get("reversal"), _at(step, "leakage", "rate"))
        percents = (*shown, _at(step, "ripple", "drop"), _at(step, "erosion", "drop"))
        last = (_said(_at(step, "erosion", "kid"), "small"), page.figure(_at(step, "drift", "original")))
        rows.append([_head(step), *(_said(found, "percent") for found in percents), *last])
    return "\n".join([_markdown(["drawn after", *map(_head, steps)], rates), _markdown(columns, rows), *_verdicts(requests, steps)])


def _verdicts(requests: Sequence[str], steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table of verdicts, where any was asked for."""
    asked = [step for step in steps if page.mappings(step.get("verdicts"))]
    rows = [[name, *(_called(_at(step, "verdicts", name)) for step in asked)] for name in requests]
    return [_markdown(["verdict after", *map(_head, asked)], rows)] if asked else []


def _called(found: Any) -> str:
    """A verdict's name with F."""
    if not isinstance(found, Mapping):
        return "–"
    return (
        f"{found.get('kind') or 'none'}, F {_said(found.get('speedup'), 'decimal')}"
        if found.get("speedup")
        else str(found.get("kind") or "none")
    )


def _said(found: Any, kind: str) -> str:
    if not isinstance(found, Mapping):
        return "–"
    return f"{page.figure(found.get('value'), kind)} {page.interval(found, kind)}".strip()


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    clean = str.maketrans({"|": "\\|", "\n": " ", "−": "-", "\u202f": " "})
    lines = [[cell.translate(clean) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in lines) for i in range(len(head))]
    text = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |\n" for row in lines]
    return "".join([text[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|\n", *text[1:]])
