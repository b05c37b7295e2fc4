"""Which way of attacking counts on either model of a case."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from oracles import small
from vestige.audit.experiment import Experiment
from vestige.harness import arms


def risen(*selected: float | None, hits: float = 0.0) -> Any:
    """A run by what the selection judge saw at each budget; the verification judge sees `hits` throughout."""
    right = [i < round(10 * hits) for i in range(10)]
    return SimpleNamespace(outcome={"points": [{"budget": b, "hits": right, "selected": s} for b, s in enumerate(selected)]})


def test_either_model_is_attacked_by_the_way_that_works_better_on_it() -> None:
    """By the selection judge: on the edited model the verification judge prefers the other way, and is not asked."""
    found = {
        ("edited", True): risen(0.0, 0.1, 0.1, hits=0.9),
        ("edited", False): risen(0.0, 0.5, 0.4, hits=0.1),
        ("never", True): risen(0.0, 0.3, 0.6),
        ("never", False): risen(0.0, 0.2, 0.6),
        ("original", True): risen(1.0, 1.0, 1.0),
    }
    stub = SimpleNamespace(
        plan=SimpleNamespace(attacks={"memora": (small("attacks", "memora"), None)}, seeds=(0, 1), gives_up=lambda name: False),
        edited="edited",
        nevers=(("never", None),),
        original="original",
        concept=None,
        arm=lambda model, concept, name, attack, k: found[model, attack.regenerate],
        plain=lambda model, concept, k: found["original", True],
        ceiling=lambda name: found["original", True],
    )
    stub.ways = partial(Experiment.ways, stub)
    rows = Experiment.attack(stub, "memora")  # type: ignore[arg-type]
    assert rows["ways"] == {"edited": ["raw"], "never": [""]}
    assert rows["edited"] == [found["edited", False]] * 2
    assert rows["never"] == [found["never", True]] * 2


def test_what_no_judge_selected_rises_by_the_other() -> None:
    assert arms.selected_rise(risen(None, None, hits=0.3)) == pytest.approx(0.6)
    assert arms.selected_rise(risen(0.2, 0.6, 0.4)) == pytest.approx(1.4)
