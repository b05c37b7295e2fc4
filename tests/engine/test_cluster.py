"""Tasks on a real Ray cluster of two nodes on this machine: a node and the driver are killed, and the results stay what they are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from vestige.engine import Graph, Task, carrying, execute
from vestige.engine.cluster import RayPool, Takes, check_versions, versions
from vestige.errors import BadSetting, Incompatible

ERRANDS = "cluster_errands"  # a module of the workers' own
SOURCE = """
import os, time
from pathlib import Path
from vestige import runs
from vestige.errors import BadInput

def first(data, root, out):
    run = runs.compute(root, {"number": data["number"]}, "first", lambda run: made(run, data))
    return {"node": os.environ.get("HERE", "")}

def made(run, data):
    time.sleep(data["seconds"])
    run.write_bytes("number.bin", bytes([data["number"]]))
    return {"number": data["number"]}

def second(data, root, out):
    held = [runs.compute(root, {"number": n}, "first", refuse).outcome["number"] for n in data["of"]]
    cell = runs.claim(out, {"of": data["of"]})
    with cell.held():
        cell.finish({"sum": sum(held), "run": str(out)})
    return {"sum": sum(held), "wrote": ["result.json"]}

def refuse(run):
    raise BadInput("it was not carried here")
"""


def test_what_a_task_takes_is_read() -> None:
    assert Takes.read("").options() == {"num_cpus": 1.0, "num_gpus": 0.0}
    assert Takes.read("cpus=2, gpus=0.5,memory=4").options() == {"num_cpus": 2.0, "num_gpus": 0.5, "memory": 4_000_000_000}
    for wrong in ("cpu=1", "gpus", "gpus=x", "cpus=-1", "cpus=0", "memory=inf"):
        with pytest.raises(BadSetting):
            Takes.read(wrong)


def test_other_versions_are_refused() -> None:
    here = versions()
    check_versions(here, here, "this node")
    with pytest.raises(Incompatible, match="the node x has torch"):
        check_versions({**here, "torch": "0.1"}, here, "the node x")


def test_a_folder_that_is_carried_is_the_same_without_its_lock(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    (there / "deep").mkdir(parents=True)
    (there / "deep" / "x.bin").write_bytes(b"\x00\x01")
    (there / "lock").write_text("{}")
    (there / "result.json").write_text(json.dumps({"run": str(there)}))
    data = carrying.archived(there)
    assert "lock" not in zipfile.ZipFile(BytesIO(data)).namelist()
    carrying.extracted(data, here, places={str(there): str(here)})
    assert (here / "deep" / "x.bin").read_bytes() == b"\x00\x01" and json.loads((here / "result.json").read_text()) == {"run": str(here)}
    (here / "mine").touch()
    carrying.extracted(data, here)
    assert json.loads((here / "result.json").read_text()) == {"run": str(here)}  # what is done is left
    carrying.extracted(data, here, replace=True)
    assert json.loads((here / "result.json").read_text()) == {"run": str(there)} and (here / "mine").exists()
    assert {p.name for p in tmp_path.iterdir()} == {"there", "here"}


@pytest.fixture
def two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without room for tasks, and two nodes of one core; whoever joins it finds the errands."""
    utils = pytest.importorskip("ray.cluster_utils")
    (tmp_path / f"{ERRANDS}.py").write_text(SOURCE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    small = {"object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    cluster.nodes = [cluster.add_node(num_cpus=1, object_store_memory=80_000_000) for _ in range(2)]
    try:
        yield cluster
    finally:
        cluster.shutdown()


def errands(root: Path, cells: Path, seconds: float = 0.0) -> Graph:
    graph = Graph()
    graph.add(Task(f"f{i}", f"first {i}", f"{ERRANDS}:first", {"number": i, "seconds": seconds}, str(root)) for i in range(6))
    for i in range(0, 6, 2):
        needs, data = (f"f{i}", f"f{i + 1}"), {"of": [i, i + 1]}
        graph.add([Task(f"s{i}", f"second {i}", f"{ERRANDS}:second", data, str(root), str(cells / str(i)), needs)])
    return graph


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_runs_are_carried_between_nodes_and_a_node_that_dies_costs_its_task_only(two_nodes: Any, tmp_path: Path) -> None:
    graph, lost, alive = errands(tmp_path / "runs", tmp_path / "cells", 3.0), list[str](), list(two_nodes.nodes)

    def watch(now: Any) -> None:
        if not now.event and now.done >= 2 and now.running == 2 and len(alive) == 2:  # both are in the middle of a task
            two_nodes.remove_node(alive.pop(), allow_graceful=False)
        if now.event == "lost":
            lost.append(now.task)

    with RayPool(two_nodes.address, most=2) as pool:
        execute(graph, pool, watch=watch)
    assert not graph.failed and lost
    assert {graph.done[f"s{i}"]["sum"] for i in (0, 2, 4)} == {1, 5, 9}
    for i in (0, 2, 4):
        assert json.loads((tmp_path / "cells" / str(i) / "result.json").read_text())["run"] == str(tmp_path / "cells" / str(i))
    assert len(list((tmp_path / "runs").glob("first-*/number.bin"))) == 6


DRIVER = """
import json, sys
from pathlib import Path
from vestige import grid
from vestige.engine.cluster import RayPool
file, out, address = sys.argv[1:]
with RayPool(address, most=2) as pool:
    found = grid.run_grid(grid.read(Path(file)), Path(out), pool, watch=lambda now, done: print(now.event, flush=True))
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_grid_on_two_nodes_is_that_of_one_process_though_node_and_driver_are_killed(two_nodes: Any, tmp_path: Path) -> None:
    from vestige import grid
    from vestige.engine import LocalPool
    from worlds_small import furnish

    home = furnish(tmp_path / "home")
    (home / "grid.toml").write_text(
        f'[axes]\nmodels = ["{home}/model"]\nconcepts = ["{home}/bag.toml"]\nsuites = ["{home}/suite.toml"]\nattacks = ["direct"]\n'
        f'seeds = [0, 1]\n[[unlearners]]\nmethod = "uce"\n[common]\ncontrol = "twin:{home}/twin"\nseeds = [0]\n'
    )
    with LocalPool(1) as pool:
        grid.run_grid(grid.read(home / "grid.toml"), tmp_path / "local", pool)

    def driver() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", DRIVER, str(home / "grid.toml"), str(tmp_path / "ray"), two_nodes.address]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    first, done = driver(), 0
    assert first.stdout is not None
    for line in first.stdout:
        done += line.strip() == "done"
        if done == 3:
            break
    two_nodes.remove_node(two_nodes.nodes[1], allow_graceful=False)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    two_nodes.add_node(num_cpus=1, object_store_memory=80_000_000)
    time.sleep(1)
    second = driver()
    said, _ = second.communicate(timeout=900)
    assert second.returncode == 0
    assert [row["state"] for row in json.loads(said.splitlines()[-1])["cells"]] == ["finished", "finished"]
    for cell in (tmp_path / "local" / "cells").iterdir():
        here, there = (json.loads((p / "result.json").read_text()) for p in (cell, tmp_path / "ray" / "cells" / cell.name))
        assert there["run"] == str(tmp_path / "ray" / "cells" / cell.name)
        for told in ("cost", "provenance", "run", "report"):
            here.pop(told), there.pop(told)
        assert here == there
