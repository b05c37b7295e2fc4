"""How far a piece of work is as a whole, by what every process did, and how long the rest takes at that speed."""

from __future__ import annotations

from pathlib import Path

import pytest

from vestige import runs
from vestige.cli import frame
from vestige.runs import progress


def test_parts_of_all_processes_count_and_what_was_stored_says_nothing_of_the_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, said = [0.0], list[tuple[str, int, int]]()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    run = runs.claim(tmp_path / "out", {"what": "audit"})
    run.event(progress.DONE, part=0, computed=True)  # of an earlier attempt
    calls = dict.fromkeys(range(5), 100.0)
    here = runs.Progress(run, lambda *told: said.append(told), 2, calls, before=50, after=50)
    other = runs.Progress(run, lambda *told: None)
    here.done(0)
    assert said[-1] == ("in all: 1 done, 2 running, 2 left", 150, 600)  # stored: nothing is known of the speed
    now[0] = 20.0
    other("an arm", 1, 1)
    other.done(1)
    here("an arm", 1, 1)
    here.done(2)
    # Two computed parts in 20 s; 250 calls are left at a tenth of a second each.
    assert said[-1] == ("in all: 3 done, 2 running, 0 left, about 25 s to go", 350, 600)
    now[0] = 40.0
    other.done(3)
    here.tell()
    assert said[-1] == ("in all: 4 done, 1 running, 0 left, about 30 s to go", 450, 600)


def test_times_are_said_as_one_says_them() -> None:
    assert [runs.spoken(s) for s in (0.2, 89, 91, 5399, 5400)] == ["1 s", "89 s", "2 min", "90 min", "1.5 h"]


def test_in_a_file_the_whole_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(frame.time, "monotonic", lambda: now[0])
    with frame.progress() as watch:
        for done in range(0, 101, 10):
            watch(f"in all: {done} done, about {100 - done} s to go", 10 * done, 1000)
            now[0] += 10.0
    said = [line.split("s  ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert said == [f"in all {d} %: {d} done, about {100 - d} s to go" for d in (0, 30, 60, 90, 100)]
