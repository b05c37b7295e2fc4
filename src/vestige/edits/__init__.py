"""Edits: the difference between two models, as a value and as a file."""

from vestige.edits.arithmetic import combine, difference, measure, scale
from vestige.edits.edit import Edit, Hook

__all__ = ["Edit", "Hook", "combine", "difference", "measure", "scale"]
