"""What ships, and where each thing lies: weights, tables, templates, pictures."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any, Literal

WORLD = "wardrobe"  # what an unknown world falls back to: the embedded one
PROXY = {"object": "digit", "style": "halftone"}  # by group, what the worlds know and no denoiser has seen


def folder() -> Path:
    """The package's data."""
    return Path(__file__).parent


def references(world: str) -> Path:
    """The contact sheet of a world's real test pictures, without its ending."""
    return folder() / (world or WORLD) / "pictures/references"


def judge(world: str, role: Literal["verify", "select"]) -> Path:
    """The folder of one of a world's two judges."""
    return folder() / (world or WORLD) / f"judge-{role}"


def shipped_table(name: str) -> dict[str, Any]:
    """A table that ships, NAME.toml, e.g. "suites/quick"."""
    return toml((folder() / f"{name}.toml").read_text("utf-8"))


def toml(text: str) -> dict[str, Any]:
    """Parse TOML on every supported Python; the same text, such as the package's own tables, once."""
    return copy.deepcopy(_parsed(text))


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> dict[str, Any]:
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib  # type: ignore[no-redef,import-not-found]
    loaded: dict[str, Any] = tomllib.loads(text)
    return loaded
