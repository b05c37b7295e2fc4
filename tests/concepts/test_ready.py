"""Concepts that are ready for real models: whole, harmless, listed, and refused where nobody could look for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from vestige import cli, concepts
from vestige.audit import Request, resolve
from vestige.errors import BadInput, UnknownName

SINGLE = ("cassette-player", "chain-saw", "church", "garbage-truck", "golf-ball", "parachute", "van-gogh")


def test_what_papers_use_is_there() -> None:
    found = concepts.for_real_models()
    assert {name for name in found if ":" not in name} == set(SINGLE)
    sets = {name.partition(":")[0] for name in found if ":" in name}
    assert sets == {"imagenette", "unlearncanvas"}
    assert sum(name.startswith("imagenette:") for name in found) == 10
    assert sum(name.startswith("unlearncanvas:") for name in found) == 24


@pytest.mark.parametrize("name", list(concepts.for_real_models()))
def test_each_is_whole(name: str) -> None:
    """Prompts for methods and others for audits, words that stay, an anchor among none of its own names, and where it is from."""
    concept = concepts.load(name)
    training, held = ({p.text for p in concept.prompts(bank)} for bank in ("training", "held-out"))
    assert len(training) >= 4 and len(held) >= 3 and not training & held
    assert concept.neighbours and concept.unrelated and concept.anchor and concept.source and not concept.sensitive
    assert not {concept.target, *concept.synonyms} & {concept.anchor, *concept.neighbours, *concept.unrelated}
    said = concepts.for_real_models()[name].read_text()
    assert said.startswith("#") and "arXiv" in said


def test_a_copy_is_a_concept_file(tmp_path: Path) -> None:
    for name in ("church", "unlearncanvas:van-gogh"):
        file = tmp_path / f"{name.replace(':', '-')}.toml"
        made = CliRunner().invoke(cli.app, ["list", "--template", str(file), "--of", name])
        assert made.exit_code == 0, made.output
        copy, plain = concepts.load(str(file)), concepts.load(name)
        assert (copy.target, copy.held_out, copy.neighbours) == (plain.target, plain.held_out, plain.neighbours)
    with pytest.raises(UnknownName, match="concept that is ready"):
        CliRunner().invoke(cli.app, ["list", "--template", str(tmp_path / "x.toml"), "--of", "sneaker"], catch_exceptions=False)


def test_a_judge_that_does_not_know_it_is_not_asked(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nobody is named who looks for church.*--of church"):
        resolve(Request(concept="church"))
    assert concepts.load("sneaker").name == "sneaker"
    with pytest.raises(UnknownName, match="concept"):
        concepts.load("chruch")
