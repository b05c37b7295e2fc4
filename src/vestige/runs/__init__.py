"""Runs: a folder that remembers one spec and its result."""

from vestige.runs.run import Run, claim, compute, key, noting, open_run

__all__ = ["Run", "claim", "compute", "key", "noting", "open_run"]
