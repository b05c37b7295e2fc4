"""A folder of true pictures of some garments, as a user's folder would be: the test photographs, rendered in the world's styles.

    FASHION_MNIST=... python tools/wardrobe/real.py sneaker --count 1000 --out build/real/sneaker
    FASHION_MNIST=... python tools/wardrobe/real.py sandal boot --count 96 --out build/real/look-alike

Styles take turns, and so do garments; the captions in `metadata.jsonl` are the world's training prompts. There are
1,000 photographs of a garment that no model saw; those that calibrate the judges are among them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from pictures import load, render
from PIL import Image
from world import ALL_STYLES, OBJECTS, STYLES, TRAIN_BOTH


def written(garments: list[str], count: int, out: Path) -> None:
    """`count` pictures in all."""
    grey, label = load("test", digits=False)
    places = [np.flatnonzero(label == OBJECTS.index(garment)) for garment in garments]
    each = -(-count // len(garments))
    if each > min(map(len, places)):
        raise SystemExit(f"{each} of each of {garments} are wanted; {min(map(len, places))} exist")
    rows = np.stack([place[:each] for place in places], 1).reshape(-1)[:count]
    styles = np.arange(count) // len(garments) % len(STYLES)
    drawn = render(grey[rows], np.array([ALL_STYLES.index(STYLES[s]) for s in styles]))
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, picture in enumerate(drawn):
        name, garment, style = f"{i:04d}.png", OBJECTS[label[rows[i]]], STYLES[styles[i]]
        Image.fromarray(picture).save(out / name)
        lines.append(json.dumps({"file_name": name, "text": TRAIN_BOTH[i % len(TRAIN_BOTH)].format(garment=garment, style=style)}))
    (out / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("garments", nargs="+", choices=OBJECTS)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    written(options.garments, options.count, options.out)


if __name__ == "__main__":
    main()
