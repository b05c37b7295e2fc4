"""The engine: a graph of pieces of work, and who does them: processes here, a cluster, or nobody, on a clock that is made up."""

from vestige.engine.graph import Graph, Task
from vestige.engine.here import HerePool
from vestige.engine.journal import Journal
from vestige.engine.local import LocalPool
from vestige.engine.pool import Ended, Pool
from vestige.engine.running import NOTE, WHOLE, Progress, execute, spoken
from vestige.engine.simulated import SimulatedPool

__all__ = [
    "NOTE",
    "WHOLE",
    "Ended",
    "Graph",
    "HerePool",
    "Journal",
    "LocalPool",
    "Pool",
    "Progress",
    "SimulatedPool",
    "Task",
    "execute",
    "spoken",
]
