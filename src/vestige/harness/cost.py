"""What an audit will cost, in single calls of the denoiser (one latent, one condition); one that is trained through counts three."""

from __future__ import annotations

from typing import Any

from vestige.audit.plan import PLASTICITY_REPLICATES, Plan, Request
from vestige.diffusion.sampling import Protocol
from vestige.harness import diagnostics
from vestige.methods import Data


def planned_calls(planned: Plan) -> dict[str, int]:
    """Calls that the audit needs if nothing is stored, by part."""
    suite, n, whole = planned.suite, len(planned.seeds), bool(planned.original)
    each = picture(suite.protocol)
    trained = max(1, sum(attack.access == "weights" for attack, _ in planned.attacks.values()))  # models that attacks leave behind
    calls = {"scoring": 0, "attacks": 0, "utility": 2 * (1 + trained + whole) * suite.utility_pictures * each}
    for name, (attack, own) in planned.attacks.items():
        ways = [way.calls(own.budget.last, own.references) for way in (attack, *attack.variants().values())]
        alone = int(whole) + (2 * min(n, PLASTICITY_REPLICATES) if whole and suite.plasticity and name == "memora" else 0)
        calls["attacks"] += n * 2 * sum(ways) + alone * ways[0]
        scored = sum(map(attack.tries, own.budget.points)) * (suite.pictures + suite.select_pictures) * each
        calls["scoring"] += (n * 2 * len(ways) + alone) * scored + (n - 1) * suite.pictures * each * whole
    if planned.unlearner is not None:
        calls["unlearning"] = unlearning(planned.unlearner, *_drawn(planned.request))
    return calls


def picture(protocol: Protocol) -> int:
    """Calls of one picture."""
    return protocol.steps * (2 if protocol.guidance != 1 else 1)


def unlearning(method: Any, picture: int, retained: int) -> int:
    """Calls of an edit and of its diagnostics; for the arguments see `Unlearner.calls`."""
    more = diagnostics.calls(picture, retained) if "retain" in method.needs else 0
    return int(method.calls(picture, retained)) + more


def _drawn(request: Request) -> tuple[int, int]:
    """What a picture of the concept and one of the rest take: nothing where a folder of them is given."""
    one = picture(Data().protocol)
    return (0 if request.forget != "drawn" else one), (0 if request.retain != "drawn" else one)
