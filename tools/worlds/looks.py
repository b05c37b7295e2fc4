"""A world's two judges as functions that `vestige audit` asks, see docs/metrics.md; this file is copied beside their weights.

`select` and `verify` look for objects, `select_style` and `verify_style` for styles. Each gives probabilities that compete.
"""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageClassification

HERE = Path(__file__).resolve().parent
CARDS = {name: json.loads((HERE / f"judge-{name}/judge.json").read_text("utf-8")) for name in ("select", "verify")}


@cache
def network(name: str) -> Any:
    return AutoModelForImageClassification.from_pretrained(HERE / f"judge-{name}", dtype=torch.float32).eval().requires_grad_(False)


def read(name: str, pictures: torch.Tensor) -> torch.Tensor:
    """(B, 3, 32, 32) in [0, 1] as the judge reads them."""
    x, scale = pictures * 2 - 1, CARDS[name]["scale"]
    return x if scale == 1 else torch.nn.functional.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


@torch.no_grad()
def looks(name: str, group: str, pictures: torch.Tensor) -> torch.Tensor:
    """Probability of every label of a group, (B, labels)."""
    card, start = CARDS[name], 0
    for other, labels in card["groups"].items():
        if other == group:
            logits = network(name)(read(name, pictures)).logits[:, start : start + len(labels)]
            return (logits / card["temperatures"][group]).softmax(1)
        start += len(labels)
    raise ValueError(f"{name} knows no {group}")


@torch.no_grad()
def features(name: str, pictures: torch.Tensor) -> torch.Tensor:
    """What the network sees before it names anything, (B, width)."""
    return network(name).base_model(pixel_values=read(name, pictures)).pooler_output.flatten(1)


def _function(name: str, group: str) -> Any:
    made = partial(looks, name, group)
    card = CARDS[name]
    told = {
        "name": f"{card['name']}-{group}",
        "version": card["version"],
        "labels": card["groups"][group],
        "threshold": 0.5,
        "features": partial(features, name),
        "files": [f"judge-{name}"],
    }
    for key, value in told.items():
        setattr(made, key, value)
    return made


select, verify = _function("select", "object"), _function("verify", "object")
select_style, verify_style = _function("select", "style"), _function("verify", "style")
