"""A comparison as a site that is opened from disk: a leaderboard, a frontier, a heat map, a page a method, a concept and an audit.

Nothing is fetched. The pages' own policy allows one script, by its hash, that sorts and filters tables which stand there without it too.
What the numbers are comes from `vestige.compare`; here they are laid out.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vestige import files
from vestige.report import audits, board_plots, comparisons
from vestige.report import page as pages

Told = Mapping[str, Any]
VERDICTS = ("not forgotten", "short-term", "long-term", "erased", "inconclusive")


def write_board(found: Told, results: Mapping[str, Told], out: Path, grids: Mapping[Path, Told] | None = None) -> Path:
    """Write the site.

    Arguments:
        found: What `vestige.compare.summarised` gives.
        results: An audit's folder -> its result.json, of every audit that `found` counts.
        out: The site's folder; what it holds under the same names is replaced.
        grids: Folders of the grids that the audits come from -> their grid.json.

    Returns:
        Its first page.
    """
    rows = [row for field in found["fields"] for row in field["rows"]]
    links = Links.of(rows, results)
    files.make(out / "data")
    for folder, place in links.audits.items():
        files.make((out / place).parent)
        audits.write(Path(folder), out / place)
    downloads = _downloads(found, out, grids or {})
    common = {"found": found, "links": links, "downloads": downloads, "script_hash": script_hash()}
    for method in links.methods:
        view = {"method": method, "parts": _parts(found, results, "method", method)}
        _page("board_method", out / links.methods[method], {**common, **view, "root": "../"})
    for concept in links.concepts:
        view = {"concept": concept, "parts": _parts(found, results, "concept", concept)}
        _page("board_concept", out / links.concepts[concept], {**common, **view, "root": "../"})
    fields = [_field(field, index) for index, field in enumerate(found["fields"])]
    _page("board", out / "index.html", {**common, "fields": fields, "root": ""})
    return out / "index.html"


class Links:
    """Where the page of a method, a concept and an audit lies in the site, from its root."""

    def __init__(self, methods: Iterable[str], concepts: Iterable[str], folders: Iterable[str]) -> None:
        self.methods = _named(methods, "methods/{}.html")
        self.concepts = _named(concepts, "concepts/{}.html")
        self.audits = _named(folders, "audits/{}.html", of=lambda folder: Path(folder).name)

    @staticmethod
    def of(rows: Sequence[Told], results: Mapping[str, Told]) -> Links:
        shown = [folder for row in rows for folder in row["audits"]]
        return Links((r["method"] for r in rows), (r["concept"] for r in rows), [*shown, *results])


def _named(names: Iterable[str], pattern: str, of: Any = str) -> dict[str, str]:
    """A file's name for each, that any system takes; namesakes get a digest of their whole name."""
    made: dict[str, str] = {}
    for name in dict.fromkeys(names):
        short = re.sub(r"[^a-z0-9.=+-]+", "-", of(name).lower()).strip("-.")[:60] or "unnamed"
        place = pattern.format(short)
        if place in made.values():
            place = pattern.format(f"{short}-{hashlib.sha256(name.encode()).hexdigest()[:8]}")
        made[name] = place
    return made


@functools.cache
def script_hash() -> str:
    """What the pages' policy calls their script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(pages.script("board").encode()).digest()).decode("ascii")


def _page(name: str, out: Path, view: Mapping[str, Any]) -> None:
    files.make(out.parent)
    pages.write_page(str(pages.template(name).render(**view)), out)


def _downloads(found: Told, out: Path, grids: Mapping[Path, Told]) -> dict[str, Any]:
    """Files beside the pages: the numbers, and the grids' own files."""
    files.write(out / "data", "comparison.json", (comparisons.written_as(found, "json") + "\n").encode())
    files.write(out / "data", "comparison.csv", comparisons.as_csv(found).encode())
    told = {"JSON, everything": "data/comparison.json", "CSV, the table": "data/comparison.csv"}
    texts: dict[str, str] = {}
    for number, (place, grid) in enumerate(grids.items()):
        own, given = place / "grid.toml", Path(str(grid.get("file") or ""))
        source = own if own.is_file() else given if given.is_file() else None
        if source is None:
            continue
        name = "grid.toml" if number == 0 else f"grid-{number + 1}.toml"
        files.write(out / "data", name, source.read_bytes())
        told[f"the grid, {name}"] = f"data/{name}"
        texts[name] = source.read_text("utf-8", errors="replace")
    return {"files": told, "grids": texts}


def _field(field: Told, index: int) -> dict[str, Any]:
    """A field with everything that needs a place."""
    rows = [{**row, "kept": _kept(row)} for row in field["rows"]]
    several = len(field["concepts"]) > 1
    kinds = [kind for kind in VERDICTS if any(row["verdict"]["kind"] == kind for row in rows)]
    places = dict.fromkeys((concept, row["swept"]) for concept in field["concepts"] for row in rows if row["concept"] == concept)
    fronts = [
        board_plots.frontiers([row for row in rows if (row["concept"], row["swept"]) == place], *place) for place in places
    ]  # what a weak attack leaves hidden beats nothing that a strong one was tried on
    return {
        **field,
        "rows": rows,
        "ident": f"field-{index + 1}",
        "about": f"{field['model']}, suite {field['suite']}, form {field['form']}",
        "several": several,
        "kinds_there": kinds,
        "fronts": [front for front in fronts if front],
        "heat": board_plots.heat(rows),
        "said": comparisons.said(field),
        "whiskers": board_plots.whiskers(rows),
    }


def _kept(row: Told) -> dict[str, Any]:
    """Change of accuracy on what must stay, in points."""
    return {group: comparisons.change(row["utility"][group]) for group in ("neighbours", "unrelated")}


def _parts(found: Told, results: Mapping[str, Told], of: str, name: str) -> list[dict[str, Any]]:
    """Of every field, the rows of a method or a concept, with strips of pictures and the audits behind them."""
    parts = []
    for field in found["fields"]:
        rows = [row for row in field["rows"] if row[of] == name]
        shown = [{**row, "kept": _kept(row), **_pictures(row, results), "single": _single(row, results)} for row in rows]
        if shown:
            parts.append({"field": field, "rows": shown, "whiskers": board_plots.whiskers(field["rows"])})
    return parts


def _single(row: Told, results: Mapping[str, Told]) -> list[dict[str, Any]]:
    """The audits behind a row, each with its own numbers."""
    made = []
    for folder in row["audits"]:
        result = results[folder]
        told = result.get("provenance") or {}
        numbers = {key: result.get(key) or {} for key in ("speedup", "reach")}
        made.append({"folder": folder, "seed": told.get("edit_seed"), "verdict": (result.get("verdict") or {}).get("kind"), **numbers})
    return made


def _pictures(row: Told, results: Mapping[str, Told]) -> dict[str, Any]:
    """Strips of the first audit at its seeds: before, after, after the attack's last budget, and of a model that never knew."""
    folder = row["audits"][0]
    strips = [strip for strip in results[folder].get("strips") or [] if isinstance(strip, Mapping)]
    recovered = [strip for strip in strips if strip.get("budget") is not None]
    chosen = [strip for strip in strips if strip.get("budget") is None]
    chosen[2:2] = recovered[-1:]
    views = [pages.strip_view(strip, Path(folder)) for strip in chosen]
    return {"strips": {str(view["title"]): view for view in views}, "headline": results[folder].get("headline")}
