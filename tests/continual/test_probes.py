"""Sequences on a model of no world: requests name who looks for them, distances whose features they are, and pictures may go unkept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from chains import Nudge
from onlookers import short, told
from oracles import tiny_model
from vestige import api, cli, registry
from vestige.concepts import images
from vestige.continual import Order, probes, resolve, result, retention, run
from vestige.errors import BadInput, BadSetting, RunConflict
from vestige.harness import arms, diagnostics
from vestige.report import ledgers
from vestige.seeds import generator

__all__ = ["short"]  # a fixture that holds here too
LOOKS = """
def colour(images):
    return (30 * images.mean((2, 3))).softmax(1)

colour.labels = ["bag", "top", "dress"]
colour.features = lambda images: images[:, :, ::8, ::8].flatten(1)

def bright(images):
    return images.mean((1, 2, 3)) + LIFT

def picky(images):
    return [None if i == 0 else 1.0 for i in range(len(images))]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("home")
    tiny_model().pipeline().save_pretrained(root / "model")
    (root / "looks.py").write_text(LOOKS + "\nLIFT = 0.0\n")
    images.save(torch.rand(4, 3, 32, 32, generator=generator(0, "references")), root / "references")
    return root


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    find = registry.find
    monkeypatch.setattr(registry, "find", lambda kind, name: Nudge if name == "nudge" else find(kind, name))
    monkeypatch.setattr(diagnostics, "measured", lambda *given, **more: {})
    yield


def bag(home: Path, **own: Any) -> str:
    return told(home, **{"detector": "looks.py:colour", "threshold": 0.34, **own})


def dress(home: Path, **own: Any) -> str:
    return told(home, "dress", **{"detector": "looks.py:bright", "neighbours": ["coat"], "unrelated": ["shirt"], **own})


def go(home: Path, out: Path, *requests: str, **more: Any) -> dict[str, Any]:
    given = {"model": str(home / "model"), "suite": "smoke", "method": "uce", "memory": 12, **more}
    return api.run_continual(out, requests=requests, **given)


