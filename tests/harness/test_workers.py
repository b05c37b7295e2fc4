"""Several processes on one list of errands: nothing is done twice, nothing is lost, and the numbers stay the same."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from onlookers import told
from oracles import save_pair
from vestige import audit, runs
from vestige.audit import Request
from vestige.concepts import images
from vestige.errors import RunConflict
from vestige.harness import workers
from vestige.seeds import generator

FILE = "helpers_errands"  # a module of the helpers' own, made by `helper`


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The entry of a helper that claims every second errand and is slow about it."""
    source = """
import os, time
from pathlib import Path
from vestige import runs
from vestige.harness import workers

def work(task):
    def errand(i):
        def do(run):
            time.sleep(task["seconds"])
            return {"by": os.getpid()}
        return lambda: runs.compute(task["root"], {"errand": i}, "errand", do, wait=0.0)
    Path(task["root"], "began").touch()
    workers.attend(errand(i) for i in range(task["count"]))
"""
    (tmp_path / f"{FILE}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return f"{FILE}:work"


def began(root: Path, within: float = 60.0) -> None:
    deadline = time.monotonic() + within
    while not (root / "began").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_processes_share_errands_and_do_each_once(tmp_path: Path, helper: str) -> None:
    task = {"root": str(tmp_path / "runs"), "count": 12, "seconds": 0.05}
    (tmp_path / "runs").mkdir()
    done: list[int] = []

    def errand(i: int) -> runs.Run:
        def do(run: runs.Run) -> dict[str, Any]:
            time.sleep(0.05)
            done.append(i)
            return {"by": os.getpid()}

        return runs.compute(task["root"], {"errand": i}, "errand", do, wait=0.0)  # type: ignore[arg-type]

    with workers.helped(1, helper, task) as helpers:
        began(tmp_path / "runs")
        left = workers.attend(partial(errand, i) for i in range(12))
        assert helpers[0].wait(30) == 0
    by = [errand(i).outcome["by"] for i in range(12)]
    assert len(done) == len(set(done)) == by.count(os.getpid())
    assert set(by) == {os.getpid(), helpers[0].pid} and left <= by.count(helpers[0].pid)


def test_a_helper_ends_with_the_context(tmp_path: Path, helper: str) -> None:
    (tmp_path / "runs").mkdir()
    with workers.helped(1, helper, {"root": str(tmp_path / "runs"), "count": 1, "seconds": 600}) as helpers:
        began(tmp_path / "runs")
        assert helpers[0].poll() is None
    assert helpers[0].returncode != 0


def test_a_helper_dies_with_its_parent(tmp_path: Path, helper: str) -> None:
    """Also where the parent had no time to say so."""
    (tmp_path / "runs").mkdir()
    task = {"root": str(tmp_path / "runs"), "count": 1, "seconds": 600}
    program = f"""
import time
from vestige.harness import workers
with workers.helped(1, {helper!r}, {task!r}) as helpers:
    print(helpers[0].pid, flush=True)
    time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    began(tmp_path / "runs")
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(") ")[1][:1]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_what_others_are_at_is_counted() -> None:
    def busy() -> None:
        raise RunConflict("somebody else")

    assert workers.attend([busy, lambda: None, busy]) == 2


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, a twin of it, and references, as folders; what a helper reads too."""
    root = tmp_path_factory.mktemp("home")
    save_pair(root)
    (root / "looks.py").write_text("def bright(images):\n    return images.mean((1, 2, 3))\n")
    images.save(torch.rand(8, 3, 32, 32, generator=generator(0, "references")), root / "references")
    return root


@pytest.fixture(scope="module")
def alone(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return audited(home, tmp_path_factory.mktemp("alone") / "audit", 1)


def audited(home: Path, out: Path, jobs: int) -> dict[str, Any]:
    """What an audit in so many processes of one thread finds."""
    threads, settings = torch.get_num_threads(), {"sampling_steps": 3, "start": 1, "points": 2, "batch": 2, "rank": 2}
    request = Request(
        model=str(home / "model"),
        concept=told(home, detector="looks.py:bright", threshold=0.45, pictures="references"),
        control=f"twin:{home / 'twin'}",
        unlearner="uce",
        suite="smoke",
        attacks=("memora",),
        seeds=(0,),
        settings={f"memora.{name}": str(value) for name, value in settings.items()},
    )
    torch.set_num_threads(1)
    try:
        found = audit.audit(request, out, jobs=jobs)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    return {k: v for k, v in found.items() if k not in ("cost", "provenance", "run", "report")}


@pytest.mark.parametrize("entry", ["vestige.audit.run:help_out", "no_such_module:work"])
def test_an_audit_of_two_processes_is_that_of_one(
    home: Path, tmp_path: Path, entry: str, alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the helper dies at once; one that lives takes the first errand."""
    start, helpers = workers.helped, []

    @contextmanager
    def helped(count: int, _: str, task: Any) -> Iterator[Any]:
        with start(count, entry, task) as made:
            helpers.extend(made)
            deadline = time.monotonic() + 240
            while made[0].poll() is None and not list(tmp_path.glob("audit/runs/arm-*")):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield made

    monkeypatch.setattr(workers, "helped", helped)
    assert audited(home, tmp_path / "audit", 2) == alone
    assert len(helpers) == 1
    assert (helpers[0].returncode == 1) == entry.startswith("no_such")
