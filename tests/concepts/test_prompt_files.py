"""Prompt files as the field has them: with an empty prompt among thousands, without a header, with a column a language, as plain text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vestige.concepts.prompts import load, parsed
from vestige.errors import BadInput, UnknownName

TABLE = "prompt,seed,guidance\na cup,1,7\n,2,7\na hat,3,x\na shoe,4,7\n"


def test_an_empty_prompt_is_drawn_as_such_and_told() -> None:
    found = parsed(b"prompt,seed\na cup,1\n ,2\na hat,3\n", "i2p", "i2p.csv")
    assert [(row.text, row.seed) for row in found] == [("a cup", 1), ("", 2), ("a hat", 3)]
    assert found.remarks == ("1 of 3 rows have no prompt and are drawn as the empty prompt: row 2 of i2p.csv",)


def test_a_row_that_makes_no_sense_is_left_out_and_told() -> None:
    found = parsed(TABLE.encode(), "x", "x.csv")
    assert [row.seed for row in found] == [1, 2, 4]
    assert found.remarks[0] == "1 of 4 rows are left out: x.csv, row 3: guidance is a number from 0 on; given 'x'"
    assert found.take({}).remarks == found.remarks


@pytest.mark.parametrize("bad", ["a,b\n", "a,1,7,9\n", "a,-1,7\n", "a,1,nan\n"])
@pytest.mark.parametrize("place", [1, 2, 3])
def test_one_bad_row_of_any_kind_refuses_no_set(bad: str, place: int) -> None:
    rows = ["prompt,seed,guidance\n", *(f"picture {i},{i},7\n" for i in range(3))]
    rows.insert(place, bad)
    found = parsed("".join(rows).encode(), "x", "x")
    assert [row.seed for row in found] == [0, 1, 2]
    assert f"row {place}" in found.remarks[0]


def test_a_file_with_more_bad_rows_than_good_ones_is_refused() -> None:
    with pytest.raises(BadInput, match=r"x, row 1: a seed .* given 'a' \(2 rows of 3 cannot be read\)"):
        parsed(b"prompt,seed\nx,a\ny,b\nz,3\n", "x", "x")


def test_the_command_tells_what_it_did_not_read(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from vestige.cli import app

    (tmp_path / "i2p.csv").write_text("prompt,seed\na cup,1\n,2\n")
    given = ["generate", "--prompts", str(tmp_path / "i2p.csv"), "--steps", "1", "--out", str(tmp_path / "p")]
    done = CliRunner().invoke(app, [*given, "--json"], catch_exceptions=False)
    told = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert len(told["files"]) == 2
    assert told["prompts"] == ["a cup", ""]
    assert told["remarks"][0].startswith("1 of 2 rows have no prompt")
    assert "note: 1 of 2 rows" in CliRunner().invoke(app, given, catch_exceptions=False).stdout


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("a church, in a globe, 8k\nplain\nChurch: stone, at dusk\n", ["a church, in a globe, 8k", "plain", "Church: stone, at dusk"]),
        ('one\n"majestic" nave", gothic, 4k\n\nthree, four\n', ["one", '"majestic" nave", gothic, 4k', "three, four"]),
        ('"a cup, blue"\na hat\n', ["a cup, blue", "a hat"]),
        ("\ufeffa cup\r\na hat", ["a cup", "a hat"]),
    ],
)  # fmt: skip
def test_one_prompt_a_line_without_a_header(raw: str, expected: list[str]) -> None:
    found = parsed(raw.encode(), "x", "church.csv")
    assert [row.text for row in found] == expected
    assert found.remarks == (f"no header names prompts: every line is one, the first is {expected[0]!r}",)


def test_a_table_without_a_known_column_is_no_list_of_prompts() -> None:
    for raw in ("words,seed\nx,1\n", "words,seed\n", "a,b,c\n1,2,3\n4,5\n6,7,8\n"):
        with pytest.raises(BadInput, match=r"no column of prompts .* name a column with FILE\.csv:COLUMN, or call .* \.txt"):
            parsed(raw.encode(), "x", "x")


def test_a_column_a_language(tmp_path: Path) -> None:
    file = tmp_path / "languages.csv"
    file.write_text("Original,Spanish,Index\na cup,una taza,1824\n", "utf-8")
    (row,) = load(file)
    assert (row.text, row.case, row.more) == ("a cup", "1824", {"spanish": "una taza"})
    (row,) = load(f"{file}:Spanish")
    assert (row.text, row.case) == ("una taza", "1824")
    with pytest.raises(UnknownName, match=r"unknown column of .*languages\.csv 'Spanisch'; did you mean 'spanish'"):
        load(f"{file}:Spanisch")


def test_a_text_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    file = tmp_path / "a:b.txt"
    file.write_bytes(b'\xef\xbb\xbfprompt, "quoted\r\n\n  two  \n')
    found = load(file)
    assert ([row.text for row in found], found.remarks) == (['prompt, "quoted', "two"], ())
    assert [row.case for row in found] == ["0", "2"]
    with pytest.raises(BadInput, match="is a text file, one prompt a line; it has no column"):
        load(f"{file}:text")
    file.write_text("\n \n")
    with pytest.raises(BadInput, match="holds no prompt"):
        load(file)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'prompt\na cup\n"a hat', "x ends within a quoted cell that line 3 begins; was its copy cut short"),
        (b'prompt,seed\na cup,1\n"a "big" hat",2\n', "x, line 3: its quotes make no sense .*; within a quoted cell a quote is"),
        ("prompt\na cup\n".encode("utf-16"), "x is no text in UTF-8"),
    ],
)  # fmt: skip
def test_quotes_and_cuts_are_told_as_what_they_are(raw: bytes, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parsed(raw, "x", "x")
