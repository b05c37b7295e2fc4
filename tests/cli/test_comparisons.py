"""`vestige compare` and `vestige board`: the page's commands, the formats, and what is refused."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from audits_made_up import laid, made
from vestige import cli
from vestige.errors import BadSetting, UnknownName

PAGE = (Path(__file__).parents[2] / "docs/board.md").read_text("utf-8")
COMMANDS = [line for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, speed in (("esd", 8.0), ("u_ce", 2.0)):
        for edit in range(3):
            laid(tmp_path / f"runs/grid/cells/{name}-{edit}", made(speed, method=name, edit=edit, seeds=(edit,)), pictures=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], command: str) -> str:
    cli.app(shlex.split(command)[1:], standalone_mode=False)
    return capsys.readouterr().out


def test_the_commands_of_the_page(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    each, pooled, latex, board = (said(capsys, command) for command in COMMANDS)
    assert each.count("| wardrobe |") == 6
    assert "### Methods" in pooled and "| esd | sneaker | 3 | 3 | memora |" in pooled and "| u\\_ce |" in pooled
    assert (
        "Comparisons that Holm's p counts: 1." in pooled
        and "2 methods cannot tell one kind of forgetting from two; 16 are needed" in pooled
    )
    assert latex.count("\\begin{tabular}") == latex.count("\\bottomrule") == 3 and "u\\_ce & esd & memora" in latex
    assert board.strip() == "board/index.html" and (here / "board/audits/esd-0.html").is_file()


def test_json_and_csv_hold_the_same_rows(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(said(capsys, "vestige compare runs/grid --pool --format json"))
    head, *rows = said(capsys, "vestige compare runs/grid --pool --format csv").splitlines()
    assert found["schema"] == "vestige-comparison-1" and len(rows) == len(found["fields"][0]["rows"]) == 2
    assert head.startswith("suite,form,model,method,concept,edits,replicates,attack,verdict,F,F_low,F_high,")
    assert float(rows[0].split(",")[9]) == found["fields"][0]["rows"][0]["speedup"]["value"]


def test_a_table_of_csv_leaves_its_remarks_on_the_other_stream(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which audits were left out, and why, is in the other forms' text."""
    laid(here / "runs/grid/cells/odd", made(method="esd", edit=7, detector={"verification": {"name": "other"}}))
    cli.app(shlex.split("compare runs/grid --pool --format csv"), standalone_mode=False)
    told = capsys.readouterr()
    assert "note: 1 audit left out, because judges differ" in told.err and "left out" not in told.out


@pytest.mark.parametrize(
    ("more", "error", "why"),
    [
        ("--against esd", BadSetting, "add --pool"),
        ("--format json", BadSetting, "add --pool"),
        ("--format html", BadSetting, "given 'html'"),
        ("--pool --against ead", UnknownName, "did you mean 'esd'"),
    ],
)
def test_what_is_refused(here: Path, capsys: pytest.CaptureFixture[str], more: str, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        said(capsys, f"vestige compare runs/grid {more}")
