"""Small versions of the claims that docs/results/claims.md tests: one edit and one attack each, on the embedded world.

They hold the order of what was measured there, with room for chance; the numbers and their intervals are in the tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vestige.audit import Request, audit
from vestige.continual import Order, continual

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The audit of one edit of sneaker by a method at its preset, under the suite that compares methods; made once."""
    root: Path = tmp_path_factory.mktemp("claims")
    made: dict[str, dict[str, Any]] = {}

    def find(method: str) -> dict[str, Any]:
        if method not in made:
            request = Request(concept="sneaker", unlearner=method, suite="compare", seeds=(0,))
            made[method] = audit(request, root / method, cache=root / "runs")
        return made[method]

    return find


def reach(found: dict[str, Any], attack: str) -> float:
    return float(found["attacks"][attack]["reach"]["value"])


def last(found: dict[str, Any], attack: str, arm: str) -> float:
    return float(found["attacks"][attack]["arms"][arm]["curve"][-1]["score"])


def test_a_few_pictures_bring_back_what_a_closed_form_edit_hid(audited: Any) -> None:
    """Claim 1. UCE shows no sneaker; MemoRa brings it back faster than it teaches the twin."""
    found = audited("uce")
    assert found["plain"]["edited"]["value"] <= 0.1
    assert found["attacks"]["memora"]["speedup"]["value"] > 1.5
    assert last(found, "memora", "edited") >= 0.5


def test_data_without_the_concept_bring_back_what_fine_tuning_hid(audited: Any) -> None:
    """Claim 2. ESD shows no sneaker; training on everything else brings it back, and teaches the twin nothing."""
    found = audited("esd")
    assert found["plain"]["edited"]["value"] <= 0.1
    assert last(found, "dimra", "never") <= 0.2
    assert reach(found, "dimra") >= 0.25


def test_memorising_something_else_resists_that_better(audited: Any) -> None:
    """Claim 3, as far as it holds here: against ESD. Methods that move the concept elsewhere resist as well or better."""
    assert reach(audited("esd"), "dimra") > reach(audited("dimum"), "dimra")


def test_duge_keeps_the_rest_where_plain_sequences_erode_it(tmp_path: Path) -> None:
    """Claim 4. After two requests words near neither are drawn as before by DUGE, and no longer by sequential ESD."""
    lost = {}
    for method in ("duge", "esd"):
        order = Order(requests=("sneaker", "bag"), method=method, suite="quick")
        found = continual(order, tmp_path / method, cache=tmp_path / "runs")
        assert found["steps"][-1]["unlearning_accuracy"]["value"] >= 0.6
        lost[method] = float(found["steps"][-1]["erosion"]["drop"]["value"])
    assert lost["duge"] <= 0.1
    assert lost["esd"] >= lost["duge"] + 0.3


def test_equal_surfaces_hide_different_savings(audited: Any) -> None:
    """Claim 5. UCE and SalUn show no sneaker alike; a few pictures bring back the one much faster than the other."""
    hidden, moved = audited("uce"), audited("salun")
    assert all(found["plain"]["edited"]["value"] <= 0.1 for found in (hidden, moved))
    assert hidden["attacks"]["memora"]["speedup"]["value"] > 1.5 * moved["attacks"]["memora"]["speedup"]["value"]
