"""A study as a grid of cells: what of it is finished, here or by its record, how long the rest takes, and who works on it.

A cell is an audit or a sequence in a folder of its own. Its key is the hash of all that its result depends on: a result of another
suite, model or setting that lies where the cell's would is never taken for it.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

import records
import tables
from records import Record
from vestige import audit, continual, files, models, runs
from vestige.audit import Request
from vestige.continual import Order
from vestige.diffusion.sampling import noise
from vestige.errors import VestigeError


class Keyed(Protocol):
    """What has a key."""

    @property
    def key(self) -> str:
        """The hash of all that its result depends on."""
        ...


Cell = TypeVar("Cell")
WithKey = TypeVar("WithKey", bound=Keyed)


# What is finished


def key(request: Request) -> str:
    """Of an audit."""
    return runs.key(audit.resolve(request).spec())


def result(folder: Path, own: Callable[[], str]) -> dict[str, Any] | None:
    """The result of this very audit, if it has finished in the folder.

    Arguments:
        own: Gives the audit's key; asked only where something has finished.
    """
    found, spec = _stored(folder)
    return found if spec is not None and found is not None and runs.key(spec) == own() else None


def sequence(folder: Path, order: Order, *, compared: bool = False) -> dict[str, Any] | None:
    """The result of this very sequence, with all that is measured today, if it has finished in the folder.

    Arguments:
        compared: It stands beside sequences, its edit made otherwise; what it was asked decides alone.
    """
    found, spec = _stored(folder)
    if found is None or spec is None:
        return None
    chosen = continual.resolve(order)
    same = found.get("asked") == runs.key(chosen.asked()) and (compared or runs.key(spec) == runs.key(chosen.spec()))
    return found if same else None


def _stored(folder: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """A run's result and spec, as they lie there."""
    return files.object_in(folder / "result.json"), files.object_in(folder / "spec.json")


def finished(cells: Iterable[WithKey], here: Callable[[WithKey], Record | None], kept: Mapping[str, Record]) -> dict[WithKey, Record]:
    """What pages read of every cell that is finished.

    Arguments:
        here: What this machine has of a cell.
        kept: Key -> record, of what other machines have finished.
    """
    found = ((cell, mine if (mine := here(cell)) is not None else kept.get(cell.key)) for cell in cells)
    return {cell: record for cell, record in found if record is not None}


# What is left


def speed(rows: int = 64, tries: int = 5) -> float:
    """Processor seconds of a single denoiser call here, in batches; the best of a few tries."""
    model = models.load("wardrobe")
    x, condition, best = noise(model.latent_shape, range(rows)), model.condition([""]).repeat(rows), float("inf")
    with torch.no_grad():
        for _ in range(tries):
            began = time.process_time()  # whatever else the machine does
            model.denoise(x, torch.full((rows,), 500), condition)
            best = min(best, time.process_time() - began)
    return best / rows


def dry(cells: Iterable[tuple[str, int, bool]], each: float | None = None, source: str = "a try here") -> str:
    """What would be run, and the hours of one thread that it takes.

    Arguments:
        cells: (name, planned denoiser calls, whether it is finished).
        each: Seconds a call; None measures it here.
        source: Where `each` is from.
    """
    each, left, rows = speed() if each is None else each, 0, []
    for name, calls, done in cells:
        left += 0 if done else calls
        rows.append([name, f"{calls:,}", f"{calls * each / 3600:.2f}", "finished" if done else "missing"])
    told = f"missing: {left * each / 3600:.1f} hours of one thread, at {1e3 * each:.2f} ms a call from {source}"
    return f"{tables.table(['cell', 'calls', 'expected hours', 'state'], rows)}\n\n{told}"


# Who works on it


def audited(folder: Path, request: Request, cache: Path) -> dict[str, Any]:
    """The result of an audit in its folder, with its report; run, resumed or read."""
    from vestige import api

    return api.run_audit(folder, cache=cache, **vars(request))


