"""A grid's file: its cells, their names, and every mistake at once."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from pages import strip
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


SWEPT = """
[axes]
concepts = ["sneaker"]
attacks = ["all", "memora+automemora", "direct"]
[attacks]
memora.rank = [1, 4, 16]
memora.lr = 1e-3
automemora.w = [0.5, 1.5]
[[unlearners]]
method = "uce"
"""


def test_settings_of_attacks_are_axes(tmp_path: Path) -> None:
    """Of the suite's attacks MemoRa alone is swept; of the pair both are; direct, which has no setting here, is one cell as ever."""
    cells = grid.read(written(tmp_path, SWEPT)).cells
    points = [(cell.axes["attacks"], cell.axes.get("swept", "")) for cell in cells]
    ranks = ("1", "4", "16")
    assert points == [
        *(("all", f"memora.rank={rank}") for rank in ranks),
        *(("memora+automemora", f"memora.rank={rank},automemora.w={w}") for rank in ranks for w in ("0.5", "1.5")),
        ("direct", ""),
    ]
    first = cells[0]
    assert isinstance(first.asked, Request) and first.asked.settings == {"memora.rank": 1, "memora.lr": 1e-3}
    assert first.name.startswith("sneaker-uce-memora.rank=1-s0-quick-") and first.command.endswith(
        "--set memora.rank=1 --set memora.lr=0.001"
    )
    assert len({cell.name for cell in cells}) == len(cells)


def test_a_sweep_leaves_the_names_of_other_cells(tmp_path: Path) -> None:
    plain = SWEPT.replace("memora.rank = [1, 4, 16]\nmemora.lr = 1e-3\nautomemora.w = [0.5, 1.5]\n", "").replace("[attacks]\n", "")
    before, after = ({cell.name for cell in grid.read(written(tmp_path, text)).cells} for text in (plain, SWEPT))
    assert {name for name in before if name in after} == {grid.read(written(tmp_path, SWEPT)).cells[-1].name}


def test_a_filter_takes_a_point_of_a_sweep(tmp_path: Path) -> None:
    kept = grid.read(written(tmp_path, SWEPT + '[[only]]\nswept = ["memora.rank=1", "memora.rank=16"]\n')).cells
    assert [cell.axes["swept"] for cell in kept] == ["memora.rank=1", "memora.rank=16"]


def test_a_sweep_goes_through_sequences(tmp_path: Path) -> None:
    text = (
        '[attacks]\nmemora.rank = [1, 4]\n[[unlearners]]\nmethod = "uce"\n'
        '[[sequences]]\nrequests = ["bag", "dress"]\nattacks = ["memora"]\n[[sequences]]\nrequests = ["bag", "coat"]\n'
    )
    cells = grid.read(written(tmp_path, text)).cells
    assert [cell.axes.get("swept") for cell in cells] == ["memora.rank=1", "memora.rank=4", None]
    assert "--set memora.rank=4" in cells[1].command


@pytest.mark.parametrize(
    ("line", "mistakes"),
    [
        ("memroa.rank = [1]", ["unknown attack 'memroa'", "did you mean 'memora'"]),
        ("memora.rnak = [1, 2]", ["unknown setting of memora 'rnak'"]),
        ('memora.rank = [1, "x", 2.5]', ["memora.rank accepts int; given 'x'", "memora.rank accepts int; given 2.5"]),
        ("memora.rank = []", ["attacks.memora.rank is a value or a list of different ones"]),
        ("memora.rank = [4, 4]", ["attacks.memora.rank is a value or a list of different ones"]),
        ("memora.rank = [0, 4]", ["rank is at least 1"]),
        ("automemora.w = [0.5]", ["attacks.automemora has settings, and no cell runs it"]),
        ("memora = 3", ["attacks is a table of attacks' settings"]),
        ("memora.lr = [1e-3]", ["attacks.memora.lr is set in common.settings too"]),
    ],
)
def test_mistakes_in_a_sweep_are_told_before_anything_runs(tmp_path: Path, line: str, mistakes: list[str]) -> None:
    common = '[common]\nsettings = { "memora.lr" = 1e-4 }\n' if "memora.lr" in line else ""
    text = f'[axes]\nconcepts = ["sneaker"]\n[attacks]\n{line}\n[[unlearners]]\nmethod = "uce"\n{common}'
    with pytest.raises(BadInput) as told:
        grid.read(written(tmp_path, text))
    for mistake in mistakes:
        assert mistake in str(told.value), told.value


