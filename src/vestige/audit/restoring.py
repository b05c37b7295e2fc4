"""Attacks that put the original's parts back run in every audit of an edit that has any; its parts say at how many points."""

from __future__ import annotations

from dataclasses import replace

from vestige import registry
from vestige.audit.plan import Plan
from vestige.diffusion import Model
from vestige.edits import Edit
from vestige.errors import BadInput
from vestige.harness.suites import Planned
from vestige.methods import Budget
from vestige.methods.stock import parts_of


def with_restoring(planned: Plan, original: Model | None, subject: Model, edit: Edit | None) -> Plan:
    """A plan with these attacks, a point for each part and one for all; without them where there is nothing to put back, or nobody has it.

    Raises:
        BadInput: One was asked for, and nothing of the edit comes apart.
    """
    asked = [name for name, (attack, _) in planned.attacks.items() if attack.restores]
    parts = parts_of(subject, edit) if original is not None and edit is not None else ()
    if asked and not parts:
        raise BadInput(f"{asked[0]} puts parts of the original back, and nothing of this edit comes apart from the denoiser's own weights")
    if not parts or (planned.control.kind == "none" and not asked):
        return planned
    names = asked or [name for name in registry.names("attacks") if registry.find("attacks", name).restores]
    own = Planned({}, Budget(tuple(range(len(parts) + 1 + (len(parts) > 1)))), 0)
    more = {name: (planned.attacks[name][0] if name in asked else registry.build("attacks", name), own) for name in names}
    return replace(planned, attacks={**planned.attacks, **more})
