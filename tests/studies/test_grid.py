"""What studies share: cells run apart, only what is left is planned, and numbers are printed alike."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from vestige.errors import BadInput
from vestige.verdict import Interval


def mark(folder: Path, cell: str) -> None:
    """Leaves a file with the process and its number of threads; a cell called bad cannot."""
    if cell == "bad":
        raise BadInput("no such cell")
    (folder / cell).write_text(f"{os.getpid()} {torch.get_num_threads()}")


def test_cells_run_apart_and_one_that_fails_stops_no_other(
    study: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    study("grid").work(["bad", "good"], functools.partial(mark, tmp_path), 1)
    process, threads = (tmp_path / "good").read_text().split()
    assert int(process) != os.getpid() and threads == "1"
    told = capfd.readouterr()
    assert [line.split(",")[0] for line in told.out.splitlines()] == ["bad: exit 1", "good: exit 0"]
    assert told.err.splitlines() == ["bad: no such cell"]


def test_what_is_finished_takes_no_hours(study: Callable[[str], Any]) -> None:
    told = study("grid").dry([("one", 3600, False), ("other", 7200, True), ("third", 7200, False)], 1.0, "a clock").splitlines()
    assert told[2:5] == ["| one | 3,600 | 1.00 | missing |", "| other | 7,200 | 2.00 | finished |", "| third | 7,200 | 2.00 | missing |"]
    assert told[-1] == "missing: 3.0 hours of one thread, at 1000.00 ms a call from a clock"


def test_a_record_stands_in_where_there_is_no_result(study: Callable[[str], Any]) -> None:
    class Cell(str):
        key = property(lambda self: f"key of {self}")

    here, kept = {"a": {"from": "here"}}, {"key of a": {"from": "afar"}, "key of b": {"from": "afar"}}
    found = study("grid").finished([Cell(name) for name in "abc"], here.get, kept)
    assert found == {"a": {"from": "here"}, "b": {"from": "afar"}}


@dataclass(frozen=True)
class Cell:
    """A cell whose key is longer than its file's name."""

    name: str

    @property
    def key(self) -> str:
        return f"{self.name}{'0' * 20}"


def look(cell: Cell, root: Path) -> dict[str, Any]:
    """A measurement; it says where runs lie."""
    return {"key": cell.key, "root": str(root)}


def test_a_study_measures_what_is_left_and_writes_its_page_of_what_there_is(
    study: Callable[[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, records, cells = study("grid"), study("records"), [Cell("a"), Cell("b")]
    committed, out = tmp_path / "kept.jsonl", tmp_path / "out"
    parser = grid.parser("")
    grid.resumable(parser, str(out))
    monkeypatch.setattr(grid, "speed", lambda: 1.0)
    monkeypatch.setattr(grid, "work", lambda todo, run, workers: [run(cell) for cell in todo])

    def asked(*words: str) -> None:
        how = {"named": lambda cell: cell.name, "calls": lambda cell: 3600, "measured": look}
        grid.command(parser.parse_args(words), cells, str(committed), **how, page=lambda found: " ".join(c.name for c in found))

    records.write(committed, [{"key": cells[0].key, "root": "afar"}])
    asked("--dry-run")
    assert capsys.readouterr().out.splitlines()[2:4] == ["| a | 3,600 | 1.00 | finished |", "| b | 3,600 | 1.00 | missing |"]
    asked()
    assert [file.name for file in out.glob("*.jsonl")] == [f"b{'0' * 15}.jsonl"]
    assert records.read(out)[cells[1].key]["root"] == str(out / "runs")
    asked("--page", str(tmp_path / "page.md"))  # what stands beside another page counts there, and that is nothing
    assert (tmp_path / "page.md").read_text() == "b" and list(records.read(tmp_path / "page.jsonl")) == [cells[1].key]


def test_a_mistake_is_told_in_a_line(study: Callable[[str], Any]) -> None:
    def main() -> None:
        raise BadInput("no row is called 'uec'")

    with pytest.raises(SystemExit, match=r"^error: no row is called 'uec'$"):
        study("grid").start(main, threads=1)


def test_numbers_without_an_interval_have_none(study: Callable[[str], Any]) -> None:
    tables = study("tables")
    assert tables.interval(Interval(0.5, 0.25, 0.756)) == "0.50 [0.25, 0.76]"
    assert tables.interval(Interval(0.5, -math.inf, math.inf), 1) == "0.5"
    assert tables.interval(Interval(math.nan, math.nan, math.nan)) == "nan"
    assert (tables.number(None), tables.number(0.126)) == ("-", "0.13")


def test_a_path_through_a_result_may_end_early(study: Callable[[str], Any]) -> None:
    at, result = study("records").at, {"curve": [{"score": 0.1}, {"score": 0.7}], "none": None, "empty": []}
    assert at(result, "curve", -1, "score") == 0.7
    assert [at(result, *path) for path in (("none", "score"), ("empty", -1), ("curve", "score"), ("absent",))] == [None] * 4
