"""The studies' grids: each is a file without a mistake, and says by which command it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from vestige import grid

FOLDER = Path(__file__).parents[2] / "studies/grids"
FILES = sorted(FOLDER.glob("*.toml"))


def test_there_are_some() -> None:
    assert {"claims", "methods", "sweeps"} <= {file.stem for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_grid_plans_and_names_its_command(file: Path) -> None:
    planned = grid.read(file)
    assert len(planned.cells) > 1
    assert len({cell.name for cell in planned.cells}) == len(planned.cells)
    assert f"vestige grid studies/grids/{file.name}" in file.read_text("utf-8")
