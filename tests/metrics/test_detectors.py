"""Detectors of a user's own: a classifier folder read as transformers reads it, a CLIP asked in words, a function."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from onlookers import NAMES, SHAPE, classifier
from vestige import data
from vestige.concepts.images import shipped
from vestige.errors import BadInput
from vestige.metrics import alignment, detectors
from vestige.metrics.detectors import Reading
from vestige.metrics.judge import Detector
from vestige.seeds import generator

WORLD = data.folder() / "wardrobe"


def pictures(count: int = 3, side: int = 40) -> Tensor:
    """Smooth ones, with 8 bits a channel."""
    rough = torch.rand(count, 3, 6, 6, generator=generator(0, "picture"))
    smooth = torch.nn.functional.interpolate(rough, size=(side, side + 8), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round() / 255


def as_pil(image: Tensor) -> Image.Image:
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).contiguous().numpy())


def test_scores_are_the_classifiers_softmax(tmp_path: Path) -> None:
    from transformers import ViTForImageClassification

    judge = detectors.hugging_face(classifier(tmp_path / "judge"))
    network = ViTForImageClassification.from_pretrained(tmp_path / "judge").eval()
    images = torch.rand(5, 3, 16, 16, generator=generator(1))
    with torch.no_grad():
        expected = network(images * 2 - 1).logits.softmax(1)
    torch.testing.assert_close(judge.raw(images), expected)
    assert judge.labels == NAMES
    told = judge.told("truck", ("garbage truck",), group="object")
    torch.testing.assert_close(told.shows(images, "truck"), expected[:, 1])
    best = [NAMES[i].replace("garbage ", "") for i in expected.argmax(1)]
    assert told.labelled(images) == [{"object": name} for name in best]


def test_several_problems_at_once_do_not_compete(tmp_path: Path) -> None:
    judge = detectors.hugging_face(classifier(tmp_path / "judge", problem_type="multi_label_classification"))
    assert judge.raw(pictures()).sum(1).sub(1).abs().min() > 1e-3
    assert judge.labelled(pictures()) == [{}] * 3


def test_weights_settings_and_names_are_its_identity(tmp_path: Path) -> None:
    first, same = (detectors.hugging_face(classifier(tmp_path / name / "judge")) for name in "ab")
    other = detectors.hugging_face(classifier(tmp_path / "c/judge", seed=1))
    read = detectors.hugging_face(classifier(tmp_path / "d/judge", reader={"size": {"height": 16, "width": 16}, "image_mean": [0.4] * 3}))
    assert first.weights_hash == same.weights_hash
    assert len({first.weights_hash, other.weights_hash, read.weights_hash}) == 3
    assert (first.name, first.version) == ("judge", "vit 16px")


READERS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTImageProcessorPil", {"size": {"height": 16, "width": 16}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}),
    "clip": (
        "CLIPImageProcessorPil",
        {"size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}, "image_mean": [0.4, 0.5, 0.6], "resample": 3},
    ),
    "convnext": ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 28}, "crop_pct": 0.875, "resample": 3}),
}


@pytest.mark.parametrize("kind", READERS)
def test_pictures_are_read_as_transformers_reads_them(tmp_path: Path, kind: str) -> None:
    """Pillow on 8-bit values against ours on floats: equal but for rounding."""
    import transformers

    name, settings = READERS[kind]
    maker = getattr(transformers, name, None)
    if maker is None:
        pytest.skip(f"this transformers has no {name}")
    processor = maker(**settings)
    processor.save_pretrained(tmp_path)
    images = pictures()
    expected = np.stack([processor(as_pil(image), return_tensors="np")["pixel_values"][0] for image in images])
    found = Reading.of(tmp_path, 99)(images)
    assert found.shape == expected.shape
    assert np.abs(found.numpy() - expected).max() < 0.06  # in units of the deviation, of which 8-bit rounding is 0.02


def test_without_a_reader_pictures_are_scaled_to_the_networks_size(tmp_path: Path) -> None:
    assert Reading.of(tmp_path, 32) == Reading((32, 32))


def test_zero_shot_knows_the_worlds_pictures() -> None:
    """The world's own CLIP, on real garments that neither it nor this test drew."""
    labels = ("bag", "boot", "trouser", "dress")
    judge = detectors.zero_shot(alignment.clip_score(WORLD / "clip"), labels, "a picture of a {}").told(
        "bag", (), group="object", asked=labels
    )
    right = []
    for label in labels:
        real = shipped(WORLD / "pictures/references", {"object": label}).images[:20]
        right += [row.get("object") == label for row in judge.labelled(real)]
        torch.testing.assert_close(judge.raw(real).sum(1), torch.ones(len(real)))
    assert sum(right) / len(right) > 0.7
    assert judge.name == "zero-shot-clip" and len(judge.weights_hash) == 64


