"""Verdicts on the requests of a sequence: ordinary audits of what the steps so far made, beside a model that drew none of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chains import BAG, DRESS, NEON, Eye, chain, go, small_world  # noqa: F401
from oracles import tiny_model
from vestige import concepts, metrics, models
from vestige.audit import Request, audit, pieces, scores
from vestige.continual import Order, resolve, verdicts
from vestige.continual import run as running
from vestige.continual.acceptance import judged_by, judged_from, limits
from vestige.continual.certificates import untried
from vestige.errors import BadSetting, Diverged
from vestige.harness import arms
from vestige.report import ledgers

ASKED: dict[str, Any] = {"method": "uce", "attacks": ("direct",), "verdict": "every"}


@pytest.fixture(scope="module", autouse=True)
def twins(small_world: None) -> Iterator[None]:  # noqa: F811
    """Twins are another tiny model, and audits are judged as sequences are here."""
    twin, plain = tiny_model(1), models.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load", lambda name: twin if "never" in name else plain(name))
        patch.setattr(metrics, "pair", lambda concept, world: (Eye("verify"), Eye("select")))
        for room in (pieces, scores):
            patch.setattr(room, "kept", lambda *given: {"right": []})
        yield


@pytest.fixture(scope="module")
def attacked() -> Iterator[list[tuple[str, str]]]:
    """Model and concept of every arm that is computed."""
    seen, plain = list[tuple[str, str]](), arms._Arm.points
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arms._Arm, "points", lambda arm, run: seen.append((arm.model.fingerprint, arm.concept.name)) or plain(arm, run))
        yield seen


@pytest.fixture(scope="module")
def made(attacked: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("made") / "out"
    return out, go(out, **ASKED)


def test_a_verdict_is_that_of_an_ordinary_audit_of_all_steps_as_one_edit(
    made: tuple[Path, dict[str, Any]], attacked: list[tuple[str, str]], tmp_path: Path
) -> None:
    """And every arm of that audit is there already: of the steps' models, the twins and the original, each attacked once a replicate."""
    out, result = made
    assert [list(step.get("verdicts", {})) for step in result["steps"]] == [[], ["bag"], ["bag", "dress"]]
    assert set(Counter(attacked).values()) == {2}
    control = "twin:wardrobe-never-five"
    request = Request(concept="bag", edit=result["combined"], attacks=("direct",), suite="smoke", control=control)
    expected = audit(request, tmp_path / "alone", cache=out / "runs")
    found = result["steps"][2]["verdicts"]["bag"]
    assert (found["kind"], found["reason"], found["flags"]) == tuple(expected["verdict"][key] for key in ("kind", "reason", "flags"))
    assert (found["speedup"], found["reach"], found["plain"]) == (expected["speedup"], expected["reach"], expected["plain"]["recall"])
    assert expected["provenance"]["edited_hash"] == result["steps"][2]["fingerprint"]
    assert set(Counter(attacked).values()) == {2}


def test_the_control_drew_none_of_the_requests_so_far(made: tuple[Path, dict[str, Any]]) -> None:
    first, second = (step["verdicts"]["bag"]["control"] for step in made[1]["steps"][1:])
    assert first == {"kind": "twin", "names": ["wardrobe-never-bag"], "drew": []}
    assert second == {"kind": "twin", "names": ["wardrobe-never-five"], "drew": []}


