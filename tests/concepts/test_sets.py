"""A folder of pictures is one set: no blurred copies beside originals, nothing that an earlier command left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from oracles import tiny_model
from vestige.concepts import images
from vestige.concepts.album import Album
from vestige.diffusion.sampling import Drawing
from vestige.errors import BadInput
from vestige.harness import drawing
from vestige.metrics import fidelity


def drawn(count: int, out: Path, album: Album | None = None) -> None:
    drawing.draw(tiny_model(), drawing.from_prompts(["a bag"] * count, 0, 1.0), album or Album(), out, Drawing(steps=1))


def test_a_distance_reads_the_originals_of_a_sensitive_set_once(tmp_path: Path) -> None:
    drawn(3, tmp_path / "plain")
    drawn(3, tmp_path / "apart", Album(sensitive=True))
    plain, apart = (torch.cat(list(fidelity.batches(tmp_path / name))) for name in ("plain", "apart"))
    assert torch.equal(plain, apart) and len(plain) == 3


def test_sub_folders_are_read_and_strips_have_originals_too(tmp_path: Path) -> None:
    album, shown = Album(sensitive=True), torch.rand(2, 3, 8, 8)
    album.strip(shown, tmp_path, "strips/a.png")
    images.save(shown, tmp_path / "more")
    assert [str(f.relative_to(tmp_path)) for f in images.found(tmp_path)] == [
        "more/picture-000.png",
        "more/picture-001.png",
        "quarantine/strips/a.png",
    ]


def test_references_are_never_the_blurred_copies(tmp_path: Path) -> None:
    drawn(2, tmp_path / "plain")
    drawn(2, tmp_path / "apart", Album(sensitive=True))
    size = tiny_model().image_size
    assert torch.equal(images.folder(tmp_path / "plain", size).images, images.folder(tmp_path / "apart", size).images)


def test_a_set_replaces_the_earlier_one(tmp_path: Path) -> None:
    drawn(4, tmp_path, Album(sensitive=True))
    (tmp_path / drawing.SCORES).write_text("{}")
    drawn(2, tmp_path)
    left = sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file())
    assert left == ["picture-000.png", "picture-001.png", "quarantine/NOTICE.txt"]


def test_pictures_of_others_are_neither_removed_nor_counted(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "holiday.png")
    with pytest.raises(BadInput, match=r"holds pictures .* e\.g\. holiday\.png; choose another folder"):
        drawn(1, tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["holiday.png"]
