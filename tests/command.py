"""The command in a process of its own, forked from the tests' one: that has imported already what takes most of a short command's time."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, NoReturn

from PIL import Image


@functools.cache
def warm() -> None:
    """Import what a command imports when it loads a model, once in the process that forks."""
    from vestige import models

    models.load("wardrobe")


def started(arguments: tuple[str, ...], out: IO[str], err: IO[str], cwd: Path | None = None, **environment: str) -> int:
    """Begin `vestige ARGUMENTS` and give the number of its process."""
    warm()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        _run(arguments, out, err, cwd, environment)
    return pid


def _run(arguments: tuple[str, ...], out: IO[str], err: IO[str], cwd: Path | None, environment: dict[str, str]) -> NoReturn:
    """What becomes of the forked process; it never returns to the test."""
    code: object = 1
    try:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        os.chdir(cwd or ".")
        os.environ.update(environment, COLUMNS="200")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        warnings.simplefilter("ignore")
        sys.argv = ["vestige", *arguments]
        import torch
        from accelerate.state import AcceleratorState

        from vestige import cli

        torch.set_num_threads(torch.get_num_threads())  # its pool is made anew after a fork, which several threads must not ask for at once
        AcceleratorState._reset_state(reset_partial_state=True)  # what a fit in the tests' process has said of its processes
        cli.main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def ended(pid: int, within: float = 300.0) -> int:
    """The exit code of a process, as `subprocess` counts."""
    deadline = time.monotonic() + within
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise TimeoutError(f"no end of process {pid} within {within} seconds")
        time.sleep(0.005)


def vestige(
    *arguments: object, check: bool = True, cwd: Path | None = None, until: Callable[[], bool] | None = None, by: int = signal.SIGKILL
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, or until something is so: then it is sent a signal."""
    given = tuple(map(str, arguments))
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        pid = started(given, out, err, cwd)
        if until is not None:
            deadline = time.monotonic() + 120
            while not until() and time.monotonic() < deadline:
                time.sleep(0.01)
            os.kill(pid, by)
        code = ended(pid)
        for file in (out, err):
            file.seek(0)
        done = subprocess.CompletedProcess(given, code, out.read(), err.read())
    if check and code:
        raise AssertionError(f"{' '.join(given)} ended with {code}:\n{done.stderr}")
    return done


def height(path: Path) -> int:
    with Image.open(path) as picture:
        return int(picture.height)


def answered(*arguments: object) -> tuple[int, str]:
    """A command in the tests' own process: its exit status, and the line for somebody who can mend what went wrong."""
    import typer.main

    from vestige.cli import app, frame

    argv, sys.argv = sys.argv, ["vestige", *map(str, arguments)]
    try:
        return frame._answer(typer.main.get_command(app))
    finally:
        sys.argv = argv
