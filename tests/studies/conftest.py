"""Studies as modules: each stands beside those that it imports, as when it is run."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

STUDIES = Path(__file__).parents[2] / "studies"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """A study by its name; it and what it imports beside it are forgotten when the test ends."""
    monkeypatch.syspath_prepend(STUDIES)
    yield importlib.import_module
    for file in STUDIES.glob("*.py"):
        sys.modules.pop(file.stem, None)
