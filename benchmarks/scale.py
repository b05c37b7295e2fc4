"""How far a grid scales: its own graph and scheduler on a made-up clock, with run times that were measured.

    python benchmarks/scale.py --runs RUNS --page docs/results/scale.md

RUNS is a folder of finished runs of audits of the embedded model: how long its arms and its utility took is what tasks are dealt, with
replacement, by their kind. What handing out a task costs is measured here: the scheduler's own time, a pipe to a process, a Ray task.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

from vestige import grid
from vestige.engine import Graph, LocalPool, Pool, SimulatedPool, Task, execute
from vestige.grid.plan import Weaver

PLACES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
METHODS = ("esd", "uce", "remap", "concept_ablation", "spm")
OBJECTS = ("sneaker", "bag", "dress", "coat", "sandal", "shirt", "pullover", "trouser", "boot", "top")
KINDS = {"arm": "arm", "utility": "utility", "unlearn": "unlearn"}


def written(folder: Path, concepts: tuple[str, ...], seeds: int) -> Path:
    """A grid's file: quick audits of several unlearners."""
    lines = ["[axes]", f"concepts = {json.dumps(concepts)}", f"seeds = {json.dumps(list(range(seeds)))}"]
    lines += [f'[[unlearners]]\nmethod = "{name}"' for name in METHODS]
    file = folder / "grid.toml"
    file.write_text("\n".join(lines))
    return file


def measured(runs: Path) -> dict[str, list[float]]:
    """Seconds that finished runs took, by kind: from being opened to their result."""
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for kind, seconds in found.items():
        for folder in sorted(runs.glob(f"{kind}-*")):
            result, events = folder / "result.json", folder / "events.jsonl"
            if result.exists() and events.exists():
                rows = [json.loads(line) for line in events.read_text().splitlines()]
                opened = [datetime.fromisoformat(row["time"]).timestamp() for row in rows if row["event"] == "opened"]
                if len(opened) == 1:  # one that was resumed lay still in between
                    seconds.append(result.stat().st_mtime - opened[0])
    return found


def kind_of(task: Task) -> str:
    """Whose run times a task is dealt."""
    if task.key.startswith(("edit", "positive", "never")):
        return "unlearn"
    return "arm" if task.data.get("piece", {}).get("what") in ("arm", "lesson") else "utility"


def graph_of(planned: Any, folder: Path) -> Graph:
    """The graph of a grid from which nothing is done."""
    weaver, graph = Weaver(planned, folder, folder / "runs"), Graph()
    for cell in planned.cells:
        graph.add(weaver.tasks(cell))
    return graph


def dealt(times: dict[str, list[float]], seed: int) -> Callable[[Task], float]:
    """A run time for every task, the same at any number of places."""
    return lambda task: Random(f"{seed} {task.key}").choice(times[kind_of(task)])


def longest(graph: Graph, seconds: Callable[[Task], float]) -> float:
    """Seconds of the longest chain."""
    ends: dict[str, float] = {}
    for key, task in graph.tasks.items():  # in an order in which needs come first
        ends[key] = seconds(task) + max((ends[need] for need in task.needs), default=0.0)
    return max(ends.values())


def handing(pool: Pool, count: int = 300) -> float:
    """Seconds of the driver's that a task costs which does nothing, with a pool that is warm."""
    for number in (2 * pool.size, count):
        graph = Graph()
        graph.add(Task(str(i), "nothing", "vestige.engine.serving:nothing", {}) for i in range(number))
        began = time.perf_counter()
        execute(graph, pool)
    return (time.perf_counter() - began) / count


SMALL = """[axes]
suites = ["smoke"]
concepts = ["sneaker"]
[[unlearners]]
method = "uce"
settings = { erase = [0.5, 1.0, 2.0] }
[[unlearners]]
method = "remap"
[common]
seeds = [0, 1]
"""


def efficiency(folder: Path, rounds: int) -> list[dict[str, float]]:
    """Seconds of a small grid by one process and by two, and of two copies of it at once by one process each."""
    (folder / "small.toml").write_text(SMALL)
    found = []
    for number in range(rounds):
        own = folder / str(number)
        row = {"one": _run(folder, [(own / "one", 1)]), "two": _run(folder, [(own / "two", 2)])}
        found.append({**row, "copies": _run(folder, [(own / "first", 1), (own / "second", 1)])})
    return found


def _run(folder: Path, grids: list[tuple[Path, int]]) -> float:
    """Seconds until grids that are begun together have all ended."""
    command = [sys.executable, "-m", "vestige", "grid", str(folder / "small.toml")]
    began = time.monotonic()
    begun = [subprocess.Popen([*command, "--out", str(out), "--jobs", str(jobs)], stdout=subprocess.DEVNULL) for out, jobs in grids]
    if any(process.wait() for process in begun):
        raise SystemExit("a grid failed")
    return time.monotonic() - began


