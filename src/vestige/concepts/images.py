"""Sets of pictures: a user's folder, or the pictures shipped with a world; and how pictures are written.

A set carries where it came from and a hash of its content; specs name the hash, so two runs with the same pictures agree.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vestige import files
from vestige.concepts import captions
from vestige.errors import BadInput
from vestige.seeds import generator

QUARANTINE = "quarantine"  # where a sensitive set's pictures lie whole, under the names of their blurred copies outside
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class PictureSet:
    """Pictures with their origin.

    Arguments:
        images: (N, 3, H, W) in [0, 1].
        source: Where they came from, for people.
        labels: What each shows, group -> label, where known; `own` where a user says so, which the pictures alone do not.
        captions: Prompts that each may be trained with, where known.
    """

    images: Tensor
    source: str
    labels: tuple[dict[str, str], ...] = ()
    captions: tuple[tuple[str, ...], ...] = ()
    own: bool = False

    def __len__(self) -> int:
        return len(self.images)

    @property
    def content(self) -> str:
        """Hash of the pictures as 8-bit values."""
        raw = (self.images.clamp(0, 1) * 255).round().byte().contiguous().numpy().tobytes()
        return hashlib.blake2b(repr(tuple(self.images.shape)).encode() + raw, digest_size=16).hexdigest()

    @property
    def texts(self) -> list[str]:
        """Every caption once, in order: the rows of a pair's table."""
        return list(dict.fromkeys(text for row in self.captions for text in row))

    def take(self, rows: Sequence[int]) -> PictureSet:
        labels = tuple(self.labels[i] for i in rows) if self.labels else ()
        captions = tuple(self.captions[i] for i in rows) if self.captions else ()
        return PictureSet(self.images[list(rows)], self.source, labels, captions, self.own)

    @property
    def told(self) -> dict[str, Any]:
        """What specs say of a user's own labels beside the pictures' content; {} for others."""
        return {"labels": [dict(sorted(row.items())) for row in self.labels]} if self.own and self.labels else {}

    def joined(self, other: PictureSet) -> PictureSet:
        """Both sets, of pictures of one size; labels and captions where both have them."""
        labels = (*self.labels, *other.labels) if self.labels and other.labels else ()
        captions_ = (*self.captions, *other.captions) if self.captions and other.captions else ()
        return PictureSet(torch.cat([self.images, other.images]), f"{self.source} and {other.source}", labels, captions_)

    def draw(self, count: int, replicate: int, seed: int = 0) -> PictureSet:
        """The `count` pictures of a replicate: a shuffled set is dealt out, so that replicates differ in all of them while it lasts.

        Pictures with different labels come in turn, so every replicate sees as many kinds as it can.
        """
        if len(self) < count:
            raise BadInput(f"{self.source} holds {len(self)} usable pictures; {count} are needed")
        order, start = self._dealt(generator(seed, "deal")), replicate * count
        if start + count > len(order):  # dealt out: a fresh shuffle of its own
            order, start = self._dealt(generator(seed, "deal", replicate)), 0
        return self.take(order[start : start + count])

    def _dealt(self, rng: torch.Generator) -> list[int]:
        """Every row once: shuffled, then one of each kind in turn."""
        kinds: dict[str, list[int]] = {}
        for i in torch.randperm(len(self), generator=rng).tolist():
            kinds.setdefault(repr(self.labels[i]) if self.labels else "", []).append(i)
        longest = max((len(rows) for rows in kinds.values()), default=0)
        return [rows[turn] for turn in range(longest) for rows in kinds.values() if turn < len(rows)]


def folder(path: Path | str, size: tuple[int, int], least: int = 2) -> PictureSet:
    """Read a user's pictures, centre-cropped and resized to (height, width); an unreadable one is an error that names it.

    Captions, and what each picture shows, lie beside them, as `captions` says: in `metadata.jsonl` or `metadata.csv`, or in a text file
    a picture.
    """
    from PIL import Image, ImageOps

    path = Path(path)
    if not path.is_dir():
        raise BadInput(f"no folder of reference pictures at {path}")
    found = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    names = [p.name for p in found if p.suffix.lower() in SUFFIXES]
    told = captions.beside(path, names)
    kept = []
    for file in (p for p in found if p.name not in told):
        if file.suffix.lower() not in SUFFIXES:
            raise BadInput(f"{file.name} in {path} is no picture ({', '.join(SUFFIXES)} are read); move it elsewhere")
        fitted = _opened(original(file, path), lambda picture: ImageOps.fit(picture, (size[1], size[0]), Image.Resampling.LANCZOS))
        kept.append(fitted)
    if len(kept) < least:
        raise BadInput(f"{path} holds {len(kept)} pictures; at least {least} are needed")
    return PictureSet(torch.stack(kept), str(path), captions.labels(path, names), captions.read(path, names), own=True)


