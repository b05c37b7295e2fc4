"""Arms that were computed by different machines are told."""

from __future__ import annotations

from typing import Any

import torch

from vestige.audit.machines import computed_differently
from vestige.harness.processes import computed_by


class Arm:
    """What is read of a run."""

    def __init__(self, by: dict[str, Any] | None) -> None:
        self.outcome = {"points": [], **({} if by is None else {"by": by})}


def test_a_pair_that_was_computed_differently_is_flagged() -> None:
    here = computed_by()
    assert here["threads"] == torch.get_num_threads() and here["torch"] == torch.__version__
    other = {**here, "which": "AVX512"} if here["which"] != "AVX512" else {**here, "which": "AVX2"}
    rows = {"edited": [Arm(here), Arm(None)], "never": [Arm(here)], "original": []}
    assert not computed_differently({"memora": rows})
    (flag,) = computed_differently({"memora": {**rows, "never": [Arm(other)]}, "direct": rows})
    assert flag.kind == "informing" and "memora" in flag.text and "AVX" in flag.text
