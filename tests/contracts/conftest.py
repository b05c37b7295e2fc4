"""What the measurements of this room share."""

from __future__ import annotations

from efficacy import bench, select

__all__ = ["bench", "select"]
