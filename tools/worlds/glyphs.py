"""Drawings of single characters from folders of fonts: what cannot be read is left out, and families are parted, not files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from worlds.world import Drawings

SIDE = 48
INK = 38  # the longer side of a glyph, in pixels of SIDE
HELD = 2  # of five families that no network learns from
READ = 0.6  # share of a font's characters that have to lie nearer to their own mean than to any other
PER_FAMILY = 4  # a family of thirty weights is no thirty drawings


def fonts(folder: Path) -> Iterator[tuple[str, Path]]:
    """Family and file of every font, files in the order of their names; a family's files beyond `PER_FAMILY` are left out."""
    seen: dict[str, int] = {}
    for file in sorted(f for f in folder.rglob("*") if f.suffix.lower() in (".ttf", ".otf") and f.is_file()):
        try:
            family = ImageFont.truetype(str(file), 40).getname()[0] or file.stem
        except OSError:
            continue
        seen[family] = seen.get(family, 0) + 1
        if seen[family] <= PER_FAMILY:
            yield family, file


def drawn(file: Path, characters: Sequence[str]) -> np.ndarray | None:
    """(characters, SIDE, SIDE) uint8, bright on dark, each filling the same square; None where one is missing or two are the same."""
    font = ImageFont.truetype(str(file), 96)
    tiles = []
    for character in characters:
        try:
            left, top, right, bottom = font.getbbox(character)
        except OSError:
            return None
        if right - left < 4 or bottom - top < 4 or max(right - left, bottom - top) > 400:
            return None
        whole = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2))
        ImageDraw.Draw(whole).text((1 - left, 1 - top), character, fill=255, font=font)
        if (box := whole.getbbox()) is None:
            return None
        whole = whole.crop(box)
        scale = INK / max(whole.size)
        small = whole.resize([max(1, round(side * scale)) for side in whole.size], Image.Resampling.LANCZOS)
        tile = Image.new("L", (SIDE, SIDE))
        tile.paste(small, ((SIDE - small.width) // 2, (SIDE - small.height) // 2))
        tiles.append(np.asarray(tile))
    every = np.stack(tiles)
    return every if len({tile.tobytes() for tile in every}) == len(characters) else None


def readable(every: np.ndarray) -> np.ndarray:
    """Which fonts (F, characters, SIDE, SIDE) draw letters: most of their characters resemble the mean of all fonts' best."""
    flat = every.reshape(*every.shape[:2], SIDE // 4, 4, SIDE // 4, 4).mean((3, 5)).reshape(*every.shape[:2], -1).astype(np.float32)
    flat = flat - flat.mean(2, keepdims=True)
    flat /= np.linalg.norm(flat, axis=2, keepdims=True) + 1e-6
    mean = np.median(flat, 0)
    nearest = np.einsum("fcd,kd->fck", flat, mean / np.linalg.norm(mean, axis=1, keepdims=True)).argmax(2)
    return (nearest == np.arange(every.shape[1])).mean(1) >= READ


def held(family: str) -> bool:
    """Whether a family is held out; the same on every machine."""
    return int(hashlib.sha256(family.encode()).hexdigest(), 16) % 5 < HELD


def glyphs(folder: Path, characters: Sequence[str]) -> Drawings:
    """One drawing of every character from every readable font; the label is the character's place in the list."""
    families, tiles = [], []
    for family, file in fonts(folder):
        made = drawn(file, characters)
        if made is not None:
            families.append(family)
            tiles.append(made)
    every = np.stack(tiles)
    keep = readable(every)
    every, out = every[keep], np.array([held(f) for f, k in zip(families, keep, strict=True) if k])
    kept = {f for f, k in zip(families, keep, strict=True) if k}
    print(f"{len(every)} of {len(keep)} fonts, {len(kept)} families, {out.mean():.0%} held out")
    count = len(characters)
    return Drawings(
        raw=torch.from_numpy(every.reshape(-1, 1, SIDE, SIDE)),
        label=torch.arange(count).repeat(len(every)),
        held=torch.from_numpy(out).repeat_interleave(count),
    )
