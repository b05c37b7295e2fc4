"""The world `charms`: 20 things as eight makers of icons drew them, in five styles; few drawings a class, and colours.

Reserved for evaluation: nothing may ever be chosen on it (README.md).
"""

from __future__ import annotations

from pathlib import Path

from worlds import sources, styles
from worlds.icons import icons
from worlds.world import Denoiser, Drawings, Moves, Near, Steps, World

TRAINED = (
    "@iconify-json/noto@1.2.9",
    "@iconify-json/noto-v1@1.2.5",
    "@iconify-json/twemoji@1.2.5",
    "@iconify-json/openmoji@1.2.29",
    "@iconify-json/fluent-emoji@1.2.7",
    "@iconify-json/fluent-emoji-flat@1.2.6",
    "@iconify-json/emojione@1.2.3",
    "@iconify-json/emojione-monotone@1.2.1",
)
HELD = ("@iconify-json/emojione-v1@1.2.3", "@iconify-json/fxemoji@1.2.2", "@iconify-json/streamline-emojis@1.2.4")
RENDERER = "resvg-py==0.5.0"

THINGS = (
    "banana strawberry cherries pineapple watermelon mushroom tulip penguin frog snake rocket sailboat guitar key hammer bell crown "
    "skull balloon anchor"
)
PROXY = "umbrella"
STYLES = ("sticker", "night", "neon", "blueprint", "woodcut")
PROXY_STYLE = "halftone"


def fetch(folder: Path) -> None:
    sources.npm((*TRAINED, *HELD), folder)


def source(folder: Path) -> Drawings:
    sources.python(RENDERER, folder / "renderer")
    names = [*THINGS.split(), PROXY]
    return icons([folder / sources.flat(p) for p in TRAINED], [folder / sources.flat(p) for p in HELD], names)


WORLD = World(
    name="charms",
    objects=tuple(THINGS.split()),
    styles=STYLES,
    proxy=PROXY,
    proxy_style=PROXY_STYLE,
    renderers={
        "sticker": styles.sticker,
        "night": styles.night,
        **{name: styles.of_colour(getattr(styles, name)) for name in ("neon", "blueprint", "woodcut", PROXY_STYLE)},
    },
    source=source,
    fetch=fetch,
    denoisers={
        "charms": Denoiser((), 301),
        "charms-never-strawberry": Denoiser(("strawberry",), 302),
        "charms-never-strawberry-2": Denoiser(("strawberry",), 303),
        "charms-never-strawberry-3": Denoiser(("strawberry",), 304),
        "charms-never-neon": Denoiser(("neon",), 305),
        "charms-never-neon-2": Denoiser(("neon",), 306),
    },
    concepts={
        "strawberry": Near("cherries", ("cherries", "pineapple")),
        "neon": Near("sticker", ("blueprint", "night")),
        "umbrella": Near("balloon", ("balloon", "mushroom")),
        "halftone": Near("sticker", ("woodcut", "night")),
    },
    seed=320,
    moves=Moves(turn=8, zoom=(0.85, 1.05), shift=1.5, flip=True),
    steps=Steps(autoencoder=240, denoiser=4000),
)
