"""Checkpoints: other people's files, read as edits, and edits written for others."""

from vestige.checkpoints.exports import export
from vestige.checkpoints.loading import class_pipeline, described, inspect, load

__all__ = ["class_pipeline", "described", "export", "inspect", "load"]
