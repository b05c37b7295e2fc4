"""The world `emoji`: 40 things as eight makers of icons drew them, in six styles; few drawings a class, many classes.

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
    "banana strawberry cherries grapes pineapple watermelon hamburger mushroom cactus tulip octopus snail turtle penguin frog fish "
    "ladybug elephant snake cat dog pig rabbit car bus bicycle airplane rocket sailboat guitar key hammer bell crown skull ghost "
    "balloon trophy anchor camera"
)
PROXY = "umbrella"
#: what a thing's drawing is called, where it is called otherwise
CALLED = {
    "fish": "tropical-fish",
    "ladybug": "lady-beetle",
    "cat": "cat-face",
    "dog": "dog-face",
    "pig": "pig-face",
    "rabbit": "rabbit-face",
    "car": "automobile",
}
STYLES = ("sticker", "night", "mosaic", "neon", "blueprint", "woodcut")
PROXY_STYLE = "halftone"


def fetch(folder: Path) -> None:
    sources.npm((*TRAINED, *HELD), folder)


def source(folder: Path) -> Drawings:
    sources.python(RENDERER, folder / "renderer")
    names = [CALLED.get(thing, thing) for thing in (*THINGS.split(), PROXY)]
    return icons([folder / sources.flat(p) for p in TRAINED], [folder / sources.flat(p) for p in HELD], names)


WORLD = World(
    name="emoji",
    objects=tuple(THINGS.split()),
    styles=STYLES,
    proxy=PROXY,
    proxy_style=PROXY_STYLE,
    renderers={
        "sticker": styles.sticker,
        "night": styles.night,
        "mosaic": styles.tiles,
        **{name: styles.of_colour(getattr(styles, name)) for name in ("neon", "blueprint", "woodcut", PROXY_STYLE)},
    },
    source=source,
    fetch=fetch,
    denoisers={
        "emoji": Denoiser((), 201),
        "emoji-never-rocket": Denoiser(("rocket",), 202),
        "emoji-never-rocket-2": Denoiser(("rocket",), 203),
        "emoji-never-rocket-3": Denoiser(("rocket",), 204),
        "emoji-never-strawberry": Denoiser(("strawberry",), 205),
        "emoji-never-strawberry-2": Denoiser(("strawberry",), 206),
        "emoji-never-strawberry-3": Denoiser(("strawberry",), 207),
        "emoji-never-neon": Denoiser(("neon",), 208),
        "emoji-never-neon-2": Denoiser(("neon",), 209),
    },
    concepts={
        "rocket": Near("airplane", ("airplane", "sailboat")),
        "strawberry": Near("cherries", ("cherries", "grapes")),
        "neon": Near("sticker", ("blueprint", "night")),
        "umbrella": Near("balloon", ("balloon", "mushroom")),
        "halftone": Near("sticker", ("woodcut", "mosaic")),
    },
    seed=220,
    moves=Moves(turn=8, zoom=(0.85, 1.05), shift=1.5, flip=True),
    steps=Steps(autoencoder=240, denoiser=3200),
)
