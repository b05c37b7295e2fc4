"""Methods that draw what they train on do so in few steps: what is tested is what they learn of it, not how well it is drawn."""

import pytest

from hurry import sketches

__all__ = ["sketches"]


@pytest.fixture(scope="module", autouse=True)
def sketched(sketches: None) -> None:
    """Every test here."""
