"""One attack on one model, without controls: what comes back, and in which adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vestige import registry, runs
from vestige.audit import rates
from vestige.audit.experiment import Case, furnished
from vestige.audit.plan import Plan
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit
from vestige.edits import edit as edits


def recover(planned: Plan, out: Path | str, *, watch: Watch = silent) -> dict[str, Any]:
    """The attack's curve, pictures, and the last adapter in diffusers' format."""
    run = runs.claim(out, {**planned.spec(), "what": "attack"})
    if run.done:
        return run.outcome
    with run.held():
        case = Case(planned, furnished(planned, run.folder / "runs", watch), run)
        ((name, (method, _)),) = planned.attacks.items()
        arm = case.arm(case.edited, case.concept, name, method, planned.seeds[0])
        points = arm.outcome["points"]
        for point in points if planned.request.keep_images == "all" else ():
            run.write_bytes(f"pictures/{point['budget']:06d}.png", arm.path(f"strips/{point['budget']:06d}.png").read_bytes())
        result: dict[str, Any] = {
            "schema": "vestige-attack-1",
            "attack": name,
            "settings": registry.settings(method),
            "curve": rates.curve([p["budget"] for p in points], [p["hits"] for p in points]),
            "adapter": None,
        }
        last = arm.path("last.safetensors")
        if last.exists():
            edit = Edit.load(last)
            edit.save(run.path("recovered.safetensors"))
            if edit.factors:
                result["adapter"] = str(edits.save_lora(edit, run.folder / "adapter"))
        run.finish({**result, "run": str(run.folder), "references": planned.request.references, "notes": points[-1]["notes"]})
    return run.outcome