def told_efficiency(rows: list[dict[str, float]]) -> str:
    """A section of the page."""
    lines, one, two, copies = [], *([row[key] for row in rows] for key in ("one", "two", "copies"))
    for a, b, c in zip(one, two, copies, strict=True):
        lines.append(f"| {a:.0f} | {b:.0f} | {c:.0f} | {a / b / 2:.2f} | {c / b / 2:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Simulate, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--seeds", type=int, default=8, help="edits of a method and a concept")
    parser.add_argument("--loading", type=float, default=10.0, help="seconds that a process needs for the models of another request")
    parser.add_argument("--rounds", type=int, default=2, help="times that two processes are laid beside one, and beside two copies")
    parser.add_argument("--ray", action="store_true", help="measure what a Ray task costs, too")
    options = parser.parse_args()
    times = measured(options.runs)
    with LocalPool(2) as pool:
        overheads = {"local": handing(pool)}
    if options.ray:
        from vestige.engine.cluster import RayPool

        with RayPool("local", most=2) as cluster:
            overheads["ray"] = handing(cluster)
    with tempfile.TemporaryDirectory() as name:
        pairs = told_efficiency(efficiency(Path(name), options.rounds))
        page = written_page(times, overheads, pairs, Path(name), options)
    print(page)
    if options.page:
        options.page.write_text(page)


def written_page(times: dict[str, list[float]], overheads: dict[str, float], pairs: str, folder: Path, options: Any) -> str:
    """Tables of a large grid and of a small one."""
    slowest = max(overheads, key=lambda name: overheads[name])
    parts = []
    for concepts, seeds in ((OBJECTS, options.seeds), (OBJECTS[:2], 1)):
        planned = grid.read(written(folder, concepts, seeds))
        began = time.perf_counter()
        graph = graph_of(planned, folder)
        weaving, seconds = time.perf_counter() - began, dealt(times, 0)
        work, chain, rows = sum(map(seconds, graph.tasks.values())), longest(graph, seconds), []
        for places in PLACES:
            pool, began = SimulatedPool(places, seconds, loading=options.loading, overhead=overheads[slowest]), time.perf_counter()
            execute(again := graph_of_same(graph), pool)
            own = (time.perf_counter() - began) / len(again.tasks)
            bound = max(work / places, chain)
            share = len(graph.tasks) * 2 * overheads[slowest] / pool.now()
            rows.append(
                f"| {places} | {pool.now() / 3600:.2f} | {work / places / pool.now():.2f} | {bound / pool.now():.2f} | {share:.1%} |"
            )
        size = f"{len(planned.cells)} cells, {len(graph.tasks):,} tasks, {work / 3600:.0f} hours of work"
        head = f"{size}; the longest chain takes {chain:.0f} s."
        parts.append(TABLE.format(head=head, rows="\n".join(rows), weaving=weaving, own=1e3 * own))
    measured_rows = "\n".join(f"| {kind} | {len(t)} | {_spread(t)} |" for kind, t in times.items())
    handed = ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in overheads.items())
    told = {"machine": platform.machine(), "python": platform.python_version(), "loading": f"{options.loading:g}"}
    command = (
        f"python benchmarks/scale.py --runs RUNS --seeds {options.seeds}{' --ray' if options.ray else ''} --page docs/results/scale.md"
    )
    return PAGE.format(
        measured=measured_rows, handed=handed, slowest=slowest, tables="\n".join(parts), pairs=pairs, command=command, **told
    )


def graph_of_same(graph: Graph) -> Graph:
    """The same tasks, none of them done."""
    fresh = Graph()
    fresh.add(graph.tasks.values())
    return fresh


def _spread(values: list[float]) -> str:
    tenths = statistics.quantiles(values, n=10)
    return f"{statistics.median(values):.1f} | {tenths[0]:.1f} to {tenths[-1]:.1f} | {max(values):.0f}"


TABLE = """\
{head} Putting the graph together took {weaving:.1f} s, the scheduler {own:.2f} ms a task at the last row.

| workers | hours | efficiency | of what is possible | driver busy |
|---|---|---|---|---|
{rows}
"""
PAGE = """\
# How far a grid scales

    {command}

`vestige grid` was simulated: its own graph and its own scheduler on a made-up clock (`vestige.engine.SimulatedPool`), quick audits
of five unlearners over the embedded model's objects, first looks only. Run times are dealt from runs that were measured, by their
kind, on two cores shared with other work, so they spread more than on a machine of one's own:

| kind | runs | median, s | 10 % to 90 % | longest |
|---|---|---|---|---|
{measured}

A process that changes to the models of another request loads for {loading} s. Handing out a task and taking it back costs the
driver, measured here with tasks that do nothing: {handed}; the tables charge the dearer of them ({slowest}) twice a task, one task
at a time. Results that are carried are not charged for their bytes. {machine}, Python {python}.

*Efficiency* is work / (workers x time); *of what is possible* is the larger of work / workers and the longest chain, over the time.

{tables}
## Two processes beside one, and beside two copies

Four smoke audits of the embedded model (three UCE, one remap) on two cores, in seconds: by one process, by two, and two whole copies
at once by one process each, which is the fair limit where two cores share memory or one. Each number holds the start of every process.

| one | two | two copies | speed-up / 2 | beside two copies |
|---|---|---|---|---|
{pairs}

## Where it stops

Three things end it, whichever comes first. **The longest chain**: edit, arm, utility after it, verdict cannot be taken apart, so
more workers than work / chain stand idle; a larger grid moves that point out in proportion. **Loading**: with few tasks a worker,
most of them change the request. **The driver**: it hands out one task at a time, so it keeps at most (run time + loading) / cost of
a task workers busy, with the medians above thousands. Past any of them, begin several grids of disjoint cells with one `--cache` on
shared files: runs are locked one by one and computed once all the same.
"""

if __name__ == "__main__":
    main()
