"""Judges of a user's own, tiny ones; concept files that name them; and suites short enough to be watched by them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vestige.harness import suites
from vestige.metrics.single import SingleScore


class Onlooker(SingleScore):
    """What a judge answers beside its scores where they are all that it has: no features, one threshold, and every label known."""

    weights_hash = "none"
    embeds = False

    def threshold(self, label: str) -> float:
        return 0.5

    def knows(self, label: str) -> bool:
        return True

    def witness(self, label: str) -> str:
        return self.weights_hash


NAMES = ("church", "garbage truck", "tench")
# A ViT of a few thousand weights.
SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 16,
    "patch_size": 8,
}


def classifier(folder: Path, seed: int = 0, reader: dict[str, Any] | None = None, **config: Any) -> Path:
    """A random ViT of a few thousand weights, saved as transformers saves it."""
    from transformers import ViTConfig, ViTForImageClassification

    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = ViTForImageClassification(ViTConfig(**{**SHAPE, **labels, **config}))
        torch.nn.init.normal_(made.classifier.weight)
    made.save_pretrained(folder)
    if reader is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(reader))
    return folder


@pytest.fixture(scope="module", autouse=True)
def short() -> Iterator[None]:
    """Suites of a few pictures in two steps: what is tested is who looks and what is kept."""
    real = suites.load

    def load(name: str, world: str = "") -> suites.Suite:
        suite = real(name, world)
        return replace(suite, pictures=4, select_pictures=0, utility_pictures=4, strip=2, protocol=replace(suite.protocol, steps=2))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suites, "load", load)
        yield


def told(home: Path, name: str = "bag", **own: Any) -> str:
    """A concept file."""
    fields = {"name": name, "neighbours": ["top"], "unrelated": ["dress"], "held_out": ["one {concept}", "the {concept}"], **own}
    file = home / f"{name}-{abs(hash(json.dumps(fields, sort_keys=True)))}.toml"
    file.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in fields.items()))
    return str(file)


def names(result: dict[str, Any]) -> dict[str, str]:
    return {flag["name"]: flag["kind"] for flag in result["verdict"]["flags"]}
