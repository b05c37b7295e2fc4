"""What somebody meets who has not read the pages: the version, lists, and mistakes that anybody makes first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vestige
from vestige import models
from vestige.cli import app
from vestige.errors import UnknownName, VestigeError


def said(*arguments: object) -> str:
    """What a command says, or of what fails, why."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, VestigeError), result.exception
    return str(result.exception or result.stdout)


def test_the_version_is_told() -> None:
    assert said("--version") == f"vestige {vestige.__version__}\n"
    assert "Make diffusion models forget" in said("--help")


def test_lists_say_what_their_names_are_for() -> None:
    heads = [line for line in said("list").splitlines() if not line.startswith(" ")]
    assert [head.partition(",")[0] for head in heads] == ["models", "concepts", "ready", "unlearners", "attacks", "suites"]
    assert "--template FILE.toml --of NAME" in heads[2] and "--suite" in heads[5]
    assert list(json.loads(said("list", "suites", "--json"))) == ["suites"]
    assert said("list", "--of", "church") == "--of copies a concept to a file: add --template FILE.toml; given --of church"


def test_a_long_list_of_names_is_not_told_where_one_is_meant() -> None:
    """Capitals make no difference to what is meant; where none is meant, all are told."""
    many = [f"name-{i}" for i in range(40)]
    assert str(UnknownName("thing", "NAME-7", many)) == "unknown thing 'NAME-7'; did you mean 'name-7'? `vestige list` names all"
    assert str(UnknownName("thing", "Name-7", many[:9])).endswith("did you mean 'name-7'? known: " + ", ".join(many[:9]))
    assert str(UnknownName("thing", "quite else", many)).endswith("known: " + ", ".join(sorted(many)))
    assert said("audit", "--concept", "Snaeker") == "unknown concept 'Snaeker'; did you mean 'sneaker'? `vestige list` names all"


@pytest.mark.parametrize(("option", "kind"), [("--concept", "concept"), ("--suite", "suite")])
@pytest.mark.parametrize("name", ["folder", "folder.toml"])
def test_a_folder_is_no_file(option: str, kind: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    assert said("audit", option, tmp_path / name) == f"{tmp_path / name} is a folder; a {kind} is a name or a file, NAME.toml"


def test_a_file_is_no_folder_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told before anything is loaded or claimed."""

    def load(*given: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(models, "load", load)
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    assert said("audit", "--references", "file") == "file is a file; pictures are given as a folder of them"
    for place in ("file", "nowhere"):
        assert said("judges", "--references", place) == said("judges", "--others", place) == f"no folder of pictures at {place}"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
