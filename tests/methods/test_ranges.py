"""Ranges of settings: the ends, what is no number, and that a refusal says which setting and what was given."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vestige.methods.ranges import above, at_least, below_one


def test_ends() -> None:
    held = SimpleNamespace(one=1, zero=0.0, half=0.5)
    at_least(1, held, "one")
    at_least(0, held, "zero", "one")
    above(0, held, "one", "half")
    below_one(held, "zero", "half")


@pytest.mark.parametrize(
    ("refuse", "value", "message"),
    [
        (lambda s: at_least(1, s, "fine", "steps"), 0, "^steps is at least 1; given 0$"),
        (lambda s: above(0, s, "fine", "steps"), 0, "^steps is above 0; given 0$"),
        (lambda s: below_one(s, "steps"), 1.0, "^steps is at least 0 and below 1; given 1.0$"),
        (lambda s: below_one(s, "steps"), -0.1, "^steps is at least 0 and below 1; given -0.1$"),
        (lambda s: at_least(0, s, "steps"), float("nan"), "given nan"),
        (lambda s: above(0, s, "steps"), float("nan"), "given nan"),
        (lambda s: below_one(s, "steps"), float("nan"), "given nan"),
    ],
)
def test_a_refusal_names_the_setting_and_what_was_given(refuse, value: float, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        refuse(SimpleNamespace(steps=value, fine=2))
