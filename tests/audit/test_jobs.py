"""An audit by several processes: the numbers of one process, also where a process dies at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from onlookers import told
from oracles import save_pair
from vestige import audit, engine
from vestige.audit import Request, tasks
from vestige.audit import run as auditing
from vestige.concepts import images
from vestige.seeds import generator


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, a twin of it, and references, as folders; what a worker reads too."""
    root = tmp_path_factory.mktemp("home")
    save_pair(root)
    (root / "looks.py").write_text("def bright(images):\n    return images.mean((1, 2, 3))\n")
    images.save(torch.rand(8, 3, 32, 32, generator=generator(0, "references")), root / "references")
    return root


@pytest.fixture(scope="module")
def alone(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return audited(home, tmp_path_factory.mktemp("alone") / "audit", 1)


def request_of(home: Path, **changes: Any) -> Request:
    settings = {"sampling_steps": 3, "start": 1, "points": 2, "batch": 2, "rank": 2}
    given = {
        "model": str(home / "model"),
        "concept": told(home, detector="looks.py:bright", threshold=0.45, pictures="references"),
        "control": f"twin:{home / 'twin'}",
        "unlearner": "uce",
        "suite": "smoke",
        "attacks": ("memora",),
        "seeds": (0,),
        "settings": {f"memora.{name}": str(value) for name, value in settings.items()},
    }
    return Request(**{**given, **changes})


def audited(home: Path, out: Path, jobs: int) -> dict[str, Any]:
    """What an audit in so many processes of one thread finds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = audit.audit(request_of(home), out, jobs=jobs)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    return {k: v for k, v in found.items() if k not in ("cost", "provenance", "run", "report")}


@pytest.mark.parametrize("works", [True, False], ids=["workers", "workers that fail"])
def test_an_audit_by_two_processes_is_that_of_one(
    home: Path, tmp_path: Path, works: bool, alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = list[engine.Graph]()
    monkeypatch.setattr(auditing, "Graph", lambda: graphs.append(engine.Graph()) or graphs[-1])
    if not works:
        monkeypatch.setattr(tasks.do_piece, "__name__", "there_is_no_such_function")
    assert audited(home, tmp_path / "audit", 2) == alone
    (graph,) = graphs
    assert graph.over and bool(graph.failed) != works


def test_what_does_not_see_the_edit_is_one_piece_for_every_edit(home: Path) -> None:
    one, other = ({task.key: task for task in tasks.look_tasks(audit.resolve(request_of(home, edit_seed=seed)), "runs")} for seed in (0, 1))
    shared = one.keys() & other.keys()
    assert {task.name.partition(":")[0] for key, task in one.items() if key not in shared and key.startswith("piece")} == {
        "memora on edited, replicate 0",
        "memora (released) on edited, replicate 0",
        "utility of edited",
    } | {name for name in (task.name.partition(":")[0] for task in one.values()) if "edited" in name}
    assert all("unlearner" not in one[key].data["request"] for key in shared)
    longer = tasks.look_tasks(audit.resolve(request_of(home, seeds=(0, 1))), "runs")
    assert {key for key in one if key.startswith(("edit", "positive"))} <= {task.key for task in longer}
    assert not {task.key for task in tasks.look_tasks(audit.resolve(request_of(home, suite="quick")), "runs")} & {
        key for key in one if key.startswith("piece")
    }
