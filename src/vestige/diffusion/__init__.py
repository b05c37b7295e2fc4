"""Diffusion: what a diffusion model is, and what can be done with any."""

from vestige.diffusion.model import Condition, Model, Prediction

__all__ = ["Condition", "Model", "Prediction"]
