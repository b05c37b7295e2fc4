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

import hashlib
import json
import math
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, final

from vestige import files
from vestige.errors import BadInput, BadSetting, RunConflict
from vestige.runs import locks

RESERVED = frozenset({"spec.json", "lock", "events.jsonl", "result.json"})


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
        return files.object_in(self.folder / "result.json")

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
        self._token, before = locks.lock(self.folder, steal=steal, wait=wait)
        try:
            files.sweep(self.folder)
            self.spec = _agreed(self.folder, self.spec)
            if before is not None:
                self.event("stolen" if steal else "taken over", holder=before)
            self.event("opened", host=socket.gethostname(), pid=os.getpid())
            yield self
        finally:
            locks.unlock(self.folder, self._token)
            self._token = ""

    def event(self, name: str, /, **data: Any) -> None:
        """Append one line to events.jsonl; it outlives the process from the moment this returns."""
        entry = _plain({"time": locks.now(), "event": name, **data}, "event")
        files.append(self.folder / "events.jsonl", json.dumps(entry).encode() + b"\n")

    def events(self) -> list[dict[str, Any]]:
        """Every event, oldest first; a line that a crash cut short is left out."""
        path = self.folder / "events.jsonl"
        lines = path.read_text("utf-8", errors="replace").splitlines() if path.exists() else []
        return [entry for entry in map(files.json_object, lines) if entry is not None]

    def path(self, name: str) -> Path:
        """Where an artefact lies, e.g. "pictures/0.png"; its folder is made, the run's own files are refused."""
        relative = Path(name)
        if not relative.parts or relative.is_absolute() or ".." in relative.parts or str(relative) in RESERVED:
            raise BadInput(f"{name!r} cannot be an artefact; give a path inside the run, other than {', '.join(sorted(RESERVED))}")
        files.make(self.folder / relative.parent)
        return self.folder / relative

    def write_bytes(self, name: str, data: bytes) -> Path:
        """Write an artefact, whole or not at all."""
        path = self.path(name)
        files.write(self.folder, name, data)
        return path

    def write_json(self, name: str, data: Any) -> Path:
        """Write plain data as an artefact, whole or not at all."""
        return self.write_bytes(name, files.json_bytes(_plain(data, name)))

    def finish(self, result: Mapping[str, Any]) -> None:
        """Store the result, plain data; the run is done when this returns. The lock must still be held."""
        text = files.json_bytes(_plain(result, "result"))
        by = locks.holder(self.folder)
        if not self._token or (by or {}).get("token") != self._token:
            raise RunConflict(f"{self.folder} cannot be finished: its lock {locks.whose(by)}; repeat the command to use that result")
        files.write(self.folder, "result.json", text)


def claim(folder: Path | str, spec: Mapping[str, Any]) -> Run:
    """The run with this spec in exactly this folder, which is made if need be; a folder that holds another spec is refused."""
    folder, spec = Path(folder), _plain(spec, "spec")
    files.make(folder)
    with files.exclusive(folder):
        if not (folder / "spec.json").exists():
            if any((folder / name).exists() for name in ("result.json", "events.jsonl")):
                raise RunConflict(f"{folder} holds a run without its spec.json; choose another folder, or delete that one")
            files.write(folder, "spec.json", files.json_bytes(spec))
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
    run, here = _place(root, spec, kind), False
    if not run.done:
        with run.held(steal=steal, wait=wait):
            here = not run.done
            if here:
                run.finish(work(run))
    noted = _NOTED.get()
    if noted is not None:
        noted[run.folder] = here or noted.get(run.folder, False)
    return run


@contextmanager
def noting() -> Iterator[dict[Path, bool]]:
    """The folders of all runs that `compute` gives inside, in order, and whether each was computed here, not found."""
    seen: dict[Path, bool] = {}
    token = _NOTED.set(seen)
    try:
        yield seen
    finally:
        _NOTED.reset(token)


_NOTED: ContextVar[dict[Path, bool] | None] = ContextVar("noted", default=None)


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
    stored = files.object_in(folder / "spec.json")
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
