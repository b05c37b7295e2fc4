"""Concept files as editors and people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from vestige.concepts import concept, load, loading
from vestige.errors import BadInput


def test_a_byte_order_mark_and_a_capital_ending(tmp_path: Path) -> None:
    (tmp_path / "Sneaker.TOML").write_text('\ufeffname = "sneaker"\n', "utf-8")
    assert load(str(tmp_path / "Sneaker.TOML")).name == "sneaker"


@pytest.mark.parametrize("given", [0, 0.0])
def test_a_whole_number_is_a_number(given: float) -> None:
    found = concept.Concept(name="x", detector="a.py:f", threshold=given)
    assert type(found.threshold) is float
    with pytest.raises(BadInput, match=r"a threshold of x lies between 0 and 1; given 1\.0"):
        concept.Concept(name="x", detector="a.py:f", threshold=1)
    with pytest.raises(BadInput, match=r"threshold should be a number such as 0\.45"):
        concept.Concept(name="x", detector="a.py:f", threshold=True)


@pytest.mark.parametrize("name", ["prompt.yaml", "absent.json", "there.dat"])
def test_a_file_that_is_no_toml_is_told_as_such(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.dat").write_text("target: cat\n")
    with pytest.raises(BadInput, match=rf"{name} is no concept file, which is TOML"):
        load(name)


@pytest.mark.parametrize("words", ["St. Bernard", "AC/DC", "R2.D2"])
def test_plain_words_with_dots_and_slashes_stay_words(words: str) -> None:
    assert loading.named(words).target == words


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"name", b"a = " + b"[" * 10_000, b"name = 3\n", b"", "name = 'x'".encode("utf-16")])
def test_files_that_make_no_sense_are_an_error_of_ours(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(raw)
    with pytest.raises(BadInput):
        load(str(tmp_path / "a.toml"))
