"""A grid as one graph of tasks: pieces that several cells share are there once, and each cell ends with its verdict or its ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vestige import files, runs
from vestige.audit import Request
from vestige.audit.plan import Plan
from vestige.audit.tasks import look_tasks, plain_request
from vestige.continual.plan import SequencePlan
from vestige.continual.tasks import order_told, sequence_tasks
from vestige.engine import Task
from vestige.grid import work
from vestige.grid.cells import GridCell
from vestige.grid.reading import GridPlan
from vestige.harness.processes import means


@dataclass(frozen=True)
class Outlook:
    """What a grid would take, if nothing is stored but whole cells.

    Arguments:
        rows: A cell each: its name, state, tasks and calls of the first look, and calls if only the last look decides.
        tasks: Tasks of the first looks of cells that are not finished, each counted once.
        saved: Of them, how often one was asked for again.
        calls: What the tasks take, in calls of the denoiser.
        most: What they take if only the last look decides, in every cell.
    """

    rows: tuple[dict[str, Any], ...]
    tasks: int
    saved: int
    calls: float
    most: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass
class Weaver:
    """Makes the tasks of cells, look by look.

    Arguments:
        grid: The cells and their plans.
        out: The grid's folder.
        root: Folder of the runs.
        ends: By the key of a cell's last task so far, the cell's name.
    """

    grid: GridPlan
    out: Path
    root: Path
    ends: dict[str, str] = field(default_factory=dict)
    _cells: dict[str, GridCell] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._cells = {cell.name: cell for cell in self.grid.cells}

    def folder(self, cell: GridCell) -> Path:
        """A cell's own."""
        return self.out / "cells" / cell.name

    def finished(self, cell: GridCell) -> bool:
        """Whether this very cell has finished here."""
        found, spec = (files.object_in(self.folder(cell) / name) for name in ("result.json", "spec.json"))
        plan = self.grid.plans[cell.name]
        if found is None or spec is None or runs.key(spec) != runs.key(plan.spec()):
            return False
        return isinstance(plan, Plan) or found.get("asked") == runs.key(plan.asked())

    def tasks(self, cell: GridCell, replicates: int = 0) -> list[Task]:
        """A cell's tasks up to a look; 0: the first. The last one ends it, or says that another look is needed."""
        plan, asked = self.grid.plans[cell.name], cell.asked
        out = str(self.folder(cell))
        if isinstance(plan, SequencePlan) or not isinstance(asked, Request):
            order = asked if not isinstance(asked, Request) else None
            made = sequence_tasks(plan, str(self.root), out) if isinstance(plan, SequencePlan) else []
            data: dict[str, Any] = {"order": {} if order is None else order_told(order)}
            content = plan.asked() if isinstance(plan, SequencePlan) else {}
            return [*made, self._end(cell, plan, made, work.end_sequence, data, content, 0)]
        count = replicates or len(plan.seeds)
        made = look_tasks(plan.at(count), str(self.root))
        return [*made, self._end(cell, plan, made, work.end_audit, {"request": plain_request(asked), "replicates": count}, {}, count)]

    def _end(self, cell: GridCell, plan: Any, made: list[Task], entry: Any, data: Mapping[str, Any], content: Any, count: int) -> Task:
        key = f"cell-{runs.key({'spec': plan.spec(), 'asked': content, 'out': cell.name, 'look': count})[:20]}"
        self.ends[key] = cell.name
        told = {**data, "means": means(), "command": cell.command}
        title = f"{cell.name}{f', look at {count}' if count else ''}"
        needs = tuple(task.key for task in made)
        return Task(key, title, f"{work.__name__}:{entry.__name__}", told, str(self.root), str(self.folder(cell)), needs, work.ENDING)

    def grow(self, task: Task, value: Mapping[str, Any]) -> Iterable[Task]:
        """The tasks of the next look, where a cell's last did not decide."""
        if not value.get("undecided"):
            return []
        cell = self._cells[self.ends[task.key]]
        plan = self.grid.plans[cell.name]
        looks = plan.looks if isinstance(plan, Plan) else ()
        later = [count for count in looks if count > int(task.data["replicates"])]
        return self.tasks(cell, later[0]) if later else []


def outlook(grid: GridPlan, out: Path, root: Path) -> Outlook:
    """What a grid would take from here."""
    weaver = Weaver(grid, out, root)
    rows, seen, last, asked = [], dict[str, float](), dict[str, float](), 0
    for cell in grid.cells:
        plan, done = grid.plans[cell.name], weaver.finished(cell)
        tasks = [task for task in weaver.tasks(cell) if task.key not in weaver.ends]
        looks = plan.looks if isinstance(plan, Plan) else ()
        most = [t for t in weaver.tasks(cell, looks[-1]) if t.key not in weaver.ends] if looks else tasks
        calls, longest = (sum(task.cost for task in part) for part in (tasks, most))
        state = "finished" if done else "begun" if weaver.folder(cell).exists() else "missing"
        rows.append({"cell": cell.name, "kind": cell.kind, "state": state, "tasks": len(tasks), "calls": calls, "most": longest})
        if not done:
            asked += len(tasks)
            seen |= {task.key: task.cost for task in tasks}
            last |= {task.key: task.cost for task in most}
    return Outlook(tuple(rows), len(seen), asked - len(seen), sum(seen.values()), sum(last.values()))
