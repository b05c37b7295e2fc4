"""Who does tasks: a pool has places, takes a task for one, and says when it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from vestige.engine.graph import Graph, Task


@dataclass(frozen=True)
class Ended:
    """How a task ended.

    Arguments:
        how: "done"; "failed", by itself; or "lost" with whoever did it.
        value: What it returned.
        why: What went wrong.
        seconds: Time that it took, and `busy`: of the processor.
        fresh: Whether it computed anything; what it only found says nothing of the pace.
    """

    key: str
    how: Literal["done", "failed", "lost"]
    value: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    seconds: float = 0.0
    busy: float = 0.0
    fresh: bool = True

    @classmethod
    def told(cls, key: str, answer: Mapping[str, Any]) -> Ended:
        """From what `serving.attended` says."""
        how: Literal["done", "failed"] = "failed" if "why" in answer else "done"
        spent = answer["seconds"], answer.get("busy", 0.0), answer.get("fresh", True)
        return cls(key, how, answer.get("value") or {}, answer.get("why", ""), *spent)


class Pool(Protocol):
    """Places for tasks. It is closed by whoever made it."""

    @property
    def size(self) -> int:
        """Places, busy or not."""
        ...

    def vacant(self) -> str | None:
        """What a free place has loaded, "" for nothing known; None where no place is free."""
        ...

    def start(self, task: Task, graph: Graph) -> None:
        """Begin a task in that place; `graph` tells what it rests on."""
        ...

    def wait(self, seconds: float) -> list[Ended]:
        """What has ended, after that many seconds at most."""
        ...

    def now(self) -> float:
        """Seconds by the pool's clock."""
        ...
