"""Reports as a reader meets them: their elements, a browser where there is one, and made-up numbers and pictures to fill them."""

from __future__ import annotations

import copy
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


def triple(value: float, spread: float, **more: Any) -> dict[str, Any]:
    return {"value": value, "low": value - spread, "high": value + spread, **more}


def rate(value: float, spread: float = 0.06) -> dict[str, Any]:
    return {"value": value, "low": max(0.0, value - spread), "high": min(1.0, value + spread), "count": 48}


SHOE = [(3, 23), (3, 13), (9, 11), (16, 17), (27, 19), (29, 23)]
SHIRT = [(9, 28), (9, 13), (4, 15), (8, 5), (24, 5), (28, 15), (23, 13), (23, 28)]


def tint(seed: int) -> tuple[int, int, int]:
    return (150 + 12 * (seed % 7), 170 - 9 * (seed % 5), 140 + 17 * (seed % 6))


def strip(path: Path, shoes: list[bool]) -> None:
    """A row of 32x32 pictures: a shoe's outline or a shirt's, in a tint that follows the seed."""
    picture = Image.new("RGB", (32 * len(shoes), 32), (12, 12, 14))
    for i, shoe in enumerate(shoes):
        outline = [(32 * i + x, y + i % 3 - 1) for x, y in (SHOE if shoe else SHIRT)]
        ImageDraw.Draw(picture).polygon(outline, fill=tint(i))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


class Page(HTMLParser):
    """The elements of a page, and its text without style sheets."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] != "style":
            self.text += " " + data

    def all(self, tag: str, kind: str = "") -> list[dict[str, str]]:
        return [found for name, found in self.elements if name == tag and kind in [*found.get("class", "").split(), ""]]


def paths(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every key and index below a value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, child in children for path in [(*place, key), *paths(child, (*place, key))]]


def changed(value: Any, path: tuple[Any, ...], *, remove: bool) -> Any:
    """A copy of a result with one entry removed or set to null."""
    whole = copy.deepcopy(value)
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    if remove:
        del inner[path[-1]]
    else:
        inner[path[-1]] = None
    return whole


def browse(page: Path, profile: Path, *more: str) -> tuple[str, list[str]]:
    """The page's elements as a headless browser holds them, and what its console said."""
    quiet = ("background-networking", "component-update", "sync", "default-apps", "extensions")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--enable-logging=stderr", "--v=0"]
    flags += [f"--disable-{name}" for name in quiet] + ["--force-color-profile=srgb", "--blink-settings=preferredColorScheme=1"]
    command = [str(BROWSER), *flags, f"--user-data-dir={profile}", *more, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
