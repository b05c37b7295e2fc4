"""Pictures of a world: its drawings, moved a little each time, in its styles.

python -m worlds.pictures WORLD    fetches and makes the drawings
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from worlds.world import Drawings, Moves, World, load

SIZE = 32
FEW = 4  # held-out drawings of an object; with fewer, references and tests are the same ones, in other positions


def drawings(world: World) -> Drawings:
    """Every drawing of a world, made once and then read from its build folder."""
    stored = world.build / "drawings.pt"
    if not stored.exists():
        (world.build / "downloads").mkdir(parents=True, exist_ok=True)
        world.fetch(world.build / "downloads")
        made = world.source(world.build / "downloads")
        torch.save({"raw": made.raw, "label": made.label, "held": made.held}, stored.with_suffix(".tmp"))
        stored.with_suffix(".tmp").replace(stored)
    return Drawings(**torch.load(stored, weights_only=True))


def moved(raw: torch.Tensor, moves: Moves, rng: torch.Generator) -> np.ndarray:
    """Drawings (n, channels, S, S) uint8, turned, scaled, shifted and perhaps mirrored: (n, 32, 32, channels) in [0, 1]."""
    n = len(raw)
    turn, zoom, across, down, mirror = torch.rand(5, n, generator=rng)
    angle = (2 * turn - 1) * math.radians(moves.turn)
    scale = 1 / (moves.zoom[0] + (moves.zoom[1] - moves.zoom[0]) * zoom)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = scale * angle.cos(), -scale * angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = scale * angle.sin(), scale * angle.cos()
    theta[:, 0, 2], theta[:, 1, 2] = ((2 * place - 1) * moves.shift * 2 / SIZE for place in (across, down))
    if moves.flip:
        theta[:, :, 0] *= torch.where(mirror < 0.5, -1.0, 1.0)[:, None]
    grid = F.affine_grid(theta, [n, 1, 2 * SIZE, 2 * SIZE], align_corners=False)
    sampled = F.grid_sample(raw.float() / 255, grid, padding_mode="zeros", align_corners=False)
    return F.avg_pool2d(sampled, 2).permute(0, 2, 3, 1).numpy()


@dataclass
class Pictures:
    """Rendered pictures of some of a world's drawings; those that a denoiser draws, or with the proxy object as well."""

    world: World
    raw: torch.Tensor
    label: torch.Tensor

    @classmethod
    def of(cls, world: World, *, held: bool, proxy: bool = True, part: str = "") -> Pictures:
        """What networks learn from, or the held-out drawings; `part` takes every second of each object's, where there are `FEW`.

        Arguments:
            proxy: Whether drawings of the proxy object are among them.
            part: "references", "test", or "" for all.
        """
        every = drawings(world)
        mine = (every.held == held) & (proxy | (every.label < len(world.objects)))
        if part:
            for label in every.label.unique():
                rows = torch.nonzero(mine & (every.label == label)).flatten()
                if len(rows) >= FEW:
                    mine[rows[1::2] if part == "references" else rows[::2]] = False
        return cls(world, every.raw[mine], every.label[mine])

    def balanced(self, size: int, rng: torch.Generator) -> torch.Tensor:
        """`size` rows, every object as often as any other."""
        count = torch.bincount(self.label, minlength=len(self.world.all_objects)).float()
        return torch.multinomial(1 / count[self.label], size, replacement=True, generator=rng)

    def drawn(self, rows: torch.Tensor, style: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        """Drawings in styles (indices of `World.all_styles`): (n, 3, 32, 32) in [0, 1], as 8 bits would hold them."""
        plain = moved(self.raw[rows], self.world.moves, rng)
        out = np.empty((*plain.shape[:3], 3), np.float32)
        for index, name in enumerate(self.world.all_styles):
            mine = np.flatnonzero(style.numpy() == index)
            if len(mine):
                out[mine] = np.round(np.clip(self.world.renderers[name](plain[mine]), 0, 1) * 255) / 255
        return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()

    def sample(self, size: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`size` pictures of objects and styles at random, with the indices of both."""
        rows = self.balanced(size, rng)
        style = torch.randint(len(self.world.all_styles), (size,), generator=rng)
        return self.drawn(rows, style, rng), self.label[rows], style


def sheet(pictures: torch.Tensor, columns: int, scale: int = 2) -> np.ndarray:
    """A contact sheet of (N, 3, 32, 32) in [0, 1]: (rows * 34 * scale, columns * 34 * scale, 3) uint8."""
    tiles = (pictures.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    rows = -(-len(tiles) // columns)
    canvas = np.full((rows * columns, 34, 34, 3), 255, np.uint8)
    canvas[: len(tiles), 1:33, 1:33] = tiles
    flat = canvas.reshape(rows, columns, 34, 34, 3).transpose(0, 2, 1, 3, 4).reshape(rows * 34, columns * 34, 3)
    return flat.repeat(scale, 0).repeat(scale, 1)


if __name__ == "__main__":
    drawings(load(sys.argv[1]))
