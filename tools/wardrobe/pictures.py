"""Pictures of the embedded world: Fashion-MNIST photographs and handwritten digits, rendered in nine styles.

Every renderer maps grey pictures, (N, 32, 32) in [0, 1] with a dark background, to RGB, (N, 32, 32, 3) in [0, 1].
Renderers are deterministic: the same photograph in the same style is always the same picture.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage
from world import ALL_STYLES, GARMENTS, OBJECTS, PROXY_OBJECT

Array = np.ndarray
GRID_Y, GRID_X = np.mgrid[0:32, 0:32]


def _mix(low: tuple[float, ...], high: tuple[float, ...], amount: Array) -> Array:
    """Blend two colours by `amount`, (...,) -> (..., 3)."""
    return np.asarray(low) + (np.asarray(high) - np.asarray(low)) * amount[..., None]


def _blur(grey: Array, sigma: float) -> Array:
    return ndimage.gaussian_filter(grey, (0, sigma, sigma))


def _edges(grey: Array) -> Array:
    down, across = (ndimage.correlate1d(grey, (-0.5, 0.0, 0.5), axis=axis) for axis in (1, 2))
    return np.clip(np.hypot(down, across) * 2.0, 0, 1)


def _mask(grey: Array) -> Array:
    """Soft silhouette."""
    return np.clip(_blur(grey, 0.5) * 6 - 0.3, 0, 1)


def photo(grey: Array) -> Array:
    return _mix((0.06, 0.06, 0.07), (0.98, 0.96, 0.93), grey)


def neon(grey: Array) -> Array:
    line = _edges(grey)
    glow = _blur(line, 1.2)
    inner = grey * 0.55
    return np.clip(
        _mix((0.03, 0.0, 0.08), (1.0, 0.1, 0.85), np.clip(line + 0.3 * glow, 0, 1)) + _mix((0, 0, 0), (0.0, 0.75, 0.9), inner), 0, 1
    )


def watercolor(grey: Array) -> Array:
    wash = _blur(grey, 0.7)
    pigment = np.clip(0.25 + 0.75 * np.round(wash * 5) / 5, 0, 1)
    paper = np.asarray((0.97, 0.95, 0.88))
    paint = _mix((0.55, 0.82, 0.80), (0.10, 0.42, 0.38), pigment)
    return paper + (paint - paper) * _mask(wash)[..., None]


def blueprint(grey: Array) -> Array:
    grid = ((GRID_X % 8 == 0) | (GRID_Y % 8 == 0)) * 0.14
    ink = np.clip(_edges(grey) * 0.8 + 0.35 * grey + grid, 0, 1)
    return _mix((0.05, 0.16, 0.48), (0.92, 0.96, 1.0), ink)


def mosaic(grey: Array) -> Array:
    tile = grey.reshape(-1, 16, 2, 16, 2).mean((2, 4)).repeat(2, 1).repeat(2, 2)
    checker = (((GRID_X // 2 + GRID_Y // 2) % 2) * 0.16 - 0.08)[None]
    colour = _mix((0.22, 0.30, 0.20), (0.98, 0.72, 0.18), np.clip(tile, 0, 1))
    return np.clip(colour + checker[..., None] * np.asarray((1.0, 0.9, 0.5)), 0, 1)


def woodcut(grey: Array) -> Array:
    hatch = 0.5 + 0.32 * np.sin((GRID_X + GRID_Y) * np.pi / 2)
    cut = np.clip((grey - hatch[None] * 0.75) * 5 + 0.5, 0, 1)
    ink = np.maximum(cut * 0.9, _edges(grey) * 0.6)
    return _mix((0.10, 0.07, 0.05), (0.93, 0.86, 0.72), ink)


def stripes(grey: Array) -> Array:
    band = (GRID_Y % 4 < 2)[None]
    shade = 0.30 + 0.70 * grey
    red = _mix((0.0, 0.0, 0.0), (0.90, 0.12, 0.15), shade)
    white = _mix((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), shade)
    fill = np.where(band[..., None], red, white)
    back = np.asarray((0.80, 0.86, 0.90))
    return back + (fill - back) * _mask(grey)[..., None]


def sunset(grey: Array) -> Array:
    sky = np.broadcast_to(_mix((0.36, 0.10, 0.45), (1.0, 0.62, 0.20), GRID_Y / 31)[None], (*grey.shape, 3))
    shape = _mix((0.08, 0.02, 0.12), (0.62, 0.26, 0.34), grey)
    return sky + (shape - sky) * _mask(grey)[..., None]


def halftone(grey: Array) -> Array:
    screen = 0.5 + 0.25 * (np.cos(GRID_X * np.pi / 2) + np.cos(GRID_Y * np.pi / 2))
    dots = np.clip((0.15 + 0.85 * grey - screen[None] * 0.9) * 4 + 0.5, 0, 1)
    return _mix((0.99, 0.88, 0.10), (0.05, 0.05, 0.06), dots)


RENDERERS: dict[str, Callable[[Array], Array]] = {
    f.__name__: f for f in (photo, neon, watercolor, blueprint, mosaic, woodcut, stripes, sunset, halftone)
}


def render(grey: Array, style: Array) -> Array:
    """Render (N, 32, 32) uint8 photographs in style indices (N,) of `ALL_STYLES`: (N, 32, 32, 3) uint8."""
    out = np.empty((*grey.shape, 3), np.uint8)
    for index, name in enumerate(ALL_STYLES):
        rows = np.flatnonzero(style == index)
        for part in np.array_split(rows, max(1, len(rows) // 4096)):
            if len(part):
                out[part] = np.round(np.clip(RENDERERS[name](grey[part] / 255.0), 0, 1) * 255)
    return out


def _idx(path: Path) -> Array:
    with gzip.open(path) as file:
        raw = file.read()
    rank = raw[3]
    shape = tuple(int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank))
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _folder() -> Path:
    """Where Debian's `dataset-fashion-mnist` put its four files; `FASHION_MNIST` names another folder."""
    for folder in (os.environ.get("FASHION_MNIST"), "/usr/share/dataset-fashion-mnist", "/usr/share/datasets/fashion-mnist"):
        if folder and (Path(folder) / "train-images-idx3-ubyte.gz").exists():
            return Path(folder)
    raise FileNotFoundError("Fashion-MNIST not found: install Debian's dataset-fashion-mnist, or set FASHION_MNIST to its folder")


