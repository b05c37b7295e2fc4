"""An audit: one model, and whether the concept is gone from it."""

from vestige.audit.recovery import recover
from vestige.audit.request import Request
from vestige.audit.resolving import resolve
from vestige.audit.run import audit

__all__ = ["Request", "audit", "recover", "resolve"]