def test_the_template_s_remarks_are_a_grid_too(tmp_path: Path) -> None:
    """Its sweep of attacks, with the marks taken away."""
    lines = TEMPLATE.splitlines()
    first = lines.index("# [attacks]")
    swept = [line.removeprefix("# ") if first <= number <= first + 1 else line for number, line in enumerate(lines)]
    cells = grid.read(written(tmp_path, "\n".join(swept))).cells
    assert len(cells) == 3 * len(grid.read(written(tmp_path, TEMPLATE)).cells)


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


def told_of(folder: Path, text: str) -> str:
    with pytest.raises(BadInput) as told:
        grid.read(written(folder, text))
    return str(told.value)


def test_every_value_of_a_list_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    """And none hides another, nor what is wrong with the cells of those that are right."""
    text = (
        '[axes]\nmodels = ["wardobe", "wardrobe"]\nconcepts = ["sneeker", "bagg", "sneaker"]\nsuites = ["quik", "quick"]\n'
        'attacks = ["memoro+dirct", "memora"]\n[attacks]\nmemora.rank = ["a", 0, 4]\nmemora.lr = ["x", "y", 1e-3]\n'
        '[[unlearners]]\nmethod = "edd"\n[[unlearners]]\nmethod = "esd"\nsettings = { steps = ["five", 5, 0], lr = ["z"], foo = 1 }\n'
        '[[sequences]]\nrequests = ["bag", "dres", "truser"]\n'
    )
    told = told_of(tmp_path, text)
    for name in ("wardobe", "sneeker", "bagg", "quik", "memoro", "dirct", "edd", "dres", "truser"):
        assert f"'{name}'; did you mean" in told, name
    assert all(f"memora.lr accepts float; given '{value}'" in told for value in ("x", "y")) and "memora.rank accepts int; given 'a'" in told
    assert "esd.lr accepts float; given 'z'" in told and "esd.steps accepts int; given 'five'" in told and "setting of esd 'foo'" in told
    assert "memora: rank is at least 1; given 0" in told and "esd: steps is at least 1; given 0" in told  # of the cells that are left


def test_a_concept_that_one_of_the_models_knows_is_a_matter_of_cells(tmp_path: Path) -> None:
    text = '[axes]\nmodels = ["wardrobe-classes", "wardrobe"]\nconcepts = ["neon", "bag"]\n[[unlearners]]\nmethod = "esd"\n'
    told = told_of(tmp_path, text)
    assert told.count("neon is a concept of the group 'style'") == 1 and "wardrobe-classes, neon" in told


def test_what_does_not_fit_into_a_list_is_named(tmp_path: Path) -> None:
    text = (
        '[axes]\nconcepts = ["bag", "", 3, "bag"]\nseeds = [0, -1, "a", 2.5, 0]\n[common]\nseeds = [0, true, -1]\n'
        '[[unlearners]]\nmethod = "uce"\n[[sequences]]\nrequests = ["bag", 3]\n'
    )
    told = told_of(tmp_path, text)
    assert "axes.concepts is a list of texts; given '', 3; axes.concepts names something twice: 'bag'" in told
    assert "axes.seeds is a list of whole numbers from 0 on; given -1, 'a', 2.5; axes.seeds names something twice: 0" in told
    assert "common.seeds is a list of whole numbers from 0 on, the attacks' replicates; given True, -1" in told
    assert "sequences[1].requests is a list of names; given 3" in told


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("[axes]\nconcepts = []", "axes.concepts is a list of texts"),
        ('[axes]\nconcepts = ["bag"]\nseeds = ["a"]\n[[unlearners]]\nmethod = "uce"', "axes.seeds is a list of whole numbers"),
        ('[axes]\nconcepts = ["bag", "bag"]\n[[unlearners]]\nmethod = "uce"', "names something twice"),
        ('[axes]\nconcepts = ["bag"]', "unlearners names none"),
        ('[axes]\nconcepts = ["bag"]\n[[unlearners]]\nmethod = "uce"\nedit = "x"', "names a method or an edit"),
        ('[common]\nbanks = 3\n[axes]\nconcepts = ["bag"]\n[[unlearners]]\nmethod = "uce"', "common.banks is a text; given"),
        ('[axes]\nconcepts = ["bag"]\n[[unlearners]]\nmethod = "uce"\n[[without]]\nconcept = "bag"', "leave no cell"),
        ("= 3", "is not valid TOML"),
    ],
)
def test_mistakes_by_themselves(tmp_path: Path, text: str, mistake: str) -> None:
    with pytest.raises(BadInput, match=mistake):
        grid.read(written(tmp_path, text))


