"""An audit without an original: what stands in for it, and what then cannot be said.

An original gives an audit its ceiling (how often the concept appears where nothing was removed), the scale of what an edit cost the
rest, and a pupil for a proxy. Without one

    ceiling   the verification judge's rate on real pictures of the concept, after the edited model's autoencoder
    never     a twin as before; a proxy is taught to the edited model itself
    the rest  is not known, and a capping flag says so

Drawn pictures may be recognised more often than real ones, or less: nobody knows where the original's rate lay. So every interval
spans ceilings from the lower end of the real pictures' own interval up to 1, where recall, savings and reach are lowest. "Not
forgotten" and "short-term" then hold whatever the original drew; "erased" and "long-term", which need an upper bound, are never said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vestige.concepts import Concept
from vestige.concepts.images import PictureSet
from vestige.diffusion import Model
from vestige.harness.bench import Bench, shows
from vestige.verdict import Flag
from vestige.verdict.decision import Top
from vestige.verdict.intervals import Hits, judged, share, wilson

LEAST = 8  # fewer pictures than these that no attack trains on say too little: then all are counted
MOST = 256  # pictures; beyond them the autoencoder's time buys no precision


@dataclass(frozen=True)
class Real:
    """What both judges see in real pictures of the concept.

    Arguments:
        hits: By the verification judge.
        other_judge: By the selection judge.
        held_out: No attack trains on any of them.
        source: Where they came from.
    """

    hits: Hits
    other_judge: Hits
    held_out: bool
    source: str

    @property
    def rate(self) -> float:
        return share(self.hits)

    @property
    def between(self) -> tuple[float, float] | None:
        """Where the original's rate may have lain: from the lower end of this one's interval up to 1; None where nothing was judged."""
        seen = judged(self.hits)
        return (wilson(sum(seen), len(seen)).low, 1.0) if seen else None

    @property
    def about(self) -> str:
        """How many, and whether an attacker has them."""
        return f"{len(self.hits)} real pictures, {'none' if self.held_out else 'some'} of which an attack trains on"


def seen(bench: Bench, model: Model, concept: Concept, whole: PictureSet, given: Sequence[PictureSet]) -> Real:
    """The real pictures that the audit counts, as its judges see them after the model's autoencoder.

    Arguments:
        whole: Every real picture of the concept that there is.
        given: What arms train on.
    """
    chosen, held_out = _counted(whole, given)
    images = reconstructed(model, chosen.images)
    hits, other = (shows(judge, images, concept) for judge in (bench.verify, bench.select))
    return Real(hits, other, held_out, chosen.source)


def _counted(whole: PictureSet, given: Sequence[PictureSet]) -> tuple[PictureSet, bool]:
    """Real pictures that no arm trains on, or all where these are too few; and which it is."""
    taken = {one.numpy().tobytes() for pictures in given for one in pictures.images}
    free = [i for i, one in enumerate(whole.images) if one.numpy().tobytes() not in taken]
    chosen = whole.take(free) if len(free) >= LEAST else whole
    return chosen.draw(min(MOST, len(chosen)), 0, seed=1), not taken or len(free) >= LEAST


def reconstructed(model: Model, real: Tensor) -> Tensor:
    """Pictures after a model's autoencoder: the most faithful that it could draw."""
    return torch.cat([model.decode(model.encode(part)) for part in real.split(16)])


def top(real: Real, never: str) -> Top:
    """The verdict's words.

    Arguments:
        never: Who stands for a model that never knew the concept, as a phrase.
    """
    return Top(
        rate="the detector's rate on real pictures",
        has="real pictures have",
        undefined="the detector sees the concept in real pictures no more often than in those of a model that never knew it",
        remark=f"there was no original: {real.about}, stand in for its ceiling, and {never} for a model that never knew the concept",
    )


def flag(real: Real) -> Flag:
    """Neither erased nor long-term, and why."""
    text = (
        f"the ceiling is {real.rate:.0%} of {real.about}, and not what an original drew; what the edit changed, what it cost the rest "
        "and whether the model can still learn were compared with nothing, and no positive control shows what the attacks would have found"
    )
    return Flag("no-original", "capping", text)


def absent() -> dict[str, str]:
    """What the result holds nothing for, each with the reason."""
    known = {
        "plain.original": "nobody drew with the original",
        "attacks.*.arms.original": "nobody attacked the original, so whether an attack spoils what is known was not checked",
        "utility.*.before": "what the edit cost the rest cannot be told from what the edited model draws alone",
        "edit": "which weights changed, and whether prompts are read differently, only a comparison with the original tells",
        "positive_controls": "nothing can be hidden in it on purpose, so what the attacks would have found is not known",
        "plasticity": "how fast the original learns something new is not known",
    }
    return {place: f"no original is at hand: {why}" for place, why in known.items()}


def ceiling(real: Real) -> dict[str, Any]:
    """What the result says of the ceiling, beside its rate."""
    between = None if real.between is None else list(real.between)
    return {"of": "real pictures", "source": real.source, "held_out": real.held_out, "between": between}
