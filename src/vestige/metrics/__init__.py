"""Metrics: who looks at pictures, and numbers about them; each score carries its interval and who measured it."""

from vestige.metrics.judge import Detector, Judge
from vestige.metrics.loading import pair
from vestige.metrics.score import Score

__all__ = ["Detector", "Judge", "Score", "pair"]
