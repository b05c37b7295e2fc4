"""What a model is called: FILE@FOLDER with an @ anywhere, and a path where nothing lies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vestige import models
from vestige.errors import BadInput, UnknownName
from vestige.models import sources


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A single file and a pipeline folder, both below a folder with an @."""
    below = tmp_path / "me@host"
    (below / "tiny@v1").mkdir(parents=True)
    (below / "tiny@v1/model_index.json").write_text("\ufeff" + json.dumps({"_class_name": "X", "unet": ["diffusers", "X"]}), "utf-8")
    (below / "model@2.safetensors").write_bytes(b"x")
    return below / "model@2.safetensors", below / "tiny@v1"


def test_an_at_sign_in_a_path_is_no_separator(places: tuple[Path, Path]) -> None:
    file, folder = places
    found = models.card(f"{file}@{folder}")
    assert (found.file, found.config) == (file, folder)
    assert models.card(str(folder)).parts["unet"] == folder / "unet"
    with pytest.raises(BadInput, match=r"model@2\.safetensors is a single file; say what it is with --config"):
        models.card(str(file))


@pytest.mark.parametrize(
    "name", ["/data/models/sd14", "./sd14", "models/sd/v1", "C:\\models\\sd14", "sd14.safetensors", "x.ckpt@folder/x", "../sd14"]
)
def test_a_path_where_nothing_lies_is_told_as_such(name: str) -> None:
    with pytest.raises(BadInput, match=r"there is no folder or file at .*; give a pipeline folder, or a single file with --config"):
        models.card(name)
    with pytest.raises(UnknownName, match="did you mean 'wardrobe'"):
        models.card("wardrob")


def test_what_stands_in_for_weights_is_named(places: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    assert sources.misnamed(file).startswith("a Git LFS pointer")
    file.write_bytes(b"PK\x03\x04rest")
    assert sources.misnamed(file).endswith("named .safetensors; call it .ckpt")
    assert sources.misnamed(file.rename(tmp_path / "m.ckpt")) == ""
    with pytest.raises(BadInput, match=r"model@2\.safetensors is text \('x'\), no checkpoint"):
        (places[1] / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
        sources.single(*places)
