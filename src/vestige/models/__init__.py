"""Models: the families that exist, and how one is found, placed and loaded."""

from vestige.models.catalogue import Card, Placement, card, cards, current, data_folder, identity, load, twins, using, world_of

__all__ = ["Card", "Placement", "card", "cards", "current", "data_folder", "identity", "load", "twins", "using", "world_of"]
