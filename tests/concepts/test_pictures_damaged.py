"""Pictures of strangers: whatever a decoder stumbles over is one error that names the file; a whole picture is read."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vestige.concepts import images
from vestige.errors import BadInput


def encoded(kind: str, size: int = 64, **more: Any) -> bytearray:
    made = io.BytesIO()
    noise = (torch.rand(size, size, 3, generator=torch.Generator().manual_seed(0)) * 255).byte().numpy()
    Image.fromarray(noise).save(made, kind, **more)
    return bytearray(made.getvalue())


def turned() -> bytearray:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded("JPEG", exif=exif, dpi=(72, 72))


@pytest.mark.parametrize("header", [b"MM\x00\xff", b"XXXX", b"\0\0\0\0", b"II\x2a\x00\xff\xff\xff\xff"])
def test_a_whole_picture_with_a_damaged_header_is_read(header: bytes, tmp_path: Path) -> None:
    raw = turned()
    at = raw.find(b"Exif\0\0") + 6
    raw[at : at + len(header)] = header
    (tmp_path / "a.jpg").write_bytes(raw)
    with Image.open(io.BytesIO(encoded("JPEG", dpi=(72, 72)))) as plain:
        expected = torch.frombuffer(bytearray(plain.convert("RGB").tobytes()), dtype=torch.uint8)
    found = (images.read(tmp_path / "a.jpg") * 255).round().byte().permute(1, 2, 0).flatten()
    assert torch.equal(found, expected)


def test_a_stray_byte_between_two_chunks_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    raw = encoded("PNG", 400)
    at = raw.find(b"IDAT", raw.find(b"IDAT") + 4) - 4
    raw[at:at] = b"\0"
    (tmp_path / "byte.png").write_bytes(raw)
    for act in (images.read, lambda file: images.folder(file.parent, (8, 8), least=1)):
        with pytest.raises(BadInput, match=r"byte\.png cannot be read as a picture \(SyntaxError\); remove or replace it"):
            act(tmp_path / "byte.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_damage_ends_in_a_picture_or_in_an_error_of_ours(kind: str, tmp_path: Path) -> None:
    """Bytes changed, cut out, put in and repeated, in every format; a file's ending says nothing of what is in it."""
    rng, whole, read = random.Random(7), turned() if kind == "JPEG" else encoded(kind, 24), 0
    file = tmp_path / "a.png"
    for _ in range(150):
        raw = bytearray(whole)
        for _ in range(rng.choice((1, 2, 8))):
            at, more = rng.randrange(min(len(raw), rng.choice((40, 400, 10**6)))), rng.randrange(1, 6)
            raw[at : at + rng.randrange(3)] = rng.randbytes(more) if rng.random() < 0.7 else b""
        file.write_bytes(raw)
        try:
            assert images.read(file).shape[0] == 3
            read += 1
        except BadInput as error:
            assert str(file) in str(error)
    assert read < 150
