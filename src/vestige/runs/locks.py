"""Locks of directories: a file that names its holder by host, process, and when that process began.

A holder that has died on this machine is taken over; every other one is respected, on another machine too, where nobody can tell
whether it lives.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from vestige import files
from vestige.errors import RunConflict

POLL = 0.1  # seconds between two looks at another process's lock


def lock(folder: Path, *, steal: bool, wait: float) -> tuple[str, dict[str, Any] | None]:
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
    me = {"host": socket.gethostname(), "pid": pid, "began": began(pid), "since": now(), "token": secrets.token_hex(8)}
    with files.exclusive(folder) as surely:  # of two that find the same dead holder, the second finds the first
        before = holder(folder)
        if before is not None:
            if not steal and not (surely and _dead(before)):
                raise _busy(folder, before)
            path.unlink(missing_ok=True)
        try:
            files.write(folder, "lock", files.json_bytes(me), new=True)
        except FileExistsError:  # another machine was faster
            raise _busy(folder, holder(folder)) from None
    return str(me["token"]), before


def unlock(folder: Path, token: str) -> None:
    """Give the lock back, unless another process has taken it meanwhile."""
    with suppress(OSError), files.exclusive(folder):
        if (holder(folder) or {}).get("token") == token:
            (folder / "lock").unlink()


def holder(folder: Path) -> dict[str, Any] | None:
    """What the lock says, None if there is no lock; empty if it cannot be read."""
    path = folder / "lock"
    return files.object_in(path) or ({} if path.exists() else None)


def _busy(folder: Path, by: Mapping[str, Any] | None) -> RunConflict:
    advice = "wait for it, or, if you know that it is gone, repeat with --steal"
    return RunConflict(f"the lock of {folder} {whose(by)}; {advice}")


def whose(by: Mapping[str, Any] | None) -> str:
    """What to say of a lock, from what `holder` found: "is held by ..."."""
    if not by:
        return "is not held" if by is None else "is held by an unknown process"
    return f"is held by process {by.get('pid')} on {by.get('host')} since {by.get('since')}"


def _dead(by: Mapping[str, Any]) -> bool:
    """Whether the holder surely ended: it ran on this machine, and its number is free or was given to another process."""
    pid, since = by.get("pid"), by.get("began")
    if sys.platform == "win32" or by.get("host") != socket.gethostname() or not isinstance(pid, int) or pid <= 0:
        return False  # on Windows, os.kill would end the process instead of asking
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    current = began(pid)
    return bool(current and since) and current != since


def began(pid: int) -> str:
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


def now() -> str:
    """The time, to the millisecond, in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
