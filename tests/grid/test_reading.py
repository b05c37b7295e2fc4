"""A grid's file: its cells, their names, and every mistake at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from vestige import grid
from vestige.audit import Request
from vestige.cli import app
from vestige.continual import Order
from vestige.errors import BadInput
from vestige.grid.template import TEMPLATE


def written(folder: Path, text: str) -> Path:
    file = folder / "grid.toml"
    file.write_text(text)
    return file


def test_the_template_is_a_grid(tmp_path: Path) -> None:
    planned = grid.read(written(tmp_path, TEMPLATE))
    assert len(planned.cells) == 2 * 2 * 3 - 2  # concepts, seeds, unlearners; without bag under the stronger ESD
    requests = [cell.asked for cell in planned.cells if isinstance(cell.asked, Request)]
    assert {(r.unlearner, str(r.settings.get("esd.strength"))) for r in requests} == {("esd", "1.0"), ("esd", "3.0"), ("uce", "None")}
    assert len({cell.name for cell in planned.cells}) == len(planned.cells)


def test_names_stay_when_a_grid_grows(tmp_path: Path) -> None:
    text = '[axes]\nconcepts = ["sneaker"]\n[[unlearners]]\nmethod = "uce"\n'
    (one,) = grid.read(written(tmp_path, text)).cells
    longer = grid.read(written(tmp_path, text.replace('["sneaker"]', '["bag", "sneaker"]\nseeds = [0, 1]'))).cells
    assert one.name in {cell.name for cell in longer} and len(longer) == 4
    assert one.name.startswith("sneaker-uce-s0-quick-")
    assert one.command == "vestige audit --model wardrobe --concept sneaker --suite quick --unlearner uce"


def test_sequences_are_cells_too(tmp_path: Path) -> None:
    text = '[[unlearners]]\nmethod = "uce"\n[[sequences]]\nrequests = ["bag", "dress"]\nmodes = ["sequential", "independent"]\nmemory = 8\n'
    cells = grid.read(written(tmp_path, text)).cells
    assert [cell.asked.mode for cell in cells if isinstance(cell.asked, Order)] == ["sequential", "independent"]
    assert all("--requests bag,dress --method uce" in cell.command and "--memory 8" in cell.command for cell in cells)


WRONG = """
abuot = "?"
[axes]
concepts = ["sneaker", "snaeker"]
seeds = [0]
[[unlearners]]
method = "esd"
settings = { strenght = [1.0], steps = [-1] }
[[unlearners]]
method = "uec"
[[without]]
concept = "boot"
"""


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="unknown key abuot, did you mean about"):
        grid.read(written(tmp_path, WRONG))
    with pytest.raises(BadInput) as told:
        grid.read(written(tmp_path, WRONG.replace("abuot", "about")))
    for mistake in ("'snaeker'", "'strenght'", "did you mean 'uce'", "matches no cell"):
        assert mistake in str(told.value), mistake


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("[axes]\nconcepts = []", "axes.concepts is a list of texts"),
        ('[axes]\nconcepts = ["bag"]\nseeds = ["a"]\n[[unlearners]]\nmethod = "uce"', "axes.seeds is a list of whole numbers"),
        ('[axes]\nconcepts = ["bag", "bag"]\n[[unlearners]]\nmethod = "uce"', "names something twice"),
        ('[axes]\nconcepts = ["bag"]', "unlearners names none"),
        ('[axes]\nconcepts = ["bag"]\n[[unlearners]]\nmethod = "uce"\nedit = "x"', "names a method or an edit"),
        ('[common]\nbanks = 3\n[axes]\nconcepts = ["bag"]\n[[unlearners]]\nmethod = "uce"', "common.banks is of another kind"),
        ('[axes]\nconcepts = ["bag"]\n[[unlearners]]\nmethod = "uce"\n[[without]]\nconcept = "bag"', "leave no cell"),
        ("= 3", "is not valid TOML"),
    ],
)
def test_mistakes_by_themselves(tmp_path: Path, text: str, mistake: str) -> None:
    with pytest.raises(BadInput, match=mistake):
        grid.read(written(tmp_path, text))


def test_a_grid_that_is_not_there_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="list --grid"):
        grid.read(tmp_path / "none.toml")
    app(["list", "--grid", str(tmp_path / "new.toml")], standalone_mode=False)
    assert grid.read(tmp_path / "new.toml").cells
    with pytest.raises(BadInput, match="not there yet"):
        app(["list", "--grid", str(tmp_path / "new.toml")], standalone_mode=False)
