"""Pooling audits over edits, rank agreement: against closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from vestige.errors import BadInput
from vestige.verdict import Arms
from vestige.verdict.comparison import agreement, pooled

BUDGETS = (0, 3, 9)
NEVER = ((0.1, 0.3, 0.5), (0.05, 0.2, 0.6), (0.1, 0.25, 0.55))
FLOOR, CEILING = tuple(row[0] for row in NEVER), (0.9, 1.0, 0.95)


def audit(k: int, edited: tuple[float, ...], **changed: Any) -> dict[str, Any]:
    arms = {
        "edited": {"replicates": [list(edited)], "curve": [{"budget": b} for b in BUDGETS]},
        "never": {"replicates": [list(NEVER[k])], "curve": [{"budget": b} for b in BUDGETS]},
    }
    made: dict[str, Any] = {
        "suite": "compare-1",
        "concept": "sneaker",
        "model": "wardrobe",
        "control": {"kind": "twin", "name": "t"},
        "attacks": {"memora": {"arms": arms}},
        "plain": {"original": {"value": CEILING[k]}},
        "provenance": {"edit_seed": k, "seeds": [k]},
    }
    return {**made, **changed}


def rising(by: float) -> list[tuple[float, ...]]:
    return [(row[0], row[1] + by * (1 + k), row[2] + by * (1 + k)) for k, row in enumerate(NEVER)]


def arms(edited: list[tuple[float, ...]]) -> Arms:
    return Arms(BUDGETS, tuple(edited), NEVER, FLOOR, CEILING)


def test_pooled_audits_are_the_replicates_of_one() -> None:
    rows = rising(0.1)
    assert pooled([audit(k, rows[k]) for k in range(3)], "memora") == arms(rows)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"suite": "other"}, "differ in suite"),
        ({"concept": "bag"}, "differ in concept"),
        ({"model": "wardrobe-flow"}, "differ in model"),
        ({"control": {"kind": "proxy", "name": "digit"}}, "differ in control"),
        ({"provenance": {"edit_seed": 1, "seeds": [0]}}, "share attack seeds"),
        ({"provenance": {"edit_seed": 1, "seeds": [1, 2]}}, "the original's rate in each"),
    ],
)
def test_audits_that_do_not_belong_together_are_refused(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        pooled([audit(0, NEVER[0]), audit(1, NEVER[1], **changed)], "memora")


def test_audits_against_a_proxy_are_not_pooled() -> None:
    both = [audit(k, NEVER[k], control={"kind": "proxy", "name": "digit"}) for k in range(2)]
    with pytest.raises(BadInput, match="pooled against never-models"):
        pooled(both, "memora")


def test_audits_under_other_budgets_are_refused() -> None:
    other = audit(1, NEVER[1])
    other["attacks"]["memora"]["arms"]["edited"]["curve"][-1]["budget"] += 1
    with pytest.raises(BadInput, match="differ in the budgets of memora"):
        pooled([audit(0, NEVER[0]), other], "memora")


def test_audits_of_attacks_with_other_settings_are_refused() -> None:
    one, other = audit(0, NEVER[0]), audit(1, NEVER[1])
    for made, rank in ((one, 4), (other, 8)):
        made["attacks"]["memora"]["settings"] = {"rank": rank}
    with pytest.raises(BadInput, match="differ in the settings of memora"):
        pooled([one, other], "memora")


def test_an_audit_of_several_replicates_brings_the_ceiling_of_each() -> None:
    rows = rising(0.1)
    whole = audit(0, rows[0], provenance={"edit_seed": 0, "seeds": [0, 1, 2]})
    for arm, replicates in (("edited", rows), ("never", NEVER)):
        whole["attacks"]["memora"]["arms"][arm]["replicates"] = [list(row) for row in replicates]
    whole["plain"]["original"]["replicates"] = list(CEILING)
    assert pooled([whole], "memora") == arms(rows)


def test_agreement_is_spearmans_and_its_interval_covers_it() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=30)
    y = x + rng.normal(size=30)
    groups = [str(i) for i in range(30)]
    found = agreement(x.tolist(), y.tolist(), groups)
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.low < found.value < found.high < 1
    reversed_ = agreement(x.tolist(), (-x).tolist(), groups)
    assert (reversed_.value, reversed_.low, reversed_.high) == pytest.approx((-1, -1, -1))


def test_interval_draws_whole_groups() -> None:
    """Ten copies of three cells know no more than three cells."""
    few = agreement([1, 2, 3, 4], [2, 1, 3, 4], ["a", "b", "c", "d"])
    copies = agreement([1, 2, 3, 4] * 10, [2, 1, 3, 4] * 10, ["a", "b", "c", "d"] * 10)
    assert (copies.low, copies.high) == pytest.approx((few.low, few.high))


def test_no_spread_has_no_rank() -> None:
    found = agreement([0, 0, 0], [1, 2, 3], ["a", "b", "c"])
    assert math.isnan(found.value)
    with pytest.raises(BadInput):
        agreement([0, 1], [1, 2], ["a", "b"])
