"""Sets of pictures: a user's folder is read whole or refused by name, replicates share nothing, a blurred strip hides all detail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from oracles import tiny_model
from vestige import concepts, data
from vestige.concepts import images
from vestige.concepts.images import PictureSet
from vestige.diffusion.sampling import Drawing, pictures
from vestige.errors import BadInput
from vestige.methods import training_data
from vestige.seeds import derive, generator

SHEET = data.folder() / "wardrobe/pictures/references"


def random_set(count: int, size: int = 6) -> PictureSet:
    return PictureSet(torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(count)), "random")


def picture(width: int = 20, height: int = 10, mode: str = "RGB") -> Any:
    """Left half dark red, right half light blue."""
    made = Image.new("RGB", (width, height), (200, 210, 255))
    made.paste((100, 20, 10), (0, 0, width // 2, height))
    return made.convert(mode)


def saved(folder: Path, *names: str, **options: Any) -> None:
    for name in names:
        picture().save(folder / name, **options)


def halves(image: Tensor) -> tuple[list[int], list[int]]:
    """Mean colours of the left and of the right half, away from their border."""
    width = image.shape[2]
    sides = image[:, :, : width // 3], image[:, :, -(width // 3) :]
    left, right = ((side.mean((1, 2)) * 255).round().int().tolist() for side in sides)
    return left, right


def test_folder_gives_pictures_of_the_asked_size(tmp_path: Path) -> None:
    saved(tmp_path, "b.png", "a.JPG", "c.bmp", "d.webp")
    found = images.folder(tmp_path, (8, 12))
    assert found.images.shape == (4, 3, 8, 12)
    assert found.images.dtype == torch.float32
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    assert found.source == str(tmp_path)
    assert len(found) == 4
    for image in found.images:
        left, right = halves(image)
        assert left == pytest.approx([100, 20, 10], abs=12)  # lossy formats
        assert right == pytest.approx([200, 210, 255], abs=12)


def test_folder_crops_the_centre(tmp_path: Path) -> None:
    """A wide picture, white at both ends: a square crop shows its middle alone."""
    wide = Image.new("RGB", (40, 10), "white")
    wide.paste((0, 0, 0), (14, 0, 26, 10))
    wide.save(tmp_path / "a.png")
    assert images.folder(tmp_path, (10, 10), least=1).images.max() < 0.01


def test_folder_is_read_in_order_of_names_without_hidden_files_and_folders(tmp_path: Path) -> None:
    for i, name in enumerate(("c.png", "a.png", "b.png")):
        Image.new("RGB", (4, 4), (i * 50, 0, 0)).save(tmp_path / name)
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "inner").mkdir()
    red = images.folder(str(tmp_path), (4, 4)).images[:, 0, 0, 0] * 255
    assert red.round().tolist() == [50, 100, 0]


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGBA"])
def test_folder_reads_every_mode(tmp_path: Path, mode: str) -> None:
    picture(mode=mode).save(tmp_path / "a.png")
    image = images.folder(tmp_path, (10, 20), least=1).images[0]
    left, right = halves(image)
    assert sum(left) < 0.5 * sum(right)
    if mode not in ("P", "RGBA"):
        assert torch.equal(image[0], image[2])


def test_folder_reads_sixteen_bit_grey(tmp_path: Path) -> None:
    grey = torch.full((6, 6), 128 * 257, dtype=torch.int32).numpy().astype("uint16")
    Image.fromarray(grey).save(tmp_path / "a.png")
    found = images.folder(tmp_path, (6, 6), least=1).images
    torch.testing.assert_close(found, torch.full_like(found, 128 / 255), atol=1 / 255, rtol=0)


def test_folder_reads_palettes_with_transparency(tmp_path: Path) -> None:
    picture(mode="P").save(tmp_path / "a.png", transparency=bytes([255] * 256))
    left, right = halves(images.folder(tmp_path, (10, 20), least=1).images[0])
    assert left == pytest.approx([100, 20, 10], abs=6)  # the nearest colours of the palette
    assert right == pytest.approx([200, 210, 255], abs=6)


@pytest.mark.parametrize(("orientation", "expected"), [(1, "left"), (2, "right"), (3, "right")])
def test_folder_turns_pictures_as_their_camera_held_them(tmp_path: Path, orientation: int, expected: str) -> None:
    """EXIF orientation 1 is upright, 2 mirrored, 3 upside down."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    saved(tmp_path, "a.png", exif=exif)
    left, right = halves(images.folder(tmp_path, (10, 20), least=1).images[0])
    assert ("left" if sum(left) < sum(right) else "right") == expected


