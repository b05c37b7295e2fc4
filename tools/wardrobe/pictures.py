"""Pictures of the embedded world: Fashion-MNIST photographs and handwritten digits, rendered in nine styles.

Every renderer maps grey pictures, (N, 32, 32) in [0, 1] with a dark background, to RGB, (N, 32, 32, 3) in [0, 1].
Renderers are deterministic: the same photograph in the same style is always the same picture.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import kit  # noqa: F401
import numpy as np
from scipy import ndimage
from world import ALL_STYLES, GARMENTS, OBJECTS, PROXY_OBJECT

from worlds import styles

Array = np.ndarray

RENDERERS: dict[str, Callable[[Array], Array]] = {name: getattr(styles, name) for name in ALL_STYLES}


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
