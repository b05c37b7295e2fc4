"""Recollection of the unshown: what counts as memory, what its noise hides, and what it may and may not do to a verdict."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vestige.errors import BadInput
from vestige.verdict import Flag, Interval, decide
from vestige.verdict.memory import LINE, Recollection, remembered
from vestige.verdict.savings import Measures

PLAIN = Interval(0.02, 0.0, 0.05)
POWER = (0.33, 0.52, 0.7, 0.97)
ROWS = Path(__file__).parents[2] / "docs/results/unshown.json"


def found(edited: tuple[float, ...], other: tuple[float, ...] = (0.44, 0.4, 0.42), **own: Any) -> Recollection:
    shares = {"original": own.pop("original", (0.8, 0.78, 0.82)), "edited": edited, "shown": (0.3,) * 3}
    nevers = {"one": (0.42, 0.4, 0.38), "other": other, "third": (0.41, 0.42, 0.4), "fourth": (0.42, 0.39, 0.42)}
    return remembered("memora", shares, nevers, (56,) * 3, (32,) * 3, **own)


def test_a_model_that_never_knew_kept_nothing_and_the_original_all() -> None:
    level = tuple(float(x) for x in np.mean(list(found((0.5,) * 3).nevers.values()), axis=0))
    assert found(level).kept.value == pytest.approx(0, abs=1e-12)
    assert found((0.8, 0.78, 0.82)).kept.value == pytest.approx(1)
    assert found((0.8, 0.78, 0.82)).remembers and not found(level).remembers


def test_never_models_that_differ_widen_it() -> None:
    near, far = found((0.6, 0.58, 0.62)), found((0.6, 0.58, 0.62), other=(0.65, 0.63, 0.61))
    assert near.remembers and not far.remembers
    assert far.kept.high - far.kept.low > near.kept.high - near.kept.low


def test_never_models_that_are_no_sample_decide_nothing() -> None:
    """One alone; or several that share, by their making, what no spread between them shows."""
    shares = {"original": (0.8,) * 3, "edited": (0.8,) * 3}
    alone = remembered("memora", shares, {"one": (0.4,) * 3}, (56,) * 3, (32,) * 3)
    siblings = found((0.8, 0.78, 0.82), sampled=False)
    for memory in (alone, siblings):
        assert memory.kept.low > LINE and memory.null is None and not memory.remembers


def test_a_never_model_may_have_any_name() -> None:
    shares = {"original": (0.8,) * 3, "edited": (0.79,) * 3, "shown": (0.3,) * 3}
    named = remembered("memora", shares, {"edited": (0.4,) * 3, "original": (0.41,) * 3}, (56,) * 3, (32,) * 3)
    assert named.kept.value == pytest.approx(0.385 / 0.395) and named.shares["edited"] == (0.79,) * 3


def test_where_the_original_covers_no_more_than_teaching_nothing_is_measured() -> None:
    blind = found((0.6, 0.6, 0.6), original=(0.45, 0.45, 0.45))
    assert math.isnan(blind.kept.value) and not blind.remembers
    assert blind.as_dict()["kept"]["value"] is None


def test_equal_replicates_are_no_certainty() -> None:
    """A share of so few pictures has a floor of noise, and replicates that share them are no more pictures."""
    arms = {"original": (0.8,) * 3, "edited": (0.6,) * 3}

    def width(pictures: int, distinct: int = 0) -> float:
        kept = remembered("memora", arms, {"n": (0.4,) * 3}, (pictures,) * 3, (9,) * 3, distinct=distinct).kept
        return kept.high - kept.low

    assert width(8) > 10 * width(800) > 0
    assert width(56, distinct=64) > 1.4 * width(56)


def test_arms_of_other_replicates_are_refused() -> None:
    with pytest.raises(BadInput, match="same replicates"):
        found((0.6, 0.6))
    with pytest.raises(BadInput, match="never-model"):
        remembered("memora", {"original": (0.8,), "edited": (0.6,)}, {}, (56,), (32,))


def simulated(rng: np.random.Generator, kept: float, own: float, twins: int) -> Recollection:
    """Five replicates of never-models that differ by a standard deviation of 0.03, and of an edited model that does by `own`."""
    centres = 0.42 + rng.normal(0, (own, *[0.03] * twins)) + kept * np.array([0.4, *[0] * twins])
    edited, *nevers = (np.clip(rng.normal(c, 0.05, 5), 0, 1).tolist() for c in centres)
    shares = {"original": np.clip(rng.normal(0.82, 0.05, 5), 0, 1).tolist(), "edited": edited}
    named = {str(i): row for i, row in enumerate(nevers)}
    return remembered("memora", shares, named, (56,) * 5, (32,) * 5, level=0.975, distinct=64)


@pytest.mark.parametrize("twins", [2, 3])
@pytest.mark.parametrize("kept", [0.0, 0.4])
def test_it_covers_what_a_model_kept(kept: float, twins: int) -> None:
    rng = np.random.default_rng(0)
    ends = [simulated(rng, kept, 0, twins).kept for _ in range(400)]
    assert sum(one.low <= kept <= one.high for one in ends) / 400 > 0.96


@pytest.mark.parametrize("twins", [2, 3])
def test_it_calls_no_never_model_a_memory(twins: int) -> None:
    rng = np.random.default_rng(1)
    assert sum(simulated(rng, 0.0, 0.03, twins).remembers for _ in range(400)) / 400 < 0.03


def test_what_it_can_find() -> None:
    """What decision 0024 says of its power: half of what the original knows, and all of it, against two twins and against three."""
    rng = np.random.default_rng(2)
    power = {(k, n): sum(simulated(rng, k, 0.03, n).remembers for _ in range(400)) / 400 for k in (0.5, 1.0) for n in (2, 3)}
    told = {(0.5, 2): POWER[0], (0.5, 3): POWER[1], (1.0, 2): POWER[2], (1.0, 3): POWER[3]}
    assert power == pytest.approx(told, abs=0.06)


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
    assert "which is memory, and decides against erased" in said and "of what memora did not show and the original draws" in said
    assert decide(PLAIN, measured((0.7, 0.9)), memory=MEMORY).reason.endswith("which is memory")
    assert "where one model in twenty that never knew shows" in decide(PLAIN, measured((-0.2, 0.2)), memory=NONE).reason
    siblings = decide(PLAIN, measured((-0.2, 0.2)), memory=found((0.8, 0.78, 0.82), sampled=False))
    assert siblings.kind == "erased" and "which decides nothing" in siblings.reason
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
    memory = remembered("memora", {"original": rows["original, not attacked"], "edited": rows[model]}, twins, (56,) * 3, (32,) * 3)
    assert (memory.kept.value, memory.kept.low, memory.kept.high) == pytest.approx(kept, abs=0.005)
    assert memory.null == pytest.approx(0.42, abs=0.005) and not memory.remembers
