"""Any bytes as a prompt file, a table of captions or a concept file end in a value or in an error of ours, of one line."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from vestige import concepts
from vestige.concepts import captions, prompts
from vestige.errors import VestigeError

PIECES = [b"prompt", b"seed", b"file_name", b"text", b"a.png", b'"', b",", b"\n", b"\r", b"\n\n", b"{", b"}", b"[", b":", b"\\u2028"]
PIECES += [
    b"name",
    b" = ",
    b"3",
    b"-1",
    b"1e400",
    b"nan",
    b"null",
    b"true",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\0",
    b"\xe2\x80\xa8",
    b"x" * 200_000,
]
STARTS = (b"", b'{"file_name": "a.png", "text": "x"}\n', b"file_name,text\na.png,x\n", b"prompt,seed\n", b"file_name,text\n")
STARTS += (b'{"file_name": "a.png", "text": ', b'name = "x"\n', b'name = "x"\ncontexts = ')
READERS: dict[str, Callable[[Path], object]] = {
    "prompts.csv": lambda file: prompts.load(file).rows,
    "prompts.txt": lambda file: prompts.load(file).rows,
    "metadata.jsonl": lambda file: captions.read(file.parent, ["a.png"]),
    "metadata.csv": lambda file: captions.read(file.parent, ["a.png"]),
    "concept.toml": lambda file: concepts.load(str(file)),
}


@pytest.mark.parametrize("name", READERS)
def test_any_bytes(name: str, tmp_path: Path) -> None:
    rng, read = random.Random(11), 0
    file = tmp_path / name
    for i in range(600):
        file.write_bytes(rng.choice(STARTS) + b"".join(rng.choice(PIECES[: rng.choice((9, 27, 28))]) for _ in range(rng.randrange(12))))
        try:
            assert READERS[name](file)
            read += 1
        except VestigeError as error:
            assert "\n" not in str(error), (i, str(error))
            assert name in str(error) or name == "concept.toml", (i, str(error))
    assert 0 < read < 600


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("prompts.csv", "prompt\na cup\n"),
        ("prompts.txt", "a cup\n"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": "a cup"}\n'),
        ("metadata.csv", "file_name,text\na.png,a cup\n"),
        ("concept.toml", 'name = "a cup"\n'),
    ],
)
def test_a_byte_order_mark_changes_nothing_for_any_reader(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    plain = READERS[name](tmp_path / name)
    (tmp_path / name).write_text(text, "utf-8-sig")
    assert READERS[name](tmp_path / name) == plain
