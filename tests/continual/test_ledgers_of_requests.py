"""Requests of several kinds, requests taken back, steps that do not stand, and what can be shown of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from chains import BAG, DRESS, NEON, Nudge, chain, go, small_world  # noqa: F401
from vestige import models
from vestige.concepts import images
from vestige.concepts.captions import METADATA
from vestige.continual import Ledger, Order, resolve
from vestige.continual import run as running
from vestige.continual.acceptance import judged_by, limits
from vestige.continual.plan import new_words
from vestige.errors import BadInput, BadSetting, UnknownName
from vestige.report import ledgers
from vestige.runs import Run
from vestige.seeds import generator

ONE = {"settings": {"nudge.size": 1.0}}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that the sequences here share where their specs are equal: the original is looked at once."""
    return tmp_path_factory.mktemp("cache")


def pictures(root: Path, name: str, *captions: str, size: int = 32) -> str:
    files = images.save(torch.rand(len(captions), 3, size, size, generator=generator(0, name)), root / name)
    lines = [json.dumps({"file_name": file.name, "text": text}) for file, text in zip(files, captions, strict=True)]
    (root / name / METADATA).write_text("\n".join(lines))
    return str(root / name)


def test_every_request_adds_the_words_that_none_before_it_named(tmp_path: Path) -> None:
    """Garments share their words, so a second one adds nothing; a style brings the styles."""
    assert new_words([BAG, DRESS])[1] == ()
    styles = new_words([BAG, NEON])[1]
    assert styles and set(styles) == {*NEON.neighbours, *NEON.unrelated}
    Nudge.told.clear()
    go(tmp_path / "out", "bag", "neon")
    (_, _, first), (_, _, second) = Nudge.told
    shown = {word for row in second.captions for text in row for word in styles if word in text.split()}
    assert shown and shown <= set(styles)
    assert len(second) > 0 and not {row.numpy().tobytes() for row in second.images} <= {row.numpy().tobytes() for row in first.images}
    plain, mixed = (resolve(Order(requests=names, method="nudge", suite="smoke")) for names in (("bag", "dress"), ("bag", "neon")))
    assert "remembered" not in plain.asked() and set(mixed.asked()["remembered"]) == {"neon"}
    assert plain.spec() == mixed.spec()


def test_a_request_is_taken_back_and_what_followed_is_done_again(tmp_path: Path, cache: Path) -> None:
    out, shared = tmp_path / "out", {"method": "uce", "cache": cache}
    whole = go(out, "bag", "dress", "sneaker", **shared)
    before = chain(out)
    left = go(out, "bag", "dress", "sneaker", withdrawn=("dress",), **shared)
    assert [step["request"] for step in left["steps"]] == [None, "bag", "sneaker"]
    assert chain(out)[0] == before[0] and chain(out)[1][1] == before[0][2]
    go(tmp_path / "fresh", "bag", "sneaker", **shared)
    assert chain(out) == chain(tmp_path / "fresh")
    assert [(gone["request"], gone["why"]) for gone in left["withdrawn"]] == [
        ("dress", "withdrawn"),
        ("sneaker", "made after a request that was withdrawn"),
    ]
    assert all((out / gone["edit"]).is_file() for gone in left["withdrawn"])
    assert [c["request"] for c in left["certificates"]] == ["bag", "sneaker"] and len(whole["certificates"]) == 3
    again = go(out, "bag", "sneaker", "dress", **shared)  # it goes on without it, and may be asked for again
    assert [step["request"] for step in again["steps"]][1:] == ["bag", "sneaker", "dress"]
    page = ledgers.write(out).read_text()
    assert "dress was taken out of this ledger" in page


def test_of_independent_edits_only_the_withdrawn_one_goes(tmp_path: Path, cache: Path) -> None:
    out, shared = tmp_path / "out", {"mode": "independent", "method": "uce", "cache": cache}
    go(out, "bag", "dress", "sneaker", **shared)
    before = chain(out)
    left = go(out, "bag", "dress", "sneaker", withdrawn=("bag",), **shared)
    assert chain(out) == before[1:] and [gone["request"] for gone in left["withdrawn"]] == ["bag"]
    grown = go(out, "dress", "sneaker", "bag", **shared)
    assert [c["edit"]["file"] for c in grown["certificates"]][2].startswith("edits/04-bag")


