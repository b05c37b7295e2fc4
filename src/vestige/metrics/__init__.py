"""Measurements of pictures: detection, fidelity, alignment, locality; each score carries its interval and who measured it."""
