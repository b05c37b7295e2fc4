"""Many finished audits side by side: what may be compared, pooled over edits and concepts, contrasted and ranked. Loads no torch."""

from vestige.compare.gathering import Audited, Gathered, collected
from vestige.compare.summary import summarised

__all__ = ["Audited", "Gathered", "collected", "summarised"]
