"""An audit by several processes: the numbers of one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vestige import audit, engine
from vestige.audit import Request, experiment, tasks
from vestige.audit import run as auditing
from vestige.audit.pieces import pieces
from vestige.engine.serving import called
from worlds_small import furnish


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def alone(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return audited(home, tmp_path_factory.mktemp("alone") / "audit", 1)


def request_of(home: Path, **changes: Any) -> Request:
    given = {"model": str(home / "model"), "concept": str(home / "bag.toml"), "control": f"twin:{home / 'twin'}", "unlearner": "uce"}
    return Request(**{**given, "suite": str(home / "suite.toml"), "attacks": ("memora",), "seeds": (0,), **changes})


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


@pytest.mark.slow  # tests/grid/test_run.py shows the same of a grid
def test_an_audit_by_two_processes_is_that_of_one(
    home: Path, tmp_path: Path, alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = list[engine.Graph]()
    monkeypatch.setattr(auditing, "Graph", lambda: graphs.append(engine.Graph()) or graphs[-1])
    assert audited(home, tmp_path / "audit", 2) == alone
    (graph,) = graphs
    assert graph.over and not graph.failed


class Stumbling:
    """A pool in the place of worker processes, in which one piece fails and another's process dies once."""

    def __init__(self, count: int) -> None:
        self.died = False

    def __enter__(self) -> engine.HerePool:
        pool = engine.HerePool(self.work)
        wait = pool.wait
        pool.wait = lambda seconds: [self.ended(one) for one in wait(seconds)]  # type: ignore[method-assign]
        return pool

    def __exit__(self, *error: object) -> None:
        pass

    def work(self, task: engine.Task) -> Any:
        if "on edited" in task.name:
            raise OSError("no space left")
        return called(task.entry, task.data, task.root, task.out)

    def ended(self, one: engine.Ended) -> engine.Ended:
        if self.died or one.how != "done":
            return one
        self.died = True
        return engine.Ended(one.key, "lost", why="its process ended with code -9")


def test_a_piece_that_a_worker_did_not_do_is_told_and_done_here(
    home: Path, tmp_path: Path, alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On stderr, in the run's events and in the result; the numbers are those of one process."""
    monkeypatch.setattr(auditing, "LocalPool", Stumbling)
    said = list[str]()
    found = audit.audit(request_of(home), tmp_path / "audit", jobs=2, watch=lambda stage, done, total: said.append(stage))
    assert {k: v for k, v in found.items() if k not in ("cost", "provenance", "run", "report")} == alone
    notes = [stage for stage in said if stage.startswith(engine.NOTE)]
    lost, failed = (next(note for note in notes if word in note) for word in ("begun again", "failed in a worker process"))
    assert lost.endswith("its process ended with code -9") and "on edited" in failed and failed.endswith("OSError: no space left")
    told = found["provenance"]["done_again"]
    assert [event["event"] for event in told] == ["piece lost", *["piece failed"] * (len(notes) - 1)]
    assert all(event["task"] in note and event["why"] in note for event, note in zip(told, notes, strict=True))


def test_one_process_has_nothing_to_tell(home: Path, tmp_path: Path) -> None:
    assert "done_again" not in audit.audit(request_of(home), tmp_path / "audit", jobs=1)["provenance"]


@pytest.mark.parametrize("sparing", [True, False])
def test_a_worker_does_replicates_of_later_looks(sparing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It resolves the request anew, and so knows of the first look's replicates alone."""
    plan = audit.resolve(Request(unlearner="uce", attacks=("memora",)))
    plan = replace(plan, suite=replace(plan.suite, sparing=sparing))
    assert plan.looks and plan.seeds == (0, 1, 2)
    seen, done = list[Any](), list[Any]()
    stub = SimpleNamespace(plan=plan, ways=lambda *asked: seen.append(asked[-1]), arm=lambda *asked: done.append(asked[-1]))
    monkeypatch.setattr(experiment, "still_open", lambda _: {"raw"})
    for replicate, way in ((1, "raw"), (4, "raw"), (4, "")):
        experiment.Experiment.turn(stub, None, None, "memora", way, replicate)  # type: ignore[arg-type]
    assert done == ([1, 4] if sparing else [1, 4, 4])
    assert seen == ([(0,), (0, 1, 2, 3), (0, 1, 2, 3)] if sparing else [])


@pytest.mark.slow
def test_later_looks_by_two_processes_are_those_of_one(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicates of a model of noise decide nothing; here all looks are taken, and no piece of them fails."""
    graphs = list[engine.Graph]()
    monkeypatch.setattr(auditing, "Graph", lambda: graphs.append(engine.Graph()) or graphs[-1])
    monkeypatch.setattr(auditing, "_settled", lambda *_: False)
    text = (home / "suite.toml").read_text()
    assert "looks" not in text
    (home / "looking.toml").write_text(text.replace("replicates", "looks = [3, 5]\nreplicates", 1))
    asked = request_of(home, suite=str(home / "looking.toml"), seeds=())
    found = [audit.audit(asked, tmp_path / str(jobs), jobs=jobs, cache=tmp_path / f"runs-{jobs}") for jobs in (1, 2)]
    assert [graph.failed for graph in graphs] == [{}] * 4
    assert found[0]["attacks"] == found[1]["attacks"]
    assert found[0]["provenance"]["seeds"] == found[1]["provenance"]["seeds"] == [0, 1, 2, 3, 4]


def test_what_does_not_see_the_edit_is_one_piece_for_every_edit(home: Path) -> None:
    def made(**changes: Any) -> dict[str, engine.Task]:
        return {task.key: task for task in tasks.look_tasks(audit.resolve(request_of(home, **changes)), "runs")}

    one, other = made(), made(edit_seed=1)
    shared = one.keys() & other.keys()
    assert {key for key, task in one.items() if task.name.partition(":")[0] == "edit" or " on edited" in task.name} - shared
    assert all(("edited" in task.name or task.name.startswith("edit:")) == (key not in shared) for key, task in one.items())
    assert all("unlearner" not in one[key].data["request"] for key in shared)
    assert one.keys() < made(seeds=(0, 1)).keys()  # a later look goes on from an earlier one
    assert not {key for key in one if key.startswith("piece")} & made(suite="smoke", settings={}).keys()


def test_a_replicate_waits_for_those_before_only_where_a_way_of_attacking_may_be_given_up() -> None:
    plan = audit.resolve(Request(concept="sneaker", unlearner="uce", attacks=("memora", "direct"), seeds=(0, 1, 2)))
    assert plan.suite.sparing
    waits = {
        attack: {
            need.replicate
            for piece, needs in pieces(plan).items()
            if piece.attack == attack and piece.replicate == 2
            for need in needs
            if need.what == "arm"
        }
        for attack in ("memora", "direct")
    }
    assert waits == {"memora": {1}, "direct": set()}
