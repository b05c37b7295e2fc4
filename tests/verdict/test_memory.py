"""Memory of the unshown: what counts as memory, what its noise hides, and what it may and may not do to a verdict."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vestige.errors import BadInput
from vestige.verdict import Flag, Interval, decide
from vestige.verdict.memory import LINE, Memory, remembered
from vestige.verdict.savings import Measures
from vestige.verdict.spread import Spread

PLAIN = Interval(0.02, 0.0, 0.05)
TIGHT = Spread(1e-4, 30.0)
ROWS = Path(__file__).parents[2] / "docs/results/unshown.json"


def found(edited: tuple[float, ...], **own: Any) -> Memory:
    shares = {"original": (0.8, 0.78, 0.82), "edited": edited, "one": (0.42, 0.4, 0.38), "other": (0.44, 0.4, 0.42), "shown": (0.3,) * 3}
    return remembered("memora", {**shares, **own.pop("shares", {})}, (56,) * 3, (32,) * 3, **{"known": TIGHT, **own})


def test_a_model_that_never_knew_kept_nothing_and_the_original_all() -> None:
    assert found((0.43, 0.4, 0.4)).kept.value == pytest.approx(0, abs=1e-12)
    assert found((0.8, 0.78, 0.82)).kept.value == pytest.approx(1)
    assert found((0.8, 0.78, 0.82)).remembers and not found((0.43, 0.4, 0.4)).remembers


def test_never_models_that_differ_widen_it() -> None:
    near, far = (found((0.6, 0.58, 0.62), known=None, shares={"other": row}) for row in ((0.42, 0.41, 0.38), (0.5, 0.48, 0.46)))
    assert near.remembers and not far.remembers
    assert far.kept.high - far.kept.low > near.kept.high - near.kept.low


def test_one_never_model_whose_like_was_seen_nowhere_decides_nothing() -> None:
    shares = {"original": (0.8,) * 3, "edited": (0.8,) * 3, "one": (0.4,) * 3}
    alone = remembered("memora", shares, (56,) * 3, (32,) * 3)
    assert alone.kept.low > LINE and alone.null is None and not alone.remembers
    assert remembered("memora", shares, (56,) * 3, (32,) * 3, known=TIGHT).remembers


def test_where_the_original_covers_no_more_than_teaching_nothing_is_measured() -> None:
    blind = found((0.6, 0.6, 0.6), shares={"original": (0.45, 0.45, 0.45)})
    assert math.isnan(blind.kept.value) and not blind.remembers
    assert blind.as_dict()["kept"]["value"] is None


def test_equal_replicates_are_no_certainty() -> None:
    """A share of so few pictures has a floor of noise."""
    few, many = (
        remembered("memora", {"original": (0.8,) * 3, "edited": (0.6,) * 3, "n": (0.4,) * 3}, (m,) * 3, (9,) * 3) for m in (8, 800)
    )
    assert few.kept.high - few.kept.low > 10 * (many.kept.high - many.kept.low) > 0


def test_arms_of_other_replicates_are_refused() -> None:
    with pytest.raises(BadInput, match="same replicates"):
        found((0.6, 0.6))
    with pytest.raises(BadInput, match="never-model"):
        remembered("memora", {"original": (0.8,), "edited": (0.6,)}, (56,), (32,))


def simulated(rng: np.random.Generator, kept: float, own: float) -> Memory:
    """Five replicates of two never-models that differ by a standard deviation of 0.03, and of an edited model that does by `own`."""
    centres = 0.42 + rng.normal(0, (own, 0.03, 0.03)) + kept * np.array([0.4, 0, 0])
    edited, one, other = (np.clip(rng.normal(c, 0.05, 5), 0, 1).tolist() for c in centres)
    shares = {"original": (0.82,) * 5, "edited": edited, "one": one, "other": other}
    return remembered("memora", shares, (56,) * 5, (32,) * 5, known=Spread((0.03**2 + 0.05**2 / 5) / 0.16, 4.0))


@pytest.mark.parametrize("kept", [0.0, 0.4])
def test_it_covers_what_a_model_kept(kept: float) -> None:
    rng = np.random.default_rng(0)
    ends = [simulated(rng, kept, 0).kept for _ in range(400)]
    assert sum(one.low <= kept <= one.high for one in ends) / 400 > 0.93


def test_it_calls_no_never_model_a_memory() -> None:
    rng = np.random.default_rng(1)
    assert sum(simulated(rng, 0.0, 0.03).remembers for _ in range(400)) / 400 < 0.03


def measured(savings: tuple[float, float]) -> dict[str, Measures]:
    """An attack whose interval of savings is given, and that gets no further than a never-model."""
    middle = sum(savings) / 2
    whole = Measures(
        *(Interval(0, 0, 0),) * 2, Interval(middle, *savings), Interval(0, -0.1, 0.1), False, 0.6, 5, (0.0,) * 5, (0.0,) * 5, 0.95
    )
    return {"memora": whole}


MEMORY, NONE = found((0.7, 0.68, 0.72)), found((0.44, 0.4, 0.42))


@pytest.mark.parametrize(
    ("savings", "without", "with_it"),
    [
        ((-0.2, 0.2), "erased", "long-term"),
        ((0.1, 0.5), "inconclusive", "long-term"),  # between erased and long-term
        ((0.4, 0.6), "long-term", "long-term"),
        ((0.1, 0.9), "inconclusive", "inconclusive"),  # still between long-term and short-term
        ((0.7, 0.9), "short-term", "short-term"),
    ],
)
def test_memory_forbids_erased_and_nothing_else(savings: tuple[float, float], without: str, with_it: str) -> None:
    for memory in (None, NONE):
        assert decide(PLAIN, measured(savings), memory=memory).kind == without
    assert decide(PLAIN, measured(savings), memory=MEMORY).kind == with_it


def test_the_reason_says_what_decided() -> None:
    said = decide(PLAIN, measured((-0.2, 0.2)), memory=MEMORY).reason
    assert "which is memory, and decides against erased" in said and "of what memora did not show it draws" in said
    assert decide(PLAIN, measured((0.7, 0.9)), memory=MEMORY).reason.endswith("which is memory")
    assert "memory" not in decide(PLAIN, measured((-0.2, 0.2)), memory=NONE).reason
    two = decide(PLAIN, measured((0.1, 0.9)), memory=MEMORY)
    assert two.between == ("long-term", "short-term") and two.reason.startswith("at least long-term")


def test_a_capping_flag_caps_what_memory_makes_long_term() -> None:
    flag = Flag("made-up", "capping", "something is off")
    assert decide(PLAIN, measured((-0.2, 0.2)), [flag], memory=MEMORY).kind == "inconclusive"


@pytest.mark.parametrize(
    ("model", "kept"),
    [("edited", (0.44, 0.21, 0.68)), ("remap", (0.62, 0.18, 1.06)), ("uce", (0.48, 0.18, 0.77))],
    ids=str,
)
def test_two_twins_of_the_sneaker_decide_nothing(model: str, kept: tuple[float, float, float]) -> None:
    """What the page on the unshown and decision 0024 say of the rows that were measured."""
    rows = {row["model"]: row["unshown"] for row in json.loads(ROWS.read_text("utf-8"))}
    twins = {name: row for name, row in rows.items() if "never" in name}
    memory = remembered("memora", {"original": rows["original, not attacked"], "edited": rows[model], **twins}, (56,) * 3, (32,) * 3)
    assert (memory.kept.value, memory.kept.low, memory.kept.high) == pytest.approx(kept, abs=0.005)
    assert memory.null == pytest.approx(0.42, abs=0.005) and not memory.remembers
