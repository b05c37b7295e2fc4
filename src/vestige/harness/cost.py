"""What an audit will cost, in single calls of the denoiser (one latent, one condition); one that is trained through counts three."""

from __future__ import annotations

from typing import Any

from vestige.diffusion.sampling import Drawing
from vestige.harness import diagnostics


def picture(protocol: Drawing) -> int:
    """Calls of one picture."""
    return protocol.steps * (2 if protocol.guidance != 1 else 1)


def unlearning(method: Any, picture: int, retained: int) -> int:
    """Calls of an edit and of its diagnostics; for the arguments see `Unlearner.calls`."""
    more = diagnostics.calls(picture, retained) if "retain" in method.needs else 0
    return int(method.calls(picture, retained)) + more
