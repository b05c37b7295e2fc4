"""The studies' grids: each is a file without a mistake, and says by which command it runs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from oracles import save_pair
from vestige import grid

FOLDER = Path(__file__).parents[2] / "studies/grids"
FILES = sorted(FOLDER.glob("*.toml"))


def test_there_are_some() -> None:
    assert {"claims", "methods", "sweeps"} <= {file.stem for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_grid_plans_and_names_its_command(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twins that do not ship are stood in for; the file says by which command they are trained."""
    further = re.findall(r"twin:(build/wardrobe/pipelines/([^,\"]+))", file.read_text("utf-8"))
    for folder, name in further:
        save_pair(tmp_path / "pair")
        shutil.copytree(tmp_path / "pair/twin", tmp_path / folder)
        assert re.search(rf"build.sh .*{name}\b", file.read_text("utf-8"))
    monkeypatch.chdir(tmp_path)
    planned = grid.read(file)
    assert len(planned.cells) > 1
    assert len({cell.name for cell in planned.cells}) == len(planned.cells)
    assert f"vestige grid studies/grids/{file.name}" in file.read_text("utf-8")
