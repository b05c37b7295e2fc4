"""Positive controls in a whole audit: made on the original, attacked like the edit, shared, counted and told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from made_up_arms import random_arms
from onlookers import short, told
from oracles import save_pair
from vestige import api, models
from vestige.audit import Request, no_original, pieces, positives, resolve, run, scores
from vestige.concepts import images
from vestige.harness import cost, suites, tries
from vestige.harness.positives import hiding
from vestige.report import audits
from vestige.seeds import generator
from vestige.verdict import Interval, measure
from vestige.verdict.decision import Flag, Verdict, decide

__all__ = ["short"]  # a fixture that holds here too
LOOKS = "def bright(images):\n    return images.mean((1, 2, 3))\n\n\ndef red(images):\n    return images[:, 0].mean((1, 2))\n"
FEW = {"sampling_steps": 3, "start": 1, "points": 2, "batch": 2}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("home")
    save_pair(root)
    (root / "looks.py").write_text(LOOKS)
    images.save(torch.rand(12, 3, 32, 32, generator=generator(0, "bag")), root / "bag")
    return root


@pytest.fixture(scope="module", autouse=True)
def sparing(short: None) -> Iterator[None]:
    """Suites that leave out what decides nothing; others are counted in `test_no_original`."""
    real = suites.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suites, "load", lambda name, world="": replace(real(name, world), sparing=True))
        yield


@pytest.fixture(scope="module", autouse=True)
def unblocked() -> Iterator[None]:
    """What judges that know nothing raise blocks every verdict, and then there is nothing that positive controls could decide."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            run, "decide", lambda plain, found, flags, *rest: decide(plain, found, [f for f in flags if f.kind != "blocking"], *rest)
        )
        yield


def asked(home: Path, **own: Any) -> dict[str, Any]:
    concept = told(home, detector="looks.py:bright", selector="looks.py:red", pictures="bag")
    given = {"model": str(home / "model"), "concept": concept, "control": f"twin:{home / 'twin'}", "unlearner": "uce"}
    settings = {f"memora.{key}": value for key, value in FEW.items()}
    return {**given, "suite": "smoke", "attacks": ("memora",), "seeds": (0, 1), "settings": settings, **own}


@pytest.fixture(scope="module")
def counted() -> Iterator[list[int]]:
    drawn, plain = list[int](), tries.pictures
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tries, "pictures", lambda m, prompts, *a, **k: drawn.append(len(prompts)) or plain(m, prompts, *a, **k))
        for room in (pieces, scores):
            patch.setattr(room, "kept", lambda *given: {"right": []})
        yield drawn


