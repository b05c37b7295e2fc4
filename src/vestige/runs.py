"""Run directories, named by their content: one resolved spec and its result.

A run is the directory `<root>/<kind>-<key>/`:

    spec.json       what is computed, complete; its hash without the entry "volatile" (date, command line) is the key
    lock            who works on it: host, process, and when that process began
    events.jsonl    what happened, one line each, append-only
    ...             artefacts, each there whole or not at all
    result.json     written last: it is there exactly when the run is done

Equal specs lead to one directory, so the same command resumes what a crash left, and a run that several audits need is
computed once. A lock whose process has died on this machine is taken over; every other lock is respected.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, final

from vestige.errors import BadInput, BadSetting, RunConflict

RESERVED = frozenset({"spec.json", "lock", "events.jsonl", "result.json"})
POLL = 0.1  # seconds between two looks at another process's lock


def key(spec: Mapping[str, Any]) -> str:
    """Hash of a spec: 64 hexadecimal digits, equal exactly for equal specs.

    Order of entries, tuple or list, and the top-level entry "volatile" make no difference; 1, 1.0 and true differ.
    """
    return hashlib.sha256(_canonical(_lasting(spec)).encode()).hexdigest()


@final
class Run:
    """A run directory; `claim`, `open_run` and `compute` make one.

    Arguments:
        folder: The directory.
        spec: Its spec as stored, plain data.
    """

    def __init__(self, folder: Path, spec: Mapping[str, Any]) -> None:
        self.folder, self.spec, self._token = folder, spec, ""

    @property
    def done(self) -> bool:
        """Whether a whole result is there."""
        return self.result is not None

    @property
    def result(self) -> dict[str, Any] | None:
        """The stored result; None while there is none, or only a damaged one, as a cut-short copy leaves behind."""
        return _object(self.folder / "result.json")

    @property
    def outcome(self) -> dict[str, Any]:
        """The stored result of a run that must be done; an error otherwise."""
        result = self.result
        if result is None:
            raise RunConflict(f"{self.folder} is not done: it has no whole result.json; repeat the command that made it")
        return result

    @contextmanager
    def held(self, *, steal: bool = False, wait: float = 0.0) -> Iterator[Run]:
        """Hold the run's lock while the context lasts, however it ends.

        Arguments:
            steal: Take the lock from whoever holds it; for holders that are known to be gone.
            wait: Seconds to wait for another holder; 0 refuses at once.
        """
        self._token, before = _lock(self.folder, steal=steal, wait=wait)
        try:
            _sweep(self.folder)
            self.spec = _agreed(self.folder, self.spec)
            if before is not None:
                self.event("stolen" if steal else "taken over", holder=before)
            self.event("opened", host=socket.gethostname(), pid=os.getpid())
            yield self
        finally:
            _unlock(self.folder, self._token)
            self._token = ""

    def event(self, name: str, /, **data: Any) -> None:
        """Append one line to events.jsonl; it outlives the process from the moment this returns."""
        entry = _plain({"time": _now(), "event": name, **data}, "event")
        _append(self.folder / "events.jsonl", json.dumps(entry).encode() + b"\n")

    def events(self) -> list[dict[str, Any]]:
        """Every event, oldest first; a line that a crash cut short is left out."""
        path = self.folder / "events.jsonl"
        lines = path.read_text("utf-8", errors="replace").splitlines() if path.exists() else []
        return [entry for entry in map(_parsed, lines) if entry is not None]

    def path(self, name: str) -> Path:
        """Where an artefact lies, e.g. "pictures/0.png"; its folder is made, the run's own files are refused."""
        relative = Path(name)
        if not relative.parts or relative.is_absolute() or ".." in relative.parts or str(relative) in RESERVED:
            raise BadInput(f"{name!r} cannot be an artefact; give a path inside the run, other than {', '.join(sorted(RESERVED))}")
        _make(self.folder / relative.parent)
        return self.folder / relative

    def write_bytes(self, name: str, data: bytes) -> Path:
        """Write an artefact, whole or not at all."""
        path = self.path(name)
        _write(self.folder, name, data)
        return path

    def write_json(self, name: str, data: Any) -> Path:
        """Write plain data as an artefact, whole or not at all."""
        return self.write_bytes(name, _text(_plain(data, name)))

    def finish(self, result: Mapping[str, Any]) -> None:
        """Store the result, plain data; the run is done when this returns. The lock must still be held."""
        text = _text(_plain(result, "result"))
        holder = _holder(self.folder)
        if not self._token or (holder or {}).get("token") != self._token:
            raise RunConflict(f"{self.folder} cannot be finished: its lock {_whose(holder)}; repeat the command to use that result")
        _write(self.folder, "result.json", text)


