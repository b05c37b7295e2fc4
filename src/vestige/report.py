"""Run directories to one self-contained HTML page, and results to a comparison table.

The page lays out what an audit wrote and measures nothing; the only arithmetic is layout, and the difference of two
accuracies in a table. It needs no network and no script: pictures are data URIs, curves are inline SVG, and its content
security policy forbids everything else. What comes from a result is escaped by the template.
"""

from __future__ import annotations

import base64
import csv
import functools
import io
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vestige.errors import BadInput, UnknownName

Result = Mapping[str, Any]
Style = Literal["markdown", "csv", "latex"]

_ARMS = {"original": "original", "never": "never knew", "edited": "edited"}  # drawn in this order, the audited model on top
_MARKDOWN = {c: "\\" + c for c in "\\|`*_[]"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_LATEX = {c: "\\" + c for c in "&%$#_{}"} | {c: rf"\text{name}{{}}" for c, name in zip("<>|", ("less", "greater", "bar"), strict=True)}
_LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def write(run: Path, out: Path | None = None) -> Path:
    """Writes the page of an audit, by rename, so that a reader never sees half of it.

    Arguments:
        run: Directory of a finished audit, or one whose sub-directories hold finished audits; those share one page.
        out: Where the page goes; `report.html` inside `run` if None.

    Raises:
        BadInput: Neither `run` nor a sub-directory holds the result of an audit.
    """
    alone = (run / "result.json").exists()
    folders = [] if alone else [path.parent for path in sorted(run.glob("*/result.json")) if _is_audit(_parse(path))]
    page = _page([(read(folder), folder) for folder in folders or [run]])
    out = run / "report.html" if out is None else out
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        draft.write_text(page, encoding="utf-8", errors="replace")
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return out


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
    special = str.maketrans(_MARKDOWN if style == "markdown" else _LATEX)
    cells = [" & ".join(_texts(row, special)) if style == "latex" else " | ".join(_texts(row, special)) for row in rows]
    if style == "markdown":
        head = " | ".join(_row({})), " | ".join([":--"] * 5 + ["--:"] * 5 + [":--"])
        return "".join(f"| {line} |\n" for line in (*head, *cells))
    body = "".join(f"  {line} \\\\\n" for line in cells)
    head_line = " & ".join(_row({}))
    return f"\\begin{{tabular}}{{lllllrrrrrl}}\n  \\toprule\n  {head_line} \\\\\n  \\midrule\n{body}  \\bottomrule\n\\end{{tabular}}\n"


def _row(result: Result) -> dict[str, Any]:
    """A result's columns: texts, numbers with their intervals, and changes of accuracy in points."""
    utility, edit, verdict = (result.get(key) or {} for key in ("utility", "edit", "verdict"))
    row = {"model": result.get("model"), "concept": result.get("concept"), "method": edit.get("method")}
    row |= {"attack": _headline(result), "verdict": verdict.get("kind")}
    row |= {key: result.get(key) or {} for key in ("savings", "speedup", "reach")}
    for key in ("neighbours", "unrelated"):
        before, after = (_number(((utility.get(key) or {}).get(when) or {}).get("value")) for when in ("before", "after"))
        row[f"{key} points"] = None if before is None or after is None else round(100 * (after - before), 1) + 0.0
    return row | {"suite": result.get("suite")}


def _texts(row: Mapping[str, Any], special: Mapping[int, str]) -> Iterator[str]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            kind = "times" if name == "speedup" else "decimal"
            yield f"{_figure(value.get('value'), kind)} {_interval(value, kind)}".strip().replace("−", "-").replace("×", "")
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
    return str(name) if name is not None else next(iter(_mappings(result.get("attacks"))), None)


def _page(audits: Sequence[tuple[Result, Path]]) -> str:
    views = [_view(result, folder) for result, folder in audits]
    rows = [list(_texts(_row(result), {})) for result, _ in audits]
    suites = {result.get("suite") for result, _ in audits}
    return str(_template().render(audits=views, heads=list(_row({})), rows=rows, mixed=len(suites) > 1))


@functools.cache
def _template() -> Any:
    from jinja2 import ChainableUndefined, Environment, FileSystemLoader

    loader = FileSystemLoader(Path(__file__).parent / "data")
    environment = Environment(loader=loader, autoescape=True, undefined=ChainableUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(figure=_figure, interval=_interval, plain=_plain)
    return environment.get_template("report.html.j2")


def _view(result: Result, folder: Path) -> dict[str, Any]:
    """A result with everything that needs a place: curves, scales and pictures."""
    names = _ARMS if result.get("edit") else _ARMS | {"edited": "this model"}
    headline = _headline(result)
    attacks = [_attack(name, found, names) for name, found in _mappings(result.get("attacks")).items()]
    attacks.sort(key=lambda attack: attack["name"] != headline)
    censored = any(attack["found"].get("censored") for attack in attacks[:1])
    scales = [_scale(result.get("savings") or {}, (1 / 3, 2 / 3), ("1/3", "2/3"))]
    scales += [_scale(result.get("reach") or {}, (0.2, 0.5), ("0.2", "0.5"))] if censored else []
    strips = [_strip(strip, folder) for strip in result.get("strips") or []]
    captions = {_plain(strip["caption"]) for strip in strips if strip["caption"]}
    caption = captions.pop() if len(captions) == 1 else None
    view = {"result": result, "arms": names, "attacks": attacks, "censored": censored, "scales": scales}
    return view | {"strips": strips, "caption": caption}


def _strip(strip: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """One row of pictures as a data URI; small pictures keep their pixels when enlarged."""
    path = (folder / str(strip.get("file", ""))).resolve()
    data = path.read_bytes() if path.is_file() and path.is_relative_to(folder.resolve()) else b""
    view: dict[str, Any] = {key: strip.get(key) for key in ("title", "budget", "caption")}
    if len(data) < 24 or not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return view
    width, height = struct.unpack(">II", data[16:24])
    source = "data:image/png;base64," + base64.b64encode(data).decode("ascii")
    return view | {"source": source, "width": width, "height": height, "count": width // max(height, 1), "small": height <= 128}


def _scale(quantity: Mapping[str, Any], lines: tuple[float, float], labels: tuple[str, str]) -> dict[str, Any] | None:
    """Places, in percent of the width, of a value and its interval on an axis that ends at 1."""
    value, low, high = (_number(quantity.get(key)) for key in ("value", "low", "high"))
    if value is None:
        return None
    start = max(-1.0, min(-0.25, value - 0.05, (value if low is None else low) - 0.05))
    marks = {"value": value, "low": low, "high": high, "zero": 0.0, "first": lines[0], "second": lines[1]}
    places = {key: None if x is None else round(100 * (min(max(x, start), 1.0) - start) / (1.0 - start), 2) for key, x in marks.items()}
    return {**places, "labels": labels}


def _attack(name: str, found: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    arms = _mappings(found.get("arms"))
    order = sorted(arms, key=lambda key: [*names].index(key) if key in names else -1)
    curves = {key: points for key in order if (points := _points(arms[key]))}
    budgets = sorted({point["budget"] for points in curves.values() for point in points})
    cells = [{point["budget"]: point for point in points} for points in curves.values()]
    rows = [{"budget": budget, "cells": [points.get(budget) for points in cells]} for budget in budgets]
    frames = [_Frame(740, 636, 380, 332, budgets), _Frame(350, 246, 310, 262, budgets)] if curves else []
    charts = [_chart(curves, names, frame) for frame in frames]
    return {"name": name, "found": found, "charts": charts, "rows": rows, "heads": [names.get(key, key) for key in curves]}


def _points(arm: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The usable points of a curve, in the order of their budgets, each with its single replicates."""
    curve = arm.get("curve") or []
    replicates = [scores for scores in arm.get("replicates") or [] if isinstance(scores, list) and len(scores) == len(curve)]
    points = [{**p, "value": p.get("score"), "dots": [scores[i] for scores in replicates]} for i, p in enumerate(curve)]
    usable = [p for p in points if _number(p["value"]) is not None and _number(p.get("budget")) is not None and p["budget"] >= 0]
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

    def ticks(self, gap: float = 26) -> list[tuple[float, float]]:
        """The budgets that have room for a label; the first and the last always do."""
        kept = [self.budgets[0]]
        for budget in self.budgets[1:-1]:
            if self.x(budget) - self.x(kept[-1]) >= gap and self.right - self.x(budget) >= gap:
                kept.append(budget)
        return [(self.x(budget), budget) for budget in dict.fromkeys([*kept, self.budgets[-1]])]


def _chart(curves: Mapping[str, list[dict[str, Any]]], names: Mapping[str, str], frame: _Frame) -> dict[str, Any]:
    """Coordinates of everything in a plot; the template draws them."""
    lines: list[dict[str, Any]] = []
    for key, points in curves.items():
        marks = [(frame.x(p["budget"]), frame.y(p["value"]), p) for p in points]
        dots = [(x, frame.y(score)) for x, _, p in marks for score in p["dots"] if _number(score) is not None]
        banded = [(x, p) for x, _, p in marks if _interval(p)]
        edge = [(x, frame.y(p["high"])) for x, p in banded] + [(x, frame.y(p["low"])) for x, p in reversed(banded)]
        band = " ".join(f"{x},{y}" for x, y in edge) if len(banded) > 1 else ""
        path = "M" + "L".join(f"{x},{y}" for x, y, _ in marks)
        kind = key if key in _ARMS else "other"
        lines.append({"kind": kind, "name": names.get(key, key), "marks": marks, "path": path, "band": band, "dots": dots})
    places = _spread([line["marks"][-1][1] for line in lines], gap=32, top=frame.top + 10, bottom=frame.bottom - 16)
    levels = [(frame.y(rate), rate) for rate in (0.0, 0.25, 0.5, 0.75, 1.0)]
    placed = [line | {"place": place} for line, place in zip(lines, places, strict=True)]
    return {"frame": frame, "lines": placed, "ticks": frame.ticks(), "levels": levels}


def _spread(places: Sequence[float], *, gap: float, top: float, bottom: float) -> list[float]:
    """Moves labels apart until none is nearer than `gap` to the next, keeping their order and the bottom edge."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = dict.fromkeys(order, top)
    for above, i in zip([None, *order], order, strict=False):
        moved[i] = max(places[i], top if above is None else moved[above] + gap)
    for below, i in zip([None, *reversed(order)], reversed(order), strict=False):
        moved[i] = min(moved[i], bottom if below is None else moved[below] - gap)
    return [round(moved[i], 1) for i in range(len(places))]


def _mappings(value: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    """The entries that are mappings themselves; null and unknown ones are left out."""
    return {key: item for key, item in (value or {}).items() if isinstance(item, Mapping)}


def _number(value: object) -> float | None:
    """A finite number, or None for whatever else the result holds in its place."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _figure(value: object, kind: str = "decimal", unit: bool = True) -> str:
    """A number as the page prints it: decimal, percent, share (three digits of percent), times, count or seconds."""
    number = _number(value)
    if number is None:
        return "–"
    if kind == "seconds":
        minutes, seconds = divmod(round(number), 60)
        hours, rest = divmod(minutes, 60)
        return f"{hours} h {rest} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{number:.3g} s"
    if kind == "count":
        return f"{number:,.0f}".replace(",", "\u202f")
    ending = {"percent": "\u202f%", "share": "\u202f%", "times": "×"}.get(kind, "") if unit else ""
    if kind == "share":
        return f"{100 * number:.3g}{ending}"
    number = 100 * number if kind == "percent" else number
    digits = 0 if kind == "percent" else 2 if kind == "decimal" or abs(number) < 1 else 1 if abs(number) < 10 else 0
    return f"{round(number, digits) + 0.0:.{digits}f}{ending}".replace("-", "−")  # + 0.0 turns -0.0 into 0.0


def _interval(quantity: object, kind: str = "decimal") -> str:
    """`[low, high]` without units, or nothing where a bound is missing."""
    bounds = [quantity.get("low"), quantity.get("high")] if isinstance(quantity, Mapping) else []
    texts = [_figure(bound, kind, unit=False) for bound in bounds if _number(bound) is not None]
    return f"[{texts[0]}, {texts[1]}]" if len(texts) == 2 else ""


def _plain(value: object) -> str:
    """Settings and identities as a reader would write them."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_plain(item) for item in value) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
