"""The verdict: from rates to a sentence; arithmetic, no torch, no files."""

from vestige.verdict.decision import Flag, Lines, decide
from vestige.verdict.intervals import Interval
from vestige.verdict.savings import Arms, measure

__all__ = ["Arms", "Flag", "Interval", "Lines", "decide", "measure"]
