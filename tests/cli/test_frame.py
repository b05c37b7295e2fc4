"""Progress where stderr is a file: lines that are there while the work goes on, and not too many of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vestige.cli import frame


def test_lines_come_at_the_beginning_now_and_then_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(frame.time, "monotonic", lambda: now[0])
    with frame.progress() as watch:
        for done in range(101):
            watch("attack", done, 100)
            now[0] += 1.0
        watch("attack", 100, 100)
        watch("score", 1, 1)
    said = [line.split("s  ")[1] for line in capsys.readouterr().err.splitlines()]
    assert said == ["attack 0/100", "attack 30/100", "attack 60/100", "attack 90/100", "attack 100/100", "score 1/1"]


def test_every_remark_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Also the same one twice: it is no stage, and has no count."""
    with frame.progress() as watch:
        for _ in range(2):
            watch("note: memora on edited failed", 1, 1)
    said = [line.split("s  ")[1] for line in capsys.readouterr().err.splitlines()]
    assert said == ["note: memora on edited failed"] * 2


def test_a_line_is_in_the_file_at_once() -> None:
    """The process is still at work, and would be for a minute, when its first line is read."""
    program = "import time\nfrom vestige.cli import frame\nwith frame.progress() as watch:\n    watch('attack', 0, 2)\n    time.sleep(60)\n"
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert process.stderr.readline().strip().endswith("attack 0/2")
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