def original(file: Path, root: Path) -> Path:
    """The picture of which a file is the blurred copy, if it is one of a set under `root`; else the file itself."""
    above = [folder for folder in file.parents if folder == root or root in folder.parents]
    spots = (folder / QUARANTINE / file.relative_to(folder) for folder in above)
    return next((spot for spot in spots if spot.is_file()), file)


def found(root: Path) -> list[Path]:
    """Every picture of a folder and of what lies in it, in the order of their names; of a blurred copy the original, once."""
    files_ = {original(file, root) for file in root.rglob("*") if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")}
    return sorted(files_, key=lambda file: [part for part in file.relative_to(root).parts if part != QUARANTINE])


def read(file: Path) -> Tensor:
    """One picture at its own size, (3, H, W) in [0, 1]."""
    return _opened(file, lambda picture: picture)


def _opened(file: Path, fitted: Callable[[Any], Any]) -> Tensor:
    """One picture as its camera held it, (3, H, W) in [0, 1]; one that cannot be read is an error that names it."""
    from PIL import Image

    try:
        with warnings.catch_warnings(), Image.open(file) as raw:
            warnings.simplefilter("ignore")  # what is wrong with a picture that can be read all the same
            raw.load()
            return _tensor(fitted(_rgb(_upright(raw))))
    except Exception as error:  # whatever its readers of formats stumble over: SyntaxError and struct.error among others
        raise BadInput(f"{file} cannot be read as a picture ({type(error).__name__}); remove or replace it") from error


def _upright(picture: Any) -> Any:
    """A picture turned as its EXIF header says; where that is damaged, as it is stored."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # the pixels are loaded, so it can only be the header
        return picture


def _rgb(picture: Any) -> Any:
    """Any mode as 8-bit RGB: 16-bit grey is scaled, transparency lies on white."""
    from PIL import Image

    if picture.mode.startswith("I"):
        picture = picture.point(lambda v: v / 256).convert("L") if picture.mode == "I" else _from_16_bit(picture)
    if "A" in picture.mode or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _from_16_bit(picture: Any) -> Any:
    import numpy as np
    from PIL import Image

    return Image.fromarray((np.asarray(picture, dtype=np.uint16) // 257).astype(np.uint8))


def _tensor(picture: Any) -> Tensor:
    raw = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return raw.reshape(picture.height, picture.width, 3).permute(2, 0, 1).float() / 255


def shipped(sheet: Path, show: dict[str, str] | None = None) -> PictureSet:
    """Pictures of a contact sheet that ships with a world: SHEET.png, tiles in rows, and SHEET.json, what each tile shows.

    Arguments:
        show: Keep only tiles whose labels agree with these, group -> label.
    """
    from PIL import Image

    index = json.loads(sheet.with_suffix(".json").read_text("utf-8"))
    with Image.open(sheet.with_suffix(".png")) as raw:
        whole = _tensor(raw.convert("RGB"))
    size, columns = index["size"], whole.shape[2] // index["size"]
    rows = [i for i, labels in enumerate(index["labels"]) if all(labels.get(k) == v for k, v in (show or {}).items())]
    if not rows:
        raise BadInput(f"no shipped picture shows {show}; give your own with --references DIR")
    spots = [((i // columns) * size, (i % columns) * size) for i in rows]
    tiles = [whole[:, y : y + size, x : x + size] for y, x in spots]
    return PictureSet(torch.stack(tiles), f"{sheet.parent.parent.name} test pictures", tuple(index["labels"][i] for i in rows))


def save(images: Tensor, folder_: Path, stem: str = "picture", first: int = 0) -> list[Path]:
    """Write pictures (N, 3, H, W) in [0, 1] as PNG files, numbered from `first`."""
    files.make(folder_)
    written = []
    for i, image in enumerate(images, first):
        written.append(folder_ / f"{stem}-{i:03d}.png")
        with files.written(written[-1]) as part:
            _picture(image).save(part, format="PNG")
    return written


def strip(images: Tensor, path: Path, *, blur: bool = False, gap: int = 2) -> Path:
    """Write pictures side by side as one PNG; `blur` makes them unrecognisable before anything reaches the disk."""
    if blur:
        small = torch.nn.functional.adaptive_avg_pool2d(images, 4)
        images = torch.nn.functional.interpolate(small, size=images.shape[-2:], mode="bilinear", align_corners=False)
    n, _, height, width = images.shape
    canvas = torch.ones(3, height, n * (width + gap) - gap)
    for i, image in enumerate(images):
        canvas[:, :, i * (width + gap) : i * (width + gap) + width] = image
    with files.written(path) as part:
        _picture(canvas).save(part, format="PNG")
    return path


def _picture(image: Tensor) -> Any:
    from PIL import Image

    return Image.fromarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy())
