"""Runs on their way between machines: a folder as bytes, and bytes as a folder that is there whole or not at all."""

from __future__ import annotations

import io
import secrets
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

LEFT_BEHIND = frozenset({"lock"})  # who works on a folder here works on none elsewhere
WORDS = frozenset({".json", ".jsonl", ".html"})  # files in which places are written


def archived(folder: Path) -> bytes:
    """A folder and all that is in it."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in LEFT_BEHIND):
            archive.write(file, str(file.relative_to(folder)))
    return held.getvalue()


def extracted(data: bytes, folder: Path, *, replace: bool = False, places: Mapping[str, str] | None = None) -> None:
    """Lay a packed folder down.

    Arguments:
        replace: Whether it takes the place of one that is there, which otherwise is left as it is. What the other holds beside it stays.
        places: Words to be written in place of others in its texts: where the same folders lie here.
    """
    if not replace and (folder / "result.json").exists():
        return
    part = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.part")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.extractall(part)
    if places:
        _renamed(part, places)
    if not folder.exists():
        try:
            part.rename(folder)
            return
        except OSError:  # another process was faster
            if not folder.exists():
                raise
    # Its result last: a run counts as done by it.
    files = sorted((p for p in part.rglob("*") if p.is_file()), key=lambda p: p.name == "result.json")
    for file in files:
        place = folder / file.relative_to(part)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.replace(place)
    shutil.rmtree(part)


def _renamed(folder: Path, places: Mapping[str, str]) -> None:
    for file in (p for p in folder.rglob("*") if p.suffix in WORDS):
        text = file.read_text("utf-8")
        for there, here in places.items():
            text = text.replace(there, here)
        file.write_text(text, "utf-8")
