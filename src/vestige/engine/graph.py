"""What is to be done, in which order: pieces of work, each once however many ask for it, what each needs before it, and what failed.

What the longest chain of work still hangs on is done first, so that no long piece is left for the end; among pieces of about equal
weight a worker goes on with what it has loaded. The same object decides for processes, for a cluster and in simulation.

Longest remaining path first is list scheduling by critical path (Graham, Bounds on multiprocessing timing anomalies, 1969: never more
than twice the best possible time); the preference for what is loaded is ours.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

TRIES = 3  # times that a piece is begun whose worker died
ALIKE = 0.5  # share of the weightiest piece's weight from which what is loaded goes first


@dataclass(frozen=True)
class Task:
    """A piece of work, as plain data that any process can take up.

    Arguments:
        key: What it is; two tasks of one key are one.
        name: What to call it.
        entry: "module:function" of a function of (data, root, out), which returns plain data.
        data: Plain data.
        root: Folder of the runs that it leaves and finds.
        out: Folder of its own that it writes, an audit's or a ledger's; "" for none.
        needs: Keys of what must be done before it.
        cost: How long it takes beside others, in any one unit: calls of a denoiser.
        group: What a worker has loaded that has done one of the group.
    """

    key: str
    name: str
    entry: str
    data: Mapping[str, Any]
    root: str = ""
    out: str = ""
    needs: tuple[str, ...] = ()
    cost: float = 1.0
    group: str = ""


@dataclass
class Graph:
    """Tasks and where they stand.

    `whole` and `left` are costs: of all tasks, and of those that have not ended. `done` holds what each returned, `failed` why each failed
    or which failure it waits for in vain, `causes` the key of that failure.
    """

    tasks: dict[str, Task] = field(default_factory=dict)
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    causes: dict[str, str] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    spent: float = 0.0
    left: float = 0.0
    whole: float = 0.0
    _weight: dict[str, float] = field(default_factory=dict)
    _after: dict[str, list[str]] = field(default_factory=dict)
    _missing: dict[str, int] = field(default_factory=dict)
    _tries: dict[str, int] = field(default_factory=dict)
    _all: list[tuple[float, int, str]] = field(default_factory=list)
    _groups: dict[str, list[tuple[float, int, str]]] = field(default_factory=dict)
    _number: dict[str, int] = field(default_factory=dict)

    def add(self, tasks: Iterable[Task]) -> None:
        """Add tasks after those that they need; one that is there already is left as it is.

        Errors:
            ValueError, for a need that is not there.
        """
        for task in tasks:
            if task.key in self.tasks:
                continue
            if unknown := [key for key in task.needs if key not in self.tasks]:
                raise ValueError(f"{task.name} needs {unknown[0]}, which is no task here; add what is needed first")
            self.tasks[task.key] = task
            self._number[task.key] = len(self._number)
            self._after[task.key] = []
            self.left += task.cost
            self.whole += task.cost
            for key in task.needs:
                self._after[key].append(task.key)
            self._missing[task.key] = sum(key not in self.done for key in dict.fromkeys(task.needs))
            self._weigh(task.key, task.cost)
            broken = next((key for key in task.needs if key in self.failed), None)
            if broken is not None:
                self._block(task.key, self.causes[broken])
            elif not self._missing[task.key]:
                self._offer(task.key)

    def _weigh(self, key: str, weight: float) -> None:
        """A task's weight, and with it that of what it needs: its cost and that of the longest chain after it."""
        todo = [(key, weight)]
        while todo:
            one, heavy = todo.pop()
            if heavy <= self._weight.get(one, -1.0):
                continue
            self._weight[one] = heavy
            if self._waits(one):
                self._offer(one)
            todo += [(need, heavy + self.tasks[need].cost) for need in self.tasks[one].needs]

    def _waits(self, key: str) -> bool:
        """Whether a task could be begun now."""
        return not self._missing.get(key, 1) and not (key in self.done or key in self.failed or key in self.running)

    def _offer(self, key: str) -> None:
        entry = (-self._weight[key], self._number[key], key)
        heapq.heappush(self._all, entry)
        heapq.heappush(self._groups.setdefault(self.tasks[key].group, []), entry)

    def _best(self, heap: list[tuple[float, int, str]]) -> tuple[float, int, str] | None:
        """The weightiest task of a heap that may be begun; what is out of date is dropped."""
        while heap and not (self._waits(heap[0][2]) and -heap[0][0] == self._weight[heap[0][2]]):
            heapq.heappop(heap)
        return heap[0] if heap else None

    def take(self, group: str = "") -> Task | None:
        """The task to begin next, by a worker that has `group` loaded; None while there is none."""
        best = self._best(self._all)
        if best is None:
            return None
        near = self._best(self._groups.get(group, [])) if group else None
        chosen = near if near is not None and -near[0] >= ALIKE * -best[0] else best
        self.running.add(chosen[2])
        self._tries[chosen[2]] = self._tries.get(chosen[2], 0) + 1
        return self.tasks[chosen[2]]

    def finish(self, key: str, value: Mapping[str, Any], seconds: float = 0.0) -> None:
        """A task is done; what waited for nothing else may begin."""
        self.running.discard(key)
        self.done[key] = dict(value)
        self.left -= self.tasks[key].cost
        self.spent += seconds
        for after in dict.fromkeys(self._after[key]):
            self._missing[after] -= 1
            if self._waits(after):
                self._offer(after)

    def fail(self, key: str, why: str) -> None:
        """A task failed, and with it all that needs it."""
        self.running.discard(key)
        self.failed[key], self.causes[key] = why, key
        self.left -= self.tasks[key].cost
        for after in self._after[key]:
            self._block(after, key)

    def _block(self, key: str, cause: str) -> None:
        todo = [key]
        while todo:
            one = todo.pop()
            if one in self.failed:
                continue
            self.failed[one], self.causes[one] = f"{self.tasks[cause].name}: {self.failed[cause]}", cause
            self.left -= self.tasks[one].cost
            todo += self._after[one]

    def lose(self, key: str, why: str) -> None:
        """A task's worker died: it is begun again, `TRIES` times at most."""
        self.running.discard(key)
        if self._tries[key] >= TRIES:
            self.fail(key, f"{why}, {TRIES} times")
        else:
            self._offer(key)

    def closure(self, key: str) -> list[str]:
        """Everything that a task rests on, near or far, without itself."""
        seen, todo = dict[str, None](), list(self.tasks[key].needs)
        while todo:
            one = todo.pop()
            if one not in seen:
                seen[one] = None
                todo += self.tasks[one].needs
        return list(seen)

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        return len(self.done) + len(self.failed) == len(self.tasks)
