"""How long a command is expected to take: by part, by processes, and beside what else runs."""

from __future__ import annotations

import os

import pytest

from vestige.cli import forecast


def test_calls_that_train_take_their_own_time_and_edits_are_made_alone() -> None:
    speed = forecast.Speed(drawn=1.0, trained=2.0, processes=2, share=0.5)
    assert speed.seconds({"scoring": 10}) == 10 / 2 / 0.5
    assert speed.seconds({"scoring": 10, "attacks": 10, "unlearning": 10}) == (10 / 2 + 20 / 2 + 20) / 0.5


@pytest.mark.parametrize(("load", "processes", "share"), [(0.0, 2, 1.0), (1.0, 2, 2 / 3), (2.0, 2, 0.5), (1.0, 1, 1.0)])
def test_what_else_runs_takes_its_part_of_two_cores(load: float, processes: int, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 9.0, 9.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert forecast._share(processes) == pytest.approx(share)


def test_the_fastest_counts_and_the_first_does_not() -> None:
    clock = iter((0.0, 3.0, 10.0, 11.0, 20.0, 22.0))
    calls: list[int] = []
    assert forecast.fastest(lambda: calls.append(0), lambda: next(clock)) == 1.0
    assert len(calls) == 4
