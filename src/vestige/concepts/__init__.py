"""Concepts: what must go, its words, its prompts, and pictures of it."""

from vestige.concepts.concept import Concept
from vestige.concepts.loading import load, names, ready

__all__ = ["Concept", "load", "names", "ready"]
