"""Do a graph of tasks with a pool of workers; the one loop of every engine, and of the simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vestige.engine.graph import Graph, Task
from vestige.engine.journal import Journal
from vestige.engine.pool import Ended, Pool

Grow = Callable[[Task, Mapping[str, Any]], Iterable[Task]]
WHOLE = "in all"  # what a stage that speaks of everything begins with
NOTE = "note"  # what a stage begins with that is no stage but a remark
LOOK = 1.0  # seconds after which progress is told, though nothing ended


@dataclass(frozen=True)
class Progress:
    """Where a graph stands.

    Arguments:
        seconds: Since it began.
        left: Seconds that the rest takes by the pace of what was computed so far; None before anything was.
        share: Of the work that is done, by its costs.
        event: What has just happened: "began", "done", "failed", "lost", "" for nothing.
        task: What it happened to.
        why: What went wrong.
    """

    done: int
    running: int
    failed: int
    total: int
    seconds: float
    left: float | None
    share: float
    event: str = ""
    task: str = ""
    why: str = ""

    @property
    def trouble(self) -> str:
        """What has just gone wrong in a worker process and is done again by another or by this one, as a remark; "" for nothing."""
        if self.event == "lost":
            return f"{NOTE}: {self.task} is begun again: {self.why}"
        if self.event == "failed":
            return f"{NOTE}: {self.task} failed in a worker process and is done again in this one, with what needs it: {self.why}"
        return ""

    def __str__(self) -> str:
        """What is done, running and left, and for how long."""
        left = self.total - self.done - self.failed - self.running
        parts = {"done": self.done, "failed": self.failed, "running": self.running, "left": left}
        counted = ", ".join(f"{count} {what}" for what, count in parts.items() if count) or "nothing to do"
        return counted if self.left is None else f"{counted}, about {spoken(self.left)} to go"


def spoken(seconds: float) -> str:
    """A time as one says it."""
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def execute(
    graph: Graph,
    pool: Pool,
    *,
    grow: Grow | None = None,
    watch: Callable[[Progress], None] | None = None,
    journal: Journal | None = None,
) -> None:
    """Do every task; one that fails takes along what needs it, and nothing else.

    Arguments:
        journal: What was done before, and where to note what is done now.
        grow: Given a task that is done and what it returned, the tasks that follow from it.
        watch: Told after everything that happens.
    Errors:
        RuntimeError, where tasks wait for one another.
    """
    began, paid, clock = pool.now(), 0.0, 0.0

    def tell(event: str = "", task: str = "", why: str = "") -> None:
        if watch is not None:
            left = graph.left * clock / paid / max(1, pool.size) if paid and not graph.over else None
            counts = len(graph.done), len(graph.running), len(graph.failed), len(graph.tasks)
            share = 1 - graph.left / graph.whole if graph.whole else 1.0
            watch(Progress(*counts, pool.now() - began, left, share, event, task, why))

    while not graph.over:
        while (group := pool.vacant()) is not None and (task := graph.take(group)) is not None:
            known = None if journal is None else journal.known(task)
            if known is None:
                pool.start(task, graph)
                tell("began", task.name)
            else:
                graph.finish(task.key, known)
                graph.add(grow(task, known) if grow is not None else ())
        if graph.over:
            break
        if not graph.running:
            waiting = next(t.name for key, t in graph.tasks.items() if key not in graph.done and key not in graph.failed)
            raise RuntimeError(f"nothing can begin, and {waiting} waits; a pool without places, or a circle")
        ended = pool.wait(LOOK)
        for one in ended:
            task = graph.tasks[one.key]
            _settle(graph, one)
            if one.how == "done":
                if one.fresh:
                    paid, clock = paid + task.cost, clock + one.seconds
                if journal is not None:
                    journal.note(task, one.value, one.seconds, one.busy)
                if grow is not None:
                    graph.add(grow(task, one.value))
            tell(one.how, task.name, one.why)
        if not ended:
            tell()


def _settle(graph: Graph, ended: Ended) -> None:
    if ended.how == "done":
        graph.finish(ended.key, ended.value, ended.seconds)
    elif ended.how == "failed":
        graph.fail(ended.key, ended.why)
    else:
        graph.lose(ended.key, ended.why)
