"""What a command refuses before it computes, and what it says although it goes on."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from oracles import tiny_model
from vestige import models
from vestige.cli import app, frame
from vestige.concepts import Concept
from vestige.edits import Edit
from vestige.errors import BadInput, Incompatible
from vestige.unlearners.uce import UCE

LONG = " ".join(["sneaker"] * 90)


def answered(monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["vestige", *words])
    return frame._answer(app)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load", lambda name, placement=None: tiny_model())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--guidance", "nan"), "guidance is a finite number; given nan"),
        (("--guidance", "inf"), "guidance is a finite number; given inf"),
        (("--steps", "1001"), "1001 sampling steps do not fit a schedule of 1000 times"),
    ],
)
def test_numbers_that_cannot_be_drawn_with_are_refused(
    words: tuple[str, ...], reason: str, tiny: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, said = answered(monkeypatch, "generate", "--prompt", "x", "--count", "1", "--out", str(tmp_path / "out"), *words)
    assert code == 2
    assert reason in said and "\n" not in said
    assert not (tmp_path / "out").exists()


def test_bytes_that_are_no_text_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    code, said = answered(monkeypatch, "generate", "--prompt", b"caf\xe9".decode("utf-8", "surrogateescape"))
    assert code == 2
    assert said.encode() == b"error: 'caf\\udce9' is not in UTF-8; give text and names of files in UTF-8"


def test_pictures_that_are_not_finite_are_not_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tiny_model()
    with torch.no_grad():
        broken.parts["unet"].conv_out.bias.fill_(torch.nan)
    monkeypatch.setattr(models, "load", lambda name, placement=None: broken)
    code, said = answered(monkeypatch, "generate", "--prompt", "x", "--count", "3", "--steps", "1", "--out", str(tmp_path / "out"))
    assert code == 2
    assert "3 of 3 pictures are not finite" in said
    assert not list(tmp_path.rglob("*.png"))


def test_prompts_that_are_cut_are_named(
    tiny: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for prompt in ("a bag", LONG):
        code, _ = answered(monkeypatch, "generate", "--prompt", prompt, "--count", "1", "--steps", "1", "--out", str(tmp_path))
        assert code == 0
        assert ("is not read: too long" in capsys.readouterr().err) == (prompt == LONG)


@pytest.mark.parametrize("anchor", ["boot", "sneaker"])
def test_an_edit_of_nothing_is_said(
    anchor: str, tiny: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sneaker.toml").write_text(f'name = "sneaker"\nanchor = "{anchor}"\n')
    words = ("unlearn", "--method", "uce", "--concept", str(tmp_path / "sneaker.toml"), "--out", str(tmp_path / "edit.safetensors"))
    assert answered(monkeypatch, *words) == (0, "")
    assert ("changes nothing" in capsys.readouterr().err) == (anchor == "sneaker")


@pytest.mark.parametrize("named", ["earlier", "today"])
@pytest.mark.parametrize(
    "command", [("generate", "--prompt", "a bag", "--count", "1", "--steps", "1", "--edit"), ("export", "--as", "partial")]
)
def test_an_earlier_identity_is_said(
    command: tuple[str, ...], named: str, tiny: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where an edit names its base as it was named before tokenizer and configuration were part of that."""
    model = tiny_model()
    base, name = model.earlier[0] if named == "earlier" else model.fingerprint, model.scope("attention")[0]
    file = Edit(base, "x", {}, "attention", {name: model.tensor(name) * 2}).save(tmp_path / "edit.safetensors")
    assert answered(monkeypatch, *command, str(file), "--out", str(tmp_path / "out")) == (0, "")
    assert capsys.readouterr().err.count("note: this x edit names its base by an earlier identity") == (named == "earlier")


def test_words_beyond_what_is_read_cannot_be_solved_for() -> None:
    concept = Concept(name=LONG, templates=("a picture of a {concept}",))
    with pytest.raises(Incompatible, match="is cut after 76 tokens, before"):
        UCE()(tiny_model(), concept, seed=0)


@pytest.mark.parametrize("field", ["neighbours", "unrelated"])
@pytest.mark.parametrize("word", ["sneaker", "Sneaker"])
def test_a_concept_is_not_among_what_must_stay(field: str, word: str) -> None:
    concept = Concept(name="sneaker", neighbours=("boot",), unrelated=("bag",))
    with pytest.raises(BadInput, match=f"stands among its own {field}"):
        replace(concept, **{field: (word, "dress")})
