"""One attack on one model, without controls: what comes back, and as which file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vestige import registry, runs
from vestige.audit import scores
from vestige.audit.experiment import furnished, prepared
from vestige.audit.plan import Plan
from vestige.checkpoints import exports
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit


def recover(planned: Plan, out: Path | str, *, watch: Watch = silent) -> dict[str, Any]:
    """The attack's curve, pictures, and the last edit; as diffusers reads it, where it is an adapter or a learned word."""
    run = runs.claim(out, {**planned.spec(), "what": "attack"})
    if run.done:
        return run.outcome
    with run.held():
        experiment = prepared(planned, furnished(planned, run.folder / "runs", watch), run)
        ((name, (method, _)),) = planned.attacks.items()
        arm = experiment.arm(experiment.edited, experiment.concept, name, method, planned.seeds[0])
        points = arm.outcome["points"]
        for point in points if planned.request.keep_images == "all" else ():
            run.write_bytes(f"pictures/{point['budget']:06d}.png", arm.path(f"strips/{point['budget']:06d}.png").read_bytes())
        result: dict[str, Any] = {
            "schema": "vestige-attack-1",
            "attack": name,
            "settings": registry.settings(method),
            "curve": scores.curve_of([p["budget"] for p in points], [p["hits"] for p in points]),
            "edit": None,
            "adapter": None,
            "embeddings": [],
        }
        if cut := experiment.edited.unread(experiment.concept.told()):
            result["cut"] = cut
        last = arm.path("last.safetensors")
        if last.exists():
            edit = Edit.load(last)
            result["edit"] = str(edit.save(run.path("recovered.safetensors")))
            adapter = exports.adapter(edit, experiment.edited, run.folder / "adapter")
            result["adapter"] = None if adapter is None else str(adapter)
            learned = exports.embeddings(edit, experiment.edited, experiment.concept.target, run.folder / "embedding")
            result["embeddings"] = [str(file) for file in learned]
        run.finish({**result, "run": str(run.folder), "references": planned.request.references, "notes": points[-1]["notes"]})
    return run.outcome
