"""Files that are there whole or not at all, whatever ends the process that writes them; a power cut included.

A file is written under a temporary name, brought to the disk, and renamed. Lines are appended whole.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vestige.errors import BadInput

UTF8 = "utf-8-sig"  # how texts of users are read: in UTF-8, with the byte order mark that some editors write or without


def json_bytes(value: Any) -> bytes:
    """What a file of plain data holds: JSON to be read, its entries in order of their names."""
    return json.dumps(value, sort_keys=True, indent=2).encode() + b"\n"


def json_object(line: str) -> dict[str, Any] | None:
    """The JSON object that a text says; None if it says none."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def object_in(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is no such file, or it is damaged."""
    try:
        return json_object(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return None
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from error


def make(folder: Path) -> None:
    """Make a folder and what it lies in, unless it is there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def write(folder: Path, name: str, data: bytes, *, new: bool = False) -> None:
    """Through a temporary name and to the disk, so that not even a power cut leaves half a file.

    Arguments:
        new: The file must not exist; FileExistsError if it does.
    """
    part, path = folder / f".{secrets.token_hex(8)}.part", folder / name
    try:
        _create(part, data)
        if new:
            _link(part, path)
        else:
            part.replace(path)
        _sync(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A name beside `path` for a library that writes files by itself; what it wrote gets its name when the block ends well.

    A full disk is told as such, also where the library dresses it as an error of its own.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    make(path.parent)
    try:
        with _told(path):
            yield part
            part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def assembled(folder: Path) -> Iterator[Path]:
    """A folder beside `folder`, which is new or empty, to fill; it gets that name when the block ends well, else nothing is left of it."""
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    make(part)
    try:
        with _told(folder):
            yield part
            if folder.is_dir():
                folder.rmdir()
            part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What keeps a file from being written, as an error of ours, also where a library dresses it as its own."""
    try:
        yield
    except OSError as error:
        raise _unwritable(path, error) from error
    except Exception as error:
        if type(error).__name__ == "SafetensorError" and (code := re.search(r"os error (\d+)", str(error))):
            raise _unwritable(path, OSError(int(code[1]), os.strerror(int(code[1])))) from error
        raise


def ready(path: Path) -> None:
    """Refuse a place where no new file can be written, before the work that it is for."""
    if path.is_dir():
        raise BadInput(f"{path} is a folder; name the file to write, e.g. {path / 'edit.safetensors'}")
    if path.exists():
        raise BadInput(f"{path} exists; choose another name with --out")
    ready_folder(path.parent)


def ready_folder(folder: Path) -> None:
    """Refuse a folder in which nothing can be written, before the work that it is for; nothing is left there, and it is not made yet."""
    there = next((spot for spot in (folder, *folder.parents) if spot.exists()), folder)
    probe = there / f".{secrets.token_hex(8)}.part"
    try:
        _create(probe, b"")
        probe.unlink()
    except OSError as error:
        raise _unwritable(folder, error) from error


def digest(file: Path | str) -> str:
    """The SHA-256 of a file that may be larger than memory; of one that has not changed since, from memory.

    A pipe or a device, which would be waited for, is refused.
    """
    seen = Path(file).stat()
    if not stat.S_ISREG(seen.st_mode):
        raise BadInput(f"{file} is no regular file; give one that can be read to its end")
    return _digest(str(file), seen.st_size, seen.st_mtime_ns)


def digest_of(files: Iterable[Path], root: Path) -> str:
    """One hash of several files, by their names relative to `root` and their contents."""
    whole = hashlib.sha256()
    for file in sorted(files):
        whole.update(f"{file.relative_to(root).as_posix()} {digest(file)}\n".encode())
    return whole.hexdigest()


@functools.lru_cache(maxsize=1024)
def _digest(file: str, size: int, time: int) -> str:
    whole = hashlib.sha256()
    with Path(file).open("rb") as stream:
        while part := stream.read(1 << 24):
            whole.update(part)
    return whole.hexdigest()


_WRITE = os.O_CREAT | getattr(os, "O_BINARY", 0)


def _create(path: Path, data: bytes) -> None:
    """Write a file that must not exist yet."""
    file = os.open(path, _WRITE | os.O_WRONLY | os.O_EXCL, 0o666)
    try:
        _put(file, data)
        os.fsync(file)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)


def _link(part: Path, path: Path) -> None:
    """Give a whole file its name unless that is taken."""
    try:
        path.hardlink_to(part)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: exclusive too, but a kill between creation and writing leaves it empty
        _create(path, part.read_bytes())


def append(path: Path, line: bytes) -> None:
    """Add one line, whole or not at all, after closing a line that a crash cut short."""
    try:
        file = os.open(path, _WRITE | os.O_RDWR | os.O_APPEND, 0o666)
        try:
            size = os.lseek(file, 0, os.SEEK_END)
            if size and (os.lseek(file, -1, os.SEEK_END), os.read(file, 1))[1] != b"\n":
                line = b"\n" + line
            try:
                _put(file, line)
            except OSError:
                os.ftruncate(file, size)
                raise
        finally:
            os.close(file)
    except OSError as error:
        raise _unwritable(path, error) from error


def _put(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _sync(folder: Path) -> None:
    """Bring a rename to the disk; Windows does that by itself."""
    if sys.platform != "win32":
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


@contextmanager
def exclusive(folder: Path) -> Iterator[bool]:
    """Keep every other process of this machine out of here for a moment; False where the system cannot promise it."""
    if sys.platform == "win32":
        yield False
        return
    import fcntl

    file = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
    finally:
        os.close(file)


def sweep(folder: Path) -> None:
    """Remove what a killed process was writing, where nobody else can be writing."""
    with exclusive(folder) as surely:
        for left in folder.glob(".*.part") if surely else ():
            left.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> BadInput:
    full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        there = next((spot for spot in (path, *path.parents) if spot.is_file()), path)
        return BadInput(f"cannot write {path}: {there} is a file, where a folder is needed; choose another name")
    advice = "free some space and repeat the command; what is finished is kept" if full else "choose a folder that can be written"
    return BadInput(f"cannot write {path}: {error.strerror or error}; {advice}")
