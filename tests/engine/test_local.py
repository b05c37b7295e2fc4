"""Processes on one graph: each task once, nothing lost with a process that dies, and the numbers of one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vestige import runs
from vestige.engine import Graph, HerePool, LocalPool, Progress, Task, execute, spoken

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


def test_what_was_only_found_says_nothing_of_the_pace(tmp_path: Path) -> None:
    """In this very process: two runs that are computed, one of them asked for again under another task's name."""
    graph, told = Graph(), list[Progress]()

    def work(task: Task) -> dict[str, object]:
        runs.compute(tmp_path, {"what": task.data["of"]}, "run", lambda run: {})
        return {}

    pool = HerePool(work)
    graph.add(Task(str(i), f"task {i}", "", {"of": of}, str(tmp_path), cost=100.0) for i, of in enumerate("aabc"))
    execute(graph, pool, watch=told.append)
    ended = [now for now in told if now.event == "done"]
    assert [now.share for now in ended] == [0.25, 0.5, 0.75, 1.0]
    assert graph.done["1"]["runs"] == graph.done["0"]["runs"] != graph.done["2"]["runs"]
    paces = [now.left / (1 - now.share) for now in ended[:-1] if now.left is not None]
    assert paces[0] == paces[1]  # the second was found: as little is known as before


def test_times_are_said_as_one_says_them() -> None:
    assert [spoken(s) for s in (0.2, 89, 91, 5399, 5400)] == ["1 s", "89 s", "2 min", "90 min", "1.5 h"]
    assert str(Progress(2, 1, 0, 6, 3.0, None, 0.3)) == "2 done, 1 running, 3 left"
    assert str(Progress(6, 0, 0, 6, 3.0, None, 1.0)) == "6 done"
    assert str(Progress(2, 1, 1, 6, 3.0, 100.0, 0.3)) == "2 done, 1 failed, 1 running, 2 left, about 2 min to go"
