"""One place in this very process: tasks are done while they are waited for, with what is loaded here already."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vestige.engine import serving
from vestige.engine.graph import Graph, Task
from vestige.engine.pool import Ended


class HerePool:
    """One place.

    Arguments:
        work: Does a task; what it raises is the task's failure, as in a process of its own.
    """

    size = 1

    def __init__(self, work: Callable[[Task], Mapping[str, Any]]) -> None:
        self.work = work
        self._task: Task | None = None

    def vacant(self) -> str | None:
        return "" if self._task is None else None

    def start(self, task: Task, graph: Graph) -> None:
        self._task = task

    def wait(self, seconds: float) -> list[Ended]:
        task, self._task = self._task, None
        if task is None:
            return []
        return [Ended.told(task.key, serving.attended(lambda: self.work(task), Path(task.root)))]

    def now(self) -> float:
        return time.monotonic()
