"""Processes on one graph: each task once, nothing lost with a process that dies, and the numbers of one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vestige.engine import Graph, LocalPool, Progress, Task, execute

FILE = "engine_errands"  # a module of the workers' own
SOURCE = """
import os, time
from pathlib import Path
from vestige.errors import BadInput

def work(data, root, out):
    print("printed, and no answer")
    (root / f"began-{data['number']}").touch()
    time.sleep(data.get("seconds", 0.0))
    if data["number"] == 13:
        raise BadInput("thirteen\\nis refused")
    return {"by": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]}

def die_once(data, root, out):
    mark = root / "died"
    if not mark.exists():
        mark.touch()
        os._exit(7)
    return {}
"""


@pytest.fixture
def errands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / f"{FILE}.py").write_text(SOURCE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return tmp_path


def errand(root: Path, number: int, entry: str = "work", seconds: float = 0.0) -> Task:
    return Task(str(number), f"errand {number}", f"{FILE}:{entry}", {"number": number, "seconds": seconds}, str(root))


def test_processes_do_each_task_once_and_one_that_dies_costs_nothing(errands: Path) -> None:
    graph, told = Graph(), list[Progress]()
    graph.add([*(errand(errands, i, seconds=0.02) for i in range(12)), errand(errands, 13), errand(errands, 20, "die_once")])
    with LocalPool(2, log=errands / "log") as pool:
        execute(graph, pool, watch=told.append)
    assert set(graph.done) == {*map(str, range(12)), "20"} and graph.failed == {"13": "thirteen is refused"}
    by = [graph.done[str(i)]["by"] for i in range(12)]
    assert os.getpid() not in by and {graph.done[str(i)]["threads"] for i in range(12)} == {"1"}
    assert [now.event for now in told].count("lost") == 1 and told[-1].done == 13 and told[-1].failed == 1
    assert "printed" in "".join(file.read_text() for file in (errands / "log").iterdir())


def test_a_worker_ends_with_its_parent_even_one_that_had_no_time_to_say_so(errands: Path) -> None:
    program = f"""
from pathlib import Path
from vestige.engine import Graph, LocalPool, Task, execute
graph = Graph()
graph.add([Task("0", "long", "{FILE}:work", {{"number": 0, "seconds": 600}}, {str(errands)!r})])
with LocalPool(1) as pool:
    print(pool.pids[0], flush=True)
    execute(graph, pool)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid, deadline = int(parent.stdout.readline()), time.monotonic() + 60
    while not (errands / "began-0").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(") ")[1][:1]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
