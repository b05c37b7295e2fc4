"""What an audit will cost, in calls of the denoiser."""

from __future__ import annotations

from typing import Any

from vestige import registry
from vestige.base import Attack
from vestige.plan import PLASTICITY_REPLICATES, Plan
from vestige.sampling import Protocol


def planned_calls(planned: Plan) -> dict[str, int]:
    """Single denoiser calls (one latent, one condition) that the audit needs if nothing is stored, by part."""
    suite, n, whole = planned.suite, len(planned.seeds), bool(planned.original)
    guided = 2 if suite.protocol.guidance != 1 else 1
    picture = suite.protocol.steps * guided
    calls = {"scoring": 0, "attacks": 0, "utility": (6 if whole else 4) * suite.utility_pictures * picture}
    for name, (attack, plan_) in planned.attacks.items():
        arms = n * 2 * (1 + len(attack.variants())) + int(whole)
        if whole and suite.plasticity and name == "memora":
            arms += 2 * min(n, PLASTICITY_REPLICATES)
        tries = (
            [1 + min(b, getattr(attack, "most", 0)) for b in plan_.budget.points]
            if plan_.references == 0
            else [1] * len(plan_.budget.points)
        )
        calls["scoring"] += arms * sum(tries) * (suite.pictures + suite.select_pictures) * picture
        calls["scoring"] += (n - 1) * suite.pictures * picture if whole else 0
        steps = plan_.budget.last * getattr(attack, "batch", 0) * getattr(attack, "accumulation", 1)
        calls["attacks"] += arms * 3 * steps  # a training step costs about three forward passes
        calls["attacks"] += arms * _drawing(attack, plan_.budget.last)
        calls["attacks"] += n * 2 * getattr(attack, "sampling_steps", 0) * plan_.references * (1 + getattr(attack, "points", 0) // 2) * 2
    if planned.unlearner is not None:
        steps = getattr(planned.unlearner, "steps", 0) * getattr(planned.unlearner, "batch", 0)
        calls["unlearning"] = (
            3 * steps
            + _pictures(planned.unlearner)
            + 2 * getattr(planned.unlearner, "rollouts", 0) * getattr(planned.unlearner, "rollout_steps", 0)
        )
    return calls


def _drawing(attack: Attack, last: int) -> int:
    """Calls of what an attack draws for itself in one arm: the pictures of every try, or those it trains on."""
    own = getattr(attack, "retain_pictures", 0) if getattr(attack, "data", "") == "own" else 0
    return 2 * int(getattr(attack, "sampling_steps", 0)) * (last * int(getattr(attack, "draws", 0)) + own)


def _pictures(unlearner: Any) -> int:
    """Calls of the pictures that an unlearner trains on, if the model draws them all."""
    count = sum(value for name, value in registry.settings(unlearner).items() if name.endswith("_pictures") and isinstance(value, int))
    return 2 * Protocol().steps * int(count)
