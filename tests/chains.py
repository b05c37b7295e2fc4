"""Sequences on a tiny model with judges that see something in noise, and a method that nudges one weight."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from onlookers import Onlooker
from oracles import tiny_model
from vestige import concepts, models, registry
from vestige.continual import Order, run
from vestige.diffusion.sampling import Drawing
from vestige.edits import Edit
from vestige.harness import diagnostics, suites
from vestige.harness.bench import Bench
from vestige.methods import Paper, Unlearner

BAG, DRESS, SNEAKER, NEON = (concepts.load(name) for name in ("bag", "dress", "sneaker", "neon"))
VOLATILE = ("cost", "provenance", "run", "report", "combined")


@dataclass(frozen=True)
class Eye(Onlooker):
    """A judge whose opinion is a fixed wild function of the pixels."""

    name: str
    version: str = "1"
    embeds = True

    @property
    def weights_hash(self) -> str:  # type: ignore[override]
        return self.name

    def identity(self, label: str) -> dict[str, Any]:
        return {"name": self.name, "label": label}

    def _wild(self, images_: Tensor, label: str) -> Tensor:
        return torch.sin(1e3 * images_.double().flatten(1).sum(1) + len(label) + len(self.name))

    def shows(self, images_: Tensor, label: str) -> Tensor:
        return self._wild(images_, label) / 2 + 0.5

    def labelled(self, images_: Tensor) -> list[dict[str, str]]:
        return [{"object": "boot" if v > 0 else "coat", "style": "photo"} for v in self._wild(images_, "").tolist()]

    def features(self, images_: Tensor) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images_, 2).flatten(1)


@dataclass(frozen=True, kw_only=True)
class Nudge(Unlearner):
    """Moves one weight by a number drawn from the seed, the concept and what it rehearses.

    Arguments:
        size: How far.
    """

    paper: ClassVar[Paper] = Paper("A test's method", "nobody", 2026)
    needs: ClassVar[frozenset[str]] = frozenset({"retain"})
    told: ClassVar[list[Any]] = []

    size: float = 1.0

    def __call__(self, model: Any, concept: Any, *, seed: int, data: Any = None, watch: Any = None) -> Edit:
        Nudge.told.append((concept.name, data.original, data.retain))
        name = model.scope("cross-attention-kv")[0]
        rng = torch.Generator().manual_seed(seed + len(concept.name))
        step = self.size * torch.randn(model.tensor(name).shape, generator=rng) * data.retain.images.mean()
        return Edit(model.fingerprint, "nudge", {"size": self.size}, "cross-attention-kv", {name: model.tensor(name) + step})


@pytest.fixture(scope="module", autouse=True)
def small_world() -> Iterator[None]:
    """Two sampling steps, few pictures, a random network, and a method of our own beside the registry's."""
    suite = replace(suites.load("smoke", "wardrobe"), pictures=6, utility_pictures=8, protocol=Drawing(steps=2, guidance=1.0))
    model, find = tiny_model(), registry.find
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suites, "load", lambda name, world="": suite)
        patch.setattr(models, "load", lambda name: model)
        patch.setattr(registry, "find", lambda kind, name: Nudge if name == "nudge" else find(kind, name))
        patch.setattr(run, "with_judges", lambda c, root, watch, steal: Bench(root, suite, Eye("verify"), Eye("select"), steal=steal))
        patch.setattr(diagnostics, "measured", lambda model, concept, *given, **more: {"distance": len(concept.name) / 10})
        patch.setattr(os, "fsync", lambda file: None)  # slow, and without a meaning where the power stays on
        yield


def go(out: Path, *requests: str, cache: Path | None = None, **more: Any) -> dict[str, Any]:
    """A sequence's result; with a shared `cache`, what another one has drawn, looked at or taken by an equal spec is not done again."""
    order = Order(**{"requests": requests or ("bag", "dress"), "method": "nudge", "memory": 12, "suite": "smoke", **more})
    return run.continual(order, out, cache=cache)


def agree(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two results say the same: to the bit, but for KID, whose float32 sums depend on where tensors lie in memory."""
    plain, kids = [], []
    for result in (one, other):
        steps = [{**s, "erosion": {k: v for k, v in s["erosion"].items() if k != "kid"}} for s in result["steps"]]
        files = [{**c, "edit": c["edit"]["file"]} for c in result["certificates"]]  # a file made again need not be so to the byte
        plain.append({**{k: v for k, v in result.items() if k not in VOLATILE}, "steps": steps, "certificates": files})
        kids.append([s["erosion"]["kid"][k] for s in result["steps"] for k in ("value", "low", "high")])
    return plain[0] == plain[1] and kids[0] == pytest.approx(kids[1], abs=1e-5)


def edits_of(out: Path) -> list[dict[str, Tensor]]:
    return [dict(Edit.load(file).tensors) for file in sorted((out / "edits").iterdir())]


def same_edits(one: Path, other: Path) -> bool:
    pairs = list(zip(edits_of(one), edits_of(other), strict=True))
    return all(a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in pairs)


def chain(out: Path) -> list[tuple[str, str, str]]:
    return [(s["request"], s["before"], s["after"]) for s in json.loads((out / "ledger.json").read_text())["steps"]]
