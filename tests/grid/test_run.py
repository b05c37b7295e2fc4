"""A grid from end to end on a tiny model: what is shared, what fails, what is resumed, and the numbers of audits run alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vestige import audit, grid
from vestige.compare import collected, summarised
from vestige.engine import Graph, Progress, SimulatedPool, execute
from vestige.grid.plan import Weaver
from worlds_small import furnish, in_place

GRID = """
[axes]
models = ["{home}/model"]
concepts = ["{home}/bag.toml"]
suites = ["{home}/suite.toml"]
attacks = ["direct"]
seeds = [0{more}]
[[unlearners]]
method = "uce"
[[unlearners]]
method = "esd"
settings = {{ steps = 3, lr = 1e30 }}
[common]
control = "twin:{home}/twin"
seeds = [0]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("home"))


def planned(home: Path, more: str = "") -> Any:
    (home / "grid.toml").write_text(GRID.format(home=home, more=more))
    return grid.read(home / "grid.toml")


def run(home: Path, out: Path, more: str = "") -> tuple[dict[str, Any], list[Progress]]:
    told = list[Progress]()
    found = grid.run_grid(planned(home, more), out, in_place(), watch=lambda now, done: told.append(now))
    return found, told


def test_a_grid_shares_fails_resumes_and_grows(home: Path, tmp_path: Path) -> None:
    found, _ = run(home, tmp_path / "out")
    good, bad = found["cells"]
    assert good["state"] == "finished" and bad["state"] == "failed" and found["failed"] == 1
    assert (
        good["cell"].startswith("bag-uce-s0-suite-")
        and "esd on" in bad["why"]
        and "vestige audit" in bad["command"]
        and "esd.lr=1e+30" in bad["command"]
    )
    assert (Path(good["folder"]) / "report.html").exists()

    alone = dict(audit.audit(planned(home).cells[0].asked, tmp_path / "alone"))
    there = json.loads((Path(good["folder"]) / "result.json").read_text())
    for told_apart in ("cost", "provenance", "run", "report"):
        alone.pop(told_apart), there.pop(told_apart)
    assert there == json.loads(json.dumps(alone))

    again, events = run(home, tmp_path / "out", ", 1")
    assert [row["state"] for row in again["cells"]] == ["finished", "finished", "failed", "failed"]
    begun = [now.task for now in events if now.event == "began"]
    assert begun and not [name for name in begun if " on never " in name or " on original" in name]  # shared, and done before


def test_a_dry_run_counts_what_is_shared_once(home: Path, tmp_path: Path) -> None:
    told = grid.outlook(planned(home, ", 1"), tmp_path, tmp_path / "runs")
    assert len(told.rows) == 4 and told.saved > 0 and told.calls < sum(row["calls"] for row in told.rows)
    assert {row["state"] for row in told.rows} == {"missing"}


def swept(home: Path, ranks: str) -> Any:
    """MemoRa at several ranks on one edit."""
    text = GRID.format(home=home, more="").replace('attacks = ["direct"]', 'attacks = ["memora"]')
    first, _, rest = text.partition('[[unlearners]]\nmethod = "esd"\nsettings = { steps = 3, lr = 1e30 }\n')
    (home / "swept.toml").write_text(f"{first}{rest}[attacks]\nmemora.rank = {ranks}\n")
    return grid.read(home / "swept.toml")


def test_a_sweep_shares_all_but_the_attack(home: Path, tmp_path: Path) -> None:
    """The edit, positive controls, plain states and utility are made once, and only what MemoRa does and leaves is done thrice."""
    wanted = swept(home, "[1, 2, 4]")
    weaver, graph = Weaver(wanted, tmp_path, tmp_path / "runs"), Graph()
    for cell in wanted.cells:
        graph.add(weaver.tasks(cell))
    names = [task.name for task in graph.tasks.values() if task.key not in weaver.ends]
    often = {name: names.count(name) for name in names}
    assert len(wanted.cells) == 3 and set(often.values()) == {1, 3}
    assert [name for name in often if name.startswith("edit:") and often[name] == 1]
    assert all("memora" in name for name in often if often[name] == 3)


@pytest.mark.slow
def test_a_sweep_from_end_to_end(home: Path, tmp_path: Path) -> None:
    found = grid.run_grid(swept(home, "[1, 4]"), tmp_path, in_place())
    assert [row["state"] for row in found["cells"]] == ["finished"] * 2
    (field,) = summarised(collected([tmp_path]))["fields"]
    assert field["swept"] == ["memora.rank=1", "memora.rank=4"] and len(field["rows"]) == 2 and not field["left_out"]


def test_the_schedule_of_a_grid_is_within_its_bounds(home: Path, tmp_path: Path) -> None:
    """The very graph on a made-up clock: no shorter than its longest chain and its work allow, no longer than Graham's bound."""
    wanted = planned(home, ", 1, 2, 3")
    for places in (1, 3, 50):
        weaver, graph = Weaver(wanted, tmp_path, tmp_path / "runs"), Graph()
        for cell in wanted.cells:
            graph.add(weaver.tasks(cell))
        work, chain = graph.left, max(sum(graph.tasks[k].cost for k in [key]) for key in graph.tasks)
        pool = SimulatedPool(places, lambda task: task.cost)
        execute(graph, pool)
        assert max(work / places, chain) <= pool.now() + 1e-6
        assert pool.now() <= work / places + sum(sorted((t.cost for t in graph.tasks.values()), reverse=True)[:4])
        assert pool.busy == pytest.approx(work)
