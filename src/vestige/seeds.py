"""Seeds derived for a purpose, and their generators; nothing here or above touches a global stream."""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, *purpose: object) -> int:
    """A seed for a purpose, in [0, 2**63): equal inputs give equal seeds, different ones independent seeds."""
    text = repr((int(seed), *map(str, purpose)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *purpose: object) -> torch.Generator:
    """A CPU generator of its own for a purpose."""
    return torch.Generator().manual_seed(derive(seed, *purpose))
