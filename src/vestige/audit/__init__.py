"""An audit: one model, and whether the concept is gone from it."""
