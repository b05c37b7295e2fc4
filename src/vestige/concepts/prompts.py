"""Prompt sets: the field's files, read from the user's own path, and two neutral ones that are built in.

A row is a prompt with the seed, and where the file gives one the guidance, that its picture is drawn with. Column names differ from
file to file (I2P, UnlearnDiffAtk, COCO-10k, MemoRa, HUB); all that are known are read, and what else a row says is kept as it stands.
A text file, or a CSV file without a header, has one prompt a line. A row that makes no sense is left out, and the set says which.
Sets of prompts for sexual or violent content are named by their authors and fetched by whoever needs them: none is part of this package.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

from vestige import data, files
from vestige.errors import BadInput, UnknownName

PROMPT = ("prompt", "caption", "text", "adv_prompt", "original", "english")  # the last two of files with a column a language
SEED = ("evaluation_seed", "sd_seed", "seed")
GUIDANCE = ("evaluation_guidance", "sd_guidance_scale", "guidance_scale", "guidance")
CASE = ("case_number", "image_id", "source", "index", "")
LARGEST = 2**64 - 1  # what a generator takes


@final
@dataclass(frozen=True)
class Row:
    """A prompt and how its picture is drawn.

    Arguments:
        text: The prompt, as the file has it.
        seed: Of its picture; None where the file gives none.
        guidance: Classifier-free guidance; None likewise.
        case: What the file calls the row; its number where the file has no name for it.
        more: Every other column.
    """

    text: str
    seed: int | None = None
    guidance: float | None = None
    case: str = ""
    more: Mapping[str, str] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class PromptSet:
    """Rows with their origin.

    Arguments:
        name: The file's stem, or a built-in set's name.
        content: SHA-256 of the file.
        source: Where it came from, for people.
        remarks: What was not read as it stands: rows that were left out, prompts that are empty.
    """

    name: str
    rows: tuple[Row, ...]
    content: str
    source: str
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @property
    def repeated(self) -> int:
        """Rows whose prompt stood before: they are no independent evidence."""
        return len(self) - len({row.text for row in self})

    def take(self, where: Mapping[str, str]) -> PromptSet:
        """The rows whose other columns have the given values, e.g. {"categories": "style"}; an unknown column is an error."""
        known = {name for row in self for name in row.more}
        for name in where:
            if name not in known:
                raise UnknownName(f"column of {self.name}", name, known)
        kept = tuple(row for row in self if all(row.more.get(k) == v for k, v in where.items()))
        return replace(self, rows=kept)


def names() -> list[str]:
    """The built-in sets."""
    return sorted(file.stem for file in (data.folder() / "prompts").glob("*.csv"))


def load(name_or_file: str | Path) -> PromptSet:
    """A built-in set by name, or a file of the user's.

    Arguments:
        name_or_file: FILE.csv; FILE.csv:COLUMN, which says what column holds the prompts; or FILE.txt, one prompt a line.
    """
    if str(name_or_file) in names():
        built_in = data.folder() / "prompts" / f"{name_or_file}.csv"
        return parsed(built_in.read_bytes(), str(name_or_file), f"built in, {name_or_file}")
    path, column = Path(name_or_file), ""
    if not path.is_file():
        file, _, asked = str(name_or_file).rpartition(":")
        if not Path(file).is_file():
            if path.suffix:
                raise BadInput(f"no prompt file at {path}; built in are {', '.join(names())}")
            raise UnknownName("prompt set", str(name_or_file), names())
        path, column = Path(file), asked
    if path.suffix.lower() == ".txt":
        if column:
            raise BadInput(f"{path} is a text file, one prompt a line; it has no column {column!r}")
        return _plain(path.read_bytes(), path.stem, str(path))
    return parsed(path.read_bytes(), path.stem, str(path), column)


def parsed(raw: bytes, name: str, source: str, column: str = "") -> PromptSet:
    """The rows of a CSV file: a header, and in it one column of prompts; without any, one prompt a line.

    Arguments:
        column: Which one holds the prompts; "" is the first of `PROMPT` that is there.
    """
    text = _decoded(raw, source)
    lines, broken = _records(text)
    header = [cell.strip().lower() for cell in lines[0]] if lines else []
    where = {what: _column(header, known) for what, known in (("text", PROMPT), ("seed", SEED), ("guidance", GUIDANCE), ("case", CASE))}
    if column:
        where["text"] = _column(header, [column.strip().lower()])
        if where["text"] is None:
            raise UnknownName(f"column of {source}", column, header)
    if where["text"] is None:
        if _tabular(lines):
            wanted = f"no column of prompts ({', '.join(PROMPT)})"
            told = f"its header is {', '.join(header) or 'empty'}; name a column with FILE.csv:COLUMN, or call a file of plain lines .txt"
            raise BadInput(f"{source} has {wanted}; {told}")
        return _plain(raw, name, source, cells=None if broken or any(len(cells) > 1 for cells in lines) else lines)
    if broken:
        raise BadInput(_misquoted(text, source, broken))
    return _read(lines, header, where, PromptSet(name, (), hashlib.sha256(raw).hexdigest(), source))


def _decoded(raw: bytes, source: str) -> str:
    try:
        return raw.decode(files.UTF8)
    except UnicodeDecodeError as error:
        raise BadInput(f"{source} is no text in UTF-8 ({error}); save it as UTF-8") from error


def _records(text: str) -> tuple[list[list[str]], str]:
    """A CSV file's cells, and what is wrong with its quotes; where something is, the cells are a guess."""
    try:
        return list(csv.reader(io.StringIO(text, newline=""), strict=True)), ""
    except csv.Error as error:
        broken = str(error)
    try:
        return list(csv.reader(io.StringIO(text, newline=""))), broken
    except csv.Error:
        return [text.partition("\n")[0].strip()[:1000].split(",")], broken


