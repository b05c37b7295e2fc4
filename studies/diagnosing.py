"""The numbers of one edit that may tell whether its concept comes back: diagnostics of its weights, and what stored attacks left.

How often the concept shows half way back is a place of the attack `interpolate`, which has been run. Two numbers are DiMRA's: how far it
moved the weights, by the way that worked better and in the first replicate, and how much of that leads back to the original.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vestige import runs
from vestige.audit import experiment
from vestige.audit.controls import Control
from vestige.audit.plan import Plan
from vestige.diffusion import Model
from vestige.diffusion.model import silent
from vestige.edits import Edit
from vestige.errors import BadInput
from vestige.harness import arms, diagnostics, unlearning
from vestige.verdict.intervals import defined, share

HALFWAY = 0.5
READ = ("dimra", "interpolate")  # attacks


def measured(planned: Plan, result: Mapping[str, Any], folder: Path, cache: Path) -> dict[str, Any]:
    """The numbers of a finished audit's edit by name; None where one is not defined, as of weights behind a hook.

    Raises:
        BadInput: It has no edit, or was not attacked by what the numbers are read off.
    """
    planned = replace(planned.at(len(result["provenance"]["seeds"])), control=Control("none"))  # no never-model is looked at
    if missing := {*READ} - planned.attacks.keys():
        raise BadInput(f"{folder} was not attacked by {', '.join(sorted(missing))}, which its diagnosis needs")
    audited = experiment.prepared(planned, experiment.furnished(planned, cache, silent), runs.Run(folder, planned.spec()))
    subject, edit = audited.subject, audited.edit
    if edit is None:
        raise BadInput(f"{folder} audits a model without an edit, and there is nothing to diagnose")
    found, scope = audited.diagnostics or _diagnosed(audited, edit, cache), subject.scope(diagnostics.SCOPE)

    def flat(view: Model) -> torch.Tensor:
        return torch.cat([view.tensor(name).flatten() for name in scope]).double()

    def stored(attack: str) -> Sequence[runs.Run]:
        ways = audited.ways(audited.edited, audited.concept, attack, planned.seeds)
        return ways[arms.favoured(ways)]

    attacked = audited.edited.edited(Edit.load(stored("dimra")[0].path("last.safetensors")))
    places = [point for run in stored("interpolate") for point in run.outcome["points"] if point["notes"]["lambda"] == HALFWAY]
    start, now, then = flat(subject), flat(audited.edited), flat(attacked)
    back, went = start - now, then - now
    size = float(back.norm() * went.norm())
    return {
        **losses(found, hooked=bool(edit.hooks)),
        "halfway": None if edit.hooks else defined(share([hit for point in places for hit in point["hits"]])),
        "moved": float(went.norm() / start.norm()),
        "towards": float(back @ went) / size if size and not edit.hooks else None,
    }


def losses(found: Mapping[str, Any], *, hooked: bool) -> dict[str, float | None]:
    """What the diagnostics of an edit say; None where they do not see it, as of one of the text encoder, or where a hook has no weights.

    Arguments:
        hooked: The edit acts by hooks.
    """
    line = found["forget_loss_on_line"]
    told = {
        "excess": 1000 * found["excess_retain_loss"],
        "gradient": found["retain_gradient"],
        "cosine": found["gradient_cosine"],
        "distance": None if hooked else found["distance"],
        "forgotten": 1000 * (line[-1] - line[0]) if line else None,
    }
    return told if hooked or found["distance"] else dict.fromkeys(told)


def _diagnosed(audited: experiment.Experiment, edit: Edit, cache: Path) -> dict[str, Any]:
    """What an audit measures of methods that train on a retain set, of any other."""
    asked, concept = audited.plan.request, audited.concept
    data = unlearning.training_data(
        audited.subject, asked.forget, asked.retain, audited.bench.album(concept).cache(cache), asked.alternative
    )
    return diagnostics.measured(audited.subject, concept, edit, data, seed=asked.edit_seed)
