"""A pool on a made-up clock: the very scheduler, with run times that were measured elsewhere, for any number of workers."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from vestige.engine.graph import Graph, Task
from vestige.engine.pool import Ended


class SimulatedPool:
    """Places in which tasks last as long as they are told to; nothing is computed.

    Whoever hands out tasks does so one at a time, and each takes `overhead` of the clock: what every scheduler stops scaling by.

    Arguments:
        count: Places.
        seconds: How long a task lasts.
        loading: Seconds that a place needs before the first task of another group.
        overhead: Seconds between two tasks that are handed out or taken back.
    """

    def __init__(self, count: int, seconds: Callable[[Task], float], *, loading: float = 0.0, overhead: float = 0.0) -> None:
        self.count, self.seconds, self.loading, self.overhead = count, seconds, loading, overhead
        self.clock, self.busy, self._number = 0.0, 0.0, 0
        self._free = [""] * count
        self._ends: list[tuple[float, int, Task, float]] = []

    @property
    def size(self) -> int:
        return self.count

    def vacant(self) -> str | None:
        return self._free[-1] if self._free else None

    def start(self, task: Task, graph: Graph) -> None:
        group = self._free.pop()
        self.clock += self.overhead
        lasts = self.seconds(task)
        self.busy += lasts
        self._number += 1
        end = self.clock + lasts + (self.loading if group != task.group else 0.0)
        heapq.heappush(self._ends, (end, self._number, task, lasts))

    def wait(self, seconds: float) -> list[Ended]:
        end, _, task, lasts = heapq.heappop(self._ends)
        self.clock = max(self.clock, end) + self.overhead
        self._free.append(task.group)
        return [Ended(task.key, "done", {}, seconds=lasts)]

    def now(self) -> float:
        return self.clock
