"""Runs: a folder that remembers one spec and its result."""

from vestige.runs.progress import WHOLE, Progress, spoken
from vestige.runs.run import Run, claim, compute, key, open_run

__all__ = ["WHOLE", "Progress", "Run", "claim", "compute", "key", "open_run", "spoken"]
