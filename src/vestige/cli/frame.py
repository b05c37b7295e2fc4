"""What every command stands in: errors and interrupts, its exit code, what it writes where, and its progress."""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer

from vestige.engine import NOTE, WHOLE
from vestige.errors import BadSetting, VestigeError, shortened

INTERRUPTED = 130  # exit code after Ctrl-C, as shells count
RESUMES = "interrupted; the same command resumes where it stopped"


def run(app: Callable[..., Any]) -> None:
    """Run a command and exit: errors that a user can mend are one line, an interrupt leaves a run that the same command resumes."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    heard = _interrupts()
    try:
        code, complaint = _answer(app)
    except Exception:
        if not heard:
            raise
        code, complaint = INTERRUPTED, RESUMES
    if heard and code:  # a library may have dressed the interrupt as an error of its own, as a file that cannot be read
        code, complaint = INTERRUPTED, RESUMES
    if complaint:
        say(complaint)
    sys.exit(code)


def _interrupts() -> list[int]:
    """The interrupts heard from now on; they still raise KeyboardInterrupt. A parent's wish to ignore them is kept."""
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, hear)
    return heard


def _answer(app: Callable[..., Any]) -> tuple[int, str]:
    """Run the command; its exit code, and the line for somebody who can mend what went wrong."""
    try:
        _legible(sys.argv[1:])
        code = app(standalone_mode=False)  # typer returns the code of an exit, an interrupt's included
        return code if isinstance(code, int) else 0, ""
    except VestigeError as error:
        return 2, _line(str(error))
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED, RESUMES
    except OSError as error:
        return 2, _line(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    except typer.Exit as stop:
        return stop.exit_code, ""
    except Exception as error:
        show = getattr(error, "show", None)  # click's own usage errors
        if show is None:
            raise
        show()
        return getattr(error, "exit_code", 2), ""


def _line(complaint: str) -> str:
    """An error as one line, whatever names and messages of libraries are in it."""
    return f"error: {' '.join(complaint.split())}"


def _legible(arguments: Sequence[str]) -> None:
    """Refuse bytes that are no text: what is typed is a prompt, a name or a place, and goes into records and pages."""
    for argument in arguments:
        if any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise BadSetting(f"{shortened(argument)} is not in UTF-8; give text and names of files in UTF-8")


def say(text: str) -> None:
    """A line on stderr."""
    sys.stderr.write(text + "\n")


def remarked(remark: str) -> None:
    """A remark on stderr, if there is one."""
    if remark:
        say(f"note: {remark}")


def give(data: Any, as_json: bool, text: str) -> None:
    """The command's result on stdout, for a program or for reading."""
    sys.stdout.write((json.dumps(data, indent=None if as_json else 2) if as_json else text) + "\n")


def shown(interval: Mapping[str, float | None]) -> str:
    """A value and its interval."""
    value, low, high = (interval[k] for k in ("value", "low", "high"))
    ends = "no interval" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"
    return "undefined" if value is None else f"{value:.2f} {ends}"


def typed() -> str:
    """The command line, for the report, as a shell would take it again."""
    return shlex.join(["vestige", *sys.argv[1:]])


EVERY = 30.0  # seconds between lines of one stage


def _lines() -> Callable[[str, int, int], None]:
    """Progress for a file: a line when a stage begins, every `EVERY` seconds of it, and when it ends; each is there at once."""
    began, last = time.monotonic(), dict[str, tuple[float, int]]()

    def watch(stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage.startswith(f"{NOTE}: "):
            say(f"{now - began:7.0f} s  {stage}")
            return
        if stage.startswith(WHOLE):
            before, was = last.get(WHOLE, (-math.inf, -1))
            if was != done and (now - before >= EVERY or done >= total):
                last[WHOLE] = (now, done)
                say(f"{now - began:7.0f} s  {_whole(stage, done, total)}")
            return
        before, was = last.get(stage, (-math.inf, -1))
        if was == done or (now - before < EVERY and done < total):
            return
        last[stage] = (now, done)
        say(f"{now - began:7.0f} s  {stage} {done}/{total}")
        sys.stderr.flush()

    return watch


def _whole(stage: str, done: int, total: int) -> str:
    """How far everything is: a share, and what the stage says of it."""
    return f"{WHOLE} {100 * done // max(1, total)} %{stage.removeprefix(WHOLE)}"


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A live line on stderr: the stage, its bar, and the time so far; where stderr is no terminal, a line now and then."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=False) as bars:
        tasks: dict[str, Any] = {}

        def watch(stage: str, done: int, total: int) -> None:
            if stage.startswith(f"{NOTE}: "):
                bars.console.print(stage, markup=False)
                return
            if stage.startswith(WHOLE):  # stands above what is being done now, and stays
                whole = tasks.get(WHOLE)
                tasks[WHOLE] = bars.add_task(WHOLE, total=total) if whole is None else whole
                bars.update(tasks[WHOLE], description=_whole(stage, done, total), completed=done, total=total)
                return
            if stage not in tasks:
                for name, other in tasks.items():
                    bars.update(other, visible=name == WHOLE)
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total, visible=True)

        yield watch