def test_a_step_that_does_not_stand_is_rolled_back(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one starts from the model before it, every prefix says so, and a resumed sequence is the same."""
    plain = running.judged_from

    def found(row: Any, first: Any, asked: Any) -> dict[str, float | None]:
        return {**plain(row, first, asked), "recall": 0.9 if row["request"] == "bag" else 0.1}

    monkeypatch.setattr(running, "judged_from", found)
    out, asked = tmp_path / "out", {"accept": "recall=0.2", "method": "uce", "cache": cache}
    result = go(out, "bag", "dress", **asked)
    steps, original = result["steps"], models.load("")
    assert [step["accepted"] and step["accepted"]["stands"] for step in steps[1:]] == [False, True]
    assert steps[1]["accepted"]["reasons"] == ["recall is 90%, and at most 20% is accepted"]
    (_, one, _), (_, two, after) = chain(out)
    assert one == two == original.fingerprint
    ledger = Ledger(Run(out, {}), "sequential")
    assert [m.fingerprint for _, m in ledger.states(original)] == [original.fingerprint, after]
    assert original.edited(running.rebuilt(out)).fingerprint == after
    assert list(steps[2]["unlearning_accuracies"]) == ["dress"] and steps[2]["reversal"] is None
    states = [(c["request"], c["state"]) for c in result["certificates"]]
    assert states == [("bag", "rolled back"), ("dress", "accepted")]
    assert "bag: rolled back in step 1" in ledgers.write(out).read_text()
    half = tmp_path / "half"
    go(half, "bag", **asked)
    go(half, "bag", "dress", **asked)
    assert chain(half) == chain(out)


def test_limits_are_read_and_what_could_not_be_measured_does_not_pass() -> None:
    assert limits("recall=0.2, erosion=0.05") == {"recall": 0.2, "erosion": 0.05} and limits("") == {}
    for wrong in ("recall", "recall=2", "memory=0.1", "erosion=x"):
        with pytest.raises(BadSetting, match="accept takes recall, ripple, erosion"):
            limits(wrong)
    assert judged_by({"recall": 0.2}, {"recall": 0.2}) == []
    assert judged_by({"recall": 0.2}, {"recall": None}) == ["recall could not be measured, and at most 20% is accepted"]


def test_a_certificate_says_what_was_done_and_what_was_not(tmp_path: Path, cache: Path) -> None:
    result = go(tmp_path / "out", "bag", "dress", method="uce", cache=cache)
    for number, found in enumerate(result["certificates"], 1):
        stored = json.loads((tmp_path / f"out/certificates/{number:02d}-{found['request']}.json").read_text())
        assert stored == found
    first, second = result["certificates"]
    assert first["model"]["after"] == second["model"]["before"] and first["model"]["before"] == first["model"]["original"]
    assert first["asked"]["held-out"]["pictures"] == 6 and first["asked"]["indirect"]["pictures"] > 0
    assert first["result"]["now"] == result["steps"][2]["rates"]["bag"] and first["result"]["after"] == result["steps"][1]["rates"]["bag"]
    assert any("No attack was run" in text for text in first["not_tried"]) and first["tried"] == {}
    assert "Certificates" in ledgers.write(tmp_path / "out").read_text()


def test_what_is_rehearsed_may_be_a_folder(tmp_path: Path) -> None:
    """Captions and the selection judge say what is left out; related pictures come apart from the rest."""
    words = [f"a {word}" for word in ("boot", "bag", "coat", "shirt", "sandal", "top")] * 4
    retain, related = pictures(tmp_path, "retain", *words), pictures(tmp_path, "related", *(["a top"] * 9))
    chosen = {"retain": retain, "related": related, **ONE}
    Nudge.told.clear()
    result = go(tmp_path / "out", "bag", **chosen)
    ((_, _, memory),) = Nudge.told
    assert memory.source == retain and not any(BAG.named(text) for row in memory.captions for text in row)
    assert result["steps"][1]["memory"] == len(memory) > 0
    spec = json.loads((tmp_path / "out/spec.json").read_text())
    assert {"retain", "related"} <= set(spec) and "alternative" not in spec


@pytest.mark.parametrize(
    ("own", "error", "message"),
    [
        ({"withdrawn": ("boot",)}, UnknownName, "unknown request to withdraw 'boot'"),
        ({"withdrawn": ("bag", "dress")}, BadSetting, "every request is withdrawn"),
        ({"withdrawn": ("bag",), "mode": "cumulative", "method": "esd"}, BadSetting, "--accept and --withdraw take sequential"),
        ({"accept": "recall=7"}, BadSetting, "accept takes recall"),
        ({"alternative": "x"}, BadSetting, "--alternative x is read by dimum; given nudge"),
        ({"retain": "nowhere"}, BadInput, "there is nothing at nowhere"),
        ({"retain": "x", "method": "uce"}, BadSetting, "--retain x is rehearsed, and uce rehearses nothing"),
        ({"references": "x"}, BadSetting, "--references x is read by attacks with pictures"),
        ({"references": "x", "attacks": ("memora",)}, BadInput, "there is none for bag"),
        ({"attack_retain": "x"}, BadSetting, "--attack-retain x is read by attacks with data=retain"),
        ({"attacks": ("dimra",), "settings": {"dimra.data": "folder"}}, BadSetting, "--attack-retain DIR"),
    ],
)
def test_mistakes_are_found_before_anything_is_computed(own: dict[str, Any], error: type, message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        go(tmp_path / "out", "bag", "dress", **own)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("captions", "message"), [(("a bag",) * 3, "names a request"), ((), "has no captions")])
def test_an_auxiliary_folder_that_cannot_be_is_refused_before_the_first_step(
    captions: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    folder = pictures(tmp_path, "aux", *(captions or ("x",) * 3))
    if not captions:
        (tmp_path / "aux" / METADATA).unlink()
    with pytest.raises(BadInput, match=message):
        go(tmp_path / "out", "bag", attacks=("dimra",), attack_retain=folder, **ONE)
    assert not list((tmp_path / "out").glob("edits/*"))
