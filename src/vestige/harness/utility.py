"""Utility: whether a model still draws what it should, beside the concept."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from vestige import runs
from vestige.concepts import Concept
from vestige.diffusion import Model
from vestige.diffusion.sampling import pictures
from vestige.harness.bench import NUMERICS, Bench, answered, tells
from vestige.seeds import derive


def kept(bench: Bench, model: Model, concept: Concept, group: str) -> dict[str, Any]:
    """How often the model still draws what it should, for "neighbours" or "unrelated": one right-or-wrong a picture."""
    words = concept.neighbours if group == "neighbours" else concept.unrelated
    count = bench.suite.utility_pictures
    prompts = concept.spread(count, "held-out", words=words)
    spec = {
        "what": "utility",
        "numerics": NUMERICS,
        "model": model.fingerprint,
        "prompts": [p.text for p in prompts],
        "expects": [dict(p.expects) for p in prompts],
        "protocol": asdict(bench.suite.protocol),
        "judge": bench.verify.witness(concept.label),
        "blurred": concept.sensitive,
        **bench.kept,
        "volatile": {"model": model.name, "group": group},
    }

    def work(run: runs.Run) -> dict[str, Any]:
        if not any(tells(bench.verify, p) for p in prompts):  # no words were named, or the judge tells none of them
            return {"right": []}
        seeds = [derive(0, "utility", i) for i in range(count)]
        drawn = pictures(model, [p.text for p in prompts], seeds, bench.suite.protocol)
        bench.watch(f"utility of {model.name}", 1, 1)
        bench.album(concept).strip(drawn[: bench.suite.strip], run.folder, "strip.png")
        return {"right": answered(bench.verify, drawn, prompts)}

    run = runs.compute(bench.root, spec, "utility", work, wait=bench.wait, steal=bench.steal)
    return {"folder": str(run.folder), **run.outcome}
