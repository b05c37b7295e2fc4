"""Never-models that are made of the original, as an audit's controls: made once, shared, forecast, never trusted for more than they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from onlookers import short, told
from oracles import save_pair
from vestige import api, models
from vestige.audit import Request, control_flags, controls, pieces, plan, resolve, scores
from vestige.audit import result as billing
from vestige.concepts import images
from vestige.errors import BadSetting
from vestige.harness import never
from vestige.harness.never import Distillation
from vestige.seeds import generator

__all__ = ["short"]  # a fixture that holds here too
LOOKS = "def bright(images):\n    return images.mean((1, 2, 3))\n\n\ndef none(images):\n    return 0 * images.mean((1, 2, 3))\n"
SMALL = Distillation(steps=3, batch=8, pictures=16, anchor_pictures=6, own=0.25)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("home")
    save_pair(root)
    (root / "looks.py").write_text(LOOKS)
    images.save(torch.rand(12, 3, 32, 32, generator=generator(0, "bag")), root / "bag")
    with pytest.MonkeyPatch.context() as patch:
        for room in (never, controls, plan, billing):
            patch.setattr(room, "Distillation", lambda: SMALL)
        for room in (pieces, scores):
            patch.setattr(room, "kept", lambda *given: {"right": []})
        yield root


def asked(home: Path, **own: Any) -> dict[str, Any]:
    concept = told(home, detector="looks.py:bright", selector="looks.py:none", pictures="bag")
    given = {"model": str(home / "model"), "concept": concept, "control": "distilled:2", "unlearner": "uce"}
    few = {"memora.sampling_steps": 3, "memora.start": 1, "memora.points": 2, "memora.batch": 2}
    return {**given, "suite": "smoke", "attacks": ("memora",), "seeds": (0, 1), "settings": few, **own}


@pytest.fixture(scope="module")
def result(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return api.run_audit(tmp_path_factory.mktemp("audit"), **asked(home), cache=home / "cache")


def made(home: Path) -> list[dict[str, Any]]:
    found = (json.loads(file.read_text()) for file in (home / "cache").glob("*/spec.json"))
    return [spec for spec in found if spec["what"] == "never-model"]


def test_two_stand_beside_the_edit_and_say_what_they_are(home: Path, result: dict[str, Any]) -> None:
    assert result["control"] == {"kind": "distilled", "name": "distilled 0 and distilled 1", "names": ["distilled 0", "distilled 1"]}
    assert sorted(spec["seed"] for spec in made(home)) == [0, 1]
    assert len(result["attacks"]["memora"]["arms"]["never"]["replicates"]) == 4
    (text,) = (flag["text"] for flag in result["verdict"]["flags"] if flag["name"] == "distilled-control")
    assert text.startswith("2 never-models were made of the original") and "1.2 times [0.9, 1.6] for bag of wardrobe under quick-3" in text
    assert result["verdict"]["kind"] != "erased"


def stand_in(kind: str, rights: dict[str, list[bool]]) -> Any:
    """An experiment of which only what it keeps is asked."""
    control = controls.Control(kind, ("distilled 0",))  # type: ignore[arg-type]
    planned = SimpleNamespace(control=control)
    return SimpleNamespace(original="original", nevers=(("never", None),), plan=planned, concept=SimpleNamespace(name="bag"), bench=None)


@pytest.mark.parametrize(("lost", "censored", "blocked"), [(0, False, 0), (30, False, 2), (0, True, 1)])
def test_one_that_cannot_draw_or_learn_is_no_control(monkeypatch: pytest.MonkeyPatch, lost: int, censored: bool, blocked: int) -> None:
    """A control that learns badly would make every model look hidden, one that never knew included."""
    rights = {"original": [True] * 48, "never": [False] * lost + [True] * (48 - lost)}
    monkeypatch.setattr(scores, "kept", lambda bench, model, concept, group: {"right": rights[model]})
    found = {"memora": SimpleNamespace(censored=censored), "direct": SimpleNamespace(censored=True)}
    raised = control_flags.made_of_the_original(stand_in("distilled", rights), found)  # type: ignore[arg-type]
    assert [flag.kind for flag in raised] == ["capping"] + ["blocking"] * blocked
    assert scores.kept_by_nevers(stand_in("twin", rights), "unrelated") == {}


def test_they_are_of_the_original_and_no_edit_makes_them_again(home: Path, result: dict[str, Any], tmp_path: Path) -> None:
    assert {spec["model"] for spec in made(home)} == {models.load(str(home / "model")).fingerprint}
    before = [file.stat().st_mtime_ns for file in sorted((home / "cache").glob("*/edit.safetensors"))]
    given = asked(home)
    other = api.run_audit(tmp_path, **{**given, "settings": {**given["settings"], "uce.ridge": 5.0}}, cache=home / "cache")
    assert len(made(home)) == 2 and other["control"] == result["control"]
    after = [file.stat().st_mtime_ns for file in sorted((home / "cache").glob("*/edit.safetensors"))]
    assert set(before) < set(after)


def test_their_making_is_forecast(home: Path) -> None:
    two, one = (resolve(Request(**asked(home, control=f"distilled:{n}"))) for n in (2, 1))
    each = SMALL.calls(two.suite.protocol)
    assert (two.planned_calls()["controls"], one.planned_calls()["controls"]) == (2 * each, each)
    assert two.planned_calls()["utility"] - one.planned_calls()["utility"] == 2 * two.suite.utility_pictures * 4  # two guided steps
    assert resolve(Request(**asked(home, control="distilled"))).control == one.control
    assert "controls" not in resolve(Request(**asked(home, control=f"twin:{home / 'twin'}"))).planned_calls()


@pytest.mark.parametrize(
    ("own", "why"),
    [
        ({"control": "distilled:0"}, "1 to 9; given '0'"),
        ({"control": "distilled:many"}, "1 to 9; given 'many'"),
        ({"control": "distilled:1,distilled:2"}, "with commas between"),
        ({"control": "distilled", "original": False, "unlearner": "none"}, "made of the original, which is not at hand"),
    ],
)
def test_what_cannot_be_made_is_refused(home: Path, own: dict[str, Any], why: str) -> None:
    with pytest.raises(BadSetting, match=why):
        resolve(Request(**asked(home, **own)))


def test_a_concept_that_names_nothing_to_keep_has_none(home: Path) -> None:
    concept = told(home, "lone", detector="looks.py:bright", selector="looks.py:none", pictures="bag", neighbours=[], unrelated=[])
    with pytest.raises(BadSetting, match="neither neighbours nor unrelated"):
        resolve(Request(**asked(home, concept=concept)))
