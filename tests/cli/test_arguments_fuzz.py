"""Odd arguments and damaged folders, a few of them; `tests/fuzz_arguments.py` tries thousands by command: docs/results/fuzz.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import fuzz_arguments
from vestige.cli import frame
from vestige.errors import BadInput


def test_odd_arguments_and_damaged_folders_end_in_a_line(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", fuzz_arguments.__file__, str(tmp_path), "80", "25", "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=tmp_path)
    assert done.stdout, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told["faults"] == []
    assert sum(told["ended"].values()) == 105
    assert {"arguments +0", "arguments +2", "folders +0", "folders +2"} == set(told["ended"])


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        (KeyError("a"), "KeyError: 'a' at"),
        (fuzz_arguments.Hang(), "hang: "),
        ((1, ""), "exit status 1"),
        ((2, "a\nb"), "more than a line"),
        ((2, "a"), "+2"),
        ((0, ""), "+0"),
    ],
)
def test_what_is_told_of_a_try(ending: object, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(_: object) -> object:
        if isinstance(ending, BaseException):
            raise ending
        return ending

    monkeypatch.setattr(frame, "_answer", answer)
    monkeypatch.setattr(sys, "argv", ["vestige"])
    assert fuzz_arguments.tried(["list"]).startswith(said)


def test_errors_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise BadInput("a library said:\n  this\n  and that")

    monkeypatch.setattr(sys, "argv", ["vestige"])
    assert frame._answer(refuse) == (2, "error: a library said: this and that")
