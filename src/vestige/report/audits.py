"""Run directories to one self-contained HTML page, and results to a comparison table.

The page lays out what an audit wrote and measures nothing; the only arithmetic is layout, and the difference of two
accuracies in a table. What a page is made of lies in `pages`.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vestige.errors import BadInput, UnknownName
from vestige.report import page as pages

Result = Mapping[str, Any]
Style = Literal["markdown", "csv", "latex"]

_ARMS = {"original": "original", "never": "never knew", "edited": "edited"}  # drawn in this order, the audited model on top
_KINDS = {key: key for key in _ARMS}
LINES = {"surface": 0.2, "savings_long": 1 / 3, "savings_short": 2 / 3, "reach_long": 0.2, "reach_short": 0.5}  # of results that carry none
REAL = "real pictures"  # what a ceiling is `of` where there was no original
_WORDS = {
    "said": "Share of pictures that show the concept, against the attack's budget.",
    "axis": "attack budget, optimiser steps",
    "unit": "budget",
    "kind": "percent",
}
_MARKDOWN = {c: "\\" + c for c in "\\|`*_[]"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_LATEX = {c: "\\" + c for c in "&%$#_{}"} | {c: rf"\text{name}{{}}" for c, name in zip("<>|", ("less", "greater", "bar"), strict=True)}
_LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {"[": "{[}", "*": "{*}"}  # behind the end of a row they would be its argument


def write(run: Path, out: Path | None = None) -> Path:
    """Writes the page of an audit, by rename, so that a reader never sees half of it.

    Arguments:
        run: Directory of a finished audit, or one whose sub-directories hold finished audits; those share one page.
        out: Where the page goes; `report.html` inside `run` if None.

    Raises:
        BadInput: Neither `run` nor a sub-directory holds the result of an audit.
    """
    single = (run / "result.json").exists()
    folders = [] if single else [path.parent for path in sorted(run.glob("*/result.json")) if _is_audit(_parse(path))]
    page = _page([(read(folder), folder) for folder in folders or [run]])
    return pages.write_page(page, run / "report.html" if out is None else out)


def read(run: Path) -> dict[str, Any]:
    """The result of a finished audit.

    Raises:
        BadInput: There is no result, it cannot be read, or it is not an audit's.
    """
    result = _parse(run / "result.json")
    if _is_audit(result):
        return dict(result)
    given = result.get("schema") if isinstance(result, dict) else type(result).__name__
    raise BadInput(f"{run}/result.json holds {given!r}, not the result of an audit; a report needs a directory written by `vestige audit`")


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        remedy = "give the directory of a finished audit, or finish this one by running its `vestige audit` command again"
        raise BadInput(f"{path.parent} holds no {path.name}, so there is nothing to report; {remedy}") from None
    except ValueError as error:
        raise BadInput(f"{path} is not readable as JSON ({error}); delete it and run the audit again") from error


def _is_audit(result: object) -> bool:
    return isinstance(result, dict) and str(result.get("schema", "vestige-audit")).startswith("vestige-audit")


def render(result: Result, folder: Path) -> str:
    """The page of one audit.

    Arguments:
        result: Content of `result.json`; what is missing is left out of the page.
        folder: Directory that the picture strips' paths start from; a path that leaves it is not followed.
    """
    return _page([(result, folder)])


def table(results: Sequence[Result], style: Style) -> str:
    """A comparison, one row a result.

    Arguments:
        results: Contents of `result.json`.
        style: "markdown" and "latex" (booktabs) print intervals in brackets; "csv" gives each bound a column, unrounded.
    """
    if style not in ("markdown", "csv", "latex"):
        raise UnknownName("table style", style, ["markdown", "csv", "latex"])
    rows = [_row(result) for result in results]
    if style == "csv":
        return _csv(rows)
    special = escaping(style)
    cells = [" & ".join(_texts(row, special)) if style == "latex" else " | ".join(_texts(row, special)) for row in rows]
    if style == "markdown":
        head = " | ".join(_row({})), " | ".join([":--"] * 5 + ["--:"] * 5 + [":--"])
        return "".join(f"| {line} |\n" for line in (*head, *cells))
    body = "".join(f"  {line} \\\\\n" for line in cells)
    head_line = " & ".join(_row({}))
    return f"\\begin{{tabular}}{{lllllrrrrrl}}\n  \\toprule\n  {head_line} \\\\\n  \\midrule\n{body}  \\bottomrule\n\\end{{tabular}}\n"


def escaping(style: str) -> Mapping[int, str]:
    """What letters that mean something in a table's markup are written as."""
    return str.maketrans(_MARKDOWN if style == "markdown" else _LATEX)


