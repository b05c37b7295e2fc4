"""A sequence taken apart into tasks: what any process could do of it, and then the sequence as it is."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from vestige import continual
from vestige.continual import Order, tasks
from vestige.continual.tasks import by_processes, order_from, order_told, sequence_tasks
from vestige.engine import NOTE, Graph, HerePool, Task
from vestige.engine.serving import answered_by
from worlds_small import furnish


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("home"))


def order_of(home: Path, **changes: Any) -> Order:
    other = home / "dress.toml"
    if not other.exists():
        text = (home / "bag.toml").read_text().replace('name = "bag"', 'name = "dress"').replace('target = "bag"', 'target = "dress"')
        other.write_text(text.replace('unrelated = ["dress"]', 'unrelated = ["coat"]'))
    requests = (str(home / "bag.toml"), str(other))
    given = {"model": str(home / "model"), "requests": requests, "method": "uce", "suite": str(home / "suite.toml"), "attacks": ("direct",)}
    return Order(**{**given, **changes})


def test_a_sequence_by_tasks_is_the_sequence(home: Path, tmp_path: Path) -> None:
    order, graph, out = order_of(home, replicates=2), Graph(), tmp_path / "ledger"
    graph.add(sequence_tasks(continual.resolve(order), str(out / "runs"), str(out)))
    assert order_from(order_told(order)) == order
    whats = [key.partition("-")[0] for key in graph.tasks]
    assert whats.count("step") == 2 and whats.count("arm") == 2 * (1 + 2) and whats.count("look") % 3 == 0
    while (task := graph.take()) is not None:
        reply = answered_by(task.entry, dict(task.data), task.root, task.out)
        assert "why" not in reply, reply["why"]
        graph.finish(task.key, reply["value"])
    stored = {folder.name for folder in (out / "runs").iterdir()}
    found = [continual.continual(order, folder) for folder in (out, tmp_path / "alone")]
    assert {folder.name for folder in (out / "runs").iterdir()} == stored  # nothing was left to do
    for one in found:
        for certificate in one["certificates"]:
            certificate["edit"].pop("sha256")  # of a file, whose entries' order is its writer's
    first, second = ({k: v for k, v in one.items() if k not in ("cost", "provenance", "run", "report", "combined")} for one in found)
    assert first == second


def test_what_is_measured_may_decide_the_next_step(home: Path) -> None:
    chosen = continual.resolve(order_of(home, accept="recall=0.5"))
    assert not sequence_tasks(chosen, "runs", "out")


def test_what_a_worker_did_not_do_is_told(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(task: Task) -> dict[str, Any]:
        raise OSError("no space left")

    monkeypatch.setattr(tasks, "LocalPool", lambda count: nullcontext(HerePool(work)))
    said = list[str]()
    by_processes(order_of(home), tmp_path, tmp_path / "runs", 2, lambda stage, done, total: said.append(stage))
    told = [stage for stage in said if stage.startswith(NOTE)]
    assert told and all(stage.endswith("is done again in this one, with what needs it: OSError: no space left") for stage in told)