def _tabular(lines: Sequence[Sequence[str]]) -> bool:
    """Whether records without a known column are a table all the same: as many cells as the first in most of them."""
    if not lines:
        return True
    width, rest = len(lines[0]), [cells for cells in lines[1:] if any(cells)]
    return width > 1 and (2 * sum(len(cells) == width for cells in rest) > len(rest) or not rest)


def _misquoted(text: str, source: str, error: str) -> str:
    """Which line's quotes cannot be read, so that nobody knows where the rows after it begin."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for _ in reader:
            line = reader.line_num + 1
    except csv.Error:
        pass
    if "end of data" in error:
        return f"{source} ends within a quoted cell that line {line} begins; was its copy cut short, or is a quote never closed?"
    return f"{source}, line {line}: its quotes make no sense ({error}); within a quoted cell a quote is written twice"


def _plain(raw: bytes, name: str, source: str, cells: Sequence[Sequence[str]] | None = None) -> PromptSet:
    """One prompt a line, as it stands; no header.

    Arguments:
        cells: The lines as a CSV file has them, where each is one cell; their quotes are gone.
    """
    lines = _decoded(raw, source).split("\n") if cells is None else [row[0] if row else "" for row in cells]
    texts = [line.strip() for line in lines]
    rows = tuple(Row(text, case=str(number)) for number, text in enumerate(texts) if text)
    if not rows:
        raise BadInput(f"{source} holds no prompt")
    remarks = [] if source.lower().endswith(".txt") else [f"no header names prompts: every line is one, the first is {rows[0].text[:60]!r}"]
    return PromptSet(name, rows, hashlib.sha256(raw).hexdigest(), source, tuple(remarks))


def _read(lines: Sequence[Sequence[str]], header: Sequence[str], where: Mapping[str, int | None], empty: PromptSet) -> PromptSet:
    """The rows below a header. One that cannot be read is left out; a file with more of those than others is refused."""
    rows: list[Row] = []
    wrong: list[str] = []
    blank: list[int] = []
    for number, cells in enumerate(lines[1:]):
        if not any(cells):
            continue
        try:
            rows.append(_row(cells, header, where, number, empty.source))
        except BadInput as error:
            wrong.append(str(error))
            continue
        if not rows[-1].text:
            blank.append(number + 1)
    if len(wrong) > len(rows):
        raise BadInput(f"{wrong[0]}{f' ({len(wrong)} rows of {len(wrong) + len(rows)} cannot be read)' if len(wrong) > 1 else ''}")
    if len(blank) == len(rows):
        raise BadInput(f"{empty.source} holds no prompt")
    remarks = []
    if wrong:
        some = "; ".join(wrong[:3]) + ("; ..." if len(wrong) > 3 else "")
        remarks.append(f"{len(wrong)} of {len(wrong) + len(rows)} rows are left out: {some}")
    if blank:
        some = ", ".join(map(str, blank[:10])) + (", ..." if len(blank) > 10 else "")
        remarks.append(f"{len(blank)} of {len(rows)} rows have no prompt and are drawn as the empty prompt: row {some} of {empty.source}")
    return replace(empty, rows=tuple(rows), remarks=tuple(remarks))


def _column(header: Sequence[str], known: Sequence[str]) -> int | None:
    return next((header.index(name) for name in known if name in header), None)


def _row(cells: Sequence[str], header: Sequence[str], where: Mapping[str, int | None], number: int, source: str) -> Row:
    place = f"{source}, row {number + 1}"
    if len(cells) != len(header):
        raise BadInput(f"{place} has {len(cells)} cells, the header {len(header)}")
    given = {what: cells[column].strip() if column is not None else "" for what, column in where.items()}
    text = cells[where["text"] or 0]
    text = text if text.strip() else ""
    taken = {column for column in where.values() if column is not None}
    more = {name: cell for i, (name, cell) in enumerate(zip(header, cells, strict=True)) if i not in taken}
    return Row(text, _seed(given["seed"], place), _guidance(given["guidance"], place), given["case"] or str(number), more)


def _seed(text: str, place: str) -> int | None:
    """A whole number, exactly: as a float, one above 2^53 would become another."""
    if not text:
        return None
    whole, _, rest = text.partition(".")
    if not whole.isascii() or not whole.isdecimal() or rest.strip("0") or int(whole) > LARGEST:
        raise BadInput(f"{place}: a seed is a whole number from 0 to 2^64 - 1; given {text!r}")
    return int(whole)


def _guidance(text: str, place: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise BadInput(f"{place}: guidance is a number from 0 on; given {text!r}")
    return value
