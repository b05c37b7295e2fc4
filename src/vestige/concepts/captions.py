"""Captions of a folder of pictures: `metadata.jsonl` or `metadata.csv` as Hugging Face's image folders have them, or a text beside each.

A folder gives a caption for every picture, or none at all; a value that is no text is an error and never becomes one. The lines of
`metadata.jsonl` may say besides what a picture shows, `"labels": {"style": "neon"}`, for every picture or for none.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
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


def labels(folder: Path, pictures: Sequence[str]) -> tuple[dict[str, str], ...]:
    """What every picture of a folder shows, group -> label, in the order of their names; () where the folder does not say."""
    file = folder / METADATA
    if not file.is_file():
        return ()
    told = {path: found for place, path, row in _objects(file) if (found := _shown(file, place, row)) is not None}
    if not told:
        return ()
    return tuple(told[path] for path in _spelled(file, pictures, told, "labels"))


def _shown(file: Path, place: str, row: Mapping[str, Any]) -> dict[str, str] | None:
    """What a line says that its picture shows; None where it says nothing."""
    found = row.get("labels")
    if found is not None and not (isinstance(found, dict) and found and all(isinstance(v, str) and v for v in found.values())):
        raise BadInput(f'{file}, {place}: labels should be a table of texts, {{"style": "neon"}}; given {json.dumps(found)[:60]}')
    return found


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
    rows = [(place, _path(name), text) for place, name, text in (_lines(file) if file.suffix == ".jsonl" else _rows(file))]
    if not rows and file.suffix == ".jsonl" and next(_objects(file), None) is not None:
        return ()  # it says what pictures show, and nothing else
    known = {path: _captions(file, place, text) for place, path, text in rows}
    return tuple(known[path] for path in _spelled(file, pictures, known, "text"))


def _path(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _spelled(file: Path, pictures: Sequence[str], known: Mapping[str, Any], what: str) -> Iterator[str]:
    """How a table names each picture, e.g. "train/a.png"."""
    ends: dict[str, list[str]] = {}
    for path in known:
        ends.setdefault(PurePosixPath(path).name, []).append(path)
    for picture in pictures:
        spelled = [picture] if picture in known else ends.get(picture, [])
        if not spelled:
            raise BadInput(f"{file} gives no {what} for {picture}")
        if len(spelled) > 1:
            raise BadInput(f"{file} gives several {what.rstrip('s')}s for {picture}: {', '.join(spelled)[:120]}")
        yield spelled[0]


def _lines(file: Path) -> Iterator[tuple[str, str, Any]]:
    """Line, picture and caption; none of a line that gives labels alone."""
    for place, path, row in _objects(file):
        if "text" in row or "labels" not in row:
            if "text" not in row:
                raise BadInput(f"{file}, {place}: it should hold {_WANTED[METADATA]} (KeyError('text'))")
            yield place, path, row["text"]


def _objects(file: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Line, picture and what it says, one object a line; a line ends at a line feed alone, for texts may hold any other separator."""
    for number, line in enumerate(_decoded(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name = row["file_name"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadInput(f"{file}, line {number}: it should hold {_WANTED[METADATA]} ({error!r})") from error
        if not isinstance(name, str):
            raise BadInput(f"{file}, line {number}: file_name should be a text; given {str(name)[:40]}")
        yield f"line {number}", _path(name), row


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
