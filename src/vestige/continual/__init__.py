"""Sequences: one request after another, what returns and what is lost beside."""
