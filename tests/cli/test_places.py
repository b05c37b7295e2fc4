"""Where a command writes is looked at before it works, and what it cannot finish leaves nothing behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest
from safetensors import SafetensorError
from typer.testing import CliRunner

from oracles import tiny_model
from vestige import edits, files, models
from vestige.checkpoints import exports
from vestige.cli import app
from vestige.errors import BadInput, VestigeError


def refused(*arguments: object) -> str:
    """What a command says that fails."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert isinstance(result.exception, VestigeError), result.exception
    return str(result.exception)


@pytest.fixture
def unloadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is loaded before the place was looked at."""

    def load(*_: Any) -> NoReturn:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(models, "load", load)


def test_an_edit_cannot_be_a_folder(tmp_path: Path, unloadable: None) -> None:
    assert f"{tmp_path} is a folder; name the file to write" in refused("unlearn", "--method", "uce", "--out", tmp_path)


def test_an_earlier_edit_is_not_written_over(tmp_path: Path, unloadable: None) -> None:
    (tmp_path / "edit.safetensors").write_bytes(b"hours of work")
    assert "edit.safetensors exists; choose another name" in refused("unlearn", "--method", "uce", "--out", tmp_path / "edit.safetensors")
    assert (tmp_path / "edit.safetensors").read_bytes() == b"hours of work"


@pytest.mark.parametrize("command", [("unlearn", "--method", "uce"), ("generate", "--prompt", "a bag"), ("attack",)])
def test_a_file_is_no_folder(tmp_path: Path, unloadable: None, command: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("")
    assert f"{tmp_path / 'file'} is a file, where a folder is needed" in refused(*command, "--out", tmp_path / "file/out")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not hold")
def test_a_folder_that_takes_no_files(tmp_path: Path, unloadable: None) -> None:
    tmp_path.chmod(0o500)
    assert "choose a folder that can be written" in refused("unlearn", "--method", "uce", "--out", tmp_path / "e.safetensors")


def test_an_export_is_refused_before_the_model_is_loaded(tmp_path: Path, unloadable: None) -> None:
    (tmp_path / "file").write_text("")
    assert "is there and not empty" in refused("export", "e.safetensors", "--as", "folder", "--out", tmp_path)


FULL = (OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left on device (os error 28)"))


@pytest.mark.parametrize("error", FULL)
@pytest.mark.parametrize("form", ["folder", "partial"])
def test_half_an_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, form: str) -> None:
    model = tiny_model()
    name = model.scope("cross-attention-kv")[0]
    edit = edits.Edit(model.fingerprint, "uce", {}, "cross-attention-kv", {name: model.tensor(name) * 2})

    def full(*_: Any) -> NoReturn:
        raise error

    monkeypatch.setattr(exports, "model_card", full)  # the last that is written
    for there in (False, True):
        if there:
            (tmp_path / "whole").mkdir()
        with pytest.raises(BadInput, match="free some space"):
            exports.export(edit, model, tmp_path / "whole", form)
        left = [p for p in tmp_path.rglob("*") if p != tmp_path / "whole"]
        assert left == [] and (tmp_path / "whole").exists() == there
    monkeypatch.undo()
    made = exports.export(edit, model, tmp_path / "whole", form)
    assert made.files and all(file.is_file() and file.is_relative_to(tmp_path / "whole") for file in made.files)


def test_a_folder_is_assembled_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), files.assembled(tmp_path / "a") as part:
        (part / "one").write_text("1")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with files.assembled(tmp_path / "a") as part:
        (part / "one").write_text("1")
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "one"]