def test_folder_turns_portraits(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # quarter turn
    saved(tmp_path, "a.png", exif=exif)
    image = images.folder(tmp_path, (20, 10), least=1).images[0]
    assert image[:, :8].mean() < 0.3  # dark above
    assert image[:, 12:].mean() > 0.8


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg", "cut.webp", "cut.bmp"])
def test_unreadable_picture_is_named(tmp_path: Path, name: str) -> None:
    saved(tmp_path, "whole.png", name)
    raw = (tmp_path / name).read_bytes()
    for broken in (raw[: len(raw) // 2], b"", b"no picture at all"):
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(BadInput, match=rf"{name} cannot be read as a picture \(\w+\); remove or replace it"):
            images.folder(tmp_path, (8, 8))


def test_file_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "a.png", "b.png")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(BadInput, match=r"notes\.txt in .* is no picture \(\.png, .* are read\); move it elsewhere"):
        images.folder(tmp_path, (8, 8))


@pytest.mark.parametrize(("count", "least"), [(0, 1), (1, 2), (3, 6)])
def test_too_few_pictures_in_a_folder(tmp_path: Path, count: int, least: int) -> None:
    saved(tmp_path, *(f"{i}.png" for i in range(count)))
    with pytest.raises(BadInput, match=f"holds {count} pictures; at least {least} are needed"):
        images.folder(tmp_path, (8, 8), least=least)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    saved(tmp_path, "a.png")
    for path in (tmp_path / "none", tmp_path / "a.png"):
        with pytest.raises(BadInput, match=f"no folder of reference pictures at {path}"):
            images.folder(path, (8, 8))


def test_content_hash_follows_the_pictures_alone() -> None:
    one, other = random_set(4), random_set(5)
    assert one.content == PictureSet(one.images.clone(), "elsewhere", ({},) * 4).content
    assert one.content != other.content
    assert one.content != one.take([1, 0, 2, 3]).content
    changed = one.images.clone()
    changed[3, 2, 5, 5] = (changed[3, 2, 5, 5] + 0.5) % 1
    assert one.content != PictureSet(changed, "random").content


def test_content_hash_knows_the_shape() -> None:
    assert PictureSet(torch.zeros(1, 3, 2, 8), "").content != PictureSet(torch.zeros(1, 3, 8, 2), "").content


def test_content_hash_survives_the_disk(tmp_path: Path) -> None:
    one = random_set(3)
    files = images.save(one.images, tmp_path / "deep/pictures", "shoe")
    assert [f.name for f in files] == ["shoe-000.png", "shoe-001.png", "shoe-002.png"]
    assert images.folder(tmp_path / "deep/pictures", (6, 6)).content == one.content


@pytest.mark.parametrize(("have", "count"), [(12, 4), (13, 4), (6, 6), (7, 2)])
def test_replicates_share_no_picture_while_they_last(have: int, count: int) -> None:
    whole = random_set(have)
    dealt = [whole.draw(count, replicate) for replicate in range(have // count)]
    hashes = [image.numpy().tobytes() for found in dealt for image in found.images]
    assert all(len(found) == count for found in dealt)
    assert len(set(hashes)) == len(hashes)


def test_draws_are_equal_at_equal_seed_and_never_repeat_a_picture() -> None:
    whole = random_set(8)
    draws = {(replicate, seed): whole.draw(3, replicate, seed).content for replicate in range(6) for seed in range(2)}
    assert {key: random_set(8).draw(3, *key).content for key in draws} == draws
    assert len(set(draws.values())) > 9  # chance alone may repeat a hand of three
    for replicate in range(6):
        assert len(whole.draw(8, replicate).images.unique(dim=0)) == 8


def test_draw_leaves_global_randomness_alone() -> None:
    state = torch.random.get_rng_state()
    random_set(8).draw(3, 5)
    assert torch.equal(state, torch.random.get_rng_state())


def test_draw_keeps_labels_with_their_pictures() -> None:
    whole = PictureSet(torch.arange(6.0).reshape(6, 1, 1, 1).expand(6, 3, 2, 2) / 10, "numbers", tuple({"n": str(i)} for i in range(6)))
    found = whole.draw(4, 0)
    assert [round(float(image[0, 0, 0]) * 10) for image in found.images] == [int(labels["n"]) for labels in found.labels]


def test_drawing_more_than_there_is_fails() -> None:
    with pytest.raises(BadInput, match="random holds 3 usable pictures; 4 are needed"):
        random_set(3).draw(4, 0)


def test_shipped_pictures_carry_their_labels() -> None:
    index = json.loads(SHEET.with_suffix(".json").read_text())
    whole = images.shipped(SHEET)
    assert list(whole.labels) == index["labels"]
    assert whole.images.shape == (len(index["labels"]), 3, index["size"], index["size"])
    assert whole.source == "wardrobe test pictures"
    assert whole.images.flatten(1).std(1).min() > 0.01  # no tile is empty
    for name in concepts.names():
        concept = concepts.load(name)
        found = images.shipped(SHEET, {concept.group: concept.label})
        assert len(found) >= 6  # what one replicate of the suites takes
        assert {labels[concept.group] for labels in found.labels} == {concept.label}


def test_shipped_tiles_are_cut_where_their_labels_say(tmp_path: Path) -> None:
    tiles = random_set(5, size=4).images
    canvas = torch.zeros(3, 8, 12)  # two rows of three
    for i, tile in enumerate(tiles):
        canvas[:, i // 3 * 4 : i // 3 * 4 + 4, i % 3 * 4 : i % 3 * 4 + 4] = tile
    (file,) = images.save(canvas[None], tmp_path / "world/pictures", "sheet")
    sheet = file.rename(file.with_name("sheet.png")).with_suffix("")
    labels = [{"n": str(i % 2), "m": str(i)} for i in range(5)]
    sheet.with_suffix(".json").write_text(json.dumps({"size": 4, "labels": labels}))
    torch.testing.assert_close(images.shipped(sheet).images, tiles, atol=0.51 / 255, rtol=0)
    odd = images.shipped(sheet, {"n": "1"})
    torch.testing.assert_close(odd.images, tiles[[1, 3]], atol=0.51 / 255, rtol=0)
    assert odd.labels == (labels[1], labels[3])
    assert images.shipped(sheet, {"n": "1", "m": "3"}).labels == (labels[3],)
    with pytest.raises(BadInput, match=r"no shipped picture shows .*give your own with --references DIR"):
        images.shipped(sheet, {"n": "1", "m": "2"})


def test_generated_pictures_are_the_models_own() -> None:
    model, concept, protocol = tiny_model(), concepts.load("sneaker"), Drawing(steps=2)
    found = training_data.generated(model, concept, 3, seed=4, protocol=protocol)
    prompts = concept.spread(3, "training")
    expected = pictures(model, [p.text for p in prompts], [derive(4, "generated", i) for i in range(3)], protocol)
    assert torch.equal(found.images, (expected * 255).round() / 255)
    assert found.captions == tuple((p.text,) for p in prompts)
    assert found.source == "generated by tiny"
    assert list(found.labels) == [dict(p.expects) for p in prompts]


def read(path: Path) -> Tensor:
    with Image.open(path) as raw:
        return images._tensor(raw.convert("RGB"))


def test_strip_shows_pictures_side_by_side(tmp_path: Path) -> None:
    shown = random_set(3).images
    path = images.strip(shown, tmp_path / "deep/strip.png", gap=2)
    canvas = read(path)
    assert canvas.shape == (3, 6, 3 * 6 + 2 * 2)
    for i, image in enumerate(shown):
        torch.testing.assert_close(canvas[:, :, 8 * i : 8 * i + 6], image, atol=0.51 / 255, rtol=0)
    assert canvas[:, :, 6:8].min() == 1
    assert [p.name for p in path.parent.iterdir()] == ["strip.png"]


def test_blurred_strip_keeps_no_detail(tmp_path: Path) -> None:
    """What is left varies over quarters of the picture; nothing finer follows the original."""
    shown = images.shipped(SHEET).images[:24]
    canvas = read(images.strip(shown, tmp_path / "strip.png", blur=True, gap=0))
    blurred = torch.stack(canvas.split(shown.shape[3], dim=2))
    size = shown.shape[3]

    def fine(x: Tensor) -> Tensor:
        """The part that averages to zero over every cell of a 4 x 4 grid."""
        return x - F.interpolate(F.adaptive_avg_pool2d(x, 4), size=size, mode="nearest")

    def edges(x: Tensor) -> float:
        spectrum = torch.fft.fft2(x).abs().square()
        frequency = torch.fft.fftfreq(size).abs() * size
        high = torch.maximum(frequency[:, None], frequency[None, :]) > 4
        return float(spectrum[..., high].sum())

    assert edges(blurred) < 0.02 * edges(shown)
    before, after = fine(shown), fine(blurred)
    assert after.square().mean() < 0.25 * before.square().mean()


def test_a_judge_no_longer_knows_what_a_blurred_strip_shows(tmp_path: Path) -> None:
    from vestige.metrics import classifier

    judge, whole = classifier.load(data.folder() / "wardrobe/judge-verify"), images.shipped(SHEET)
    objects = [labels["object"] for labels in whole.labels]
    blurred = read(images.strip(whole.images, tmp_path / "strip.png", blur=True, gap=0)).split(whole.images.shape[3], dim=2)

    def right(shown: Tensor) -> float:
        return sum(seen["object"] == label for seen, label in zip(judge.labelled(shown), objects, strict=True)) / len(objects)

    assert right(torch.stack(blurred)) < 0.5 * right(whole.images)


def test_blur_forgets_what_differs_within_a_cell(tmp_path: Path) -> None:
    """Pictures with equal means over 4 x 4 cells become the same picture: their detail cannot be recovered by anyone."""
    base = random_set(1, size=4).images * 0.5 + 0.25
    cells = F.interpolate(base, size=32, mode="nearest")
    stripes = torch.tensor([1.0, -1.0]).repeat(16) * 0.2
    one, other = cells + stripes, cells + stripes[:, None]
    files = [images.strip(shown, tmp_path / f"{i}.png", blur=True) for i, shown in enumerate((cells, one, other))]
    assert not torch.allclose(one, other, atol=0.1)
    flat = [read(f) for f in files]
    assert max((flat[0] - f).abs().max().item() for f in flat) <= 1.01 / 255


@pytest.mark.parametrize("blur", [False, True])
def test_strip_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blur: bool) -> None:
    shown = random_set(2).images

    def full(self: Any, file: Path, **options: Any) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(Image.Image, "save", full)
        with pytest.raises(BadInput, match="No space left"):
            images.strip(shown, tmp_path / "strip.png", blur=blur)
        assert not (tmp_path / "strip.png").exists()
    first = images.strip(shown, tmp_path / "strip.png", blur=blur).read_bytes()
    with monkeypatch.context() as broken:
        broken.setattr(Image.Image, "save", full)
        with pytest.raises(BadInput, match="No space left"):
            images.strip(shown.flip(0), tmp_path / "strip.png", blur=blur)
    assert (tmp_path / "strip.png").read_bytes() == first


def test_renamed_captions_keep_their_context() -> None:
    concept = concepts.load("sneaker")
    texts = [p.text for p in concept.prompts("training")]
    assert training_data.renamed(texts, concept, "boot") == [text.replace("sneaker", "boot") for text in texts]
    assert training_data.renamed(texts, concept, "sneaker") == texts
    assert set(training_data.renamed([*texts, "my own"], concept, "")) == {""}


def test_captions_of_the_users_own_are_renamed_where_they_name_the_concept() -> None:
    """One that does not becomes a plain prompt: no caption may stand for itself."""
    concept = concepts.load("sneaker")
    given = ["my Sneaker on a table", "sneakers", "an old shoe"]
    assert training_data.renamed(given, concept, r"a\1 boot") == [
        r"my a\1 boot on a table",
        r"a picture of a a\1 boot",
        r"a picture of a a\1 boot",
    ]


def test_pick_is_draw_by_rows() -> None:
    model, prompts = tiny_model(), concepts.load("bag").spread(4, "training")
    given = training_data.drawn(model, prompts, seed=0, protocol=Drawing(steps=2))
    given = replace(given, captions=tuple((p.text, "a bag") for p in prompts))
    pairs = training_data.paired(model, given)
    assert given.texts == list(dict.fromkeys(t for p in prompts for t in (p.text, "a bag")))
    assert torch.equal(pairs.table.text, model.condition(given.texts).text)
    (x, rows), (same, condition) = pairs.pick(16, generator(1)), pairs.draw(16, generator(1))
    assert torch.equal(x, same)
    assert torch.equal(pairs.table[rows].text, condition.text)
    assert {given.texts[row] for row in rows} == set(given.texts)


def test_each_drawn_set_is_a_stage_of_its_own() -> None:
    model, concept, told = tiny_model(), concepts.load("bag"), []
    data = training_data.Data(protocol=Drawing(steps=1, batch=2))
    watch = lambda stage, done, total: told.append((stage, done, total))  # noqa: E731
    data.targeted(model, concept, 3, seed=0, watch=watch)
    data.retained(model, concept, 2, seed=0, watch=watch)
    assert told == [("draw target", 2, 3), ("draw target", 3, 3), ("draw retain", 2, 2)]
