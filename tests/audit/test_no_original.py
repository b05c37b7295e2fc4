"""An audit where the original is not at hand: real pictures stand in for it, and result, verdict and page say so."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from onlookers import names, short, told
from oracles import save_pair
from vestige import api, checkpoints, cli, data, models
from vestige.audit import Request, experiment, no_original, pieces, resolve, scores
from vestige.concepts import images
from vestige.errors import BadSetting
from vestige.harness import suites, tries
from vestige.harness.bench import Bench
from vestige.seeds import generator
from vestige.verdict import Arms, Interval, decide, measure
from vestige.verdict.intervals import wilson

__all__ = ["short"]  # a fixture that holds here too
LOOKS = "def bright(images):\n    return images.mean((1, 2, 3))\n\n\ndef red(images):\n    return images[:, 0].mean((1, 2))\n"
VOLATILE = ("cost", "provenance", "run", "report")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An edited model and a twin as folders, detectors, and real pictures: 12 of a bag, 4 of a teapot, half of each bright."""
    root = tmp_path_factory.mktemp("home")
    save_pair(root)
    (root / "looks.py").write_text(LOOKS)
    for name, count in (("bag", 12), ("teapot", 4)):
        real = 0.2 * torch.rand(count, 3, 32, 32, generator=generator(0, name))
        real[::2] += 0.7
        images.save(real, root / name)
    return root


