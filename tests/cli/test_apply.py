"""`vestige apply`: adapters stacked on an edit are what the view of the view draws, in any order; and what is refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from vestige import models, registry
from vestige.cli import app
from vestige.concepts import load
from vestige.diffusion import Model
from vestige.edits import Edit
from vestige.seeds import generator

SOURCES = ("edit", "one", "two")


def adapter(view: Model, seed: int, concept: str) -> Edit:
    factors = {}
    for name in view.scope("attention")[:3]:
        rng, (rows, columns) = generator(seed, name), view.tensor(name).shape
        factors[name] = (torch.randn(2, columns, generator=rng), 0.1 * torch.randn(rows, 2, generator=rng))
    return Edit(view.fingerprint, "memora", {"rank": 2}, "attention", factors=factors, notes={"concept": concept})


@pytest.fixture(scope="module")
def model() -> Model:
    return models.load("wardrobe")


@pytest.fixture(scope="module")
def home(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """UCE's edit, two adapters recovered on it, and one of the model as it is."""
    root = tmp_path_factory.mktemp("home")
    edit = registry.build("unlearners", "uce")(model, load("sneaker"), seed=0)
    view = model.edited(edit)
    made = {"edit": edit, "one": adapter(view, 1, "sneaker"), "two": adapter(view, 2, "bag"), "bare": adapter(model, 3, "bag")}
    for name, one in made.items():
        one.save(root / f"{name}.safetensors")
    return root


def applied(home: Path, out: Path, *words: object) -> Any:
    given = [
        "apply",
        "--model",
        "wardrobe",
        "--json",
        "--out",
        str(out),
        *(str(home / f"{w}.safetensors") if w in SOURCES else str(w) for w in words),
    ]
    return CliRunner().invoke(app, given)


def refusal(home: Path, out: Path, *words: object) -> str:
    found = applied(home, out, *words)
    assert found.exit_code and not out.exists()
    return str(found.exception)


def test_one_edit_is_the_view_of_the_view(home: Path, model: Model, tmp_path: Path) -> None:
    """W_E + sum_k w_k up_k down_k, on every weight that any of them touches."""
    found = applied(home, tmp_path / "both.safetensors", "--edit", "edit", "--adapter", "one", "--adapter", "two", "--weights", "1,0.5")
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    made, edit, one, two = (Edit.load(p) for p in (tmp_path / "both.safetensors", *(home / f"{n}.safetensors" for n in SOURCES)))
    assert set(made.touched) == {*edit.touched, *one.touched} and made.notes["concept"] == "bag+sneaker" and told["method"] == "stacked"
    view = model.edited(made)
    for name in made.touched:
        base = model.edited(edit).tensor(name).double()
        for source, weight in ((one, 1.0), (two, 0.5)):
            if name in source.factors:
                down, up = source.factors[name]
                base = base + weight * (up.double() @ down.double()).reshape(base.shape)
        torch.testing.assert_close(view.tensor(name).double(), base, atol=1e-6, rtol=1e-5)


def test_the_order_makes_no_difference(home: Path, model: Model, tmp_path: Path) -> None:
    """To the bit: the model has one fingerprint, whichever adapter is named first."""
    prints = set()
    for i, ((a, x), (b, y)) in enumerate(itertools.permutations((("one", 1), ("two", -2)))):
        out = tmp_path / f"{i}.safetensors"
        assert applied(home, out, "--edit", "edit", "--adapter", a, "--adapter", b, f"--weights={x},{y}").exit_code == 0
        prints.add(model.edited(Edit.load(out)).fingerprint)
    assert len(prints) == 1


def test_a_weight_of_nothing_is_the_edit_alone(home: Path, model: Model, tmp_path: Path) -> None:
    out = tmp_path / "none.safetensors"
    assert applied(home, out, "--edit", "edit", "--adapter", "one", "--weights", "0").exit_code == 0
    assert model.edited(Edit.load(out)).fingerprint == model.edited(Edit.load(home / "edit.safetensors")).fingerprint


def test_a_folder_is_a_pipeline_with_all_of_it(home: Path, model: Model, tmp_path: Path) -> None:
    words = ("--edit", "edit", "--adapter", "one", "--adapter", "two")
    for name in ("both", "both.safetensors"):
        assert applied(home, tmp_path / name, *words).exit_code == 0
    whole, view = models.load(str(tmp_path / "both")), model.edited(Edit.load(tmp_path / "both.safetensors"))
    for name in Edit.load(tmp_path / "both.safetensors").touched:
        assert torch.equal(whole.tensor(name), view.tensor(name))
    assert (tmp_path / "both" / "README.md").is_file()


def test_what_is_refused(home: Path, tmp_path: Path) -> None:
    out, on = tmp_path / "out", ("--edit", "edit", "--adapter", "one", "--adapter", "two")
    assert "one an adapter, of which there are 2; given '1,2,3'" in refusal(home, out, *on, "--weights", "1,2,3")
    assert "finite numbers" in refusal(home, out, *on, "--weights", "1,nan")
    assert "numbers with commas" in refusal(home, out, *on, "--weights", "1,x")
    assert "made on a model with fingerprint" in refusal(home, out, "--adapter", "one")  # not on the edited model
    assert "made on a model with fingerprint" in refusal(home, out, "--edit", "edit", "--adapter", home / "bare.safetensors")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    assert "not empty" in str(applied(home, tmp_path / "taken", *on).exception)


def test_a_file_that_is_missing_is_told_before_the_model_is_loaded(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vestige.models.load", lambda *given: pytest.fail("it was loaded"))
    assert "there is nothing at" in refusal(home, tmp_path / "out", "--edit", "edit", "--adapter", "three")


def test_a_file_that_is_there_stays_what_it_is(home: Path, tmp_path: Path) -> None:
    out, on = tmp_path / "out.safetensors", ("--edit", "edit", "--adapter", "one")
    out.write_bytes(b"mine")
    found = applied(home, out, *on)
    assert found.exit_code and str(found.exception) == f"{out} exists; choose another name with --out" and out.read_bytes() == b"mine"


def test_where_there_is_nothing_to_apply_it_is_said(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    assert "nothing to apply: give --adapter FILE" in refusal(home, out, "--edit", "edit")
    bare = home / "bare.safetensors"
    assert (
        refusal(home, out, "--adapter", bare, "--weights", "0") == f"nothing to apply: {bare} with weights 0 changes no weight of wardrobe"
    )


def test_an_adapter_on_the_wrong_model_says_what_about_the_edit(home: Path, tmp_path: Path) -> None:
    out, one, bare = tmp_path / "out", home / "one.safetensors", home / "bare.safetensors"
    assert refusal(home, out, "--adapter", one).endswith("if an edit was attacked, name it with --edit")
    assert refusal(home, out, "--edit", "edit", "--adapter", bare).endswith(
        f"here that is with {home / 'edit.safetensors'}, as --edit says"
    )
