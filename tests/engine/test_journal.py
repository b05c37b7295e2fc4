"""What a journal makes of lines that it did not write."""

from __future__ import annotations

from pathlib import Path

import pytest

from vestige.engine import Journal, Task


@pytest.mark.parametrize("line", ["", "[]", "\x00{", '{"key": ["k"]}', '{"key": "k"}', '{"key": "k", "root": "", "value": 3}'])
def test_a_line_that_says_no_result_is_no_task_that_is_done(tmp_path: Path, line: str) -> None:
    """And what is noted after it is read."""
    task, file = Task("k", "a piece", "module:function", {}), tmp_path / "tasks.jsonl"
    file.write_text(line + "\n")
    journal = Journal(file)
    assert journal.known(task) is None
    journal.note(task, {"found": 1}, 1.0, 1.0)
    assert Journal(file).known(task) == {"found": 1}
