"""Captions: of every picture or of none, texts that are texts, and the ways in which published folders give them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vestige.concepts import images
from vestige.concepts.images import PictureSet
from vestige.errors import BadInput

LINE = '{"file_name": "b.png", "text": "y"}\n'


@pytest.fixture
def two(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    return tmp_path


def read(folder: Path) -> PictureSet:
    return images.folder(folder, (8, 8))


def lines(folder: Path, *rows: dict[str, Any]) -> None:
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")


@pytest.mark.parametrize("value", [None, 3, 0.5, True, {"en": "x"}, ["x", None], [], [["x"]]])
def test_no_value_becomes_a_text(value: Any, two: Path) -> None:
    lines(two, {"file_name": "a.png", "text": value}, {"file_name": "b.png", "text": "y"})
    with pytest.raises(BadInput, match=r"metadata\.jsonl, line 1: text should be a text, or a list of texts; given"):
        read(two)


def test_a_list_of_texts_is_several_captions(two: Path) -> None:
    lines(two, {"file_name": "a.png", "text": ["x", "z"]}, {"file_name": "b.png", "text": "y"})
    assert read(two).captions == (("x", "z"), ("y",))


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\\n", "\\r\\n"])
def test_a_line_ends_at_a_line_feed_alone(separator: str, two: Path) -> None:
    """Some of what Python calls the end of a line may stand in a JSON text as it is."""
    text = f'{{"file_name": "a.png", "text": "x{separator}z"}}\r\n{LINE}'
    if separator in "\x0b\x0c\x1c":  # control characters, which JSON has escaped
        text = text.replace(separator, f"\\u{ord(separator):04x}")
    (two / "metadata.jsonl").write_bytes(text.encode())
    escaped = {"\\n": "\n", "\\r\\n": "\r\n"}
    assert read(two).captions == ((f"x{escaped.get(separator, separator)}z",), ("y",))


@pytest.mark.parametrize("prefix", ["train/", "./", "data/train/", "train\\"])
def test_a_folder_before_the_name_of_a_picture(prefix: str, two: Path) -> None:
    lines(two, *({"file_name": f"{prefix}{name}.png", "text": name} for name in "ab"))
    assert read(two).captions == (("a",), ("b",))


def test_a_name_in_two_folders_is_nobodys(two: Path) -> None:
    lines(two, {"file_name": "train/a.png", "text": "x"}, {"file_name": "test/a.png", "text": "z"}, {"file_name": "b.png", "text": "y"})
    with pytest.raises(BadInput, match=r"gives several texts for a\.png: train/a\.png, test/a\.png"):
        read(two)
    lines(two, {"file_name": "train/a.png", "text": "x"}, {"file_name": "a.png", "text": "z"}, {"file_name": "b.png", "text": "y"})
    assert read(two).captions[0] == ("z",)


def test_rows_of_a_csv_file(two: Path) -> None:
    (two / "metadata.csv").write_text('\ufefffile_name,text,seed\na.png,"one, two",3\ntrain/b.png,y,\n', "utf-8")
    assert read(two).captions == (("one, two",), ("y",))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("", "its header is empty"),
        ("name,text\na.png,x\n", "its header is name, text"),
        ("file_name,text\na.png,x\n", r"gives no text for b\.png"),
        ("file_name,text\na.png,x,y\n", "row 1 has 3 cells, the header 2"),
        ('file_name,text\na.png,"x\n', "is no whole CSV file"),
    ],
)
def test_csv_files_that_make_no_sense(raw: str, message: str, two: Path) -> None:
    (two / "metadata.csv").write_text(raw)
    with pytest.raises(BadInput, match=message):
        read(two)


def test_a_text_beside_each_picture(two: Path) -> None:
    (two / "a.txt").write_text("\ufeffa hat\n", "utf-8")
    with pytest.raises(BadInput, match=r"has texts beside its pictures, and none for b\.png; write b\.txt"):
        read(two)
    (two / "b.txt").write_text("")
    assert read(two).captions == (("a hat",), ("",))
    (two / "notes.txt").write_text("")
    with pytest.raises(BadInput, match=r"notes\.txt in .* is no picture"):
        read(two)


def test_captions_in_two_ways_are_refused(two: Path) -> None:
    (two / "metadata.jsonl").write_text(LINE)
    (two / "a.txt").write_text("a hat")
    with pytest.raises(BadInput, match=r"gives captions twice, by metadata\.jsonl and by a text beside each picture; keep one of them"):
        read(two)


@pytest.mark.parametrize("line", ["{", "3", "[]", '{"text": "x"}', '{"file_name": 3, "text": "x"}', "[" * 60_000])
def test_lines_that_are_no_caption_are_named(line: str, two: Path) -> None:
    (two / "metadata.jsonl").write_text(f"{LINE}\n{line}\n")
    with pytest.raises(BadInput, match=r"metadata\.jsonl, line 3: "):
        read(two)


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "a.txt"])
def test_a_file_in_another_encoding_is_named(name: str, two: Path) -> None:
    (two / name).write_bytes("caf\u00e9".encode("latin1"))
    (two / "b.txt").write_text("x") if name == "a.txt" else None
    with pytest.raises(BadInput, match=rf"{name} is no text in UTF-8"):
        read(two)
