"""What audits and sequences cost, in single calls of the denoiser (one latent, one condition); one that is trained through counts three."""

from __future__ import annotations

from typing import Any

from vestige.diffusion.sampling import Drawing, predictions
from vestige.harness import diagnostics
from vestige.harness.suites import Suite
from vestige.methods import Attack, Budget


def picture(protocol: Drawing, *, distilled: bool = False) -> int:
    """Calls of one picture; a distilled model is told its guidance, where others predict twice."""
    return protocol.steps * predictions(protocol.guidance, distilled=distilled)


def scored_pictures(attack: Attack, budget: Budget, suite: Suite) -> int:
    """Pictures that are drawn to score one arm, for a forecast and for the bill alike."""
    return sum(map(attack.tries, budget.points)) * (suite.pictures + suite.select_pictures)


def unlearning(method: Any, picture: int, retained: int) -> int:
    """Calls of an edit and of its diagnostics; for the arguments see `Unlearner.calls`."""
    more = diagnostics.calls(picture, retained) if "retain" in method.needs else 0
    return int(method.calls(picture, retained)) + more
