"""Sequences: one request after another, what returns and what is lost beside."""

from vestige.continual.ledger import Ledger
from vestige.continual.order import Order
from vestige.continual.plan import resolve
from vestige.continual.run import compared, continual, rebuilt

__all__ = ["Ledger", "Order", "compared", "continual", "rebuilt", "resolve"]
