"""What was done already, so that who begins again begins nothing twice: a line a finished task, beside the runs that it left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vestige import files
from vestige.engine.graph import Task


class Journal:
    """Finished tasks in a file, one line each, append-only; a line that a crash cut short is left out.

    A task counts as done only while the runs that it rests on, and what it wrote ("wrote" in its value), are there.

    Arguments:
        file: A .jsonl file; made with its first line.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        lines = file.read_text("utf-8", errors="replace").splitlines() if file.exists() else []
        self.rows = {row["key"]: row for row in map(files.json_object, lines) if row is not None and isinstance(row.get("key"), str)}

    def known(self, task: Task) -> dict[str, Any] | None:
        """What a task returned; None for one that is not done, or whose results are gone."""
        row = self.rows.get(task.key)
        if row is None or row.get("root") != task.root or not isinstance(row.get("value"), dict):
            return None
        value = dict(row["value"])
        there = all((Path(task.root) / name / "result.json").exists() for name in value.get("runs", ()))
        return value if there and all((Path(task.out) / name).exists() for name in value.get("wrote", ())) else None

    def note(self, task: Task, value: Mapping[str, Any], seconds: float, busy: float) -> None:
        """Write that a task is done."""
        took = {"seconds": round(seconds, 3), "busy": round(busy, 3)}
        row = {"key": task.key, "name": task.name, "root": task.root, "cost": task.cost, **took, "value": dict(value)}
        self.rows[task.key] = row
        files.append(self.file, json.dumps(row).encode() + b"\n")
