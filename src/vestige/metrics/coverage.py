"""What a detector of the user's own is made of: its file, the local modules that this imports, and the files that it declares.

Covered is what a change of makes another detector. Installed packages are not, nor is what a function reads without saying so: that it
seems to read something is told, see `unseen`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vestige import files
from vestige.errors import BadInput

# Calls by which a function reads what its text does not show.
_READS = frozenset(
    {
        *("open", "load", "load_file", "load_model", "safe_open", "from_pretrained", "InferenceSession", "read_bytes", "read_text"),
        *("imread", "fromfile", "loadtxt", "import_module", "__import__", "run_path"),
    }
)


def code(file: Path) -> dict[Path, ast.Module]:
    """A file and every local module that it imports, directly or not, parsed."""
    found: dict[Path, ast.Module] = {}
    left, package = [file.resolve()], _package(file.resolve().parent)
    while left:
        one = left.pop()
        if one not in found:
            try:
                found[one] = ast.parse(one.read_bytes(), str(one))
            except (SyntaxError, ValueError, OSError) as error:
                raise BadInput(f"the detector's file {one} cannot be read as Python ({error})") from error
            left += _imported(found[one], one, package)
    return found


def declared(function: Any, file: Path) -> list[Path] | None:
    """The files that a function declares as `files`, places relative to its own; of a folder, all in it. None where it declares none."""
    told = getattr(function, "files", None)
    if told is None:
        return None
    if isinstance(told, str | os.PathLike):
        told = [told]
    found: list[Path] = []
    for place in map(Path, told):
        spot = (file.parent / place).resolve()
        inside = [f for f in spot.rglob("*") if f.is_file() and not f.name.startswith(".")] if spot.is_dir() else [spot]
        if not inside or not all(f.is_file() for f in inside):
            raise BadInput(f"the detector in {file} declares the file {place}, which is not at {spot}; places are relative to its own")
        found += inside
    return found


def digest(file: Path, sources: dict[Path, ast.Module], more: list[Path] | None) -> str:
    """One hash of all of it; of a file that stands alone, its own."""
    parts = sorted({*sources, *(more or ())})
    if len(parts) == 1:
        return files.digest(parts[0])
    named = sorted((os.path.relpath(part, file.resolve().parent).replace(os.sep, "/"), files.digest(part)) for part in parts)
    return hashlib.sha256("".join(f"{name} {content}\n" for name, content in named).encode()).hexdigest()


def mentions(sources: dict[Path, ast.Module], word: str) -> bool:
    """Whether the code has a name, an attribute or a text of this word, so that somebody may be setting it."""
    said = {getattr(node, key, None) for tree in sources.values() for node in ast.walk(tree) for key in ("id", "attr", "value", "arg")}
    return word in {text for text in said if isinstance(text, str)}


def unseen(sources: dict[Path, ast.Module], more: list[Path] | None) -> str:
    """Where the code seems to read files although none are declared; "" where they are, or nothing is read."""
    if more is not None:
        return ""
    for file, tree in sources.items():
        for node in ast.walk(tree):
            called = node.func if isinstance(node, ast.Call) else None
            name = called.id if isinstance(called, ast.Name) else called.attr if isinstance(called, ast.Attribute) else ""
            if name in _READS:
                return f"{file.name} calls {name} in line {getattr(node, 'lineno', 0)}"
    return ""


def whole(file: Path, function: Any = None) -> tuple[str, str]:
    """Hash of all that a detector is made of, and where it reads what nobody declared.

    Arguments:
        function: None for its code alone.
    """
    sources = code(file)
    more = declared(function, file)
    return digest(file, sources, more), unseen(sources, more)


def source_of(place: str) -> Path | None:
    """The file that a place names; None where it names a module that is not there."""
    where = place.rpartition(":")[0]
    if where.endswith(".py"):
        return Path(where)
    try:
        spec = importlib.util.find_spec(where)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin and Path(spec.origin).suffix == ".py" else None


def _package(folder: Path) -> tuple[Path, str]:
    """The folder that a module's absolute imports begin in, and the name of the package that it is part of, if any."""
    name = ""
    while (folder / "__init__.py").is_file():
        folder, name = folder.parent, folder.name
    return folder, name


def _imported(tree: ast.Module, file: Path, package: tuple[Path, str]) -> Iterator[Path]:
    """The local files that one imports: beside it, or in a folder of modules that is no installation."""
    top, name = package
    roots = [root for root in dict.fromkeys((top, *(Path(p or ".").resolve() for p in sys.path))) if not _installed(root)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _found(roots, alias.name.split("."))
                yield from _found([top] if alias.name.split(".")[0] == name else [], alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            parts = node.module.split(".") if node.module else []
            bases = [top] if parts[:1] == [name] and name else []
            bases = [file.parents[node.level - 1]] if node.level else [*roots, *bases]
            for alias in node.names:
                yield from _found(bases, [*parts, alias.name])


def _found(roots: list[Path], parts: list[str]) -> Iterator[Path]:
    """The files of a dotted name and of the packages that it lies in, under the first root that has any."""
    if parts[:1] == ["vestige"]:
        return
    for root in roots:
        spots = [root.joinpath(*parts[:i]) for i in range(1, len(parts) + 1)]
        there = [f for spot in spots for f in (spot.with_suffix(".py"), spot / "__init__.py") if f.is_file()]
        if there:
            yield from (f.resolve() for f in there)
            return


def _installed(folder: Path) -> bool:
    """Whether a folder holds installed packages, or the standard library."""
    homes = {Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    return bool({"site-packages", "dist-packages"} & set(folder.parts)) or any(home == folder or home in folder.parents for home in homes)