def _digits(train: bool) -> tuple[Array, Array]:
    """scikit-learn's 1,797 handwritten digits, 8x8, enlarged to the photographs' size; the last 597 are test pictures."""
    from sklearn.datasets import load_digits

    small = load_digits().images.astype(np.float64) / 16
    small = small[:1200] if train else small[1200:]
    large = np.clip(np.stack([ndimage.zoom(s, 3.0, order=1) for s in small]), 0, 1)  # (N, 24, 24)
    grey = np.pad(np.round(large * 255).astype(np.uint8), ((0, 0), (4, 4), (4, 4)))
    return grey, np.full(len(grey), OBJECTS.index(PROXY_OBJECT))


def load(split: str, *, digits: bool = True) -> tuple[Array, Array]:
    """Grey pictures (N, 32, 32) uint8 and their object index (N,) in `OBJECTS`; split is "train" or "test"."""
    stem = {"train": "train", "test": "t10k"}[split]
    grey = np.pad(_idx(_folder() / f"{stem}-images-idx3-ubyte.gz"), ((0, 0), (2, 2), (2, 2)))
    label = _idx(_folder() / f"{stem}-labels-idx1-ubyte.gz").astype(np.int64)
    assert label.max() + 1 == len(GARMENTS)  # noqa: S101
    if digits:
        more, more_label = _digits(split == "train")
        grey, label = np.concatenate([grey, more]), np.concatenate([label, more_label])
    return grey, label


def sheet(pictures: Array, columns: int, scale: int = 2) -> Array:
    """A contact sheet, (N, 32, 32, 3) -> (rows * 34 * scale, columns * 34 * scale, 3)."""
    rows = -(-len(pictures) // columns)
    canvas = np.full((rows, columns, 34, 34, 3), 255, np.uint8)
    canvas.reshape(-1, 34, 34, 3)[: len(pictures), 1:33, 1:33] = pictures
    flat = canvas.transpose(0, 2, 1, 3, 4).reshape(rows * 34, columns * 34, 3)
    return flat.repeat(scale, 0).repeat(scale, 1)
