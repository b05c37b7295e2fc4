"""The CLIP score: transformers' own number, and pictures prepared as its image processor prepares them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vestige import data
from vestige.concepts import images
from vestige.errors import BadInput
from vestige.metrics.alignment import ClipScore, aligned, clip_score, recognised
from vestige.seeds import generator

WORLD = data.folder() / "wardrobe"


@pytest.fixture(scope="module")
def score() -> ClipScore:
    return clip_score(WORLD / "clip")


@pytest.fixture(scope="module")
def bags() -> images.PictureSet:
    return images.shipped(WORLD / "pictures/references", {"object": "bag"}).draw(16, 0)


def prompts(pictures: images.PictureSet, word: str) -> list[str]:
    return [f"a {labels['style']} picture of a {word}" for labels in pictures.labels]


def test_score_is_transformers_cosine(score: ClipScore, bags: images.PictureSet) -> None:
    """`CLIPModel.forward` gives exp(logit_scale) cos for every pair; its diagonal, divided, is ours."""
    texts = prompts(bags, "bag")
    ids = score.tokenizer(texts, padding=True, return_tensors="pt").input_ids
    with torch.no_grad():
        out = score.network(input_ids=ids, pixel_values=bags.images * 2 - 1)
    cosine = out.logits_per_image.diagonal() / score.network.logit_scale.exp()
    assert (cosine > 0).all()
    torch.testing.assert_close(score(bags.images, texts), 100 * cosine, atol=1e-3, rtol=1e-4)


def test_pictures_fit_their_own_prompts_better(score: ClipScore, bags: images.PictureSet) -> None:
    own, other = (score(bags.images, prompts(bags, word)).mean() for word in ("bag", "boot"))
    assert own > other + 10


def test_scores_do_not_depend_on_company(score: ClipScore, bags: images.PictureSet) -> None:
    texts = prompts(bags, "bag")
    alone = torch.cat([score(bags.images[i : i + 1], texts[i : i + 1]) for i in range(len(texts))])
    torch.testing.assert_close(score(bags.images, texts), alone, atol=1e-3, rtol=1e-4)


def test_no_score_is_below_zero(score: ClipScore) -> None:
    pictures = torch.rand(24, 3, 32, 32, generator=generator(0))
    texts = ["a bag", "neon", "boot , sunset"] * 8
    cosine = (score.pictured(pictures) * score.read(texts)).sum(1)
    assert (cosine < 0).any()
    torch.testing.assert_close(score(pictures, texts), 100 * cosine.clamp_min(0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (48, 80), (100, 40), (20, 30)])
def test_pictures_are_prepared_as_by_the_image_processor(score: ClipScore, shape: tuple[int, int]) -> None:
    """Pillow's bicubic on 8-bit values, short side first, then the middle square: what CLIP's processor does."""
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8, generator=generator(1)), size=shape, mode="bicubic").clamp(0, 1)
    raw = Image.fromarray((smooth[0] * 255).round().byte().permute(1, 2, 0).numpy())
    scale = 32 / min(shape)
    small = raw.resize((round(shape[1] * scale), round(shape[0] * scale)), Image.Resampling.BICUBIC)
    left, top = (small.width - 32) // 2, (small.height - 32) // 2
    wanted = torch.from_numpy(np.array(small.crop((left, top, left + 32, top + 32)))).permute(2, 0, 1).float() / 127.5 - 1
    found: Tensor = score.prepared(smooth)[0]
    assert found.shape == (3, 32, 32)
    assert (found - wanted).abs().max() < 0.05


def test_mean_and_deviation_are_read_from_the_folder(tmp_path: Path, score: ClipScore) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(WORLD / "clip", folder)
    shutil.copytree(WORLD / "tokenizer", tmp_path / "tokenizer")
    mean, deviation = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean, "image_std": deviation}))
    other = clip_score(folder)
    pictures = torch.rand(2, 3, 32, 32, generator=generator(2))
    expected = (pictures - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(deviation).reshape(3, 1, 1)
    torch.testing.assert_close(other.prepared(pictures), expected)
    assert other.weights_hash == score.weights_hash
    torch.testing.assert_close(score.prepared(pictures), pictures * 2 - 1)


def broken(folder: Path, what: str) -> Path:
    shutil.copytree(WORLD / "clip", folder)
    if what == "no weights":
        (folder / "model.safetensors").unlink()
    elif what == "cut":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    if what != "no tokenizer":
        shutil.copytree(WORLD / "tokenizer", folder.parent / "tokenizer")
    return folder


@pytest.mark.parametrize(
    ("what", "message"), [("no weights", "holds no CLIP"), ("cut", "cannot be read"), ("no tokenizer", "no tokenizer in")]
)
def test_unusable_folders_are_refused(tmp_path: Path, what: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        clip_score(broken(tmp_path / "clip", what))


def test_one_prompt_a_picture(score: ClipScore) -> None:
    wrong: Any = torch.zeros(2, 3, 32, 32)
    with pytest.raises(ValueError, match="one prompt a picture: 2 pictures, 1 prompts"):
        score(wrong, ["a bag"])


def test_mean_score_of_batches_is_that_of_the_whole(score: ClipScore, bags: images.PictureSet) -> None:
    texts = prompts(bags, "bag")
    found = aligned(score, [(bags.images[:5], texts[:5]), (bags.images[5:], texts[5:])])
    each = score(bags.images, texts).double()
    assert (found.name, found.count, found.note) == ("CLIP-score-clip", 16, "only 16 pictures")
    assert found.value == pytest.approx(each.mean().item(), rel=1e-5)
    assert found.high - found.value == pytest.approx(1.96 * each.std().item() / 4, rel=1e-3)
    with pytest.raises(BadInput, match="needs at least 2 pictures; given 0"):
        aligned(score, [])


def test_recognised_is_the_share_whose_likeliest_label_is_true(score: ClipScore, bags: images.PictureSet) -> None:
    labels = ("bag", "boot", "trouser")
    found = recognised(score, bags.images, labels, ["bag"] * 16, "a picture of a {}")
    other = recognised(score, bags.images, labels, ["boot"] * 16, "a picture of a {}")
    assert found.value > 0.7 > 0.2 > other.value
    assert (found.detector, found.count, found.weights_hash) == ("zero-shot-clip", 16, score.weights_hash)
    with pytest.raises(BadInput, match="one of them"):
        recognised(score, bags.images, labels, ["hat"] * 16)