def _row(result: Result) -> dict[str, Any]:
    """A result's columns: texts, numbers with their intervals, and changes of accuracy in points."""
    utility, edit, verdict = (result.get(key) or {} for key in ("utility", "edit", "verdict"))
    row = {"model": result.get("model"), "concept": result.get("concept"), "method": edit.get("method")}
    row |= {"attack": _headline(result), "verdict": verdict.get("kind")}
    row |= {key: result.get(key) or {} for key in ("savings", "speedup", "reach")}
    for key in ("neighbours", "unrelated"):
        before, after = (pages.number(((utility.get(key) or {}).get(when) or {}).get("value")) for when in ("before", "after"))
        row[f"{key} points"] = None if before is None or after is None else round(100 * (after - before), 1) + 0.0
    return row | {"suite": result.get("suite")}


def _texts(row: Mapping[str, Any], special: Mapping[int, str]) -> Iterator[str]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            kind = "times" if name == "speedup" else "decimal"
            yield f"{pages.figure(value.get('value'), kind)} {pages.interval(value, kind)}".strip().replace("−", "-").replace("×", "")
        elif isinstance(value, float):
            yield f"{value:+.1f}"
        else:
            yield "–" if value is None else " ".join(str(value).split()).translate(special)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    head = [[name, f"{name}_low", f"{name}_high"] if isinstance(value, Mapping) else [name] for name, value in _row({}).items()]
    bodies = [[[v.get(k) for k in ("value", "low", "high")] if isinstance(v, Mapping) else [v] for v in row.values()] for row in rows]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([name.replace(" ", "_") for group in head for name in group])
    writer.writerows([cell for group in body for cell in group] for body in bodies)
    return stream.getvalue()


def _headline(result: Result) -> str | None:
    name = result.get("headline")
    return str(name) if name is not None else next(iter(pages.mappings(result.get("attacks"))), None)


def _page(audits: Sequence[tuple[Result, Path]]) -> str:
    views = [_view(result, folder) for result, folder in audits]
    rows = [list(_texts(_row(result), {})) for result, _ in audits]
    suites = {result.get("suite") for result, _ in audits}
    lines = _drawn_at([result for result, _ in audits])
    return str(pages.template("report").render(audits=views, heads=list(_row({})), rows=rows, mixed=len(suites) > 1, lines=lines))


def _view(result: Result, folder: Path) -> dict[str, Any]:
    """A result with everything that needs a place: curves, scales and pictures."""
    names = _ARMS if result.get("edit") else _ARMS | {"edited": "this model"}
    top = result.get("ceiling") or {}
    no_original = isinstance(top, Mapping) and top.get("of") == REAL
    names = names | {"original": REAL} if no_original else names
    headline = _headline(result)
    attacks = [_attack(name, found, names, top if no_original else None) for name, found in pages.mappings(result.get("attacks")).items()]
    attacks.sort(key=lambda attack: attack["name"] != headline)
    censored = any(attack["found"].get("censored") for attack in attacks[:1])
    lines = _lines(result)
    scales = [_scale(result.get("savings") or {}, lines["savings_long"], lines["savings_short"])]
    scales += [_scale(result.get("reach") or {}, lines["reach_long"], lines["reach_short"])] if censored else []
    strips = [pages.strip_view(row, folder) for row in result.get("strips") or []]
    captions = {pages.plain(strip["caption"]) for strip in strips if strip["caption"]}
    caption = captions.pop() if len(captions) == 1 else None
    left = any(isinstance(attack["found"].get("utility"), Mapping) for attack in attacks)
    view = {"result": result, "arms": names, "attacks": attacks, "censored": censored, "scales": scales, "left": left}
    times = [_times(lines[key]) for key in ("savings_long", "savings_short")]
    view |= {"success": _success(result), "by_bank": _by_bank(result, lines["surface"])}
    return view | {"no_original": no_original, "times": times, "strips": strips, "caption": caption}


def _success(result: Result) -> dict[str, Any]:
    """Success rates by attack, of those results that hold any."""
    rows = pages.mappings(result.get("attacks"))
    return {name: found["success"] for name, found in rows.items() if isinstance(found.get("success"), Mapping)}


def _by_bank(result: Result, surface: float) -> str:
    """The bank of prompts that a verdict rests on; "" where plain prompts show the concept by themselves, or no bank does."""
    low = pages.number((((result.get("plain") or {}).get("recall")) or {}).get("low"))
    told = [bank for bank in result.get("banks") or [] if bank.get("verdict") == "not forgotten"]
    if not told or (low is not None and low > surface):
        return ""
    return str(max(told, key=lambda bank: bank["recall"]["low"])["name"])


def _lines(result: Result) -> dict[str, float]:
    """Where one verdict ended and the next began in this audit; calibration may have moved them. One without any has the usual."""
    stored = result.get("lines")
    known = {key: pages.number(value) for key, value in (stored if isinstance(stored, Mapping) else {}).items()}
    return LINES | {key: value for key, value in known.items() if key in LINES and value is not None}