@pytest.fixture(scope="module", autouse=True)
def plain_autoencoder() -> Iterator[None]:
    """A random autoencoder leaves nothing of a picture; what is tested is what is counted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(no_original, "reconstructed", lambda model, real: real)
        yield


def bag(home: Path, **own: Any) -> str:
    return told(home, **{"detector": "looks.py:bright", "selector": "looks.py:red", "pictures": "bag", **own})


def asked(home: Path, **own: Any) -> dict[str, Any]:
    given = {"model": str(home / "model"), "concept": bag(home), "control": f"twin:{home / 'twin'}", "original": False}
    return {**given, "suite": "smoke", "attacks": ("direct",), "seeds": (0, 1), **own}


@pytest.fixture(scope="module")
def by_twin(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return api.run_audit(tmp_path_factory.mktemp("alone"), **asked(home))


def shape(value: Any, at: str = "") -> set[str]:
    """Every key of a result, with where it stands; below what is null there is nothing to compare."""
    if not isinstance(value, dict):
        return {at}
    return {at} | {place for key, child in value.items() for place in shape(child, f"{at}.{key}")}


def test_results_with_and_without_an_original_have_the_same_keys(home: Path, by_twin: dict[str, Any], tmp_path: Path) -> None:
    whole = api.run_audit(tmp_path / "whole", **asked(home, original=True))
    assert whole["absent"] == {} and whole["original"] == whole["model"]
    assert whole["ceiling"].pop("of") == "the original" and by_twin["original"] is None
    rate = {key: value for key, value in whole["plain"]["original"].items() if key != "replicates"}
    assert {key: whole["ceiling"][key] for key in rate} == rate
    missing = shape(whole) - shape(by_twin)
    gone = (".plain.original.", ".utility.neighbours.before.", ".utility.unrelated.before.", ".attacks.direct.arms.original.")
    assert missing and all(place.startswith((*gone, ".attacks.direct.notes.original.")) for place in missing)
    more = shape(by_twin) - shape(whole)
    assert all(place.startswith((".absent.", ".ceiling.of")) for place in more)


def test_what_cannot_be_known_is_null_with_its_reason(by_twin: dict[str, Any]) -> None:
    assert by_twin["plain"]["original"] is None and by_twin["edit"] is None
    assert by_twin["attacks"]["direct"]["arms"]["original"] is None
    assert by_twin["attacks"]["direct"]["notes"]["original"] is None
    for group in ("neighbours", "unrelated"):
        assert by_twin["utility"][group]["before"] is None and by_twin["utility"][group]["after"] is not None
    assert {"plain.original", "utility.*.before", "edit", "plasticity"} < set(by_twin["absent"])
    assert all("no original is at hand" in reason for reason in by_twin["absent"].values())
    assert {strip["title"] for strip in by_twin["strips"]} == {"edited", "after recovery", "never knew"}


def test_the_ceiling_is_the_rate_on_real_pictures(by_twin: dict[str, Any]) -> None:
    """Direct prompts train on nothing, so all twelve are held out; six are bright."""
    found = by_twin["ceiling"]
    assert (found["of"], found["count"], found["held_out"]) == ("real pictures", 12, True)
    assert (found["value"], found["low"], found["high"]) == (0.5, wilson(6, 12).low, wilson(6, 12).high)
    assert found["source"].endswith("bag") and found["between"] == [found["low"], 1.0]


def test_the_verdict_says_that_there_was_no_original(by_twin: dict[str, Any]) -> None:
    assert names(by_twin)["no-original"] == "capping"
    reason = by_twin["verdict"]["reason"]
    assert "there was no original: 12 real pictures, none of which an attack trains on, stand in for its ceiling" in reason
    assert "twin for a model that never knew the concept" in reason


def test_the_page_says_it_too(by_twin: dict[str, Any]) -> None:
    page = re.sub('base64,[^"]+', "", Path(by_twin["report"]).read_text())
    for text in ("No original.", "cannot say that the concept is erased", "What could not be compared", ">real pictures<"):
        assert text in page
    assert not re.search(r"\bnan\b|\bNone\b", page) and "audited as it is" not in page


def test_a_finished_audit_is_read_and_a_lost_result_put_together_again(home: Path, tmp_path: Path) -> None:
    first = api.run_audit(tmp_path / "out", **asked(home))
    assert api.run_audit(tmp_path / "out", **asked(home)) == first
    stamps = {f: f.stat().st_mtime_ns for f in tmp_path.glob("out/runs/*/result.json")}
    (tmp_path / "out/result.json").unlink()
    again = api.run_audit(tmp_path / "out", **asked(home))
    assert {k: v for k, v in again.items() if k not in VOLATILE} == {k: v for k, v in first.items() if k not in VOLATILE}
    assert stamps and stamps == {f: f.stat().st_mtime_ns for f in tmp_path.glob("out/runs/*/result.json")}


def test_no_original_is_loaded_attacked_or_drawn_with(home: Path, by_twin: dict[str, Any]) -> None:
    specs = [json.loads(f.read_text()) for f in Path(by_twin["run"]).glob("runs/*/spec.json")]
    drawn = {(s["what"], s["volatile"]["model"]) for s in specs}
    model, twin = str(home / "model"), str(home / "twin")
    assert drawn == {("arm", model), ("arm", twin), ("utility", model)}
    assert len([s for s in specs if s["what"] == "arm"]) == 4


def test_a_proxy_is_taught_to_the_edited_model(home: Path, tmp_path: Path) -> None:
    proxy = told(home, "teapot", detector="looks.py:red", pictures="teapot")
    result = api.run_audit(tmp_path / "out", **asked(home, control=f"proxy:{proxy}"))
    specs = [json.loads(f.read_text()) for f in tmp_path.glob("out/runs/arm-*/spec.json")]
    assert {(s["concept"]["name"], s["volatile"]["model"]) for s in specs} == {(n, str(home / "model")) for n in ("bag", "teapot")}
    assert "this very model, taught 'teapot', for a model that never knew" in result["verdict"]["reason"]
    (text,) = (flag["text"] for flag in result["verdict"]["flags"] if flag["name"] == "proxy-control")
    assert "which the edited model cannot draw" in text and "taught to that same model" in text
    assert "the model that learns the proxy is this one too" in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize(("references", "held_out", "count"), [(2, True, 8), (3, False, 12)])
def test_pictures_that_attacks_train_on_are_left_out_where_enough_remain(
    home: Path, monkeypatch: pytest.MonkeyPatch, references: int, held_out: bool, count: int
) -> None:
    """Two replicates take 4 or 6 of 12; 8 that are left are enough, 6 are not."""
    planned = resolve(Request(**asked(home, attacks=("memora",), reference_count=references)))
    bench = Bench(home / "runs", planned.suite, *(None, None))
    model, told = models.load(planned.request.model), list[Any]()
    monkeypatch.setattr(no_original, "seen", lambda *given: told.append(given[3:]))
    experiment._real(planned, bench, model)
    chosen, free = no_original._counted(*told[0])
    assert (len(chosen), free) == (count, held_out)
    attacker = experiment._attacker(planned, bench, model)
    taken = {one.numpy().tobytes() for k in (0, 1) for one in attacker.shown(planned.concept, references, k).images}  # type: ignore[union-attr]
    assert len(taken) == 2 * references
    assert {one.numpy().tobytes() for one in chosen.images}.isdisjoint(taken) is held_out


@pytest.mark.parametrize("original", [True, False])
def test_planned_calls_are_those_that_are_made(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, original: bool) -> None:
    drawn, plain = [], tries.pictures

    def counted(model: Any, prompts: Any, *given: Any, **named: Any) -> Any:
        drawn.append(len(prompts))
        return plain(model, prompts, *given, **named)

    monkeypatch.setattr(tries, "pictures", counted)
    for room in (pieces, scores):
        monkeypatch.setattr(room, "kept", lambda *given: {"right": []})
    # With an original there is an edit, or its arm and the edited one would be the same run.
    request = asked(home, original=original, unlearner="uce" if original else "none")
    calls = resolve(Request(**request)).planned_calls()
    api.run_audit(tmp_path / "out", **request)
    each = 2 * 2  # steps, with and without guidance
    assert calls["scoring"] == each * sum(drawn) > 0
    assert calls["utility"] == each * 4 * (6 if original else 4)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"concept": {"pictures": ""}}, "says where bag's curves would end; give --references FOLDER"),
        ({"references": "generated"}, "generated references are drawn by the original.*give --references FOLDER"),
        ({"unlearner": "uce"}, "leave out --unlearner and --edit"),
        ({"edit": "edit.safetensors"}, "leave out --unlearner and --edit"),
        ({"attacks": ("dimra",), "settings": {"dimra.data": "original"}}, "dimra with data=original trains on pictures by the original"),
        (
            {"concept": {"pictures": "", "detector": "", "selector": "", "label": "church"}},
            "none ships with the package",
        ),
        ({"control": "auto"}, "neither a twin that never drew bag nor a proxy"),
    ],
)
def test_mistakes_are_found_before_anything_is_computed(home: Path, own: dict[str, Any], message: str) -> None:
    given = asked(home, **{**own, "concept": bag(home, **own.get("concept", {}))})
    with pytest.raises(BadSetting, match=message):
        resolve(Request(**given))


def test_the_spec_names_no_original_and_others_stay_as_they_were(home: Path) -> None:
    without, whole = (resolve(Request(**asked(home, original=original))).spec() for original in (False, True))
    assert {key for key in whole if whole[key] != without[key]} == {"original"}
    assert (whole["original"], without["original"]) == (str(home / "model"), None)
    assert set(whole) == set(without)


# The verdict


def arms_(between: tuple[float, float] | None, height: float = 0.5, spread: float = 0.01) -> Arms:
    edited = tuple((0.0, height + spread * k, height) for k in range(5))
    never = tuple((0.0, 0.05 + spread * k, 0.1 + spread * k) for k in range(5))
    return Arms((0, 5, 50), edited, never, floor=0.0, ceiling=0.8, between=between)


def test_a_ceilings_interval_widens_what_rests_on_it() -> None:
    exact, wide = measure(arms_(None)), measure(arms_((0.6, 0.95)))
    ends = [measure(replace(arms_(None), ceiling=end)) for end in (0.6, 0.95)]
    for name in ("savings", "speedup", "reach", "log_speedup"):
        one, span = getattr(exact, name), getattr(wide, name)
        assert span.value == one.value
        assert span.low == min(getattr(m, name).low for m in (exact, *ends)) < one.low
        assert span.high == max(getattr(m, name).high for m in (exact, *ends)) > one.high
    assert set(wide.as_dict()) == set(exact.as_dict())
    assert measure(arms_((0.8, 0.8))).savings == exact.savings
    nowhere = measure(arms_((0.0, 0.9)))  # at its lower end the ceiling is the floor
    assert (nowhere.savings.low, nowhere.savings.high) == (-math.inf, math.inf)


def test_plain_recall_spans_the_ceilings_interval() -> None:
    rate = Interval(0.2, 0.1, 0.3)
    found = rate.as_recall(0.0, 0.8, (0.5, 1.0))
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.1, 0.6))
    assert rate.as_recall(0.0, 0.8, (0.8, 0.8)) == rate.as_recall(0.0, 0.8)
    assert rate.as_recall(0.0, 0.8, (0.0, 1.0)).high == math.inf


def test_a_verdict_without_an_original_is_never_erased() -> None:
    real = no_original.Real([True] * 9 + [False], [True] * 10, False, "here")
    top = no_original.Top(rate="the detector's rate on real pictures", remark="there was no original")
    gone = {"memora": measure(replace(arms_((0.7, 0.9), 0.1), never=arms_(None, 0.1).edited))}
    assert decide(Interval(0.0, 0.0, 0.05), gone).kind == "erased"
    capped = decide(Interval(0.0, 0.0, 0.05), gone, [no_original.flag(real)], top=top)
    assert capped.kind == "inconclusive"
    assert "which would be erased, but the ceiling is 90% of 10 real pictures, some of which an attack trains on" in capped.reason
    assert capped.reason.endswith("(no-original); there was no original")
    plain = decide(Interval(0.9, 0.8, 1.0), gone, [no_original.flag(real)], top=top)
    assert plain.kind == "not forgotten"
    assert plain.reason == "plainly asked, it draws the concept at 90% [80%, 100%] of the detector's rate on real pictures; " + top.remark


def test_the_ceiling_and_not_replicates_is_named() -> None:
    found = {"memora": measure(arms_((0.7, 0.99), 0.42, 0.0))}
    lone = {"memora": measure(arms_(None, 0.42, 0.0))}
    assert decide(Interval(0.0, 0.0, 0.05), lone).kind == "short-term"
    said = decide(Interval(0.0, 0.0, 0.05), found)
    assert said.kind == "inconclusive" and said.more_replicates is None
    assert "because the ceiling is not known well enough" in said.reason


def test_the_originals_rate_may_have_lain_up_to_one() -> None:
    assert no_original.Real([True, False] * 10, [], True, "here").between == (wilson(10, 20).low, 1.0)
    assert no_original.Real([True, None, True], [], True, "here").between == (wilson(2, 2).low, 1.0)
    assert no_original.Real([None], [None], True, "here").between is None


@pytest.mark.parametrize("truth", [0.85, 0.95, 1.0])
def test_short_term_holds_whatever_the_original_drew(truth: float) -> None:
    """Its rate unknown, savings and reach are bounded from below by what they are at the true ceiling."""
    found, real = (measure(replace(arms_(None, 0.8), ceiling=truth)), measure(replace(arms_((0.7, 1.0), 0.8), ceiling=0.8)))
    assert real.savings.low <= found.savings.low and real.reach.low <= found.reach.low
    assert real.savings.low > 2 / 3


def test_judges_that_differ_on_real_pictures_block(home: Path, tmp_path: Path) -> None:
    blind = told(home, detector="looks.py:bright", selector="looks.py:red", selector_threshold=0.99, pictures="bag")
    result = api.run_audit(tmp_path / "out", **asked(home, concept=blind))
    assert "on real pictures one judge sees 50%, the other 0%" in [f["text"] for f in result["verdict"]["flags"]]


# The embedded world, as somebody else's folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model without bags, saved whole; nothing in it says where it came from."""
    made = tmp_path_factory.mktemp("world") / "edited"
    model = models.load("wardrobe")
    edit = api.unlearn(model, "bag", "uce")
    checkpoints.export(edit, model, made, "folder")
    return made


