"""Concepts: what must go, its words, its prompts, and pictures of it."""

from vestige.concepts.concept import Concept
from vestige.concepts.loading import for_real_models, load, names

__all__ = ["Concept", "for_real_models", "load", "names"]
