"""The study that compares methods on a sequence: which cells it plans, that they run and resume, and what its page says."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chains import Nudge, small_world  # noqa: F401
from oracles import tiny_model
from vestige import continual, models, registry
from vestige.errors import BadInput


@pytest.fixture
def records(study: Callable[[str], Any]) -> Any:
    return study("records")


@pytest.fixture
def page(study: Callable[[str], Any]) -> Any:
    return study("sequences_page")


@pytest.fixture
def panel(study: Callable[[str], Any]) -> Any:
    return study("sequences")


def options(out: Path, **changes: Any) -> argparse.Namespace:
    return argparse.Namespace(
        **{
            "out": out,
            "records": out / "records",
            "suite": "smoke",
            "orders": 1,
            "seeds": 1,
            "only": "",
            "part": "methods",
            "first": 5,
            **changes,
        }
    )


@pytest.fixture
def tiny(panel: Any, study: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two requests, a method of the tests, and a twin that is another random network."""
    twin = tiny_model(1)
    twin.parts = {**models.load("").parts, "unet": twin.parts["unet"]}  # type: ignore[attr-defined]
    plain = models.load
    monkeypatch.setattr(models, "load", lambda name: twin if name == panel.TWIN else plain(name))
    monkeypatch.setattr(panel, "ORDERS", (("bag", "dress"), ("dress", "bag")))
    comparators = study("sequences_rows")
    row = comparators.Row
    rows = {
        "twin of five": row(made=comparators.twin),
        "nudge": row({"method": "nudge", "memory": 12}),
        "merge": row(made=comparators.merged, rests="nudge, each alone"),
        "nudge, each alone": row({"method": "nudge", "memory": 12, "mode": "independent"}),
        "uce, all at once": row({"method": "uce", "mode": "simultaneous"}),
    }
    monkeypatch.setitem(panel.PARTS, "methods", lambda: rows)
    return panel


def test_every_comparator_is_a_row(panel: Any) -> None:
    names = set(panel.PARTS["methods"]())
    sequential = {"duge", "esd", "uce", "forget_me_not", "concept_ablation"}
    held = {f"concept_ablation + {guard}" for guard in ("L2 pull", "selective", "projection")}
    assert sequential | held | {"twin of five", "concept_ablation, TIES of each alone"} <= names
    assert {f"{name}, each alone" for name in sequential} <= names
    assert {f"{name}, all at once" for name in sequential if registry.find("unlearners", name).joint} <= names
    assert all(row.rests in ("", *names) for row in panel.PARTS["methods"]().values())


def test_every_order_is_of_the_twins_concepts(panel: Any) -> None:
    assert all(sorted(order) == sorted(models.card(panel.TWIN).never_drew) for order in panel.ORDERS)
    assert len({*panel.ORDERS}) == len(panel.ORDERS)


@pytest.mark.parametrize(("part", "orders", "seeds"), (("methods", 3, 2), ("closed", 1, 1), ("duge", 1, 1)))
def test_every_cell_resolves(part: str, orders: int, seeds: int, panel: Any, tmp_path: Path) -> None:
    """Without computing anything, so that no name or setting fails in the middle of a night."""
    found = panel.cells(options(tmp_path, orders=orders, seeds=seeds, part=part))
    rows = panel.PARTS[part]().values()
    assert len(found) == seeds * (len(rows) + (orders - 1) * sum(row.ordered for row in rows))
    assert len({cell.folder() for cell in found}) == len(found)
    for cell in found:
        assert continual.resolve(cell.order).requests
        assert min(cell.calls()) > 0


def test_fewer_requests_lie_in_a_folder_of_their_own(panel: Any, tmp_path: Path) -> None:
    (whole,), (two,) = (panel.cells(options(tmp_path, part="duge", only="duge", first=n)) for n in (5, 2))
    assert two.requests == whole.requests[:2]
    assert two.folder() != whole.folder()


def test_all_at_once_may_spend_what_the_sequence_spends(panel: Any) -> None:
    row = panel.PARTS["methods"]()["concept_ablation, all at once"]
    joint = continual.resolve(panel.order_of(row, panel.FIVE, 0, "smoke")).unlearner
    one = continual.resolve(panel.order_of(panel.PARTS["methods"]()["concept_ablation"], panel.FIVE, 0, "smoke")).unlearner
    assert (joint.steps, joint.anchor_pictures) == (5 * one.steps, 5 * one.anchor_pictures)
    assert (joint.batch, joint.lr) == (one.batch, one.lr)


