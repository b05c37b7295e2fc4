"""What an audit reads off its arms."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

from vestige.audit.scores import worst
from vestige.verdict import Interval


def test_the_worst_attack_leads_and_one_without_a_number_never_does() -> None:
    def found(savings: float) -> Any:
        return SimpleNamespace(savings=Interval(savings, math.nan, math.nan))

    assert worst({"memora": found(0.1), "dimra": found(0.6), "direct": found(math.nan)}) == "dimra"
    assert worst({"direct": found(math.nan), "memora": found(-0.5)}) == "memora"
    assert worst({"memora": found(0.2), "dimra": found(0.2)}) == "memora"
