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


def shares_plain(attack: Attack, budget: Budget) -> bool:
    """Whether the zero point of an arm is the plain state that all attacks on a model share, or drawn with the arm's other tries."""
    return budget.last > 0 and attack.tries(budget.last) == 1


def plain_pictures(suite: Suite) -> int:
    """Pictures of one state: of a model that is plainly asked on the seeds of a replicate, or as an attack left it at a point."""
    return suite.pictures + suite.select_pictures


def scored_pictures(attack: Attack, budget: Budget, suite: Suite) -> int:
    """Pictures that are drawn to score one arm beside the shared plain state, for a forecast and for the bill alike.

    One that tries several seeds draws each once: what more tries find, they find among the pictures of fewer.
    """
    states = len(budget.points) - 1 if shares_plain(attack, budget) else attack.tries(budget.last)
    return states * plain_pictures(suite)


def unlearning(method: Any, picture: int, retained: int) -> int:
    """Calls of an edit and of its diagnostics; for the arguments see `Unlearner.calls`."""
    more = diagnostics.calls(picture, retained) if "retain" in method.needs else 0
    return int(method.calls(picture, retained)) + more
