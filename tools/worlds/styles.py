"""Styles: drawings (n, 32, 32), grey and bright on dark, in [0, 1], to pictures (n, 32, 32, 3); some take colours instead.

The same drawing is always the same picture.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

Array = np.ndarray
GRID_Y, GRID_X = np.mgrid[0:32, 0:32]


def mix(low: tuple[float, ...], high: tuple[float, ...], amount: Array) -> Array:
    """Blend two colours by `amount`, (...,) -> (..., 3)."""
    return np.asarray(low) + (np.asarray(high) - np.asarray(low)) * amount[..., None]


def blur(grey: Array, sigma: float) -> Array:
    return ndimage.gaussian_filter(grey, (0, sigma, sigma))


def edges(grey: Array) -> Array:
    down, across = (ndimage.correlate1d(grey, (-0.5, 0.0, 0.5), axis=axis) for axis in (1, 2))
    return np.clip(np.hypot(down, across) * 2.0, 0, 1)


def mask(grey: Array) -> Array:
    """Soft silhouette."""
    return np.clip(blur(grey, 0.5) * 6 - 0.3, 0, 1)


def photo(grey: Array) -> Array:
    return mix((0.06, 0.06, 0.07), (0.98, 0.96, 0.93), grey)


def neon(grey: Array) -> Array:
    line = edges(grey)
    glow = blur(line, 1.2)
    inner = grey * 0.55
    return np.clip(
        mix((0.03, 0.0, 0.08), (1.0, 0.1, 0.85), np.clip(line + 0.3 * glow, 0, 1)) + mix((0, 0, 0), (0.0, 0.75, 0.9), inner), 0, 1
    )


def watercolor(grey: Array) -> Array:
    wash = blur(grey, 0.7)
    pigment = np.clip(0.25 + 0.75 * np.round(wash * 5) / 5, 0, 1)
    paper = np.asarray((0.97, 0.95, 0.88))
    paint = mix((0.55, 0.82, 0.80), (0.10, 0.42, 0.38), pigment)
    return paper + (paint - paper) * mask(wash)[..., None]


def blueprint(grey: Array) -> Array:
    grid = ((GRID_X % 8 == 0) | (GRID_Y % 8 == 0)) * 0.14
    ink = np.clip(edges(grey) * 0.8 + 0.35 * grey + grid, 0, 1)
    return mix((0.05, 0.16, 0.48), (0.92, 0.96, 1.0), ink)


def mosaic(grey: Array) -> Array:
    tile = grey.reshape(-1, 16, 2, 16, 2).mean((2, 4)).repeat(2, 1).repeat(2, 2)
    checker = (((GRID_X // 2 + GRID_Y // 2) % 2) * 0.16 - 0.08)[None]
    colour = mix((0.22, 0.30, 0.20), (0.98, 0.72, 0.18), np.clip(tile, 0, 1))
    return np.clip(colour + checker[..., None] * np.asarray((1.0, 0.9, 0.5)), 0, 1)


def woodcut(grey: Array) -> Array:
    hatch = 0.5 + 0.32 * np.sin((GRID_X + GRID_Y) * np.pi / 2)
    cut = np.clip((grey - hatch[None] * 0.75) * 5 + 0.5, 0, 1)
    ink = np.maximum(cut * 0.9, edges(grey) * 0.6)
    return mix((0.10, 0.07, 0.05), (0.93, 0.86, 0.72), ink)


def stripes(grey: Array) -> Array:
    band = (GRID_Y % 4 < 2)[None]
    shade = 0.30 + 0.70 * grey
    red = mix((0.0, 0.0, 0.0), (0.90, 0.12, 0.15), shade)
    white = mix((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), shade)
    fill = np.where(band[..., None], red, white)
    back = np.asarray((0.80, 0.86, 0.90))
    return back + (fill - back) * mask(grey)[..., None]


def sunset(grey: Array) -> Array:
    sky = np.broadcast_to(mix((0.36, 0.10, 0.45), (1.0, 0.62, 0.20), GRID_Y / 31)[None], (*grey.shape, 3))
    shape = mix((0.08, 0.02, 0.12), (0.62, 0.26, 0.34), grey)
    return sky + (shape - sky) * mask(grey)[..., None]


def halftone(grey: Array) -> Array:
    screen = 0.5 + 0.25 * (np.cos(GRID_X * np.pi / 2) + np.cos(GRID_Y * np.pi / 2))
    dots = np.clip((0.15 + 0.85 * grey - screen[None] * 0.9) * 4 + 0.5, 0, 1)
    return mix((0.99, 0.88, 0.10), (0.05, 0.05, 0.06), dots)


def over(colour: Array, ground: Array) -> Array:
    """Colours multiplied by opacity, (n, 32, 32, 4), over a ground."""
    return colour[..., :3] + (1 - colour[..., 3:]) * ground


def sticker(colour: Array) -> Array:
    """Its own colours on paper, with a pale rim."""
    rim = np.clip(blur(colour[..., 3], 1.0) * 3, 0, 1)
    return over(colour, mix((0.86, 0.88, 0.90), (1.0, 1.0, 1.0), rim))


def night(colour: Array) -> Array:
    """Its own colours, darker, before a dark sky."""
    sky = mix((0.02, 0.03, 0.12), (0.10, 0.16, 0.34), GRID_Y / 31)[None]
    return over(colour * np.asarray((0.72, 0.78, 0.95, 1.0)), sky)


def tiles(colour: Array) -> Array:
    """Its own colours in tiles of 2 x 2, the ground a warm grey."""
    whole = over(colour, np.asarray((0.62, 0.55, 0.42)))
    tile = whole.reshape(-1, 16, 2, 16, 2, 3).mean((2, 4)).repeat(2, 1).repeat(2, 2)
    checker = (((GRID_X // 2 + GRID_Y // 2) % 2) * 0.16 - 0.08)[None]
    return np.clip(tile * 0.85 + 0.05 + checker[..., None], 0, 1)


def of_colour(style: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A style of grey drawings for coloured ones: light where they are light, and never as dark as the ground."""
    weights = np.asarray((0.65 * 0.299, 0.65 * 0.587, 0.65 * 0.114, 0.35))
    return lambda colour: style(colour @ weights)


def of_one(style: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A style of drawings with one channel, (n, 32, 32, 1)."""
    return lambda plain: style(plain[..., 0])