def test_zero_shot_needs_something_to_compare_with() -> None:
    with pytest.raises(BadInput, match=r"compares labels; given \['bag'\]"):
        detectors.zero_shot(alignment.clip_score(WORLD / "clip"), ("bag", "bag"))


FUNCTION = """
import torch

def bright(images):
    return images.mean((1, 2, 3))

def pairs(images):
    return [[float(x), 1 - float(x)] for x in images.mean((1, 2, 3))]

pairs.labels = ["bright", "dark"]
pairs.version = "7"
pairs.threshold = 0.4

def shy(images):
    return [float(x) if x > 0.5 else None for x in images.mean((1, 2, 3))]

number = 3
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "looks.py").write_text(FUNCTION)
    return tmp_path / "looks.py"


def test_a_function_of_the_users_own(code: Path) -> None:
    images = torch.rand(4, 3, 8, 8, generator=generator(2))
    judge = detectors.users_function(f"{code}:bright")
    torch.testing.assert_close(judge.shows(images, "concept"), images.mean((1, 2, 3)))
    assert (judge.name, judge.version, judge.level) == ("bright", "unversioned", 0.5)
    assert len(judge.weights_hash) == 64 and judge.labelled(images) == [{}] * 4


def test_a_function_with_labels_tells_what_else_it_sees(code: Path) -> None:
    judge = detectors.users_function(f"{code}:pairs").told("light", ("bright",), group="object", asked=("dark",))
    assert judge.labelled(torch.tensor([0.9, 0.1])[:, None, None, None].expand(-1, 3, 4, 4)) == [{"object": "light"}, {"object": "dark"}]
    assert (judge.version, judge.threshold("light")) == ("7", 0.4)


def test_a_function_that_gives_none_leaves_pictures_missing(code: Path) -> None:
    found = (
        detectors.users_function(f"{code}:shy").shows(torch.tensor([0.9, 0.1])[:, None, None, None].expand(-1, 3, 4, 4), "concept").tolist()
    )
    assert found[0] == pytest.approx(0.9) and math.isnan(found[1])


@pytest.mark.parametrize("place", ["bright", "looks.py:", "absent.py:bright", "vestige.absent:bright", "vestige.errors:absent"])
def test_functions_that_are_not_there_are_refused(place: str) -> None:
    with pytest.raises(BadInput):
        detectors.users_function(place)


def test_a_folder_with_lacking_weights_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = classifier(tmp_path / "judge")
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "classifier" not in k}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match="does not load whole"):
        detectors.hugging_face(folder)
    with pytest.raises(BadInput, match="holds no image classifier"):
        detectors.hugging_face(tmp_path)


def test_features_of_a_folder_are_its_pooled_output(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ViTModel(ViTConfig(**SHAPE)).eval()
    network.save_pretrained(tmp_path / "vit")
    images = torch.rand(20, 3, 16, 16, generator=generator(3))
    with torch.no_grad():
        expected = network(images * 2 - 1).pooler_output
    torch.testing.assert_close(detectors.vision(tmp_path / "vit").features(images), expected)


def test_two_synonyms_of_one_label_count_once() -> None:
    judge = Detector(
        name="x", version="1", weights_hash="0", labels=("church, church building", "castle"), group="label",
        look=lambda images: torch.tensor([[0.3, 0.7]]).expand(len(images), 2),
    )  # fmt: skip
    told = judge.told("church", ("church", "church building"), group="object")
    assert told.shows(torch.zeros(2, 3, 8, 8), "church").tolist() == pytest.approx([0.3, 0.3])


def test_scores_beyond_0_and_1_are_no_scores(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "looks.py").write_text("def logit(images):\n    return 20 * images.mean((1, 2, 3)) - 10\n")
    images = torch.tensor([0.9, 0.52])[:, None, None, None].expand(-1, 3, 4, 4)
    found = detectors.users_function(f"{tmp_path / 'looks.py'}:logit").shows(images, "concept").tolist()
    assert math.isnan(found[0]) and found[1] == pytest.approx(0.4, abs=1e-4)
    assert "gave a score of 8; scores lie between 0 and 1" in caplog.text
