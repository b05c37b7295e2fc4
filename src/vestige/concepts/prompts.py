"""Prompt sets: the field's CSV files, read from the user's own path, and two neutral ones that are built in.

A row is a prompt with the seed, and where the file gives one the guidance, that its picture is drawn with. Column names differ from
file to file (I2P, UnlearnDiffAtk, COCO-10k, MemoRa); all that are known are read, and what else a row says is kept as it stands. Sets
of prompts for sexual or violent content are named by their authors and fetched by whoever needs them: none is part of this package.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from vestige import data
from vestige.errors import BadInput, UnknownName

PROMPT = ("prompt", "caption", "text", "adv_prompt")
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
    """

    name: str
    rows: tuple[Row, ...]
    content: str
    source: str

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
        return PromptSet(self.name, kept, self.content, self.source)


def names() -> list[str]:
    """The built-in sets."""
    return sorted(file.stem for file in (data.folder() / "prompts").glob("*.csv"))


def load(name_or_file: str | Path) -> PromptSet:
    """A built-in set by name, or a CSV file of the user's."""
    if str(name_or_file) in names():
        built_in = data.folder() / "prompts" / f"{name_or_file}.csv"
        return parsed(built_in.read_bytes(), str(name_or_file), f"built in, {name_or_file}")
    path = Path(name_or_file)
    if not path.is_file():
        if path.suffix:
            raise BadInput(f"no prompt file at {path}; built in are {', '.join(names())}")
        raise UnknownName("prompt set", str(name_or_file), names())
    return parsed(path.read_bytes(), path.stem, str(path))


def parsed(raw: bytes, name: str, source: str) -> PromptSet:
    """The rows of a CSV file: a header, and in it one column of prompts."""
    try:
        lines = list(csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{source} is no CSV file in UTF-8 ({error})") from error
    header = [cell.strip().lower() for cell in lines[0]] if lines else []
    where = {what: _column(header, known) for what, known in (("text", PROMPT), ("seed", SEED), ("guidance", GUIDANCE), ("case", CASE))}
    if where["text"] is None:
        raise BadInput(f"{source} has no column of prompts ({', '.join(PROMPT)}); its header is {', '.join(header) or 'empty'}")
    rows = tuple(_row(cells, header, where, number, source) for number, cells in enumerate(lines[1:]) if any(cells))
    if not rows:
        raise BadInput(f"{source} holds no prompt")
    return PromptSet(name, rows, hashlib.sha256(raw).hexdigest(), source)


def _column(header: Sequence[str], known: Sequence[str]) -> int | None:
    return next((header.index(name) for name in known if name in header), None)


def _row(cells: Sequence[str], header: Sequence[str], where: Mapping[str, int | None], number: int, source: str) -> Row:
    place = f"{source}, row {number + 1}"
    if len(cells) != len(header):
        raise BadInput(f"{place} has {len(cells)} cells, the header {len(header)}")
    given = {what: cells[column].strip() if column is not None else "" for what, column in where.items()}
    text = cells[where["text"] or 0]
    if not text.strip():
        raise BadInput(f"{place} has no prompt")
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
