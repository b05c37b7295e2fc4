"""Drawings of things from icon sets in Iconify's JSON: one drawing of each thing by every maker that drew it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from worlds.world import Drawings

SIDE = 64
INK = 54  # the longer side of a drawing, in pixels of SIDE


def svg(icon_set: Mapping[str, Any], name: str) -> str | None:
    """One icon as a file of its own, by its name or one of its other names; None where there is none."""
    name = icon_set.get("aliases", {}).get(name, {}).get("parent", name)
    icon = icon_set["icons"].get(name)
    if icon is None:
        return None
    width, height = (icon.get(side, icon_set.get(side, 16)) for side in ("width", "height"))
    space = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    box = f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}" width="{width}" height="{height}"'
    return f"<svg {space} {box}>{icon['body'].replace('currentColor', '#333333')}</svg>"


def drawn(text: str) -> np.ndarray:
    """(4, SIDE, SIDE) uint8, colours multiplied by opacity, the drawing filling the same square whatever its margins."""
    import resvg_py

    whole = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=text, width=192)))).convert("RGBA")
    pixels = np.asarray(whole).astype(np.float32)
    pixels[..., :3] *= pixels[..., 3:] / 255
    premultiplied = Image.fromarray(pixels.round().astype(np.uint8), "RGBA").crop(whole.getchannel("A").getbbox())
    scale = INK / max(premultiplied.size)
    # channels apart: Pillow would multiply by opacity once more
    size = [max(1, round(side * scale)) for side in premultiplied.size]
    small = [part.resize(size, Image.Resampling.BOX) for part in premultiplied.split()]
    tile = np.zeros((4, SIDE, SIDE), np.uint8)
    width, height = small[0].size
    left, top = (SIDE - width) // 2, (SIDE - height) // 2
    tile[:, top : top + height, left : left + width] = np.stack([np.asarray(part) for part in small])
    return tile


def icons(trained: Sequence[Path], held: Sequence[Path], names: Sequence[str]) -> Drawings:
    """Every thing by every maker; the label is the thing's place in `names`. A maker who did not draw a thing is passed over."""
    tiles, labels, out = [], [], []
    for folder in (*trained, *held):
        icon_set = json.loads((folder / "package/icons.json").read_text("utf-8"))
        for label, name in enumerate(names):
            text = svg(icon_set, name)
            if text is not None:
                tiles.append(drawn(text))
                labels.append(label)
                out.append(folder in held)
    made = Drawings(torch.from_numpy(np.stack(tiles)), torch.tensor(labels), torch.tensor(out))
    for part, wanted in (("trained", ~made.held), ("held out", made.held)):
        count = torch.bincount(made.label[wanted], minlength=len(names))
        print(f"{part}: {int(wanted.sum())} drawings, {int(count.min())} to {int(count.max())} of each thing")
    return made