@pytest.fixture(scope="module")
def result(home: Path, counted: list[int], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return api.run_audit(tmp_path_factory.mktemp("audit"), **asked(home), cache=home / "cache")


def specs(home: Path) -> list[dict[str, Any]]:
    return [json.loads(f.read_text()) for f in (home / "cache").glob("*/spec.json")]


def test_what_was_forecast_is_what_is_drawn_and_billed(home: Path, counted: list[int], result: dict[str, Any]) -> None:
    planned = resolve(Request(**asked(home)))
    attack, own = planned.attacks["memora"]
    each, ways = 2 * 2, 2
    states = ways * cost.scored_pictures(attack, own.budget, planned.suite) + cost.plain_pictures(planned.suite)
    scored = 2 * states  # two replicates
    calls = planned.planned_calls()
    made = 2 * sum(way.calls(own.budget.last, own.references) for way in (attack, *attack.variants().values()))
    assert calls["positives"] == made + each * scored
    assert calls["scoring"] + each * scored == each * sum(counted)
    assert result["cost"]["pictures"] == sum(counted) + calls["utility"] // each


def test_the_result_and_the_page_tell_it(result: dict[str, Any], tmp_path: Path) -> None:
    budgets = {arm: [point["budget"] for point in found["curve"]] for arm, found in result["attacks"]["memora"]["arms"].items()}
    assert budgets == {"edited": [0, 2, 6], "never": [0, 2, 6], "original": [0, 6]}
    (control,) = result["positive_controls"]
    assert {"name", "hides", "found", "speedup", "reach", "plain", "attack", "times", "replicates"} <= control.keys()
    assert (control["name"], control["attack"], control["replicates"]) == ("remap", "memora", 2)
    assert not control["found"], "two replicates find nothing"
    page = audits.render(result, tmp_path)
    assert "What would have been found" in page and "remap" in page


@pytest.mark.parametrize(("kind", "attacked"), [("short-term", False), ("not forgotten", False), ("long-term", True), ("erased", True)])
def test_a_sparing_suite_attacks_them_where_the_verdict_rests_on_them(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, attacked: bool
) -> None:
    monkeypatch.setattr(run, "decide", lambda *given: Verdict(kind, "as it is told"))
    found = api.run_audit(tmp_path / "audit", **asked(home), cache=tmp_path / "cache")
    assert bool(found["positive_controls"]) == attacked
    assert (found["would_have_found"] == positives.spared(found["verdict"])) == found.get("positives_spared", False) == (not attacked)
    made = {json.loads(f.read_text())["what"] for f in (tmp_path / "cache").glob("*/spec.json")}
    remapped = [f for f in (tmp_path / "cache").glob("*/spec.json") if "remap" in f.read_text()]
    assert "arm" in made and bool(remapped) == attacked
    page = audits.render(found, tmp_path)
    assert "What would have been found" in page
    assert ("needs no positive control" in page) != attacked


def test_once_attacked_they_are_told_at_later_looks_too(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three replicates leave it open, five decide as what came back: the controls that the first look attacked are on the page."""
    kinds = iter(["inconclusive", "inconclusive", "short-term"])
    made = [Verdict(kind, "as it is told", attack="memora", more_replicates=1) for kind in kinds]  # type: ignore[arg-type]
    monkeypatch.setattr(run, "decide", lambda *given: made.pop(0))
    spared = suites.load
    monkeypatch.setattr(suites, "load", lambda name, world="": replace(spared(name, world), looks=(2, 3)))
    found = api.run_audit(tmp_path / "audit", **asked(home, seeds=()), cache=home / "cache")
    assert [look["verdict"] for look in found["looks"]] == ["inconclusive", "short-term"] and not made
    assert found["positive_controls"] and "positives_spared" not in found


def test_no_verdict_that_they_are_spared_for_could_be_another_with_them() -> None:
    """Their flag changes nothing of such a verdict but the list of flags."""
    rng, seen = np.random.default_rng(7), set[str]()
    for seed in range(300):
        low, value, high = np.sort(rng.uniform(0, 0.4, 3))
        made = random_arms(seed)
        lifted = replace(made, edited=tuple(tuple(0.4 * rate + 0.6 for rate in row) for row in made.edited)) if seed % 2 else made
        plain, arms_ = Interval(value, low, high), {"memora": measure(lifted)}
        told = decide(plain, arms_)
        if not positives.needed(asdict(told)):
            seen.add(told.kind)
            flagged = decide(plain, arms_, [Flag("no-positive-control", "capping", "nothing was found")])
            assert replace(flagged, flags=()) == told
    assert seen == {"short-term", "not forgotten"}


def test_one_that_is_not_sparing_attacks_them_always(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "decide", lambda *given: Verdict("short-term", "as it is told"))
    spared = suites.load
    monkeypatch.setattr(suites, "load", lambda name, world="": replace(spared(name, world), sparing=False))
    assert api.run_audit(tmp_path / "audit", **asked(home), cache=home / "cache")["positive_controls"]


def test_nothing_of_the_audited_edit_is_in_a_controls_keys(home: Path, result: dict[str, Any], tmp_path: Path) -> None:
    """So another method's audit makes none of these arms again."""
    before = {f: f.stat().st_mtime_ns for f in (home / "cache").glob("*/result.json")}
    original = models.load(str(home / "model"))
    remapped = {s["model"] for s in specs(home) if s["what"] == "arm"} - {original.fingerprint}
    assert len(remapped) == 3  # uce, remap, the twin
    other = api.run_audit(
        tmp_path / "other", **asked(home, unlearner="uce", settings={**asked(home)["settings"], "uce.ridge": 5.0}), cache=home / "cache"
    )
    assert other["positive_controls"] == result["positive_controls"]
    more = {s["model"] for s in specs(home) if s["what"] == "arm"} - {original.fingerprint} - remapped
    assert len(more) == 1  # the other edit alone
    assert all(f.stat().st_mtime_ns == then for f, then in before.items())


def test_they_are_asked_for_where_an_armed_attack_and_an_original_are(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(resolve(Request(**asked(home))).positives) == ["remap"]
    assert not resolve(Request(**asked(home, attacks=("direct",), settings={}))).positives
    assert not resolve(Request(**asked(home, original=False, unlearner="none"))).positives
    assert not resolve(Request(**asked(home, control="none"))).positives
    assert "positive_controls" in no_original.absent()


@pytest.mark.parametrize(
    ("model", "names"),
    [("wardrobe", ["remap", "uce"]), ("wardrobe-flow", ["remap", "negation"]), ("wardrobe-classes", ["remap", "negation"])],
)
def test_where_there_is_no_cross_attention_adapters_stand_in(model: str, names: list[str]) -> None:
    planned = resolve(Request(model=model))
    assert list(planned.positives) == names
    assert hiding(suites.load("quick", "wardrobe"), models.card(model), planned.concept) == planned.positives
    if "negation" in names:
        method = planned.positives["negation"].method
        assert (method.strength, method.neutral, method.anchoring) == (0.0, "anchor", 0.0)
