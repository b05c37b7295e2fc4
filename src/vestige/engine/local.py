"""Processes of one thread on this machine, one a core or one a GPU."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from vestige.engine import serving
from vestige.engine.graph import Graph, Task
from vestige.engine.pool import Ended

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass
class _Place:
    """A process, what it does now, and what it did last."""

    number: int
    process: subprocess.Popen[bytes]
    task: Task | None = None
    group: str = ""
    ear: threading.Thread | None = None


class LocalPool:
    """Worker processes; those still at work are stopped when the context ends, and one that dies is replaced.

    Arguments:
        count: Processes.
        devices: GPUs by their numbers, dealt to the processes in turn; () leaves them alone.
        log: Folder for what each process says; None throws it away.
    """

    def __init__(self, count: int, *, devices: Sequence[str] = (), log: Path | None = None) -> None:
        self.devices, self.log = tuple(devices), log
        self._heard: queue.Queue[tuple[_Place, subprocess.Popen[bytes], bytes]] = queue.Queue()
        self._places = [_Place(i, self._begun(i)) for i in range(count)]
        for place in self._places:
            self._listen(place)

    def _begun(self, number: int) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **ONE_THREAD, serving.PARENT: str(os.getpid())}
        if self.devices:
            environment["CUDA_VISIBLE_DEVICES"] = self.devices[number % len(self.devices)]
        said: Any = subprocess.DEVNULL
        if self.log is not None:
            self.log.mkdir(parents=True, exist_ok=True)
            said = (self.log / f"worker-{number}.log").open("ab")
        program = f"from {serving.__name__} import serve; serve()"
        try:
            return subprocess.Popen(
                [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, env=environment
            )
        finally:
            if self.log is not None:
                said.close()

    def _listen(self, place: _Place) -> None:
        process = place.process

        def hear() -> None:
            if process.stdout is not None:
                for line in process.stdout:
                    self._heard.put((place, process, line))
            self._heard.put((place, process, b""))

        place.ear = threading.Thread(target=hear, daemon=True)
        place.ear.start()

    @property
    def size(self) -> int:
        """Processes, busy or not."""
        return len(self._places)

    @property
    def pids(self) -> list[int]:
        """Their numbers."""
        return [place.process.pid for place in self._places]

    def _free(self) -> _Place | None:
        return next((place for place in self._places if place.task is None), None)

    def vacant(self) -> str | None:
        place = self._free()
        return None if place is None else place.group

    def start(self, task: Task, graph: Graph) -> None:
        place = self._free()
        if place is None:
            raise RuntimeError("every place is busy")
        place.task, place.group = task, task.group
        asked = {"key": task.key, "entry": task.entry, "data": dict(task.data), "root": task.root, "out": task.out}
        with suppress(OSError):  # one that has died is heard of
            if place.process.stdin is not None:
                place.process.stdin.write(json.dumps(asked).encode() + b"\n")
                place.process.stdin.flush()

    def wait(self, seconds: float) -> list[Ended]:
        ended: list[Ended] = []
        deadline = time.monotonic() + seconds
        while not ended:
            try:
                place, process, line = self._heard.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            ended += self._read(place, process, line)
        return ended

    def _read(self, place: _Place, process: subprocess.Popen[bytes], line: bytes) -> list[Ended]:
        """What a process said; nothing more, if it died, which costs the task that it was at."""
        task = place.task
        if line:
            reply = json.loads(line)
            place.task = None
            return [Ended.told(reply["key"], reply)]
        code = process.wait()
        if task is None and code == 0:
            return []
        _close(process)
        place.task, place.group, place.process = None, "", self._begun(place.number)
        self._listen(place)
        return [] if task is None else [Ended(task.key, "lost", why=f"its process ended with code {code}")]

    def now(self) -> float:
        return time.monotonic()

    def close(self) -> None:
        """Stop every process."""
        for place in self._places:
            place.process.terminate()
        for place in self._places:
            place.process.wait()
            if place.ear is not None:
                place.ear.join()
            _close(place.process)

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _close(process: subprocess.Popen[bytes]) -> None:
    """Close the pipes of a process that has ended."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
