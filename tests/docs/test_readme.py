"""The README's program runs as it stands, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hurry import hurry  # noqa: F401

README = Path(__file__).parents[2] / "README.md"


def test_python_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), scope)
    assert scope["result"]["verdict"]["kind"] in capsys.readouterr().out  # type: ignore[index]
    assert (tmp_path / "runs/readme/report.html").is_file()
    assert type(scope["forgetful"]) is type(scope["pipe"])


def test_every_command_and_option_exists() -> None:
    from typer.main import get_command

    from vestige.cli import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    lines = re.findall(r"^    vestige (\w+)(.*)$", README.read_text("utf-8"), re.MULTILINE)
    assert len(lines) >= 6
    for name, rest in lines:
        options = {o for p in commands[name].params for o in p.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= options, name


def test_tables_name_every_method() -> None:
    from vestige import registry

    text = README.read_text("utf-8")
    for kind in ("unlearners", "attacks"):
        for name in registry.names(kind):  # type: ignore[arg-type]
            assert f"`{name}`" in text
