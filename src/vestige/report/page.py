"""What pages share: the template's environment, plots and strips of pictures as coordinates and data URIs, and how numbers are printed.

A page needs no network and no script: pictures are data URIs, curves are inline SVG, and its content security policy forbids
everything else. What comes from a result is escaped by the template.
"""

from __future__ import annotations

import base64
import functools
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from vestige import data, files


@functools.cache
def _environment() -> Any:
    from jinja2 import ChainableUndefined, Environment, FileSystemLoader

    loader = FileSystemLoader(data.folder())
    environment = Environment(loader=loader, autoescape=True, undefined=ChainableUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(figure=figure, interval=interval, plain=plain, basename=lambda place: Path(place).name)
    return environment


def template(name: str) -> Any:
    """A page's template, data/NAME.html.j2."""
    return _environment().get_template(f"{name}.html.j2")


def script(name: str) -> str:
    """A page's script, data/NAME.js.j2, as the page holds it."""
    return str(_environment().get_template(f"{name}.js.j2").render())


def write_page(page: str, out: Path) -> Path:
    """Write a page by rename, so that a reader never sees half of it."""
    with files.written(out) as part:
        part.write_text(page, encoding="utf-8", errors="replace")
    return out


def strip_view(row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """One row of pictures as a data URI; small pictures keep their pixels when enlarged."""
    path = (folder / str(row.get("file", ""))).resolve()
    ours = path.is_file() and path.is_relative_to(folder.resolve()) and "quarantine" not in path.relative_to(folder.resolve()).parts
    data = path.read_bytes() if ours else b""
    view: dict[str, Any] = {key: row.get(key) for key in ("title", "budget", "caption")}
    if len(data) < 24 or not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return view
    width, height = struct.unpack(">II", data[16:24])
    source = "data:image/png;base64," + base64.b64encode(data).decode("ascii")
    return view | {"source": source, "width": width, "height": height, "count": width // max(height, 1), "small": height <= 128}


class Axes(Protocol):
    """A picture's size, the plot's edges in it, and where numbers lie."""

    @property
    def top(self) -> int: ...

    @property
    def bottom(self) -> int: ...

    def x(self, place: float) -> float: ...

    def y(self, value: float) -> float: ...

    def ticks(self) -> list[tuple[float, float]]: ...

    def levels(self) -> list[tuple[float, float]]: ...


def chart(
    curves: Mapping[str, list[dict[str, Any]]], names: Mapping[str, str], frame: Axes, kinds: Mapping[str, str], **words: str
) -> dict[str, Any]:
    """Coordinates of everything in a plot; the template draws them.

    Arguments:
        curves: Name -> points, each with its place on the axis ("budget"), "value", "low", "high", and "dots".
        kinds: Name -> how it is drawn: "edited", "never" or "original"; "other" where it is not named.
        words: What the plot says of itself: `said`, `axis`, `unit`, and the `kind` of number on its rates' axis.
    """
    lines: list[dict[str, Any]] = []
    for key, points in curves.items():
        marks = [(frame.x(p["budget"]), frame.y(p["value"]), p) for p in points]
        dots = [(x, frame.y(score)) for x, _, p in marks for score in p["dots"] if number(score) is not None]
        banded = [(x, p) for x, _, p in marks if interval(p)]
        edge = [(x, frame.y(p["high"])) for x, p in banded] + [(x, frame.y(p["low"])) for x, p in reversed(banded)]
        band = " ".join(f"{x},{y}" for x, y in edge) if len(banded) > 1 else ""
        path = "M" + "L".join(f"{x},{y}" for x, y, _ in marks)
        kind = kinds.get(key, "other")
        lines.append({"kind": kind, "name": names.get(key, key), "marks": marks, "path": path, "band": band, "dots": dots})
    places = spread([line["marks"][-1][1] for line in lines], gap=32, top=frame.top + 10, bottom=frame.bottom - 16)
    placed = [line | {"place": place} for line, place in zip(lines, places, strict=True)]
    return {"frame": frame, "lines": placed, "ticks": frame.ticks(), "levels": frame.levels(), **words}


def spread(places: Sequence[float], *, gap: float, top: float, bottom: float) -> list[float]:
    """Moves labels apart until none is nearer than `gap` to the next, keeping their order and the bottom edge."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = dict.fromkeys(order, top)
    for above, i in zip([None, *order], order, strict=False):
        moved[i] = max(places[i], top if above is None else moved[above] + gap)
    for below, i in zip([None, *reversed(order)], reversed(order), strict=False):
        moved[i] = min(moved[i], bottom if below is None else moved[below] - gap)
    return [round(moved[i], 1) for i in range(len(places))]


def mappings(value: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    """The entries that are mappings themselves; null and unknown ones are left out."""
    return {key: item for key, item in (value or {}).items() if isinstance(item, Mapping)}


def number(value: object) -> float | None:
    """A finite number, or None for whatever else the result holds in its place."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def figure(value: object, kind: str = "decimal", unit: bool = True) -> str:
    """A number as the page prints it: decimal, percent, share (three digits of percent), times, count, seconds, or small (three digits)."""
    found = number(value)
    if found is None:
        return "–"
    if kind == "seconds":
        minutes, seconds = divmod(round(found), 60)
        hours, rest = divmod(minutes, 60)
        return f"{hours} h {rest} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{found:.3g} s"
    if kind == "count":
        return f"{found:,.0f}".replace(",", "\u202f")
    ending = {"percent": "\u202f%", "share": "\u202f%", "times": "×"}.get(kind, "") if unit else ""
    if kind == "small":
        return f"{found + 0.0:.3g}".replace("-", "−")
    if kind == "share":
        return f"{100 * found:.3g}{ending}"
    found = 100 * found if kind == "percent" else found
    digits = 0 if kind == "percent" else 2 if kind == "decimal" or abs(found) < 1 else 1 if abs(found) < 10 else 0
    return f"{round(found, digits) + 0.0:.{digits}f}{ending}".replace("-", "−")  # + 0.0 turns -0.0 into 0.0


def interval(quantity: object, kind: str = "decimal") -> str:
    """`[low, high]` without units, or nothing where a bound is missing."""
    bounds = [quantity.get("low"), quantity.get("high")] if isinstance(quantity, Mapping) else []
    texts = [figure(bound, kind, unit=False) for bound in bounds if number(bound) is not None]
    return f"[{texts[0]}, {texts[1]}]" if len(texts) == 2 else ""


def plain(value: object) -> str:
    """Settings and identities as a reader would write them."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(plain(item) for item in value) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