def claim(folder: Path | str, spec: Mapping[str, Any]) -> Run:
    """The run with this spec in exactly this folder, which is made if need be; a folder that holds another spec is refused."""
    folder, spec = Path(folder), _plain(spec, "spec")
    _make(folder)
    with _alone(folder):
        if not (folder / "spec.json").exists():
            if any((folder / name).exists() for name in ("result.json", "events.jsonl")):
                raise RunConflict(f"{folder} holds a run without its spec.json; choose another folder, or delete that one")
            _write(folder, "spec.json", _text(spec))
    return Run(folder, _agreed(folder, spec))


@contextmanager
def open_run(root: Path | str, spec: Mapping[str, Any], *, kind: str, steal: bool = False, wait: float = 0.0) -> Iterator[Run]:
    """Hold the run `<root>/<kind>-<key>`; made if need be, resumed if it was left. For the rest see `Run.held`."""
    with _place(root, spec, kind).held(steal=steal, wait=wait) as run:
        yield run


def compute(
    root: Path | str,
    spec: Mapping[str, Any],
    kind: str,
    work: Callable[[Run], Mapping[str, Any]],
    *,
    wait: float = 3600.0,
    steal: bool = False,
) -> Run:
    """The finished run with this spec: stored, computed by another process meanwhile, or computed here by `work(run)`.

    Arguments:
        work: Does what the spec says and returns the result; called at most once, with the lock held.
        wait: Seconds to wait for another process that computes the same run; 0 refuses at once.
        steal: Take the lock from whoever holds it.
    """
    run = _place(root, spec, kind)
    if not run.done:
        with run.held(steal=steal, wait=wait):
            if not run.done:
                run.finish(work(run))
    return run


def _place(root: Path | str, spec: Mapping[str, Any], kind: str) -> Run:
    return claim(Path(root) / f"{kind}-{key(spec)[:12]}", spec)


# The spec: plain data, compared without its volatile entry.


