"""What an edit did to pictures that it was meant to change, and to those that it was not.

    distance            mean over prompts of d(before_i, after_i), the same seed and sampler on both sides
    unlearning accuracy UA = share of the target's pictures that are not recognised as the target
    in-domain           IRA = share of its neighbours' pictures (other styles, where a style went) that show what was asked for
    cross-domain        CRA = the same for the other domain

UA, IRA and CRA are UnlearnCanvas's (Zhang et al., 2024), each with its interval and with the pictures that could not be judged left
out and counted. The distance is that of a network's unit features, after LPIPS's idea (Zhang et al., 2018) but without its learned
weights: it is named after the network and comparable with nothing but itself. ESD's LPIPS_e - LPIPS_u is `difference` of two of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor
from torch.nn import functional as F

from vestige.errors import BadInput
from vestige.metrics.judge import Extractor, Judge, by
from vestige.metrics.score import Score

FEW = 30  # pairs below which an interval of the mean is hardly one


@final
@dataclass(frozen=True)
class Shift:
    """How far pictures moved, at equal seeds.

    Arguments:
        name: Whose features, and at which size where they are pixels.
        value: Mean over pairs; `low` and `high` are the ends of its 95 % interval, normal over pairs.
        each: Distance of every pair.
        note: Why the interval may mean little.
    """

    name: str
    value: float
    low: float
    high: float
    each: tuple[float, ...]
    note: str = ""
    weights_hash: str = ""


def shift(extractor: Extractor, before: Tensor, after: Tensor) -> Shift:
    """Mean distance of pictures (N, 3, H, W) to their partners: half the squared distance of unit features, 1 - cos, in [0, 2]."""
    if before.shape != after.shape or len(before) < 2:
        raise BadInput(f"pairs need two equal sets of at least 2 pictures; given {tuple(before.shape)} and {tuple(after.shape)}")
    x, y = (F.normalize(extractor.features(side).double().flatten(1), dim=1) for side in (before, after))
    return _mean(f"distance-{extractor.name}", ((x - y) ** 2).sum(1) / 2, extractor.weights_hash)


def gap(target: Shift, unrelated: Shift) -> Shift:
    """How much farther the target's pictures moved than unrelated ones: large for an edit that is local; intervals add as variances."""
    if target.name != unrelated.name:
        raise BadInput(f"distances of different networks cannot be subtracted; given {target.name} and {unrelated.name}")
    value, half = target.value - unrelated.value, math.hypot(target.high - target.value, unrelated.high - unrelated.value)
    note = target.note or unrelated.note
    return Shift(f"{target.name}-difference", value, value - half, value + half, (), note, target.weights_hash)


@final
@dataclass(frozen=True)
class Pixels:
    """No network: the picture itself, resized to a square of `side`; for when there is none. It sees shifts as large changes."""

    side: int = 64
    weights_hash: str = ""

    @property
    def name(self) -> str:
        return f"pixels-{self.side}"

    def features(self, images: Tensor) -> Tensor:
        return F.interpolate(images.float(), size=(self.side, self.side), mode="area").flatten(1)


def _mean(name: str, values: Tensor, weights_hash: str) -> Shift:
    half = 1.96 * float(values.std()) / math.sqrt(len(values))
    value = float(values.mean())
    note = f"only {len(values)} pairs" if len(values) < FEW else ""
    return Shift(name, value, value - half, value + half, tuple(values.tolist()), note, weights_hash)


@final
@dataclass(frozen=True)
class Accuracies:
    """UA, IRA and CRA of one edited model."""

    unlearning: Score
    in_domain: Score
    cross_domain: Score

    def __str__(self) -> str:
        return f"UA {self.unlearning}\nIRA {self.in_domain}\nCRA {self.cross_domain}"


def accuracies(
    judge: Judge, images: Tensor, asked: Sequence[Mapping[str, str]], target: tuple[str, str], units: Sequence[Any] = ()
) -> Accuracies:
    """Accuracies of pictures (N, 3, H, W) by a judge whose labels compete.

    A picture of the target counts for UA; one of another concept of its group for IRA, by that group; every picture that was asked for
    something of another group and not for the target counts for CRA, by those other groups.

    Arguments:
        asked: What each picture should show, group -> label.
        target: Group and label of what was to be forgotten.
        units: Of each picture its prompt, as for `judge.score`.
    """
    if len(asked) != len(images):
        raise BadInput(f"one expectation a picture: {len(images)} pictures, {len(asked)} expectations")
    group, label = target
    seen = [labels for part in images.split(128) for labels in judge.labelled(part)]
    hits: dict[str, list[tuple[int, bool | None]]] = {"unlearning": [], "in_domain": [], "cross_domain": []}
    for i, (found, wanted) in enumerate(zip(seen, asked, strict=True)):
        away = {g: name for g, name in wanted.items() if g != group}
        if wanted.get(group) == label:
            hits["unlearning"].append((i, None if group not in found else found[group] != label))
            continue
        if group in wanted:
            hits["in_domain"].append((i, _right(found, {group: wanted[group]})))
        if away:
            hits["cross_domain"].append((i, _right(found, away)))
    made = {kind: by(judge, [h for _, h in row], units=[units[i] for i, _ in row] if units else ()) for kind, row in hits.items()}
    return Accuracies(**made)


def _right(found: Mapping[str, str], wanted: Mapping[str, str]) -> bool | None:
    return None if not wanted.keys() <= found.keys() else all(found[g] == name for g, name in wanted.items())