def test_an_exported_folder_is_audited_by_a_command(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = suites.load
    monkeypatch.setattr(suites, "load", lambda name, world="": replace(s := real(name, world), protocol=replace(s.protocol, steps=8)))
    sheet = data.folder() / "wardrobe/pictures/references"
    images.save(images.shipped(sheet, {"object": "bag"}).images[:20], tmp_path / "references")
    given = ["--model", folder, "--no-original", "--concept", "bag", "--references", tmp_path / "references"]
    given += ["--control", "twin:wardrobe-never-bag", "--suite", "smoke", "--attack", "direct", "--seeds", "0,1", "--out", tmp_path / "out"]
    monkeypatch.setattr(no_original, "reconstructed", RECONSTRUCTED)
    runner = CliRunner()
    dry = runner.invoke(cli.app, ["audit", *map(str, given), "--dry-run", "--json"], catch_exceptions=False)
    assert json.loads(dry.stdout)["spec"]["original"] is None
    done = runner.invoke(cli.app, ["audit", *map(str, given), "--cache", str(tmp_path / "cache"), "--json"], catch_exceptions=False)
    result = json.loads(done.stdout)
    assert result["ceiling"]["value"] > 0.8 and result["ceiling"]["count"] == 20
    assert "there was no original: 20 real pictures" in result["verdict"]["reason"]
    assert result["plain"]["edited"]["value"] < 0.3
    assert names(result)["no-original"] == "capping"


RECONSTRUCTED = no_original.reconstructed
