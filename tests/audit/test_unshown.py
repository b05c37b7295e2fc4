"""What comes back that no attack was shown, in a whole audit: who is compared, by how many pictures, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from onlookers import short, told
from oracles import save_pair
from vestige import api
from vestige.audit import Request, pieces, resolve, scores, unshown
from vestige.concepts import images
from vestige.errors import BadSetting
from vestige.report import audits
from vestige.seeds import generator

__all__ = ["short"]  # a fixture that holds here too
LOOKS = """
import torch


def bright(images):
    return 0.5 + 0 * images.mean((1, 2, 3))


def features(images):
    return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


bright.features = features


def plain(images):
    return images.mean((1, 2, 3))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("home")
    save_pair(root)
    (root / "looks.py").write_text(LOOKS)
    images.save(torch.rand(24, 3, 32, 32, generator=generator(0, "bag")), root / "bag")
    with pytest.MonkeyPatch.context() as patch:
        for room in (pieces, scores):
            patch.setattr(room, "kept", lambda *given: {"right": []})
        yield root


def asked(home: Path, **own: Any) -> dict[str, Any]:
    concept = told(home, detector="looks.py:bright", selector="looks.py:plain", pictures="bag")
    given = {"model": str(home / "model"), "concept": concept, "control": f"twin:{home / 'twin'}", "unlearner": "uce", "unshown": 32}
    few = {"memora.sampling_steps": 3, "memora.start": 1, "memora.points": 2, "memora.batch": 2}
    return {**given, "suite": "smoke", "attacks": ("memora",), "seeds": (0, 1), "settings": few, **own}


@pytest.fixture(scope="module")
def result(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return api.run_audit(tmp_path_factory.mktemp("audit"), **asked(home), cache=home / "cache")


def test_every_arm_is_laid_beside_the_same_pictures(home: Path, result: dict[str, Any]) -> None:
    found, given = result["unshown"], resolve(Request(**asked(home))).attacks["memora"][1].references
    assert set(found["shares"]) == {"shown", "original", "edited"} and list(found["nevers"]) == [str(home / "twin")]
    assert found["pictures"] == [24 - given] * 2 and found["counted"] == [32 // unshown.SHARE] * 2
    assert all(0 <= share <= 1 for row in (*found["shares"].values(), *found["nevers"].values()) for share in row)
    assert not found["remembers"] and found["null"] is None  # one never-model, and nothing known of others


def test_it_is_told_and_billed(home: Path, result: dict[str, Any], tmp_path: Path) -> None:
    page = audits.render(result, tmp_path)
    rows = [page.index(words) for words in ("What no attack was shown", "the shown pictures alone", "original, not attacked")]
    assert rows == sorted(rows)
    with_it, without = (resolve(Request(**asked(home, unshown=n))) for n in (32, 0))
    calls, other = with_it.planned_calls(), without.planned_calls()
    assert calls.pop("unshown") == 2 * 3 * 32 * 4 and calls == other  # replicates, arms, pictures, two guided steps
    bare = api.run_audit(tmp_path / "bare", **asked(home, unshown=0), cache=home / "cache")
    assert result["cost"]["pictures"] - bare["cost"]["pictures"] == 2 * 3 * 32 and "unshown" not in bare


def test_what_is_too_little_is_said(home: Path, tmp_path: Path) -> None:
    images.save(torch.rand(9, 3, 32, 32, generator=generator(1, "bag")), home / "few")
    concept = told(home, detector="looks.py:bright", selector="looks.py:plain", pictures="few")
    found = api.run_audit(tmp_path, **asked(home, concept=concept), cache=home / "cache")
    assert "are needed" in found["unshown"]["why"]
    assert found["unshown"]["why"] in audits.render(found, tmp_path)


@pytest.mark.parametrize(
    ("own", "why"),
    [
        ({"unshown": 8}, "at least 32, or 0; given 8"),
        ({"attacks": ("direct",), "settings": {}}, "none of direct trains on any"),
        ({"references": "generated"}, "needs real pictures"),
    ],
)
def test_what_cannot_be_asked_is_refused(home: Path, own: dict[str, Any], why: str) -> None:
    with pytest.raises(BadSetting, match=why):
        resolve(Request(**asked(home, **own)))


def test_a_judge_without_features_is_refused_before_anything_runs(home: Path, tmp_path: Path) -> None:
    concept = told(home, detector="looks.py:plain", selector="looks.py:bright", pictures="bag")
    with pytest.raises(BadSetting, match="gives none"):
        api.run_audit(tmp_path, **asked(home, concept=concept), cache=home / "cache")


def test_pictures_of_contexts_that_are_not_asked_for_are_no_part_of_it() -> None:
    """The embedded world's references hold a style that no model draws."""
    from types import SimpleNamespace

    from vestige import concepts, data
    from vestige.concepts.images import shipped

    concept = concepts.load("sneaker")
    whole = shipped(data.references(""), {"object": "sneaker"})
    stand = SimpleNamespace(concept=concept, attacker=SimpleNamespace(real=lambda concept: whole))
    kept = unshown.of_its_contexts(stand)  # type: ignore[arg-type]
    assert {labels["style"] for labels in kept.labels} == set(concept.contexts) and len(kept) < len(whole)
