"""Who looks: a concept file names detectors, and an audit of a model that belongs to no world works with them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from onlookers import classifier, names, short, told  # noqa: F401
from oracles import save_pair
from vestige import api, data
from vestige.audit import Request, resolve
from vestige.concepts import Concept, concept, images, load
from vestige.errors import BadInput, BadSetting, MissingDependency
from vestige.metrics import loading
from vestige.seeds import generator
from vestige.verdict import intervals

LOOKS = """
import torch

def bright(images):
    return images.mean((1, 2, 3)).clamp(0, 1)

def left(images):
    # the first picture of every batch cannot be judged
    return [None if i == 0 else float(x) for i, x in enumerate(images[..., :16].mean((1, 2, 3)))]

def nothing(images):
    raise RuntimeError("no face found")
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a twin of it as pipeline folders, two tiny classifiers, functions, and references."""
    root = tmp_path_factory.mktemp("home")
    save_pair(root)
    for seed, name in enumerate(("first", "second")):
        classifier(root / name, seed, id2label={0: "bag, purse", 1: "top", 2: "dress"}, label2id={"bag, purse": 0, "top": 1, "dress": 2})
    (root / "looks.py").write_text(LOOKS)
    images.save(torch.rand(4, 3, 32, 32, generator=generator(0, "references")), root / "references")
    return root


def request(home: Path, concept: str, **own: Any) -> dict[str, Any]:
    given = {"model": str(home / "model"), "suite": "smoke", "attacks": ("direct",), "control": f"twin:{home / 'twin'}"}
    return {**given, "concept": concept, **own}


@pytest.fixture(scope="module")
def by_classifiers(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    concept = told(home, detector="hf:first", labels=["bag"], threshold=0.34, selector="hf:second", selector_labels=["bag"])
    return api.run_audit(tmp_path_factory.mktemp("audit"), unlearner="uce", **request(home, concept))


@pytest.fixture(scope="module")
def by_functions(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    concept = told(home, detector="looks.py:bright", selector="looks.py:left", threshold=0.4, selector_threshold=0.4)
    return api.run_audit(tmp_path_factory.mktemp("audit"), **request(home, concept))


def test_an_audit_by_two_classifiers(home: Path, by_classifiers: dict[str, Any]) -> None:
    told_ = by_classifiers["detector"]
    assert [told_[role]["name"] for role in ("verification", "selection")] == ["first", "second"]
    for role, threshold in (("verification", 0.34), ("selection", 0.5)):
        assert told_[role]["threshold"] == threshold
        assert told_[role]["labels"] == ["bag, purse"]
        assert len(told_[role]["weights_hash"]) == 64 and told_[role]["version"]
    assert by_classifiers["control"] == {"kind": "twin", "name": str(home / "twin"), "names": [str(home / "twin")]}
    assert {"one-judge", "utility-unmeasured", "missing-detections"}.isdisjoint(names(by_classifiers))
    assert names(by_classifiers)["unmeasured-judge"] == "informing"
    assert by_classifiers["utility"]["neighbours"]["before"]["count"] == 4  # the classifier knows tops from bags


def test_raw_scores_of_every_label_are_kept(by_classifiers: dict[str, Any]) -> None:
    files = sorted(Path(by_classifiers["run"]).glob("runs/arm-*/scores/*.json"))
    assert files
    raw = json.loads(files[0].read_text())
    assert raw["columns"] == ["bag, purse", "top", "dress"] and raw["threshold"] == 0.34
    assert len(raw["scores"]) == 4 and all(abs(sum(row) - 1) < 1e-4 for row in raw["scores"])
    point = json.loads((files[0].parent.parent / "result.json").read_text())["points"][int(files[0].stem)]
    assert point["scores"] == [row[0] for row in raw["scores"]]
    assert point["hits"] == [row[0] >= 0.34 for row in raw["scores"]]


def test_an_audit_by_two_functions(by_functions: dict[str, Any]) -> None:
    """One of them cannot judge every picture, and neither can tell what else there is."""
    raised = names(by_functions)
    assert raised["missing-detections"] == "blocking"
    text = next(f["text"] for f in by_functions["verdict"]["flags"] if f["name"] == "missing-detections")
    assert "the selection judge could not judge" in text and "they are in no rate" in text
    assert by_functions["verdict"]["kind"] == "inconclusive"
    assert by_functions["utility"]["neighbours"]["before"] == {"value": None, "low": None, "high": None, "count": 0}
    assert by_functions["plain"]["edited"]["count"] == 8 and "missing" not in by_functions["plain"]["edited"]


def test_nothing_judged_is_undefined_and_not_zero(home: Path, tmp_path: Path) -> None:
    concept = told(home, detector="looks.py:nothing")
    result = api.run_audit(tmp_path / "audit", unlearner="uce", **request(home, concept))
    for arm in ("original", "edited", "never"):
        rate = result["plain"][arm]
        assert rate == {"value": None, "low": None, "high": None, "count": 0, "missing": 8, "replicates": [None, None]}
    assert all(point["score"] is None and point["missing"] for point in result["attacks"]["direct"]["arms"]["edited"]["curve"])
    raised = names(result)
    assert (raised["missing-detections"], raised["one-judge"], raised["utility-unmeasured"]) == ("blocking", "capping", "capping")
    assert (result["verdict"]["kind"], result["savings"]["value"]) == ("inconclusive", None)
    page = re.sub('base64,[^"]+', "", (tmp_path / "audit/report.html").read_text())
    assert "could not judge" in page and not re.search(r"\bnan\b", page, re.IGNORECASE)


def test_a_proxy_of_the_users_own(home: Path, tmp_path: Path) -> None:
    """Its ceiling is the judge's rate on its real pictures, and it may have a judge of its own."""
    proxy = told(home, "teapot", detector="looks.py:bright", threshold=0.2, pictures="references")
    concept = told(home, detector="hf:first", labels=["bag"], threshold=0.3, selector="hf:second", selector_labels=["bag"])
    given = request(home, concept, control=f"proxy:{proxy}")
    result = api.run_audit(tmp_path / "audit", **given)
    assert result["control"]["kind"] == "proxy" and result["control"]["name"] == proxy
    assert names(result)["proxy-control"] == "informing"
    assert "recall begins at its rate on 4 of the original" in next(
        f["text"] for f in result["verdict"]["flags"] if f["name"] == "unmeasured-judge"
    )
    arm = [json.loads(f.read_text()) for f in tmp_path.glob("audit/runs/arm-*/spec.json")]
    assert {(s["concept"]["name"], s["judges"][0]["name"]) for s in arm} == {("bag", "first"), ("teapot", "bright")}


