"""Where the embedded world is built, and the loop that trains every network of it; see `worlds.loop`."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import kit  # noqa: F401

from worlds import loop

BUILD = Path(os.environ.get("WARDROBE_BUILD", "build/wardrobe"))
generator, train = loop.generator, partial(loop.train, BUILD)