def work(cells: Sequence[Cell], run: Callable[[Cell], object], workers: int) -> None:
    """Run every cell in a process of its own of one thread, `workers` at a time; one that fails stops no other.

    Arguments:
        run: A function at the top of a module, or a partial of one.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # read when a process starts
    waiting, busy, fresh = list(cells), dict[Any, tuple[Any, Cell, float]](), multiprocessing.get_context("spawn")
    while waiting or busy:
        while waiting and len(busy) < workers:
            cell = waiting.pop(0)
            process = fresh.Process(target=_alone, args=(run, cell))
            process.start()
            busy[process.sentinel] = process, cell, time.monotonic()
        for ended in connection.wait(list(busy)):
            process, cell, began = busy.pop(ended)
            process.join()
            print(f"{cell}: exit {process.exitcode}, {time.monotonic() - began:.0f} s, {len(waiting)} to go", flush=True)


def _alone(run: Callable[[Cell], object], cell: Cell) -> None:
    begin()
    try:
        run(cell)
    except VestigeError as error:
        sys.exit(f"{cell}: {error}")


def own_file(out: Path, cell: Keyed) -> Path:
    """Where a cell that is measured by itself keeps its record."""
    return out / f"{cell.key[:16]}.jsonl"


def measure(cell: WithKey, measured: Callable[[WithKey, Path], Record], out: Path, root: Path) -> None:
    """Measure a cell, unless its record is there, and keep that in the cell's own file.

    Arguments:
        measured: All that the page says of a cell, from the cell and `root`.
        root: Folder of runs, which cells share.
    """
    if cell.key not in records.read(own_file(out, cell)):
        records.write(own_file(out, cell), [measured(cell, root)])


# The command line


def begin(threads: int = 0) -> None:
    """No network, and so many threads; 0: as many as the environment asks for, two unless it does."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(threads or int(os.environ.get("OMP_NUM_THREADS", "2")))


def start(main: Callable[[], None], threads: int = 0) -> None:
    """A study from its command line; what is wrong there is told in a line."""
    begin(threads)
    try:
        main()
    except VestigeError as error:
        sys.exit(f"error: {error}")


def parser(text: str | None) -> argparse.ArgumentParser:
    """Of a study whose module says `text` of itself."""
    return argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)


def resumable(parser: argparse.ArgumentParser, out: str) -> None:
    """Where the cells of a study lie, how many are run at a time, and what is wanted instead of a run."""
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--cache", type=Path, help="folder of runs to share with others; default OUT/runs")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread")
    parser.add_argument("--page", type=Path, help="write what has finished here, and run nothing")
    parser.add_argument("--dry-run", action="store_true", help="print planned hours, and run nothing")


def command(
    options: argparse.Namespace,
    wanted: Sequence[WithKey],
    committed: str,
    *,
    named: Callable[[WithKey], str],
    calls: Callable[[WithKey], int],
    measured: Callable[[WithKey, Path], Record],
    page: Callable[[Mapping[WithKey, Record]], str],
) -> None:
    """Do what is asked of a study whose cells are measured one by one: tell what is left, write its page, or measure.

    Arguments:
        options: As `resumable` has them.
        wanted: Every cell that is asked for.
        committed: Records of what other machines have finished; where a page is written, those beside it count instead.
        named: What a cell is called.
        calls: Its denoiser calls, if nothing is stored.
        measured: As for `measure`; a function at the top of a module.
        page: The page of what has finished.
    """
    stored = options.page.with_suffix(".jsonl") if options.page else Path(committed)
    found = finished(wanted, lambda cell: records.read(own_file(options.out, cell)).get(cell.key), records.read(stored))
    if options.dry_run:
        print(dry((named(cell), calls(cell), cell in found) for cell in wanted))
    elif options.page is not None:
        records.write(stored, found.values())
        tables.write(options.page, page(found))
    else:
        how = {"measured": measured, "out": options.out, "root": options.cache or options.out / "runs"}
        work([cell for cell in wanted if cell not in found], functools.partial(measure, **how), options.workers)


def names(text: str) -> list[str]:
    """What stands between commas."""
    return [t for t in text.split(",") if t]


def numbers(text: str) -> list[int]:
    """Whole numbers between commas."""
    return [int(t) for t in names(text)]
