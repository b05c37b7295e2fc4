"""What a file is, by its first bytes; nothing in it is trusted."""

from __future__ import annotations

import re
from pathlib import Path

from vestige.errors import BadInput

_STARTS = {
    b"version https://git-lfs": "a Git LFS pointer, which stands for a file that was not fetched (`git lfs pull` fetches it)",
    b"PK\x03\x04": "a zip archive, as `torch.save` writes",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF\r\n": "an HDF5 file",
    b"GGUF": "a GGUF file of quantised weights",
    b"\xff\xd8\xff": "a picture (JPEG)",
    b"\x89PNG": "a picture (PNG)",
    b"GIF8": "a picture (GIF)",
    b"%PDF": "a PDF document",
    b"\x1f\x8b": "packed by gzip (unpack it first)",
    b"BZh": "packed by bzip2 (unpack it first)",
    b"\xfd7zXZ": "packed by xz (unpack it first)",
    b"\x28\xb5\x2f\xfd": "packed by zstd (unpack it first)",
    b"7z\xbc\xaf": "a 7z archive (unpack it first)",
    b"Rar!": "a RAR archive (unpack it first)",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
}


def kind(path: Path) -> str:
    """What the first bytes of a file say that it is, as "a picture (JPEG)"; "" where they say nothing that is known here."""
    try:
        with path.open("rb") as stream:
            start = stream.read(512)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from error
    if not start.strip(b"\0"):
        return "nothing but zeros, as an interrupted download leaves them" if start else "an empty file"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "a picture (WebP)"
    known = next((what for mark, what in _STARTS.items() if start.startswith(mark)), "")
    return known or _textual(start)


def _textual(start: bytes) -> str:
    """What a text is by how it begins; "" for bytes that are no text."""
    try:
        shown = start.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        if len(start) - error.start > 3:
            return ""
        shown = start[: error.start].decode("utf-8-sig").strip()  # its end cut a character in two
    if not shown or any(ord(c) < 32 and not c.isspace() for c in shown):
        return "" if shown else "blank text"
    head = shown[:300].lower()
    if head.startswith(("<!doctype html", "<html")):
        return "a web page (an error or a login page in place of a download?)"
    if head.startswith("<?xml"):
        return "an XML document (an error message in place of a download?)"
    if "/annex/objects/" in head.partition("\n")[0]:
        return "a git-annex pointer, which stands for a file that was not fetched"
    if re.match(r"\[\[?[a-z_][\w.-]*\]\]?\s*(?:#|\n|$)", head):
        return "TOML text"
    return "JSON text" if head.startswith(("{", "[")) else f"text ({shown.splitlines()[0][:40]!r})"