@pytest.fixture(scope="module")
def made(home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A sequence of two requests that different functions look for."""
    out = tmp_path_factory.mktemp("made") / "ledger"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnostics, "measured", lambda *given, **more: {})
        return out, go(home, out, bag(home), dress(home), attacks=("direct",))


def specs(out: Path, what: str) -> list[dict[str, Any]]:
    return [json.loads(f.read_text()) for f in out.glob(f"runs/{what}-*/spec.json")]


def test_every_request_is_judged_by_its_own_detector(home: Path, made: tuple[Path, dict[str, Any]]) -> None:
    out, result = made
    assert {(s["shows"], s["judge"]["name"]) for s in specs(out, "probe") if isinstance(s["shows"], str)} == {
        ("bag", "colour"),
        ("dress", "bright"),
    }
    assert {(s["concept"]["name"], s["judges"][0]["name"]) for s in specs(out, "arm")} == {("bag", "colour"), ("dress", "bright")}
    looks = [request["looks"] for request in result["requests"]]
    assert [(row["verification"]["name"], row["verification"]["threshold"], row["one_judge"]) for row in looks] == [
        ("colour", 0.34, True),
        ("bright", 0.5, True),
    ]
    assert result["detector"]["verification"] is None
    assert [list(s["attacks"]["direct"]) for s in result["steps"]] == [[], ["bag"], ["bag", "dress"]]


def test_rates_are_those_of_the_functions(home: Path, made: tuple[Path, dict[str, Any]]) -> None:
    """Recounted from a drawing of our own: the original's bags by colour, the last model's dresses by brightness."""
    out, result = made
    chosen = resolve(Order(model=str(home / "model"), requests=(bag(home), dress(home)), suite="smoke"))
    original = tiny_model()
    last = original.edited(run.Edit.load(out / "combined.safetensors"))
    for step, model, request, shows in (
        (0, original, 0, lambda x: (30 * x.mean((2, 3))).softmax(1)[:, 0] >= 0.34),
        (2, last, 1, lambda x: x.mean((1, 2, 3)) >= 0.5),
    ):
        prompts = probes.Probe(chosen.requests[request]).prompts(chosen.suite)
        seeds = [probes.derive(0, "probe", p.text, i % chosen.suite.pictures) for i, p in enumerate(prompts)]
        drawn = probes.pictures(model, [p.text for p in prompts], seeds, chosen.suite.protocol)
        rate = result["steps"][step]["rates"][chosen.requests[request].name]
        assert (rate["value"], rate["count"]) == (shows(drawn).float().mean().item(), len(prompts))


def test_words_that_a_detector_cannot_tell_are_missing_and_not_wrong(made: tuple[Path, dict[str, Any]]) -> None:
    """Colours know tops from bags; brightness knows nothing else, so coats and shirts are in no rate."""
    last = made[1]["steps"][2]
    assert last["ripple"]["words"]["top"]["count"] == 2
    assert last["ripple"]["words"]["coat"] == {"value": None, "low": None, "high": None, "count": 0, "missing": 2}
    assert last["ripple"]["accuracy"]["missing"] == 2 and last["ripple"]["drop"]["count"] == 2
    assert last["erosion"]["drop"] is None and last["erosion"]["words"]["shirt"]["missing"] == 2


def test_distances_are_named_after_whose_features_they_are(home: Path, made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, result = made
    assert result["detector"]["features"]["name"] == "colour"
    assert len(result["detector"]["features"]["weights_hash"]) == 64
    page = ledgers.write(out, tmp_path / "page.html").read_text()
    assert "by the features of colour" in page and "the same network that scores it" in page
    silent = go(home, tmp_path / "silent", dress(home))
    assert silent["detector"]["features"] is None and silent["steps"][1]["erosion"]["kid"] is None
    assert "names a network that does" in Path(silent["report"]).read_text()
    named = go(home, tmp_path / "named", dress(home, unrelated=["shirt", "boot"]), features="wardrobe")
    assert named["detector"]["features"]["name"] == "judge-verify" and named["steps"][1]["erosion"]["kid"]["count"] == 4


def test_scores_alone_are_kept_where_that_is_asked_for(home: Path, tmp_path: Path) -> None:
    """And everything that is measured stays the same, but for FID."""
    own: dict[str, Any] = {"unrelated": ["shirt", "boot"], "threshold": 0.99}
    kept, bare = (
        go(home, tmp_path / keep, bag(home, **own), dress(home, threshold=0.9), keep_images=keep, method="nudge")
        for keep in ("all", "none")
    )
    pictures = [f for f in (tmp_path / "none").rglob("*") if f.suffix in images.SUFFIXES or f.name in ("pictures", "quarantine")]
    assert not pictures and list((tmp_path / "all").rglob("*.png"))
    assert "base64," not in Path(bare["report"]).read_text() and "none were kept" in Path(bare["report"]).read_text()
    for one, other in zip(kept["steps"], bare["steps"], strict=True):
        assert other["strips"] == {"requests": {}, "unrelated": None}
        for key in ("rates", "unlearning_accuracy", "ripple", "drift"):
            assert one[key] == other[key]
        for end in ("value", "low", "high"):
            assert one["erosion"]["kid"][end] == pytest.approx(other["erosion"]["kid"][end], abs=1e-6)
    assert kept["steps"][2]["erosion"]["kid"]["value"] != 0
    with pytest.raises(RunConflict, match="keep_images"):
        go(home, tmp_path / "all", bag(home, **own), dress(home, threshold=0.9), keep_images="none", method="nudge")


def test_a_worlds_judges_look_for_requests_that_name_none(home: Path, tmp_path: Path) -> None:
    result = go(home, tmp_path / "out", bag(home), "dress")
    assert result["detector"]["verification"] == {"name": "judge-verify", "version": result["detector"]["verification"]["version"]}
    assert [request["looks"] is None for request in result["requests"]] == [False, True]
    judges = {(s["shows"], s["judge"]["name"]) for s in specs(tmp_path / "out", "probe") if isinstance(s["shows"], str)}
    assert judges == {("bag", "colour"), ("dress", "judge-verify")}


def test_another_detector_measures_again_and_unlearns_nothing(home: Path, tmp_path: Path) -> None:
    first = go(home, tmp_path / "out", dress(home))
    assert go(home, tmp_path / "out", dress(home)) == first
    second = go(home, tmp_path / "out", dress(home, threshold=0.01))
    assert [s["rates"]["dress"]["value"] for s in second["steps"]] == [1.0, 1.0]
    assert second["steps"][1]["fingerprint"] == first["steps"][1]["fingerprint"]
    assert len(list((tmp_path / "out/runs").glob("unlearn-*"))) == 1


def test_a_memory_sorted_by_another_detector_is_another_ledger(home: Path, tmp_path: Path) -> None:
    go(home, tmp_path / "out", dress(home, threshold=0.9), method="nudge")
    (step,) = json.loads((tmp_path / "out/ledger.json").read_text())["steps"]
    assert set(step["looks"]) == {"dress"} and step["looks"]["dress"]["verification"][-1] == 0.9
    with pytest.raises(RunConflict, match="differs from the ledger's in the detectors by which the memory was sorted"):
        go(home, tmp_path / "out", dress(home, threshold=0.8), method="nudge")
    assert go(home, tmp_path / "out", dress(home, threshold=0.9), bag(home, threshold=0.99), method="nudge")["steps"][2]["request"] == "bag"


def test_a_picture_that_could_not_be_judged_is_not_rehearsed(home: Path, tmp_path: Path) -> None:
    Nudge.told.clear()
    blind = dress(home, detector="looks.py:bright", threshold=0.99, selector="looks.py:picky", selector_threshold=0.5)
    with pytest.raises(BadInput, match="of the memory's 12 pictures none is known to be without a request"):
        go(home, tmp_path / "out", blind, method="nudge")
    assert not Nudge.told


def test_an_attacker_gets_the_pictures_that_a_concept_names(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    points = [{"hits": [True], "selected": 1.0}] * 3
    monkeypatch.setattr(arms, "run_arm", lambda *asked: given.append(asked[-1]) or SimpleNamespace(outcome={"points": points}))
    for own, source in (({"pictures": "references"}, str(home / "references")), ({}, "generated by tiny")):
        chosen = resolve(Order(model=str(home / "model"), requests=(bag(home, **own),), suite="smoke", attacks=("memora",)))
        one = SimpleNamespace(of=lambda concept: None)
        result.recovered(chosen, one, tiny_model(), tiny_model(1), chosen.requests[0], "memora")  # type: ignore[arg-type]
        assert given and all((len(held), held.source) == (2, source) for held in given)
        given.clear()


def test_specs_name_what_is_not_usual_and_nothing_else(home: Path) -> None:
    plain = resolve(Order(requests=("bag", "dress"), method="esd"))
    assert not {"looks", "features", "keep_images"} & {*plain.spec(), *plain.asked()}
    assert plain.sorted_by() == {}
    own = resolve(Order(model=str(home / "model"), requests=(bag(home), "dress"), features="wardrobe", keep_images="none"))
    assert set(own.asked()["looks"]) == {"bag"} and own.asked()["features"] and own.spec()["keep_images"] == "none"


@pytest.mark.parametrize(
    ("own", "order", "error", "message"),
    [
        ({"detector": "nowhere.py:look"}, {}, BadInput, "names no file or module that is there"),
        ({}, {"keep_images": "some"}, BadSetting, "pictures are kept: all or none; given 'some'"),
        ({}, {"features": "lpips"}, BadSetting, "features are read by"),
        ({}, {"features": "hf:nowhere"}, BadInput, "names a folder without weights"),
        ({"pictures": "nowhere"}, {}, BadInput, "there is nothing at"),
    ],
)
def test_mistakes_are_found_before_anything_is_computed(
    home: Path, own: dict[str, Any], order: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        resolve(Order(requests=(bag(home, **own),), **order))


def test_a_dry_run_of_the_command(home: Path) -> None:
    given = ["continual", "--model", home / "model", "--requests", f"{bag(home)},{dress(home)}", "--keep-images", "none"]
    done = CliRunner().invoke(cli.app, [*map(str, given), "--features", "wardrobe", "--dry-run", "--json"], catch_exceptions=False)
    spec = json.loads(done.stdout)["spec"]
    assert spec["keep_images"] == "none" and set(spec["looks"]) == {"bag", "dress"} and spec["features"]


# Arithmetic with pictures that could not be judged


def test_missing_pictures_are_in_no_rate_and_in_no_pair() -> None:
    assert retention.rate([True, None, False, None]) == {**(retention.rate([True, False]) or {}), "missing": 2}
    assert retention.rate([None]) == {"value": None, "low": None, "high": None, "count": 0, "missing": 1}
    assert (retention.unlearning_accuracy({"bag": [True, None, False, False]}) or {})["value"] == pytest.approx(2 / 3)
    one, other = {"top": [True, None, True, True]}, {"top": [False, True, None, True]}
    assert retention.drop(one, other) == retention.drop({"top": [True, True]}, {"top": [False, True]})
    assert retention.reversal(other, one) == retention.reversal({"top": [False, True]}, {"top": [True, True]})
    assert retention.drop({"top": [None]}, {"top": [True]}) is None and retention.reversal({"top": [None]}, {"top": [True]}) is None