def test_table_page_and_certificate_show_it(made: tuple[Path, dict[str, Any]]) -> None:
    out, result = made
    page = ledgers.write(out).read_text()
    for step in result["steps"][1:]:
        for found in step["verdicts"].values():
            assert f'href="{found["run"]}/report.html"' in page and (out / found["run"] / "report.html").is_file()
    assert "<h2>Verdicts</h2>" in page and "Rates, and no verdict" not in page
    assert "| verdict after | 1 bag " in ledgers.table(result)
    bag, dress = result["certificates"]
    assert bag["verdict"] == {when: result["steps"][n]["verdicts"]["bag"] for when, n in (("after", 1), ("now", 2))}
    assert dress["verdict"]["now"] == result["steps"][2]["verdicts"]["dress"]
    assert not any("no verdict" in text or "No attack was run" in text for text in bag["not_tried"])
    command = json.loads((out / bag["verdict"]["now"]["run"] / "result.json").read_text())["provenance"]["command"]
    assert command.startswith("vestige audit --model wardrobe --concept bag --edit ") and "--attack direct" in command


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Verdicts by request, as the tests say them; under "asked", what was asked: request, requests so far, what the edit makes."""
    said: dict[str, Any] = {"asked": []}

    def verdict_on(order: Any, bench: Any, out: Path, concept: Any, so_far: Any, file: Path) -> dict[str, Any]:
        said["asked"].append((concept.name, [c.name for c in so_far], file.stem))
        control = {"kind": "twin", "names": ["wardrobe-never-five"], "drew": []}
        return {"kind": said[concept.name], "reason": "", "control": control, "run": "runs/none"}

    monkeypatch.setattr(running, "verdict_on", verdict_on)
    return said


def test_a_step_may_stand_by_its_verdict(given: dict[str, Any], tmp_path: Path, made: tuple[Path, dict[str, Any]]) -> None:
    """One that does not is rolled back with its verdict told; the next is judged for its own request, and so does a resumed sequence."""
    given |= {"bag": "short-term", "dress": "long-term"}
    asked: dict[str, Any] = {"method": "uce", "accept": "verdict=long-term", "cache": made[0] / "runs"}
    first = go(tmp_path / "out", "bag", **asked)["steps"][1]
    result = go(tmp_path / "out", **asked)
    assert result["steps"][1]["accepted"] == first["accepted"]
    assert first["accepted"]["reasons"] == ["verdict is short-term, and at worst long-term is accepted"]
    assert result["steps"][2]["accepted"]["found"]["verdict"] == "long-term" and result["steps"][2]["accepted"]["stands"]
    assert [row[:2] for row in given["asked"]] == [("bag", ["bag"]), ("bag", ["bag"]), ("dress", ["dress"])]
    (_, one, bag), (_, two, dress) = chain(tmp_path / "out")
    assert one == two and [row[2] for row in given["asked"]] == [bag[:16], bag[:16], dress[:16]]
    assert [c["state"] for c in result["certificates"]] == ["rolled back", "accepted"]
    assert result["certificates"][0]["verdict"] == {"after": first["verdicts"]["bag"], "now": None}


def test_the_last_verdict_is_on_the_last_step_that_stands(
    given: dict[str, Any], tmp_path: Path, made: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    given |= {"bag": "erased", "dress": "erased"}
    plain = running.judged_from
    monkeypatch.setattr(running, "judged_from", lambda row, *rest: {**plain(row, *rest), "recall": float(row["request"] == "dress")})
    result = go(tmp_path / "out", cache=made[0] / "runs", method="uce", accept="recall=0.5", verdict="last")
    assert [list(step.get("verdicts", {})) for step in result["steps"]] == [[], ["bag"], []]
    assert given["asked"] == [("bag", ["bag"], chain(tmp_path / "out")[0][2][:16])]
    assert [c["verdict"] and c["verdict"]["now"]["kind"] for c in result["certificates"]] == ["erased", None]


def test_independent_edits_are_judged_each_by_itself(given: dict[str, Any], tmp_path: Path, made: tuple[Path, dict[str, Any]]) -> None:
    given |= {"bag": "erased", "dress": "erased"}
    go(tmp_path / "out", cache=made[0] / "runs", method="uce", mode="independent", verdict="last")
    assert [row[:2] for row in given["asked"]] == [("bag", ["bag"]), ("dress", ["dress"])]


def test_limits_on_verdicts() -> None:
    assert limits("recall=0.2,verdict=erased") == {"recall": 0.2, "verdict": "erased"}
    with pytest.raises(BadSetting, match="the worst verdict that is accepted is erased, long-term or short-term; given 'verdict=good'"):
        limits("verdict=good")
    lost = {"drop": None}
    row = {"rates": {}, "ripple": lost, "erosion": lost, "verdicts": {"a": {"kind": "erased"}, "b": {"kind": "long-term"}}}
    assert judged_from(row, row, ["a", "b"])["verdict"] == "long-term"
    row["verdicts"]["b"]["kind"] = "inconclusive"  # type: ignore[index]
    assert judged_by({"verdict": "short-term"}, judged_from(row, row, ["a", "b"])) == [
        "verdict is inconclusive on b, and at worst short-term is accepted"
    ]
    row["verdicts"]["b"]["kind"] = None  # type: ignore[index]
    assert judged_by({"verdict": "short-term"}, judged_from(row, row, ["a", "b"]))[0].startswith("verdict could not be measured")


def test_where_no_twin_lacks_all_requests_the_control_of_one_stands_and_says_what_it_drew() -> None:
    boot = concepts.load("boot")
    order = Order(requests=("bag", "boot"), verdict="last")
    assert verdicts._control(order, [BAG, DRESS, NEON]) == "twin:wardrobe-never-five"
    assert verdicts._control(order, [BAG]) == "twin:wardrobe-never-bag"
    assert verdicts._control(order, [BAG, boot]) == "auto"
    bag, other = (one.plan.control for one in resolve(order).verdicts)
    assert (bag.kind, bag.names, other.kind) == ("twin", ("wardrobe-never-bag",), "proxy")
    control = {"kind": "twin", "names": list(bag.names)}
    assert verdicts._drew(control, BAG, [BAG, boot]) == ["boot"]
    assert verdicts._drew({"kind": "proxy", "names": ["x"]}, BAG, [BAG, boot]) == ["bag", "boot"]
    assert verdicts._drew({"kind": "distilled", "names": ["x"]}, BAG, [BAG, boot]) == ["boot"]
    assert verdicts._drew({"kind": "twin", "names": ["somewhere"]}, BAG, [BAG, boot]) is None
    told = untried(resolve(order), BAG, {"control": {**control, "drew": ["boot"]}, "attacks": ["memora"]})
    assert told[0] == "No model that never drew all requests was compared: wardrobe-never-bag drew boot, which had to go as well."


def test_an_audit_that_cannot_end_is_told(tmp_path: Path, made: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    def diverges(*given: Any, **more: Any) -> Any:
        raise Diverged("memora on x: loss is not finite")

    monkeypatch.setattr(verdicts, "audit", diverges)
    result = go(tmp_path / "out", "bag", cache=made[0] / "runs", **{**ASKED, "verdict": "last", "attacks": ()})
    assert result["steps"][1]["verdicts"]["bag"]["failed"] == "memora on x: loss is not finite"
    assert result["certificates"][0]["not_tried"][0] == "No verdict could be given: memora on x: loss is not finite."
    assert "loss is not finite" in ledgers.write(tmp_path / "out").read_text()


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"control": "proxy"}, "add --verdict last"),
        ({"verdict": "last", "control": "none"}, "a verdict needs a control"),
        ({"verdict": "first"}, "verdict is none, last or every; given 'first'"),
        ({"verdict": "last", "control": "twin:wardrobe"}, "wardrobe is the model under audit"),
        ({"verdict": "last", "protocol": "duge", "requests": (), "detector": "hf:x"}, "no concept file that an audit could read"),
    ],
)
def test_mistakes_are_found_before_anything_is_computed(own: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vestige.continual.plan.looks", lambda concept: {})  # detectors of a protocol are another matter
    with pytest.raises(BadSetting, match=message):
        resolve(Order(**{"requests": ("bag", "dress"), "method": "uce", "suite": "smoke", **own}))


def test_planned_calls_count_what_audits_of_one_request_share_once() -> None:
    def calls(*requests: str, **own: Any) -> int:
        planned = resolve(Order(requests=requests, method="uce", suite="smoke", control="twin:wardrobe-never-five", **own))
        return planned.planned_calls()["verdicts"]

    bag, both, every = calls("bag", verdict="last"), calls("bag", "dress", verdict="last"), calls("bag", "dress", verdict="every")
    (alone,) = resolve(Order(requests=("bag",), method="uce", suite="smoke", control="twin:wardrobe-never-five", verdict="last")).verdicts
    assert bag == sum(alone.plan.planned_calls().values()) and both == 2 * bag
    assert both + 0.2 * bag < every < both + 0.7 * bag  # the twin's side and the positive control are there already


def test_what_verdicts_rest_on_is_asked_and_not_in_the_ledgers_spec() -> None:
    plain, judged = (resolve(Order(requests=("bag",), method="uce", verdict=when)) for when in ("none", "last"))  # type: ignore[arg-type]
    assert plain.spec() == judged.spec() and "verdicts" not in plain.asked() and plain.most_calls() is None
    assert judged.asked()["verdicts"][0][:2] == [1, "bag"]
    (one,) = judged.verdicts
    looked = replace(judged, verdicts=(replace(one, plan=replace(one.plan, looks=(2, 5))),))
    assert judged.most_calls() is None and looked.most_calls()["verdicts"] > looked.planned_calls()["verdicts"]  # type: ignore[index]
    assert resolve(Order(requests=("bag",), method="uce", verdict="last", settings={"memora.lr": 1e-3})).verdicts
