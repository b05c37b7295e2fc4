"""The smoke suite in fewer pictures and shorter steps, for tests of what stands around an audit of the embedded model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from vestige.diffusion.sampling import Drawing
from vestige.harness import diagnostics, suites


@pytest.fixture(scope="module", autouse=True)
def hurry() -> Iterator[None]:
    """Holds in forked commands too; budgets, replicates, judges and every stage stay."""
    real, short = suites.load, {"sampling_steps": 3, "start": 1, "points": 2, "batch": 2}

    def load(name: str, world: str = "") -> suites.Suite:
        suite = real(name, world)
        if name != "smoke":
            return suite
        memora = replace(suite.attacks["memora"], settings={**suite.attacks["memora"].settings, **short})
        fewer = {"pictures": 4, "select_pictures": 2, "utility_pictures": 4, "protocol": replace(suite.protocol, steps=3)}
        return replace(suite, **fewer, attacks={**suite.attacks, "memora": memora})  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suites, "load", load)
        yield


@pytest.fixture(scope="module")
def sketches() -> Iterator[None]:
    """Methods that draw their own pictures do so in 3 steps of the sampler, not in 20; an edit's diagnostics look at a few."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Drawing.__init__.__kwdefaults__, "steps", 3)  # type: ignore[arg-type]
        patch.setattr(diagnostics, "COUNT", 4)
        for name, value in (("draws", 2), ("batch", 4)):
            patch.setitem(diagnostics.diagnose.__kwdefaults__, name, value)  # type: ignore[arg-type]
            patch.setattr(diagnostics, name.upper(), value)
        yield
