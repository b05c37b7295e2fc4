"""Judges: they load whole, their probabilities are probabilities, and they know the shipped pictures."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vestige import concepts, data
from vestige.concepts.images import PictureSet, shipped
from vestige.errors import BadInput, UnknownName
from vestige.metrics import classifier
from vestige.metrics.classifier import Classifier

WORLD = data.folder() / "wardrobe"
JUDGES = ("judge-verify", "judge-select")


@pytest.fixture(scope="module", params=JUDGES)
def judge(request: pytest.FixtureRequest) -> Classifier:
    return classifier.load(WORLD / request.param)


@pytest.fixture(scope="module")
def real() -> PictureSet:
    return shipped(WORLD / "pictures/references")


@pytest.fixture(scope="module")
def seen(judge: Classifier, real: PictureSet) -> dict[str, Tensor]:
    """What a judge says of every shipped picture."""
    return judge.probabilities(real.images)


def noise(count: int = 5) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_thresholds_and_rates_are_proportions(judge: Classifier) -> None:
    labels = [label for labels in judge.groups.values() for label in labels]
    assert len(set(labels)) == len(labels)
    assert set(judge.rates) == set(labels)
    for label in labels:
        assert 0 < judge.threshold(label) < 1
        hard = label == "shirt"  # taken for a top, a pullover or a coat: docs/results/wardrobe/README.md
        assert (0.4 if hard else 0.5) < judge.rates[label]["sensitivity"] <= 1
        assert 0.9 < judge.rates[label]["specificity"] <= 1
    assert all(t > 0 for t in judge.temperatures.values())


def test_probabilities_sum_to_one_in_every_group(judge: Classifier) -> None:
    found = judge.probabilities(noise())
    assert set(found) == set(judge.groups)
    for group, probabilities in found.items():
        assert probabilities.shape == (5, len(judge.groups[group]))
        assert probabilities.min() >= 0
        torch.testing.assert_close(probabilities.sum(1), torch.ones(5))


def test_shows_is_the_labels_own_column(judge: Classifier) -> None:
    images = noise()
    found = judge.probabilities(images)
    for group, labels in judge.groups.items():
        for i, label in enumerate(labels):
            assert judge.group(label) == group
            assert torch.equal(judge.shows(images, label), found[group][:, i])


def test_labels_stand_in_the_order_of_the_networks_outputs(judge: Classifier) -> None:
    config: Any = judge.network.config
    names = config.id2label
    assert [label for labels in judge.groups.values() for label in labels] == [names[i] for i in range(len(names))]


def test_temperature_divides_the_logits(judge: Classifier) -> None:
    from dataclasses import replace

    hot = replace(judge, temperatures={group: 2 * t for group, t in judge.temperatures.items()})
    for group, probabilities in judge.probabilities(noise()).items():
        torch.testing.assert_close(hot.probabilities(noise())[group], probabilities.sqrt() / probabilities.sqrt().sum(1, keepdim=True))


def test_labelled_is_the_likeliest_of_every_group(judge: Classifier) -> None:
    found = judge.probabilities(noise())
    for i, labels in enumerate(judge.labelled(noise())):
        assert labels == {group: judge.groups[group][int(p[i].argmax())] for group, p in found.items()}


def test_batch_size_changes_nothing(judge: Classifier, real: PictureSet) -> None:
    images = real.images[:130]  # more than one batch
    together = judge.probabilities(images)
    for group, probabilities in together.items():
        alone = torch.cat([judge.probabilities(images[i : i + 1])[group] for i in (0, 64, 128, 129)])
        torch.testing.assert_close(probabilities[[0, 64, 128, 129]], alone, atol=1e-4, rtol=1e-3)
    assert judge.features(images).shape[0] == 130
    assert all(len(p) == 0 for p in judge.probabilities(images[:0]).values())


def test_looking_changes_nothing(judge: Classifier) -> None:
    state = torch.random.get_rng_state()
    assert torch.equal(judge.features(noise()), judge.features(noise()))
    assert torch.equal(state, torch.random.get_rng_state())
    assert not judge.network.training
    assert not any(p.requires_grad for p in judge.network.parameters())


@pytest.mark.parametrize(("group", "least"), [("object", 0.7), ("style", 0.95)])
def test_judge_knows_the_shipped_pictures(judge: Classifier, real: PictureSet, seen: dict[str, Tensor], group: str, least: float) -> None:
    best = [judge.groups[group][i] for i in seen[group].argmax(1).tolist()]
    assert sum(a == labels[group] for a, labels in zip(best, real.labels, strict=True)) / len(real) >= least


@pytest.mark.parametrize("name", ["sneaker", "bag", "digit", "neon", "blueprint", "halftone"])
def test_threshold_separates_the_shipped_pictures(judge: Classifier, real: PictureSet, seen: dict[str, Tensor], name: str) -> None:
    """Seven of ten pictures of the concept count as showing it, and no more than one in ten of the others."""
    concept = concepts.load(name)
    group = concept.group
    hits = seen[group][:, judge.groups[group].index(concept.label)] >= judge.threshold(concept.label)
    truth = torch.tensor([labels[group] == concept.label for labels in real.labels])
    assert hits[truth].float().mean() > 0.7
    assert hits[~truth].float().mean() < 0.1


def test_judges_are_two_networks() -> None:
    verify, select = (classifier.load(WORLD / name) for name in JUDGES)
    assert verify.weights_hash != select.weights_hash
    assert verify.name != select.name
    shapes = [[tuple(p.shape) for p in judge.network.parameters()] for judge in (verify, select)]
    assert shapes[0] != shapes[1]
    assert verify.groups == select.groups


@pytest.mark.parametrize("ask", ["shows", "threshold"])
def test_unknown_label_suggests(judge: Classifier, ask: str) -> None:
    with pytest.raises(UnknownName, match=f"unknown label of judge {judge.name} 'sneeker'; did you mean 'sneaker'"):
        judge.threshold("sneeker") if ask == "threshold" else judge.shows(noise(), "sneeker")


def test_identity_says_who_measures(judge: Classifier) -> None:
    identity = judge.identity("sneaker")
    raw = (WORLD / judge.name / "model.safetensors").read_bytes()
    assert identity["weights_hash"] == judge.weights_hash == hashlib.sha256(raw).hexdigest()
    assert (identity["name"], identity["version"]) == (judge.name, judge.version)
    assert {"threshold", "sensitivity", "specificity"} <= set(identity)
    assert json.loads(json.dumps(identity)) == identity


def test_folder_without_a_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds no judge\.json"):
        classifier.load(tmp_path)


def test_judge_with_lacking_weights_is_refused(tmp_path: Path) -> None:
    """A missing layer would be drawn at random, and everything it says would be noise."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "judge"
    shutil.copytree(WORLD / "judge-verify", folder)
    tensors = load_file(folder / "model.safetensors")
    last = [name for name in tensors if name.startswith("classifier")]
    assert last
    save_file({k: v for k, v in tensors.items() if k not in last}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput):
        classifier.load(folder)
