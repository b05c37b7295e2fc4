"""Many audits and sequences by one command, on this machine or on a cluster."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vestige.cli import forecast, options
from vestige.cli.frame import EVERY, give, say
from vestige.cli.machine import machine
from vestige.errors import BadSetting

if TYPE_CHECKING:
    from vestige.engine import Pool, Progress

Watching = Callable[["Progress", int], None]

GridFile = Annotated[Path, typer.Argument(help="A grid, FILE.toml; `vestige list --grid FILE.toml` writes one to fill in.")]
JobsOption = Annotated[int, typer.Option(min=0, max=4096, help="Processes of one thread; 0: one a core, or one a GPU of --gpus.")]
GpusOption = Annotated[str, typer.Option(help="GPUs of this machine by their numbers, 0,1,2: each process gets one of them.")]
EngineOption = Annotated[str, typer.Option(help="local: processes here; ray: tasks on a Ray cluster, see docs/grids.md.")]
AddressOption = Annotated[str, typer.Option(help="With ray: the cluster's head, HOST:PORT, or auto: the one that runs here.")]
StoreOption = Annotated[
    str, typer.Option(help="With ray: shared, where every node sees --out and --cache; or an fsspec address that holds runs on their way.")
]
TaskOption = Annotated[str, typer.Option(help="With ray: what a task takes, e.g. cpus=1,gpus=0.5,memory=4 (GB).")]


@machine
def grid(
    file: GridFile,
    out: Annotated[Path, typer.Option(help="Folder of the grid; the same command resumes it, a longer file continues it.")] = Path(
        "runs/grid"
    ),
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder of runs that other grids and audits share; default: OUT/runs.")
    ] = None,
    jobs: JobsOption = 0,
    gpus: GpusOption = "",
    engine: EngineOption = "local",
    address: AddressOption = "auto",
    store: StoreOption = "",
    task: TaskOption = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print cells, shared runs, calls and hours at a pace measured here.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Run every combination that a file names, each shared run once, and resume; exit code 1 if a cell failed."""
    from vestige import grid as grids
    from vestige.harness.cost import picture

    planned, root = grids.read(file), (cache or out / "runs").absolute()
    if dry_run:
        one = planned.cells[0]
        drawn = picture(planned.plans[one.name].suite.protocol)
        _foretold(grids.outlook(planned, out.absolute(), root), one.asked.model, drawn, jobs or _cores(), as_json)
        return
    with _pool(engine, jobs, gpus, out, address, store, task) as pool, _watching(len(planned.cells), as_json) as watch:
        found = grids.run_grid(planned, out.absolute(), pool, root=root, watch=watch)
    give(found, as_json, _table(found, out))
    if found["failed"]:
        raise typer.Exit(1)


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _pool(engine: str, jobs: int, gpus: str, out: Path, address: str, store: str, task: str) -> AbstractContextManager[Pool]:
    """Who does the work."""
    from vestige.engine import LocalPool

    if engine not in ("local", "ray"):
        raise BadSetting(f"engine is local or ray; given {engine!r}")
    if engine == "local":
        if store or task:
            raise BadSetting("--store and --task are for --engine ray")
        devices = tuple(str(number) for number in options.integers(gpus, "gpus"))
        return LocalPool(jobs or len(devices) or _cores(), devices=devices, log=out / "log")
    from vestige.engine.cluster import RayPool, Takes

    return RayPool(address, store=store, takes=Takes.read(task), most=jobs)


def _foretold(outlook: Any, model: str, picture: int, places: int, as_json: bool) -> None:
    """Say what a grid would take, and how long with so many processes.

    Arguments:
        picture: Calls of one picture.
    """
    speed = forecast.speed_of(model, picture, places)
    each = speed.drawn
    first, last = (calls * each / 3600 for calls in (outlook.calls, outlook.most))
    rows = [f"{row['state']:<9} {row['tasks']:>5} tasks  {row['calls']:>12,.0f} calls  {row['cell']}" for row in outlook.rows]
    hours = {"seconds_per_call": each, "hours": first, "hours_at_most": last, "processes": places}
    told = f"{len(outlook.rows)} cells, {outlook.tasks} runs to do; {outlook.saved} times one is shared"
    took = f"{outlook.calls:,.0f} denoiser calls, {first:.1f} hours of one thread at {1e3 * each:.2f} ms a call measured here"
    beside = f", beside other work that leaves each {speed.share:.0%} of a core" if speed.share < 0.95 else ""
    most = f"; {last:.1f} if only the last look decides" if last > first else ""
    give(
        {**outlook.as_dict(), **hours},
        as_json,
        "\n".join([*rows, told, f"{took}{most}; about {first / places / speed.share:.1f} with {places} processes{beside}"]),
    )


def _table(found: Mapping[str, Any], out: Path) -> str:
    """What became of every cell, for reading."""
    from vestige.cli.frame import shown

    lines = []
    for row in found["cells"]:
        if row["state"] == "failed":
            lines.append(f"{'failed':<14} {row['cell']}: {row['why']}\n{'':<14} alone: {row['command']}")
        elif row["kind"] == "audit":
            lines.append(f"{row['verdict']:<14} {row['cell']}  F {shown(row['speedup'])}")
        else:
            lines.append(f"{row['steps']} steps        {row['cell']}")
    return "\n".join([*lines, f"cells in {out / 'cells'}; side by side: vestige compare {out} --pool; as a site: vestige board {out}"])


@contextmanager
def _watching(cells: int, as_json: bool) -> Iterator[Watching]:
    """Live progress on a terminal, a line now and then in a file, an event a line of JSON with --json; all on stderr."""
    import sys

    if as_json:
        yield lambda now, done: say(json.dumps({**asdict(now), "cells_done": done, "cells": cells})) if now.event else None
    elif not sys.stderr.isatty():
        yield _lines(cells)
    else:
        with _bars(cells) as watch:
            yield watch


def _said(now: Progress, done: int, cells: int) -> str:
    return f"cells {done}/{cells}; runs: {now}"


def _lines(cells: int) -> Watching:
    last, counted = -math.inf, -1

    def watch(now: Progress, done: int) -> None:
        nonlocal last, counted
        if now.event in ("failed", "lost"):
            say(f"{now.seconds:7.0f} s  {now.event}: {now.task}: {now.why}")
        moment = time.monotonic()
        if done != counted or moment - last >= EVERY:
            last, counted = moment, done
            say(f"{now.seconds:7.0f} s  {_said(now, done, cells)}")

    return watch


@contextmanager
def _bars(cells: int) -> Iterator[Watching]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(bar_width=24), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        line = bars.add_task("", total=None)

        def watch(now: Any, done: int) -> None:
            if now.event in ("failed", "lost"):
                bars.console.print(f"{now.event}: {now.task}: {now.why}", markup=False)
            bars.update(line, completed=now.done, total=now.total, description=_said(now, done, cells))

        yield watch