def test_cells_run_once_rest_on_each_other_and_fill_the_page(tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Nudge.told.clear()
    asked = options(tmp_path)
    found = tiny.cells(asked)
    tiny.work(found)
    assert "merge: passed over; merge rests on 'nudge, each alone', which is not finished" in capsys.readouterr().out
    page = tiny.table(found)
    assert "Missing under order 0, seed 0: merge." in page and "| merge |" not in page
    assert tiny.dry(found).count("| finished |") == 4
    count = len(Nudge.told)
    assert count == 3  # the first step of the sequence is the first model of its own, too
    tiny.work(found)
    assert len(Nudge.told) == count
    page = tiny.table(found)
    assert "All cells are there." in page
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in page.splitlines() if line.startswith("| ")}
    assert set(rows) == {"row", *tiny.PARTS["methods"]()}
    stored = json.loads((found[1].folder() / "result.json").read_text())["steps"][-1]
    assert f"{100 * stored['unlearning_accuracy']['value']:.0f} [" in rows["nudge"]
    assert f"{stored['drift']['original']:.2f}" in rows["nudge"]


def test_rows_under_several_orders_are_pooled(tiny: Any, tmp_path: Path) -> None:
    found = tiny.cells(options(tmp_path, orders=2, only="nudge"))
    assert [(cell.name, cell.number) for cell in found] == [("nudge", 0), ("nudge", 1)]
    tiny.work(found[:1])
    page = tiny.table(found)
    assert "Missing under order 1, seed 0: nudge." in page and "Over orders" not in page
    tiny.work(found)
    pooled = tiny.table(found).partition("Over orders")[2]
    rates = [cell.result()["steps"][-1]["unlearning_accuracy"]["value"] for cell in found]
    low, high, mean = (f"{100 * x:.0f}" for x in (min(rates), max(rates), sum(rates) / 2))
    assert f"| nudge | 2 | {mean} ({low} to {high}) |" in pooled
    whole = tiny.cells(options(tmp_path, orders=2))
    assert [cell.name for cell in whole if cell.number] == ["nudge"]  # no other row knows an order


def test_a_column_is_averaged_over_what_is_known(page: Any) -> None:
    assert page.spread([0.25, None, 0.75], "erosion") == "50 (25 to 75)"
    assert page.spread([0.001, 0.003], "KID") == "0.002 (0.001 to 0.003)"
    assert page.spread([None], "KID") == "-"


def test_records_alone_make_the_page(tiny: Any, records: Any, tmp_path: Path) -> None:
    """What one machine finished is not run again on another, unless it was another sequence."""
    found = tiny.cells(options(tmp_path))
    for _ in range(2):
        tiny.work(found)
    told = tiny.table(found)
    records.write(tmp_path / "records/continual.jsonl", tiny.finished(found).values())
    elsewhere = options(tmp_path / "elsewhere", records=tmp_path / "records")
    assert tiny.table(tiny.cells(elsewhere)) == told
    Nudge.told.clear()
    tiny.work(tiny.cells(elsewhere))
    assert not Nudge.told
    twice = options(tmp_path / "elsewhere", records=tmp_path / "records", seeds=2)
    assert tiny.dry(tiny.cells(twice)).count("| finished |") == len(found)  # the other seed is another sequence


def test_the_twin_is_the_twin_bit_for_bit(tiny: Any, tmp_path: Path) -> None:
    (cell,) = tiny.cells(options(tmp_path, only="twin of five"))
    result = cell.run()
    assert result["method"]["name"] == "wardrobe-never-five"
    assert result["steps"][-1]["fingerprint"] == models.load(tiny.TWIN).fingerprint[:16]


def test_a_result_of_other_requests_counts_as_missing(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = tiny.cells(options(tmp_path, only="uce, all at once"))
    cell.run()
    assert cell.result() is not None
    monkeypatch.setattr(tiny, "ORDERS", (("bag", "boot"),))
    assert cell.result() is None


def test_mistakes_are_named(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no row is called 'uec'"):
        tiny.cells(options(tmp_path, only="uec"))
    with pytest.raises(BadInput, match="no cell under"):
        tiny.table(tiny.cells(options(tmp_path)))
    assert [cell.name for cell in tiny.cells(options(tmp_path, only="nudge"))] == ["nudge"]
    assert len(tiny.cells(options(tmp_path, only="at once"))) == 1
