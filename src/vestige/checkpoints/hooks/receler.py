"""Receler's adapters at work, whoever trained them: a bottleneck after every cross-attention (Huang et al., 2024)."""

from vestige.diffusion.bottlenecks import Bottlenecks as Receler

__all__ = ["Receler"]
