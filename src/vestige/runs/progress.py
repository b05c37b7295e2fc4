"""How far a long piece of work is as a whole: what is done, running and left, and how long that takes by what was done so far.

    time left = seconds so far / calls computed so far * calls left

over parts whose calls of the denoiser are forecast. A part that was stored already is done, and says nothing of the speed; parts that
other processes did are counted with theirs, so that the speed is that of all together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from vestige.runs.run import Run

WHOLE = "in all"  # what a stage that speaks of everything begins with
DONE = "part done"  # an event of a run
EVERY = 1.0  # seconds between looks at what other processes did


@dataclass
class Progress:
    """The parts of one run's work, and who hears of them.

    Arguments:
        run: Whose events tell what every process did.
        watch: Hears of each part's own stages, and of the whole under a stage that begins with `WHOLE`.
        processes: How many share the parts.
        calls: Forecast of each part, in any unit.
        before: Forecast of what was done before the parts began, and `after`: of what is done when they are.
    """

    run: Run
    watch: Callable[[str, int, int], None]
    processes: int = 1
    calls: dict[int, float] = field(default_factory=dict)
    before: float = 0.0
    after: float = 0.0
    _began: float = field(default_factory=lambda: time.monotonic())
    _done: dict[int, bool] = field(default_factory=dict)
    _looked: float = -math.inf
    _moved: bool = False
    _skip: int = 0

    def __post_init__(self) -> None:
        self._skip = len(self.run.events())  # of an earlier look, or attempt

    def __call__(self, stage: str, done: int, total: int) -> None:
        """A stage of the part that this process is at."""
        self._moved = True
        self.watch(stage, done, total)
        if time.monotonic() - self._looked >= EVERY:
            self.tell()

    def done(self, part: int) -> None:
        """This process is through with a part: computed now if any stage of it was heard, else stored, or left out."""
        self.run.event(DONE, part=part, computed=self._moved)
        self._moved = False
        self.tell()

    def tell(self) -> None:
        """Say how far it is."""
        self._looked = time.monotonic()
        for event in self.run.events()[self._skip :]:
            if event.get("event") == DONE:
                self._done[event["part"]] = self._done.get(event["part"], False) or bool(event["computed"])
        total = self.before + sum(self.calls.values()) + self.after
        through = self.before + sum(self.calls.get(part, 0.0) for part in self._done)
        self.watch(f"{WHOLE}: {self.text(total - through)}", round(through), round(total))

    def text(self, left: float) -> str:
        """What is done, running and left, and for how long: no time before anything was computed.

        Arguments:
            left: Calls.
        """
        count = len(self.calls) - len(self._done)
        running = min(self.processes, count)
        counted = f"{len(self._done)} done, {running} running, {count - running} left"
        seconds = self.seconds_left(left)
        return counted if seconds is None else f"{counted}, about {spoken(seconds)} to go"

    def seconds_left(self, left: float) -> float | None:
        """Seconds that so many calls take at the speed so far; None while nothing is known of it."""
        computed = sum(self.calls.get(part, 0.0) for part, fresh in self._done.items() if fresh)
        return (time.monotonic() - self._began) / computed * left if computed else None


def spoken(seconds: float) -> str:
    """A time as one says it."""
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