def _plain(value: Any, where: str) -> Any:
    """`value` with tuples as lists; what JSON cannot hold is refused by its place."""
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _plain(item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    accepted = "finite numbers, text, true, false, none, and lists and mappings of these with text as keys"
    raise BadSetting(f"{where} is {_short(value)} ({type(value).__name__}); a run stores {accepted}")


def _lasting(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in spec.items() if name != "volatile"}


def _canonical(value: Any) -> str:
    return json.dumps(_plain(value, "spec"), sort_keys=True, separators=(",", ":"))


def _agreed(folder: Path, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The stored spec, which must say the same as `spec`."""
    stored = _object(folder / "spec.json")
    if stored is None:
        raise RunConflict(f"{folder} holds a run with a damaged spec.json; choose another folder, or delete that one")
    lines = list(_differences(_lasting(stored), _lasting(spec)))
    if lines:
        more = f" and {len(lines) - 5} more" if len(lines) > 5 else ""
        advice = "choose another folder, or repeat the settings of that run"
        raise RunConflict(f"{folder} holds another run: {'; '.join(lines[:5])}{more}; {advice}")
    return stored


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name in sorted({*there, *here}):
        where, old, new = prefix + name, there.get(name), here.get(name)
        if name not in here:
            yield f"{where} is {_short(old)} there and absent here"
        elif name not in there:
            yield f"{where} is absent there and {_short(new)} here"
        elif isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, where + ".")
        elif _canonical(old) != _canonical(new):
            yield f"{where} is {_short(old)} there and {_short(new)} here"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# Files: there whole, or not at all.


def _text(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, indent=2).encode() + b"\n"


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is no such file, or it is damaged."""
    try:
        return _parsed(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return None
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from error


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _write(folder: Path, name: str, data: bytes, *, new: bool = False) -> None:
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


def _sweep(folder: Path) -> None:
    """Remove what a killed process was writing, where nobody else can be writing."""
    with _alone(folder) as alone:
        for left in folder.glob(".*.part") if alone else ():
            left.unlink(missing_ok=True)


def _append(path: Path, line: bytes) -> None:
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


def _unwritable(path: Path, error: OSError) -> BadInput:
    full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))
    advice = "free some space and repeat the command; what is finished is kept" if full else "choose a folder that can be written"
    return BadInput(f"cannot write {path}: {error.strerror or error}; {advice}")


# The lock.


def _lock(folder: Path, *, steal: bool, wait: float) -> tuple[str, dict[str, Any] | None]:
    """Take the lock; returns the token that proves it, and the previous holder if there was one."""
    deadline, told = time.monotonic() + wait, False
    while True:
        try:
            return _try_lock(folder, steal)
        except RunConflict as busy:
            if (left := deadline - time.monotonic()) <= 0:
                raise
            if not told:
                logging.getLogger("vestige").warning("waiting: %s", busy)
                told = True
            time.sleep(min(POLL, left))


def _try_lock(folder: Path, steal: bool) -> tuple[str, dict[str, Any] | None]:
    path = folder / "lock"
    pid = os.getpid()
    me = {"host": socket.gethostname(), "pid": pid, "began": _began(pid), "since": _now(), "token": secrets.token_hex(8)}
    with _alone(folder) as alone:  # of two that find the same dead holder, the second finds the first
        before = _holder(folder)
        if before is not None:
            if not steal and not (alone and _dead(before)):
                raise _busy(folder, before)
            path.unlink(missing_ok=True)
        try:
            _write(folder, "lock", _text(me), new=True)
        except FileExistsError:  # another machine was faster
            raise _busy(folder, _holder(folder)) from None
    return str(me["token"]), before


def _unlock(folder: Path, token: str) -> None:
    with suppress(OSError), _alone(folder):
        if (_holder(folder) or {}).get("token") == token:
            (folder / "lock").unlink()


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
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


def _holder(folder: Path) -> dict[str, Any] | None:
    """What the lock says, None if there is no lock; empty if it cannot be read."""
    path = folder / "lock"
    return _object(path) or ({} if path.exists() else None)


def _busy(folder: Path, holder: Mapping[str, Any] | None) -> RunConflict:
    advice = "wait for it, or, if you know that it is gone, repeat with --steal"
    return RunConflict(f"the lock of {folder} {_whose(holder)}; {advice}")


def _whose(holder: Mapping[str, Any] | None) -> str:
    if not holder:
        return "is not held" if holder is None else "is held by an unknown process"
    return f"is held by process {holder.get('pid')} on {holder.get('host')} since {holder.get('since')}"


def _dead(holder: Mapping[str, Any]) -> bool:
    """Whether the holder surely ended: it ran on this machine, and its number is free or was given to another process."""
    pid, began = holder.get("pid"), holder.get("began")
    if sys.platform == "win32" or holder.get("host") != socket.gethostname() or not isinstance(pid, int) or pid <= 0:
        return False  # on Windows, os.kill would end the process instead of asking
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    now = _began(pid)
    return bool(now and began) and now != began


def _began(pid: int) -> str:
    """When a process began, in words that differ between processes and between boots; "" if unknown, "ended" for a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        state, *rest = stat.rpartition(")")[2].split()
        return "ended" if state in "ZX" else f"{boot} {rest[18]}"
    except OSError:
        pass
    if sys.platform in ("linux", "win32"):
        return ""
    ask = ["/bin/ps", "-o", "lstart=", "-p", str(pid)]
    return subprocess.run(ask, capture_output=True, text=True, env={"LC_ALL": "C", "TZ": "UTC"}, check=False).stdout.strip()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
