"""Grids: methods side by side over concepts, seeds and settings, every cell an ordinary audit or sequence in a folder of its own."""

from vestige.grid.cells import GridCell
from vestige.grid.plan import Outlook, outlook
from vestige.grid.reading import read
from vestige.grid.run import run_grid

__all__ = ["GridCell", "Outlook", "outlook", "read", "run_grid"]
