"""What must stay, measured by pictures: those for captions, of each model, against those of the original for the same captions and none.

For concepts whose file names who measures it (`fidelity`), because their detector cannot say what else a picture shows. Captions of the
user's own (`captions`) stand for unrelated concepts; without them the words that the concept file names do.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
from safetensors.torch import load, save

from vestige import runs
from vestige.concepts import Concept
from vestige.concepts import prompts as sets
from vestige.diffusion import Model
from vestige.harness.bench import NUMERICS, Bench
from vestige.harness.drawing import Asked, finite, of_set, seeded
from vestige.harness.suites import Suite
from vestige.metrics.alignment import ClipScore
from vestige.metrics.losses import Array, LostShare, by_kernel, by_score
from vestige.seeds import derive

FEATURES = "features.safetensors"


def captioned_by(concept: Concept, suite: Suite, group: str) -> tuple[Asked, ...]:
    """What is drawn of a group, "neighbours" or "unrelated"."""
    count, guidance = suite.utility_pictures, suite.protocol.guidance
    if group == "unrelated" and concept.captions:
        rows = of_set(sets.load(concept.captions), 1, 0, guidance)
        return tuple(rows[i * len(rows) // count] for i in range(count)) if len(rows) > count else tuple(rows)
    words = concept.neighbours if group == "neighbours" else concept.unrelated
    prompts = concept.spread(count, "held-out", words=words)
    return tuple(Asked(p.text, derive(0, "keeping", group, i), guidance) for i, p in enumerate(prompts))


def read_off(bench: Bench, model: Model, concept: Concept, group: str, *, prompted: bool = True) -> runs.Run:
    """The finished run of a group's pictures by a model: a score for each caption, or features.

    Arguments:
        prompted: Whether the model is told the captions, or nothing at the same seeds.
    """
    by, asked = bench.measured_by, captioned_by(concept, bench.suite, group)
    if by is None:
        raise ValueError(f"nobody measures what must stay beside {concept.name}")
    told = asked if prompted else tuple(replace(one, text="") for one in asked)
    spec = {
        "what": "keeping",
        "numerics": NUMERICS,
        "model": model.fingerprint,
        "asked": [[one.text, one.seed, one.guidance] for one in told],
        **({} if prompted else {"captions": [one.text for one in asked]}),
        "protocol": asdict(bench.suite.protocol),
        "by": [by.name, by.weights_hash],
        "strip": bench.suite.strip,
        "blurred": concept.sensitive,
        **bench.kept,
        "volatile": {"model": model.name, "group": group},
    }

    def work(run: runs.Run) -> dict[str, Any]:
        scores: list[float] = []
        rows = []
        for start in range(0, len(told), bench.suite.protocol.batch):
            part = slice(start, start + bench.suite.protocol.batch)
            drawn = finite(seeded(model, told[part], bench.suite.protocol), model)
            if isinstance(by, ClipScore):
                scores += by(drawn, [one.text for one in asked[part]]).tolist()
            else:
                rows.append(by.features(drawn).float().cpu().numpy())
            if start == 0:
                bench.album(concept).strip(drawn[: bench.suite.strip], run.folder, "strip.png")
            bench.watch(f"pictures of {group} by {model.name}", min(part.stop, len(told)), len(told))
        if rows:
            import torch

            run.write_bytes(FEATURES, save({"features": torch.from_numpy(np.concatenate(rows)).contiguous()}))
        return {"scores": scores, "pictures": len(told)}

    return runs.compute(bench.root, spec, "keeping", work, wait=bench.wait, steal=bench.steal)


def lost(bench: Bench, original: Model, model: Model, concept: Concept, group: str) -> LostShare | None:
    """What a model lost of a group; None where the group names nothing."""
    if bench.measured_by is None or not captioned_by(concept, bench.suite, group):
        return None
    sides = (
        read_off(bench, original, concept, group),
        read_off(bench, model, concept, group),
        read_off(bench, original, concept, group, prompted=False),
    )
    if isinstance(bench.measured_by, ClipScore):
        return by_score(*(np.array(run.outcome["scores"], dtype=float) for run in sides))
    return by_kernel(*map(_features, sides))


def _features(run: runs.Run) -> Array:
    return load((run.folder / FEATURES).read_bytes())["features"].double().numpy()
