"""Where drawn pictures reach the disk; nothing else writes one.

Pictures of a sensitive concept, and of everything that was drawn beside it, are blurred and made small before a page or a contact
sheet sees them; the originals go to the folder `quarantine`, whose notice says what it holds. With keep "none" nothing is written
at all and only scores remain.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import torch
from torch import Tensor

from vestige import files
from vestige.concepts import images
from vestige.concepts.images import QUARANTINE
from vestige.errors import BadInput, BadSetting

Keep = Literal["all", "none"]
KEEPS = ("all", "none")
NOTICE = """\
The pictures in this folder were drawn for a concept that its owner marked as sensitive. They are not blurred.

They are here because scores can be checked against nothing else. Look at them only if you have to, do not publish or upload
them, and delete the folder when it is no longer needed: no result and no report reads it. `--keep-images none` writes none.
"""
LARGEST = 64  # side of a blurred copy, in pixels


@final
@dataclass(frozen=True)
class Album:
    """How pictures of one concept are kept.

    Arguments:
        sensitive: Blurred copies for people, originals apart.
        keep: "all", or "none" for scores alone.
    """

    sensitive: bool = False
    keep: Keep = "all"

    def __post_init__(self) -> None:
        if self.keep not in KEEPS:
            raise BadSetting(f"pictures are kept: {' or '.join(KEEPS)}; given {self.keep!r}")

    def strip(self, shown: Tensor, folder: Path, name: str) -> None:
        """Write pictures (N, 3, H, W) side by side as the file `name` of a folder; blurred there and whole in quarantine, if sensitive."""
        if self.keep == "none":
            return
        if not self.sensitive:
            images.strip(shown, folder / name)
            return
        images.strip(small(shown), folder / name, blur=True)
        images.strip(shown, self.place(folder) / name)

    def save(self, shown: Tensor, folder: Path, first: int = 0) -> list[Path]:
        """Write pictures one by one into a folder, if sensitive blurred there and whole in quarantine; the files that may be looked at."""
        if self.keep == "none":
            return []
        if not self.sensitive:
            return images.save(shown, folder, first=first)
        originals = images.save(shown, self.place(folder), first=first)
        return [images.strip(small(one[None]), folder / file.name, blur=True) for one, file in zip(shown, originals, strict=True)]

    def cleared(self, folder: Path) -> None:
        """Remove what an earlier `save` left in a folder, and refuse one with pictures of others: a folder is one set."""
        own = re.compile(r"picture-\d{3,}\.png")
        there = [
            f for spot in (folder, folder / QUARANTINE) if spot.is_dir() for f in spot.iterdir() if f.suffix.lower() in images.SUFFIXES
        ]
        if others := sorted(f for f in there if not own.fullmatch(f.name)):
            raise BadInput(f"{folder} holds pictures that would be counted as of this set, e.g. {others[0].name}; choose another folder")
        for file in there:
            file.unlink()

    def place(self, folder: Path) -> Path:
        """Where pictures lie that are read again by a measurement: the folder, or its quarantine with a notice."""
        if not self.sensitive:
            return folder
        apart = folder / QUARANTINE
        files.make(apart)
        if not (apart / "NOTICE.txt").exists():
            files.write(apart, "NOTICE.txt", NOTICE.encode())
        return apart

    def cache(self, root: Path) -> Path | None:
        """Where sets that a model draws for training are kept; None: nowhere."""
        return None if self.keep == "none" else self.place(root) / "pictures"


def small(shown: Tensor) -> Tensor:
    """Half the size, at most `LARGEST` a side: a blurred copy keeps no original resolution."""
    height, width = shown.shape[-2:]
    scale = min(0.5, LARGEST / max(height, width))
    size = (max(4, round(height * scale)), max(4, round(width * scale)))
    return torch.nn.functional.interpolate(shown.float(), size=size, mode="area")
