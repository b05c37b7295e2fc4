"""Captions of a folder of pictures: `metadata.jsonl` or `metadata.csv` as Hugging Face's image folders have them, or a text beside each.

A folder gives a caption for every picture, or none at all; a value that is no text is an error and never becomes one.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from vestige import files
from vestige.errors import BadInput

METADATA, ROWS = TABLES = ("metadata.jsonl", "metadata.csv")
Captions = tuple[tuple[str, ...], ...]
_WANTED = {METADATA: 'lines like {"file_name": "a.png", "text": "a photo"}', ROWS: "a header with file_name and text, and a row a picture"}


def beside(folder: Path, pictures: Sequence[str]) -> set[str]:
    """The files of a folder that hold captions of these pictures, by their names."""
    texts = {f"{Path(name).stem}.txt" for name in pictures}
    return {file.name for file in folder.iterdir() if file.name in TABLES or (file.name in texts and file.is_file())}


def read(folder: Path, pictures: Sequence[str]) -> Captions:
    """The captions of every picture of a folder, in the order of their names, or none at all where the folder gives none."""
    found = beside(folder, pictures)
    sources = [name for name in TABLES if name in found] + (["a text beside each picture"] if found - set(TABLES) else [])
    if len(sources) > 1:
        raise BadInput(f"{folder} gives captions twice, by {' and by '.join(sources)}; keep one of them")
    if not sources:
        return ()
    if sources[0] not in TABLES:
        return tuple((_text(folder, name),) for name in pictures)
    return _of_table(folder / sources[0], pictures)


def _text(folder: Path, picture: str) -> str:
    """What the text file of a picture's name says."""
    file = folder / f"{Path(picture).stem}.txt"
    if not file.is_file():
        raise BadInput(f"{folder} has texts beside its pictures, and none for {picture}; write {file.name}")
    return _decoded(file).strip()


def _decoded(file: Path) -> str:
    try:
        return file.read_text(files.UTF8)
    except OSError as error:
        raise BadInput(f"cannot read {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{file} is no text in UTF-8 ({error}); save it as UTF-8") from error


def _of_table(file: Path, pictures: Sequence[str]) -> Captions:
    """A table's captions; a picture that it names as "train/a.png" is found by its own name, where only one has it."""
    known: dict[str, tuple[str, ...]] = {}
    ends: dict[str, list[str]] = {}
    for place, name, text in _lines(file) if file.suffix == ".jsonl" else _rows(file):
        path = name.replace("\\", "/").removeprefix("./")
        known[path] = _captions(file, place, text)
        ends.setdefault(PurePosixPath(path).name, []).append(path)
    made = []
    for picture in pictures:
        spelled = [picture] if picture in known else list(dict.fromkeys(ends.get(picture, ())))
        if not spelled:
            raise BadInput(f"{file} gives no text for {picture}")
        if len(spelled) > 1:
            raise BadInput(f"{file} gives several texts for {picture}: {', '.join(spelled)[:120]}")
        made.append(known[spelled[0]])
    return tuple(made)


def _lines(file: Path) -> Iterator[tuple[str, str, Any]]:
    """Line, picture and caption of JSON, one object a line; a line ends at a line feed alone, for texts may hold any other separator."""
    for number, line in enumerate(_decoded(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, text = row["file_name"], row["text"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadInput(f"{file}, line {number}: it should hold {_WANTED[METADATA]} ({error!r})") from error
        if not isinstance(name, str):
            raise BadInput(f"{file}, line {number}: file_name should be a text; given {str(name)[:40]}")
        yield f"line {number}", name, text


def _rows(file: Path) -> Iterator[tuple[str, str, Any]]:
    """Row, picture and caption of a CSV file."""
    try:
        header, *rows = list(csv.reader(io.StringIO(_decoded(file), newline=""), strict=True)) or [[]]
    except csv.Error as error:
        raise BadInput(f"{file} is no whole CSV file ({error}); it should hold {_WANTED[ROWS]}") from error
    columns = [cell.strip().lower() for cell in header]
    if not {"file_name", "text"} <= set(columns):
        raise BadInput(f"{file} should hold {_WANTED[ROWS]}; its header is {', '.join(columns)[:80] or 'empty'}")
    for number, cells in enumerate(rows, 1):
        if any(cells) and len(cells) != len(columns):
            raise BadInput(f"{file}, row {number} has {len(cells)} cells, the header {len(columns)}")
        if any(cells):
            yield f"row {number}", cells[columns.index("file_name")], cells[columns.index("text")]


def _captions(file: Path, place: str, text: Any) -> tuple[str, ...]:
    """One caption, or a list of several; anything else is no text."""
    several = text if isinstance(text, list) and text else [text]
    if not all(isinstance(one, str) for one in several):
        raise BadInput(f"{file}, {place}: text should be a text, or a list of texts; given {json.dumps(text)[:60]}")
    return tuple(several)
