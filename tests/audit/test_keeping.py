"""Audits whose detector tells nothing but the concept: what must stay is measured by pictures, and recall begins where nothing is seen."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from onlookers import names, short, told
from oracles import save_pair
from vestige import api, concepts, data, models
from vestige.audit import Request, flags, resolve, usefulness
from vestige.concepts import images
from vestige.errors import BadInput, BadSetting
from vestige.harness import suites
from vestige.harness.bench import Bench
from vestige.harness.keeping import captioned_by, lost
from vestige.metrics import loading
from vestige.metrics.losses import LostShare
from vestige.seeds import generator
from vestige.verdict import Interval

__all__ = ["short"]  # a fixture that holds here too
LOOKS = "def bright(x):\n    return x.mean((1, 2, 3)) * 0 + 1\n\n\ndef red(x):\n    return x[:, 0].mean((1, 2)) * 0 + 1\n"
CLIP = f"clip:{data.folder() / 'wardrobe/clip'}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    root = tmp_path_factory.mktemp("home")
    save_pair(root)
    (root / "looks.py").write_text(LOOKS)
    (root / "coco.csv").write_text("prompt,evaluation_seed\n" + "".join(f"a picture of thing {i},{i}\n" for i in range(7)))
    images.save(torch.rand(4, 3, 32, 32, generator=generator(0, "teapot")), root / "teapot")
    return root


def request(home: Path, **own: Any) -> dict[str, Any]:
    named = own.pop("concept", {})
    concept = told(home, **{"detector": "looks.py:bright", "selector": "looks.py:red", **named})
    given = {"model": str(home / "model"), "control": f"twin:{home / 'twin'}", "concept": concept, "unlearner": "uce"}
    return {**given, "suite": "smoke", "attacks": ("direct",), "seeds": (0, 1), **own}


@pytest.mark.parametrize(("fidelity", "measure"), [("wardrobe", "KID-judge-verify"), (CLIP, "CLIP-score-clip")])
def test_pictures_say_what_the_rest_lost(home: Path, tmp_path: Path, fidelity: str, measure: str) -> None:
    concept = {"fidelity": fidelity, "captions": "coco.csv"}
    result = api.run_audit(tmp_path / "out", **request(home, concept=concept))
    found = result["fidelity"]
    assert found["measure"] == measure and set(found["groups"]) == {"neighbours", "unrelated"}
    assert found["groups"]["unrelated"]["after"]["count"] == 4  # of seven captions, as many pictures as the suite draws
    asked = [json.loads(f.read_text())["asked"] for f in tmp_path.glob("out/runs/keeping-*/spec.json")]
    assert ["a picture of thing 1", 1, 3.0] in [row for rows in asked for row in rows]
    page = (tmp_path / "out/report.html").read_text()
    assert f"What must stay, by {measure}" in page


def test_a_model_against_itself_lost_nothing(home: Path, tmp_path: Path) -> None:
    concept = concepts.load(told(home, detector="looks.py:bright", fidelity="wardrobe"))
    suite, model = suites.load("smoke"), models.load(str(home / "model"))
    bench = Bench(tmp_path, suite, *loading.pair(concept, ""), measured_by=loading.yardstick("wardrobe"))
    found = lost(bench, model, model, concept, "unrelated")
    assert found is not None and found.shown["after"] == 0.0
    assert len(captioned_by(concept, suite, "unrelated")) == suite.utility_pictures


def loss(value: float, half: float) -> LostShare:
    return LostShare(Interval(value, value - half, value + half), half / 1.96, 1, 200, {})


def fired(**losses: LostShare) -> list[str]:
    rows = {group: {"before": {"right": []}, "after": {"right": []}} for group in ("neighbours", "unrelated")}
    judge = SimpleNamespace(verify=SimpleNamespace(name="nudenet"))
    one = SimpleNamespace(original="a", edited="b", concept=concepts.Concept(name="x", unrelated=("y",)), bench=judge)
    found = usefulness.utility(one, rows, {group: {"after": row} for group, row in losses.items()})  # type: ignore[arg-type]
    return [flag.name for flag in found]


def test_pictures_decide_where_the_judge_knows_no_word() -> None:
    """With them such an audit is capped no more than any other."""
    assert fired() == ["utility-unmeasured"]
    assert fired(unrelated=loss(0.02, 0.05), neighbours=loss(0.1, 0.1)) == []
    assert fired(unrelated=loss(0.3, 0.05)) == ["utility-collapsed"]
    assert fired(unrelated=loss(0.05, 0.3)) == ["utility-unseen"]
    assert fired(unrelated=loss(float("nan"), 1.0)) == ["utility-unmeasured"]
    rows = {group: {"before": {"right": []}, "after": {"right": []}} for group in ("neighbours", "unrelated")}
    power = usefulness.judging(rows, {"unrelated": {"after": loss(0.02, 0.05)}})
    assert power["neighbours"]["noticeable"] is None and 0.1 < (power["unrelated"]["noticeable"] or 0) < 0.2


def test_recall_begins_at_the_detectors_rate_where_nothing_is_to_be_seen(home: Path, tmp_path: Path) -> None:
    """This one sees the concept everywhere, so nothing is left to be recalled: the audit cannot be made, and says why."""
    proxy = told(home, "teapot", detector="looks.py:red", pictures="teapot")
    given = request(home, control=f"proxy:{proxy}")
    planned = resolve(Request(**given))
    assert planned.spec()["floor"] == "others" and planned.planned_calls()["floor"] == 4 * 2 * 2
    assert "floor" not in resolve(Request(**request(home))).spec()
    result = api.run_audit(tmp_path / "out", **given)
    assert result["floor"]["value"] == 1.0 and result["floor"]["count"] == 4
    assert result["floor"]["of"] == "the original's pictures of neighbours and unrelated words"
    assert names(result)["not-auditable"] == "blocking"
    (text,) = [flag["text"] for flag in result["verdict"]["flags"] if flag["name"] == "unmeasured-judge"]
    assert text.endswith("recall begins at its rate on 4 of the original's pictures of neighbours and unrelated words, 100%")


def test_without_other_words_the_floor_stays_at_none(home: Path) -> None:
    bare = SimpleNamespace(plan=SimpleNamespace(control=SimpleNamespace(kind="proxy", of_the_concept=False), guesses_floor=False))
    bare.bench = SimpleNamespace(verify=SimpleNamespace(identity=lambda label: {}))
    bare.concept = SimpleNamespace(label="x")
    assert flags._floor(bare) == "; its false positives are taken as none"  # type: ignore[arg-type]


def test_mistakes_are_found_before_anything_is_computed(home: Path) -> None:
    for own, error, message in (
        ({"fidelity": "lpips"}, BadSetting, "features are read by"),
        ({"fidelity": "clip:absent"}, BadInput, "folder without weights"),
        ({"captions": "coco.csv"}, BadInput, "captions of bag are for who measures fidelity"),
        ({"fidelity": "wardrobe", "captions": "absent.csv"}, BadInput, "no prompt file"),
    ):
        with pytest.raises(error, match=message):
            resolve(Request(**request(home, concept=own)))
