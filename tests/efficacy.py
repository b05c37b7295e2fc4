"""What methods are for, measured on the embedded world."""

from __future__ import annotations

import pytest

from vestige import concepts, data
from vestige.concepts.images import PictureSet
from vestige.diffusion import Model
from vestige.diffusion.sampling import pictures
from vestige.harness import arms, suites
from vestige.harness.bench import Bench, shows
from vestige.methods import Attack, Budget
from vestige.metrics import classifier
from vestige.metrics.classifier import Classifier
from vestige.seeds import derive

SUITE = suites.load("quick", "wardrobe")
SNEAKER = concepts.load("sneaker")
WORLD = data.folder() / "wardrobe"
COUNT = 48


@pytest.fixture(scope="module")
def select() -> Classifier:
    return classifier.load(WORLD / "judge-select")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, select: Classifier) -> Bench:
    return Bench(tmp_path_factory.mktemp("runs"), SUITE, classifier.load(WORLD / "judge-verify"), select)


def rate(judge: Classifier, model: Model) -> float:
    """How often the concept's held-out prompts show it."""
    texts = [p.text for p in SNEAKER.spread(COUNT, "held-out")]
    drawn = pictures(model, texts, [derive(0, "efficacy", i) for i in range(COUNT)], SUITE.protocol)
    return sum(shows(judge, drawn, SNEAKER)) / COUNT


def neighbours(judge: Classifier, model: Model) -> float:
    """How often the neighbours' prompts show what they name."""
    prompts = SNEAKER.spread(COUNT, "held-out", words=SNEAKER.neighbours)
    drawn = pictures(model, [p.text for p in prompts], [derive(1, "efficacy", i) for i in range(COUNT)], SUITE.protocol)
    seen = judge.labelled(drawn)
    return sum(s["object"] == p.expects["object"] for s, p in zip(seen, prompts, strict=True)) / COUNT


def curve(bench: Bench, model: Model, name: str, method: Attack, references: PictureSet | None, budget: Budget) -> tuple[float, ...]:
    run = arms.run_arm(bench, model, SNEAKER, (name, method), budget, 0, references)
    return arms.curve(run.outcome["points"], best_so_far=True)[0]
