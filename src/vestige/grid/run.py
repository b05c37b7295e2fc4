"""Run a grid: every task once, a cell that fails told with its reason and its command, the others finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vestige import files
from vestige.engine import Graph, Journal, Pool, Progress, execute
from vestige.grid.cells import GridCell
from vestige.grid.plan import Weaver
from vestige.grid.reading import GridPlan

SCHEMA = "vestige-grid-1"


def run_grid(
    grid: GridPlan,
    out: Path,
    pool: Pool,
    *,
    root: Path | None = None,
    watch: Callable[[Progress, int], None] | None = None,
) -> dict[str, Any]:
    """Run what is missing of a grid, and give what became of every cell, which is also `out/grid.json`; `out/grid.toml` is the file.

    Arguments:
        root: Folder of the runs, which other grids and audits may share; None: `out/runs`.
        watch: Told the progress and how many cells are finished, after everything that happens.
    """
    root = root or out / "runs"
    weaver, graph = Weaver(grid, out, root), Graph()
    there = {cell.name for cell in grid.cells if weaver.finished(cell)}
    for cell in grid.cells:
        if cell.name not in there:
            graph.add(weaver.tasks(cell))
    files.make(out)
    files.write(out, "grid.toml", grid.file.read_bytes())

    def tell(now: Progress) -> None:
        if watch is not None:
            watch(now, len(there) + sum(key in graph.done and not graph.done[key].get("undecided") for key in weaver.ends))

    execute(graph, pool, grow=weaver.grow, watch=tell, journal=Journal(out / "tasks.jsonl"))
    failed = {weaver.ends[key]: key for key in weaver.ends if key in graph.failed}
    rows = [_row(cell, weaver, graph, failed.get(cell.name)) for cell in grid.cells]
    found = {"schema": SCHEMA, "file": str(grid.file), "cells": rows, "failed": len(failed), "tasks": len(graph.tasks)}
    files.write(out, "grid.json", files.json_bytes(found))
    return found


def _row(cell: GridCell, weaver: Weaver, graph: Graph, key: str | None) -> dict[str, Any]:
    """What became of a cell."""
    folder = weaver.folder(cell)
    row: dict[str, Any] = {"cell": cell.name, "kind": cell.kind, **cell.axes, "folder": str(folder), "command": cell.command}
    if key is not None:
        return {**row, "state": "failed", "why": graph.failed[key]}
    result = files.object_in(folder / "result.json") or {}
    return {**row, "state": "finished", **(_read_off(result) if cell.kind == "audit" else {"steps": len(result.get("steps", [""])) - 1})}


def _read_off(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a table of audits says."""
    return {"verdict": result.get("verdict", {}).get("kind"), **{key: result.get(key) for key in ("speedup", "savings", "reach")}}
