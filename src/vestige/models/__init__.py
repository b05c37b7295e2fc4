"""Models: the families that exist, and how one is found, placed and loaded."""

from vestige.models.catalogue import Card, card, cards, identified, identity, twins, world_of
from vestige.models.loading import from_pipeline, load
from vestige.models.placement import Placement

__all__ = ["Card", "Placement", "card", "cards", "from_pipeline", "identified", "identity", "load", "twins", "world_of"]
