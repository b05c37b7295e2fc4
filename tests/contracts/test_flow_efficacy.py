"""Whether unlearning and recovery do on rectified flow what they do elsewhere: on the embedded world's model of FLUX's shape."""

from __future__ import annotations

import pytest

from efficacy import SNEAKER, SUITE, WORLD, curve, neighbours, rate
from vestige import models, registry
from vestige.concepts.images import shipped
from vestige.diffusion import Model
from vestige.edits import Edit
from vestige.harness.bench import Bench
from vestige.harness.settings import configured
from vestige.methods import Budget
from vestige.metrics.classifier import Classifier

pytestmark = pytest.mark.slow
BASE, TWIN = "wardrobe-flow", "wardrobe-flow-never-sneaker"
SPENT = Budget((0, 5, 12, 30, 80))


@pytest.fixture(scope="module")
def flow() -> Model:
    return models.load(BASE)


@pytest.fixture(scope="module")
def edits(flow: Model) -> dict[str, Edit]:
    """By method, at the model's presets."""
    made = {name: configured("unlearners", name, "wardrobe", "", {}, model=BASE) for name in ("esd", "dimum")}
    return {name: method.resolved(SNEAKER)(flow, SNEAKER, seed=0) for name, method in made.items()}


@pytest.mark.parametrize("name", ("esd", "dimum"))
def test_the_target_falls_and_the_neighbours_stay(name: str, flow: Model, edits: dict[str, Edit], select: Classifier) -> None:
    edited = flow.edited(edits[name])
    assert rate(select, flow) >= 0.7
    assert rate(select, edited) <= 0.2
    assert neighbours(select, flow) - neighbours(select, edited) <= 0.25


def test_memora_tells_a_weak_edit_from_the_twin(flow: Model, bench: Bench) -> None:
    """Half of ESD's steps hide what MemoRa finds sooner than it teaches the twin; each attacked by the way that works better on it."""
    weak = configured("unlearners", "esd", "wardrobe", "", {"steps": 120}, model=BASE).resolved(SNEAKER)(flow, SNEAKER, seed=0)
    planned = SUITE.attacks["memora"]
    method = registry.build("attacks", "memora", planned.settings)
    held = shipped(WORLD / "pictures/references", {"object": "sneaker"}).draw(planned.references, 0)
    best = {}
    for arm, model in (("edited", flow.edited(weak)), ("never", models.load(TWIN))):
        best[arm] = max((curve(bench, model, "memora", way, held, SPENT) for way in (method, *method.variants().values())), key=sum)
    assert best["edited"][-1] >= 0.5
    assert sum(best["edited"]) > sum(best["never"])
