"""A sequence under a published protocol: its concepts, prompts, seeds and numbers, and nothing of ours."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from chains import Eye, go, small_world  # noqa: F401
from vestige.continual import Order, plan, resolve
from vestige.continual import run as running
from vestige.diffusion.sampling import Drawing
from vestige.errors import BadSetting, UnknownName
from vestige.harness.bench import Bench
from vestige.harness.protocols import published


def test_a_sequence_asks_as_the_protocol_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One prompt a word, with its own article, on the seeds that its place in the list fixes; a resumed ledger goes on."""
    known = published()
    short = {name: known.prompts[name] for name in ("apple", "broccoli", "umbrella")}
    own = replace(known, protocol=Drawing(steps=2, guidance=1.0), pictures=2, prompts=short, sequence=("apple",), unclassified=())
    monkeypatch.setattr(plan, "published", lambda: own)
    monkeypatch.setattr(
        running, "with_judges", lambda c, root, watch, steal: Bench(root, c.suite, Eye("verify"), Eye("select"), steal=steal)
    )
    result = go(tmp_path / "out", method="uce", protocol="duge", requests=())
    assert [step["request"] for step in result["steps"]] == [None, "apple"]
    specs = [json.loads(f.read_text()) for f in (tmp_path / "out/runs").glob("probe-*/spec.json")]
    asked = {(*spec["prompts"],): spec["seeds"] for spec in specs}
    assert asked[("A photo of an apple",) * 2] == [1, 2]
    assert asked[("A photo of broccoli",) * 2 + ("A photo of an umbrella",) * 2] == [3, 4, 5, 6]
    assert [spec["shows"] for spec in specs if isinstance(spec["shows"], str)] == ["Granny Smith"] * 2
    grown = go(tmp_path / "out", "apple", "broccoli", method="uce", protocol="duge")
    assert [step["request"] for step in grown["steps"]] == [None, "apple", "broccoli"]


def test_the_whole_protocol_is_planned() -> None:
    chosen = resolve(Order(model="wardrobe", protocol="duge", method="uce", suite="smoke"))
    assert [c.name for c in chosen.requests] == list(published().sequence)
    assert (chosen.suite.pictures, chosen.suite.protocol.steps, chosen.suite.protocol.guidance) == (8, 50, 8.0)
    assert chosen.suite.version.startswith("duge by ")
    assert len(chosen.requests[0].unrelated) == 20


@pytest.mark.parametrize(
    ("own", "error", "message"),
    [
        ({"protocol": "cuig"}, UnknownName, "unknown protocol 'cuig'"),
        ({"protocol": "duge", "requests": ("sneaker",)}, UnknownName, "concept of the protocol 'sneaker'"),
        ({"requests": ("bag",), "detector": "nudenet"}, BadSetting, "are for a protocol's concepts"),
    ],
)
def test_mistakes_are_found_before_anything_is_computed(own: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        resolve(Order(method="uce", suite="smoke", **own))