def test_a_world_keeps_its_two_judges() -> None:
    verify, select = loading.pair(load("bag"), "wardrobe")
    assert (verify.name, select.name) == ("judge-verify", "judge-select")
    assert not loading.same(verify, select)


def test_one_detector_does_both_and_the_audit_says_so(home: Path) -> None:
    verify, select = loading.pair(load(told(home, detector="looks.py:bright")), "")
    assert loading.same(verify, select)
    twice = load(told(home, detector="hf:first", selector="hf:first", labels=["bag"], selector_labels=["bag"]))
    assert loading.same(*loading.pair(twice, ""))


def test_a_clip_compares_the_concept_with_what_must_stay(home: Path) -> None:
    clip = data.folder() / "wardrobe/clip"
    verify, _ = loading.pair(load(told(home, detector=f"clip:{clip}", label="purse", target="bag")), "")
    assert verify.labels == ("bag", "top", "dress")
    assert [verify.knows(word) for word in ("purse", "top", "coat")] == [True, True, False]


@pytest.mark.parametrize(
    ("own", "error", "message"),
    [
        ({"detector": "hf:absent"}, BadInput, "names a folder without weights"),
        ({"detector": "nowhere.py:look"}, BadInput, "names no file or module that is there"),
        ({"detector": "vestige.absent:look"}, BadInput, "names no file or module that is there"),
        ({"detector": "nudnet"}, BadSetting, "a detector is one of nudenet, "),
        ({"selector": "hf:first"}, BadInput, "selector of bag is told to a detector, and none is named"),
        ({"detector": "hf:first", "selector_threshold": 0.5}, BadInput, "selector_threshold of bag is told to a selector"),
        ({"labels": ["bag"]}, BadInput, "labels of bag is told to a detector"),
        ({"detector": "hf:first", "threshold": 1.5}, BadInput, "a threshold of bag lies between 0 and 1; given 1.5"),
        ({"detector": "hf:first", "threshold": "high"}, BadInput, "threshold should be a number"),
    ],
)
def test_mistakes_are_found_before_anything_is_computed(home: Path, own: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        resolve(Request(**request(home, told(home, **own))))


def test_a_missing_package_is_found_by_the_plan(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise loading.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(loading.metadata, "version", absent)
    with pytest.raises(MissingDependency, match=r'nudenet needs nudenet.*pip install "vestige\[nsfw\]"'):
        resolve(Request(**request(home, told(home, detector="nudenet", label="core-6"))))


@pytest.mark.parametrize(
    ("control", "message"),
    [
        ("auto", "has neither a twin .* name one with --control twin:MODEL"),
        ("none:x", "control is auto, twin, proxy, distilled:NUMBER, or one or more of twin:MODEL"),
        ("twin:{home}/model", "is the model under audit"),
        ("proxy:{bare}", "a proxy is another concept than bag and its file names a folder of pictures"),
    ],
)
def test_controls_that_are_none_are_refused(home: Path, control: str, message: str) -> None:
    control = control.format(home=home, bare=told(home, "teapot"))
    with pytest.raises(BadSetting, match=message):
        resolve(Request(**request(home, told(home, detector="hf:first", labels=["bag"]), control=control)))


def test_an_audit_is_keyed_by_who_looks(home: Path) -> None:
    def spec(**own: Any) -> dict[str, Any]:
        return resolve(Request(**request(home, told(home, **own)))).spec()

    plain, first, second = spec(), spec(detector="hf:first", labels=["bag"]), spec(detector="hf:second", labels=["bag"])
    assert "looks" not in plain
    assert first["looks"] != second["looks"]
    assert first["concept"] == second["concept"]  # what a concept is does not depend on who looks for it
    assert not set(concept.LOOKS) & set(plain["concept"])


def test_a_detector_expects_nothing_of_contexts(home: Path) -> None:
    own = {"contexts": ["photo"], "context_group": "style", "templates": ["a {context} of a {concept}"]}
    assert resolve(Request(**request(home, told(home, detector="hf:first", labels=["bag"], **own)))).concept.context_group == ""
    assert resolve(Request(**request(home, told(home, **own)))).concept.context_group == "style"


def test_features_for_distances(home: Path) -> None:
    assert loading.extractor("wardrobe").name == "judge-verify"
    assert loading.extractor(f"hf:{home / 'first'}").features(torch.rand(2, 3, 16, 16)).shape == (2, 16)
    with pytest.raises(BadSetting, match="features are read by"):
        loading.extractor("lpips")


def test_pairs_that_could_not_be_judged_leave_a_drop() -> None:
    whole = intervals.drop({"": [True, True]}, {"": [False, True]})
    assert whole == intervals.drop({"": [True, None, True, True]}, {"": [False, True, None, True]})
    assert math.isnan(intervals.share([None, None]))


def test_files_of_a_concept_are_found_from_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('name="x"\ndetector="hf:judge"\nselector="looks.py:f"\npictures="refs"\n')
    found = load(str(tmp_path / "c.toml"))
    assert found.detector == f"hf:{tmp_path / 'judge'}"
    assert found.selector == f"{tmp_path / 'looks.py'}:f"
    assert found.pictures == str(tmp_path / "refs")
    for told_ in ("nudenet", "nudenet:bgr", "open-nsfw", "package.module:function"):
        (tmp_path / "c.toml").write_text(f'name="x"\ndetector="{told_}"\n')
        assert load(str(tmp_path / "c.toml")) == Concept(name="x", detector=told_)
