"""A worker process: it takes tasks as lines of JSON, does one at a time, and ends with whoever started it."""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vestige import runs
from vestige.errors import VestigeError

PARENT = "VESTIGE_PARENT"


def serve() -> None:
    """Do what is asked for on stdin until it closes; whatever is printed meanwhile goes to stderr."""
    answers = os.dup(1)
    os.dup2(2, 1)
    follow()
    for line in sys.stdin:
        given = json.loads(line)
        reply = {"key": given["key"], **answered_by(given["entry"], given["data"], given["root"], given["out"])}
        os.write(answers, json.dumps(reply).encode() + b"\n")


def answered_by(entry: str, data: Mapping[str, Any], root: str, out: str) -> dict[str, Any]:
    """Do one task by its entry point; for the answer see `attended`."""
    return attended(lambda: called(entry, data, root, out), Path(root))


def called(entry: str, data: Mapping[str, Any], root: str, out: str) -> Mapping[str, Any]:
    """What the function "module:function" returns."""
    module, _, function = entry.partition(":")
    found: Mapping[str, Any] = getattr(importlib.import_module(module), function)(data, Path(root), Path(out))
    return found


def attended(work: Callable[[], Mapping[str, Any]], root: Path) -> dict[str, Any]:
    """Do one task; what it returned under "value", or what went wrong under "why", and how long it took.

    That is by the clock ("seconds") and, where it is done, of the processor ("busy"). Its value names the runs that it rests on, under
    "runs", in the order in which they were asked for; "fresh" says whether it computed any, or found them all.
    """
    began, busy = time.monotonic(), time.process_time()
    try:
        with runs.noting() as seen:
            value = work()
        made = [folder.name for folder in seen if folder.parent == root]
        spent = {"seconds": time.monotonic() - began, "busy": time.process_time() - busy, "fresh": not seen or any(seen.values())}
        return {"value": {**value, "runs": made}, **spent}
    except VestigeError as error:
        return {"why": " ".join(str(error).split()), "seconds": time.monotonic() - began}
    except Exception as error:  # whatever it is, the others go on
        traceback.print_exc()
        return {"why": f"{type(error).__name__}: {' '.join(str(error).split())}", "seconds": time.monotonic() - began}


def nothing(data: Mapping[str, Any], root: Path, out: Path) -> dict[str, Any]:
    """A task that takes no time, to see what handing one out costs."""
    return {}


def follow(every: float = 0.5) -> None:
    """End this process soon after its parent has died, whatever it is doing: an unfinished run resumes."""

    def look() -> None:
        while int(os.environ[PARENT]) == os.getppid():
            time.sleep(every)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()
