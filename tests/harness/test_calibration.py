"""What is known of controls beforehand: whose spread counts, whose is borrowed, and that no concept is counted as another's."""

from __future__ import annotations

from typing import Any

import pytest

from vestige import data
from vestige.harness import calibration
from vestige.harness.calibration import known
from vestige.verdict.spread import fitted, moderated

APART = {"sneaker": ([[1.0, 1.2], [1.4, 1.6]], [[0.5, 0.5], [0.6, 0.6]]), "bag": ([[0.2, 0.4], [0.9, 0.7]], [[0.3, 0.4], [0.5, 0.6]])}


def rows(name: str) -> dict[str, Any]:
    areas, ends = APART[name]
    return {"models": ["one", "other"], "areas": areas, "ends": ends}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    proxies = {"proxy": {"sneaker": [2.0, 1.0, 4.0], "bag": [0.5, 0.2, 0.9]}, "further": {"sneaker": 0.1, "bag": -0.3}}
    table = {"wardrobe": {"quick-9": {"memora": {"never": {name: rows(name) for name in APART}, **proxies}}}}
    monkeypatch.setattr(data, "shipped_table", lambda name: table)


def test_others_tell_first_and_a_concepts_own_moderate(measured: None) -> None:
    found = known("wardrobe", "quick-9", "memora", "sneaker", 2)
    others = fitted({"bag of wardrobe": APART["bag"][0]}, 2)
    assert found.borrowed == "" and found.speed is not None and found.speed.own == 2
    wanted = moderated(others, [1.1, 1.5])
    assert wanted is not None and (found.speed.variance, found.speed.freedom) == pytest.approx((wanted.variance, wanted.freedom))
    third = known("wardrobe", "quick-9", "memora", "dress", 2).speed
    assert third is not None and third.own == 0 and third.groups == 2


def test_what_an_audit_attacks_itself_counts_once(measured: None) -> None:
    """The audit adds its own models' spread; those measured beforehand are left to the others, and one of them alone tells no spread."""
    others = fitted({"bag of wardrobe": APART["bag"][0]}, 2)
    for attacked in (("one", "other"), ("one",)):
        found = known("wardrobe", "quick-9", "memora", "sneaker", 2, attacked=attacked).speed
        assert found is not None and (found.variance, found.freedom, found.own) == (others.variance, others.freedom, 0)
        assert "sneaker" not in found.source
    away = known("wardrobe", "quick-9", "memora", "sneaker", 2, attacked=("a third",)).speed
    assert away is not None and away.own == 2 and "sneaker" in away.source


def test_nothing_is_borrowed_in_silence(measured: None) -> None:
    assert known("", "quick-9", "memora", "church", 2).borrowed == "with the settings of quick-9 on wardrobe"
    assert known("wardrobe", "quick-9", "memora", "bag", 2, own=True).borrowed == "with the settings of quick-9 on wardrobe"
    assert known("wardrobe", "standard-9", "memora", "bag", 2).borrowed == "with memora under quick-9 on wardrobe"
    assert known("wardrobe", "quick-9", "dimra", "bag", 2).borrowed == "with memora under quick-9 on wardrobe"


def test_a_proxys_distance_is_an_error_and_no_spread(measured: None) -> None:
    found = known("wardrobe", "quick-9", "memora", "dress", 2, proxies=True)
    assert found.speed is not None and found.far is not None
    assert found.speed.variance == pytest.approx(0.6931**2, rel=1e-3) and found.speed.freedom == 2
    assert found.far.variance == pytest.approx((0.1**2 + 0.3**2) / 2)


def test_where_nothing_was_measured_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "shipped_table", lambda name: {})
    assert known("wardrobe", "quick-9", "memora", "bag", 5).both == (None, None)


def test_what_ships_is_of_the_suites_that_ship() -> None:
    found = calibration.calibration("wardrobe", "quick-4", "memora")
    assert len(found.never["sneaker"][0]) == 2 and all(len(row) == 5 for part in found.never["sneaker"] for row in part)