def _label(line: float) -> str:
    """A line as a reader knows it: thirds as fractions, anything else with two digits."""
    third = round(3 * line)
    return f"{third}/3" if abs(3 * line - third) < 1e-9 and third in (1, 2) else f"{line:.2f}".removesuffix("0")


def _times(savings: float) -> str:
    """The speed-up at a line of savings."""
    return f"{1 / (1 - savings):.2f}".rstrip("0").rstrip(".") + "×"


def _drawn_at(audits: Sequence[Result]) -> dict[str, str]:
    """The lines as the page's words name them; several audits may have been decided by several."""
    rows = [_lines(result) for result in audits] or [LINES]
    told = {key: " or ".join(dict.fromkeys(_label(row[key]) for row in rows)) for key in LINES}
    times = {f"times_{end}": " or ".join(dict.fromkeys(_times(row[f"savings_{end}"]) for row in rows)) for end in ("long", "short")}
    return told | times


def _scale(quantity: Mapping[str, Any], *lines: float) -> dict[str, Any] | None:
    """Places, in percent of the width, of a value and its interval on an axis that ends at 1, and of its two lines."""
    value, low, high = (pages.number(quantity.get(key)) for key in ("value", "low", "high"))
    if value is None:
        return None
    start = max(-1.0, min(-0.25, value - 0.05, (value if low is None else low) - 0.05))
    marks = {"value": value, "low": low, "high": high, "zero": 0.0, "first": lines[0], "second": lines[1]}
    places = {key: None if x is None else round(100 * (min(max(x, start), 1.0) - start) / (1.0 - start), 2) for key, x in marks.items()}
    return {**places, "labels": [_label(line) for line in lines]}


def _attack(name: str, found: Mapping[str, Any], names: Mapping[str, str], top: Result | None) -> dict[str, Any]:
    """One attack's curves; `top` is the rate that stands where an original's curve would."""
    arms = pages.mappings(found.get("arms"))
    if top is not None:
        arms["original"] = {"curve": [{"budget": 0, "score": top.get("value"), "low": top.get("low"), "high": top.get("high")}]}
    order = sorted(arms, key=lambda key: [*names].index(key) if key in names else -1)
    curves = {key: points for key in order if (points := _points(arms[key]))}
    budgets = sorted({point["budget"] for points in curves.values() for point in points})
    cells = [{point["budget"]: point for point in points} for points in curves.values()]
    rows = [{"budget": budget, "cells": [points.get(budget) for points in cells]} for budget in budgets]
    frames = [_Frame(740, 636, 380, 332, budgets), _Frame(350, 246, 310, 262, budgets)] if curves else []
    charts = [pages.chart(curves, names, frame, _KINDS, **_WORDS) for frame in frames]
    tried = max((len(side) for side in pages.mappings(found.get("ways")).values()), default=0)
    ways = {arm: str(found.get(f"{arm}_variant")) for arm in ("edited", "never")} if tried > 1 else {}
    return {"name": name, "found": found, "charts": charts, "rows": rows, "heads": [names.get(key, key) for key in curves], "ways": ways}


def _points(arm: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The usable points of a curve, in the order of their budgets, each with its single replicates."""
    curve = arm.get("curve") or []
    replicates = [scores for scores in arm.get("replicates") or [] if isinstance(scores, list) and len(scores) == len(curve)]
    points = [{**p, "value": p.get("score"), "dots": [scores[i] for scores in replicates]} for i, p in enumerate(curve)]
    usable = [p for p in points if pages.number(p["value"]) is not None and pages.number(p.get("budget")) is not None and p["budget"] >= 0]
    return sorted(usable, key=lambda p: float(p["budget"]))


@dataclass(frozen=True)
class _Frame:
    """A picture's size, the plot's edges in it, and the two axes, log(1 + budget) and rate; names stand in the right margin."""

    width: int
    right: int
    height: int
    bottom: int
    budgets: Sequence[float]
    left: int = 46
    top: int = 14

    def x(self, budget: float) -> float:
        return round(self.left + (self.right - self.left) * math.log1p(budget) / (math.log1p(self.budgets[-1]) or 1.0), 1)

    def y(self, rate: float) -> float:
        return round(self.bottom - (self.bottom - self.top) * min(max(rate, 0.0), 1.0), 1)

    def levels(self) -> list[tuple[float, float]]:
        return [(self.y(rate), rate) for rate in (0.0, 0.25, 0.5, 0.75, 1.0)]

    def ticks(self, gap: float = 26) -> list[tuple[float, float]]:
        """The budgets that have room for a label; the first and the last always do."""
        kept = [self.budgets[0]]
        for budget in self.budgets[1:-1]:
            if self.x(budget) - self.x(kept[-1]) >= gap and self.right - self.x(budget) >= gap:
                kept.append(budget)
        return [(self.x(budget), budget) for budget in dict.fromkeys([*kept, self.budgets[-1]])]