AXES, UCE = '[axes]\nconcepts = ["sneaker"]\n', '[[unlearners]]\nmethod = "uce"\n'
CHAIN = UCE + '[[sequences]]\nrequests = ["bag", "dress"]\n'


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        (CHAIN + "settings = 3", "sequences[1].settings is a table; given '3'"),
        (CHAIN + 'memory = "lots"', "sequences[1].memory is a whole number; given 'lots'"),
        (CHAIN + "memory = 1.5", "sequences[1].memory is a whole number; given '1.5'"),
        (CHAIN + 'modes = ["sequential", "sequential"]', "sequences[1].modes names something twice"),
        (
            CHAIN + "settings = { memora.rank = 4 }",
            'sequences[1].settings.memora is a table; put the whole name in quotes, "memora.rank" = ...',
        ),
        (AXES + UCE + "[common]\nsettings = { memora.rank = 4 }", 'put the whole name in quotes, "memora.rank" = ...'),
        (AXES + UCE + "[common]\nreference_count = true", "common.reference_count is a whole number; given 'True'"),
        (AXES + UCE + '[common]\nsettings = { "memora.lr" = nan }', "common.settings.memora.lr is a finite number; given 'nan'"),
        (AXES + '[[unlearners]]\nmethod = "esd"\nsettings = { lr = [1e-4, inf] }', "unlearners[1].settings.lr is a finite number"),
        (AXES + '[[unlearners]]\nmethod = "esd"\nsettings = { steps = [5, 5] }', "unlearners[1].settings.steps names something twice"),
        (AXES + '[[unlearners]]\nmethod = "esd"\nsettings = { esd.lr = 1e-4 }', "settings are called there without their method"),
        (AXES + '[[unlearners]]\nmethod = "none"\nsettings = { lr = 1e-4 }', "unlearners[1].settings are of a method that makes an edit"),
        (AXES + '[[unlearners]]\nedit = "x"\nsettings = { lr = 1e-4 }', "unlearners[1].settings are of a method that makes an edit"),
        (AXES + 'attacks = ["memora+memora"]\n' + UCE, "axes.attacks: 'memora+memora' names an attack twice"),
        (AXES + 'attacks = ["memora+direct", "direct+memora"]\n' + UCE, "'direct+memora' is 'memora+direct' in another order"),
        (AXES + UCE + "[[only]]", 'only[1] names no axis, e.g. concept = "bag"'),
        (
            '[axes]\nconcepts = ["sneaker", "bag"]\n' + UCE + '[[without]]\nconcept = ["bag", "bgg"]',
            "no cell has the concept 'bgg'",
        ),
        (
            '[[unlearners]]\nmethod = "none"\n[[sequences]]\nrequests = ["bag", "dress"]',
            "it has no cell: sequences are of unlearners that are methods",
        ),
        ("sequences = 3\n" + AXES + UCE + "[attacks]\nmemora.rank = 4", "sequences is a list of tables"),
    ],
)
def test_mistakes_are_told_where_they_stand(tmp_path: Path, text: str, mistake: str) -> None:
    assert mistake in told_of(tmp_path, text)


def test_a_cell_s_command_asks_for_the_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a shell reads it, a folder with a space in its name included."""
    for number in range(3):
        strip(tmp_path / f"my pictures/{number}.png", [True])
    text = (
        f'[axes]\nconcepts = ["sneaker"]\nattacks = ["memora+direct"]\nseeds = [3]\n[common]\nreferences = "{tmp_path}/my pictures"\n'
        'reference_count = 1\nseeds = [4, 5]\nbanks = "none"\nkeep_images = "none"\n'
        '[[unlearners]]\nmethod = "esd"\nsettings = { strength = 2.0 }\n'
    )
    (cell,) = grid.read(written(tmp_path, text)).cells
    asked = list[Request]()

    class Asked(Exception):
        pass

    def resolve(request: Request) -> None:
        asked.append(request)
        raise Asked

    monkeypatch.setattr("vestige.audit.resolve", resolve)
    with pytest.raises(Asked):
        app(shlex.split(cell.command)[1:], standalone_mode=False)
    there = grid.cells.plain_request(asked[0])
    assert isinstance(cell.asked, Request)
    assert {**there, "settings": {k: float(v) for k, v in there["settings"].items()}} == grid.cells.plain_request(cell.asked)


def test_a_grid_that_is_not_there_says_how_to_write_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="list --grid"):
        grid.read(tmp_path / "none.toml")
    with pytest.raises(BadInput, match="is a folder; give the file of a grid"):
        grid.read(tmp_path)
    app(["list", "--grid", str(tmp_path / "new.toml")], standalone_mode=False)
    assert grid.read(tmp_path / "new.toml").cells
    with pytest.raises(BadInput, match="not there yet"):
        app(["list", "--grid", str(tmp_path / "new.toml")], standalone_mode=False)
    with pytest.raises(BadInput, match=r"a TOML file, new.toml; given"):
        app(["list", "--grid", str(tmp_path / "new.txt")], standalone_mode=False)
