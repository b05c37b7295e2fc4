"""Further processes that take errands off a list which this process goes through too.

Errands are runs: whoever comes first holds the lock, everybody else passes on to the next one, and what is stored is nobody's
errand any more. So nothing is handed out, and a helper that dies leaves only work that this process then does itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from vestige.errors import Diverged, RunConflict


@dataclass(frozen=True)
class Errand:
    """Something to do, and the denoiser calls that it is forecast to take where nothing is stored."""

    work: Callable[[], object]
    calls: int = 0

    def __call__(self) -> object:
        return self.work()


@contextmanager
def helped(count: int, entry: str, task: Mapping[str, Any]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """`count` processes of one thread that call `entry` with `task`; those still at work are stopped when the context ends.

    Arguments:
        entry: "module:function" of a function of one argument.
        task: Plain data.
    """
    module, _, function = entry.partition(":")
    begin = f"import json, sys; from {__name__} import {follow.__name__}; {follow.__name__}()"
    program = f"{begin}; from {module} import {function} as work; work(json.load(sys.stdin))"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "VESTIGE_PARENT": str(os.getpid())}
    quiet: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    helpers = [subprocess.Popen([sys.executable, "-c", program], **quiet) for _ in range(count)]
    try:
        for helper in helpers:
            with suppress(OSError):  # one that has died already is missed by nobody
                if helper.stdin is not None:
                    helper.stdin.write(json.dumps(task).encode())
                    helper.stdin.close()
        yield helpers
    finally:
        for helper in helpers:
            helper.terminate()
        for helper in helpers:
            helper.wait()


def follow(every: float = 0.5) -> None:
    """End this process soon after its parent has died, whatever it is doing: an unfinished run resumes."""

    def look() -> None:
        while int(os.environ["VESTIGE_PARENT"]) == os.getppid():
            time.sleep(every)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


def attend(errands: Iterable[Callable[[], object]], done: Callable[[int], None] = lambda number: None) -> int:
    """Do every errand that nobody else is at; returns how many were left to others. One that diverges is met again by who needs it.

    What was left is asked for again as long as others finish something that it waited for.

    Arguments:
        done: Hears the number of each errand that this process is through with.
    """
    left = list(enumerate(errands))
    while left:
        again = [(number, errand) for number, errand in left if not _did(errand, number, done)]
        if len(again) == len(left):
            break
        left = again
    return len(left)


def _did(errand: Callable[[], object], number: int, done: Callable[[int], None]) -> bool:
    """Whether nobody else was at it."""
    try:
        with suppress(Diverged):
            errand()
    except RunConflict:
        return False
    done(number)
    return True
