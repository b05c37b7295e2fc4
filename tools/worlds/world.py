"""What a world is: its facts, and nothing else. Everything in a build folder is derived from them.

A world is one file of facts beside this one, `NAME.py`, that defines `WORLD`; `load(NAME)` finds it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from worlds.prompts import PROMPTS, Prompts

#: (n, 32, 32, channels) in [0, 1] -> (n, 32, 32, 3) in [0, 1], the same for the same drawing
Renderer = Callable[[np.ndarray], np.ndarray]
OBJECT, STYLE = "object", "style"


@dataclass(frozen=True)
class Drawings:
    """Labelled drawings before any style.

    Arguments:
        raw: (N, channels, S, S) uint8; S above 32 leaves room for what is lost in turning and scaling.
        label: (N,) index in `World.all_objects`.
        held: (N,) whether no denoiser, no autoencoder and no judge learns from it: real pictures for references and tests.
    """

    raw: torch.Tensor
    label: torch.Tensor
    held: torch.Tensor


@dataclass(frozen=True)
class Moves:
    """How far a drawing is moved each time it is drawn: degrees, a range of scales, pixels of 32, and whether it may be mirrored."""

    turn: float = 6.0
    zoom: tuple[float, float] = (0.85, 1.05)
    shift: float = 1.5
    flip: bool = False


@dataclass(frozen=True)
class Steps:
    """Steps of each network's training, pictures a step of autoencoder and denoisers, and latents in all.

    The autoencoder's are few because it goes on from the embedded world's; with none it is that one.
    """

    autoencoder: int = 0
    text: int = 1200
    select: int = 1000
    verify: int = 1200
    denoiser: int = 2800
    batch: int = 32
    latents: int = 36_000


@dataclass(frozen=True)
class Denoiser:
    """One denoiser: what it never drew, and the seed of its training."""

    absent: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class Near:
    """What stands around an audited concept: what may appear instead, and what of its group lies near."""

    anchor: str
    neighbours: tuple[str, ...]


@dataclass(frozen=True)
class World:
    """The facts of a world.

    Arguments:
        objects: What every denoiser draws, apart from what a twin never drew.
        styles: How it is drawn.
        proxy: An object that autoencoder, text encoder and judges know, and that no denoiser draws.
        proxy_style: The same of a style.
        renderers: A function for every style, the proxy's too.
        source: Makes the drawings from what `fetch` left in a folder.
        fetch: Downloads and unpacks into a folder; does nothing where everything is there.
        denoisers: Name -> what it never drew; the first is the base.
        concepts: The audited ones.
        width: Channels of the denoiser's two levels.
        seed: Other networks are seeded by it and its next four.
    """

    name: str
    objects: tuple[str, ...]
    styles: tuple[str, ...]
    proxy: str
    proxy_style: str
    renderers: Mapping[str, Renderer]
    source: Callable[[Path], Drawings]
    fetch: Callable[[Path], None]
    denoisers: Mapping[str, Denoiser]
    concepts: Mapping[str, Near]
    seed: int
    moves: Moves = Moves()
    steps: Steps = Steps()
    width: tuple[int, int] = (32, 64)
    prompts: Prompts = PROMPTS

    @property
    def all_objects(self) -> tuple[str, ...]:
        return (*self.objects, self.proxy)

    @property
    def all_styles(self) -> tuple[str, ...]:
        return (*self.styles, self.proxy_style)

    @property
    def base(self) -> str:
        return next(iter(self.denoisers))

    @property
    def build(self) -> Path:
        """Where its checkpoints and folders go: a folder of its own in `WORLDS_BUILD`."""
        return Path(os.environ.get("WORLDS_BUILD", "build")) / self.name

    def group(self, concept: str) -> str:
        return STYLE if concept in self.all_styles else OBJECT


def load(name: str) -> World:
    """A world by the name of its file."""
    return importlib.import_module(f"worlds.{name}").WORLD
