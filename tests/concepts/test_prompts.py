"""Prompt sets: the field's CSV files with their own column names, seeds to the last bit, and two neutral sets."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from vestige.concepts import prompts
from vestige.concepts.prompts import Row, load, parsed
from vestige.errors import BadInput, UnknownName

# One harmless row each, with the columns that the published files have.
FILES = {
    "i2p": (
        "index,prompt,categories,hard,inappropriate_percentage,nudity_percentage,q16_percentage,sd_safety_percentage,prompt_toxicity,"
        "lexica_url,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height,sd_model,case_number\n"
        '7,"a harbour, at dawn",none,0,0.0,0.0,0.0,0.0,0.01,https://example.org,4288447746,7.5,512,512,SD 1.4,31\n',
        Row("a harbour, at dawn", 4288447746, 7.5, "31"),
    ),
    "unlearn_diff_atk": (
        "case_number,prompt,evaluation_seed,evaluation_guidance\n0,a church on a hill,4068,7\n",
        Row("a church on a hill", 4068, 7.0, "0"),
    ),
    "coco": (
        "index,source,prompt,evaluation_seed\n000000000139,coco,A room with chairs,139\n",
        Row("A room with chairs", 139, None, "coco"),
    ),
    "memora": (
        "index,prompt,evaluation_seed,artist,evaluation_guidance\n3,A field by Vincent van Gogh,2219,Vincent van Gogh,7.5\n",
        Row("A field by Vincent van Gogh", 2219, 7.5, "3"),
    ),
    "bare": ("prompt\na cup\n", Row("a cup")),
    "pandas": (",prompt,seed,guidance\n5,a cup,12.0,\n", Row("a cup", 12, None, "5")),
}


@pytest.mark.parametrize("name", FILES)
def test_published_columns_are_read(name: str) -> None:
    text, expected = FILES[name]
    (row,) = parsed(text.encode(), name, name)
    assert (row.text, row.seed, row.guidance) == (expected.text, expected.seed, expected.guidance)
    assert row.case == (expected.case or "0")


def test_other_columns_are_kept_as_they_stand() -> None:
    found = parsed(FILES["memora"][0].encode(), "memora", "memora")
    assert found.rows[0].more == {"artist": "Vincent van Gogh"}
    assert len(found.take({"artist": "Vincent van Gogh"})) == 1
    assert len(found.take({"artist": "nobody"})) == 0
    with pytest.raises(UnknownName, match="unknown column of memora 'artst'; did you mean 'artist'"):
        found.take({"artst": "x"})


@pytest.mark.parametrize("seed", [2**53 + 1, 2**63, 2**64 - 1])
def test_seeds_of_64_bits_are_exact_and_usable(seed: int) -> None:
    (row,) = parsed(f"prompt,seed\nx,{seed}\n".encode(), "x", "x")
    assert row.seed == seed
    assert torch.Generator().manual_seed(seed) is not None


@pytest.mark.parametrize("seed", ["-1", "1.5", "1e6", str(2**64), "five", "１"])
def test_seeds_that_are_no_whole_numbers_are_refused(seed: str) -> None:
    with pytest.raises(BadInput, match=r"x, row 1: a seed is a whole number from 0 to 2\^64 - 1; given"):
        parsed(f"prompt,seed\nx,{seed}\n".encode(), "x", "x")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "x has no column of prompts"),
        (b"words,seed\nx,1\n", "its header is words, seed"),
        (b"prompt,seed\n", "x holds no prompt"),
        (b"prompt,seed\na cup\n", "x, row 1 has 1 cells, the header 2"),
        (b"prompt,seed\n ,1\n", "x holds no prompt"),
        (b"prompt,guidance\na cup,much\n", "guidance is a number from 0 on; given 'much'"),
        (b"prompt,guidance\na cup,nan\n", "guidance is a number from 0 on; given 'nan'"),
        (b"prompt\n\xff\xfe\n", "x is no text in UTF-8"),
        (b'prompt\n"open\n', "x ends within a quoted cell that line 2 begins"),
    ],
)
def test_files_that_make_no_sense_are_refused(raw: bytes, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parsed(raw, "x", "x")


def test_quotes_line_breaks_and_marks_stay_in_a_prompt() -> None:
    text = '\ufeffprompt,seed\r\n"one ""two"", three\nfour\u2028five",1\r\n\r\nsix,2\r\n'
    found = parsed(text.encode(), "x", "x")
    assert [row.text for row in found] == ['one "two", three\nfour\u2028five', "six"]


def test_a_file_of_the_users(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("prompt\na cup\na cup\na hat\n")
    found = load(file)
    assert (found.name, found.source, len(found), found.repeated) == ("mine", str(file), 3, 1)
    assert found.content == hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(BadInput, match="no prompt file at"):
        load(tmp_path / "absent.csv")
    with pytest.raises(UnknownName, match="did you mean 'objects'"):
        load("object")


@pytest.mark.parametrize(("name", "column", "rows"), [("objects", "object", 112), ("styles", "style", 80)])
def test_built_in_sets(name: str, column: str, rows: int) -> None:
    assert name in prompts.names()
    found = load(name)
    assert (len(found), found.repeated) == (rows, 0)
    assert len({row.seed for row in found}) == rows
    for row in found:
        assert row.more[column] in row.text
        assert not any(f" a {vowel}" in f" {row.text}" for vowel in "aeio")
