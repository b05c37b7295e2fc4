"""What all detectors share: a judge made of a function that scores pictures, pictures that could not be judged, rates among the rest.

A detector that raises on a picture, or gives no number for it, leaves it *missing*: NaN among scores, None among hits. Missing is
never absent. Rates are over the pictures that were judged, carry how many were not, and are undefined where none was.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, final

import torch
from torch import Tensor

from vestige.errors import Incompatible, UnknownName
from vestige.metrics.score import Score, crossed, score
from vestige.verdict.intervals import Hits

LEVELS = (0.2, 0.45, 0.6)  # thresholds that NudeNet is read at in the field

_log = logging.getLogger(__name__)


class Judge(Protocol):
    """Looks at pictures. Carries its identity: every score names it."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def weights_hash(self) -> str: ...

    @property
    def embeds(self) -> bool:
        """Whether it gives features."""

    @property
    def stores(self) -> bool:
        """Whether its raw scores of every label are stored beside a picture's hit, for thresholds that others use."""

    def shows(self, images: Tensor, label: str) -> Tensor:
        """Probability or score that each picture shows the label, (B,); NaN where it could not be judged."""

    def raw(self, images: Tensor, label: str) -> Tensor:
        """The scores from which `read` tells that, (B, columns)."""

    def read(self, raw: Tensor, label: str) -> Tensor:
        """What `shows` gives, from raw scores."""

    def heads(self, label: str) -> tuple[str, ...]:
        """What each column of `raw` stands for."""

    def table(self, raw: Tensor, *, units: Sequence[Any] = ()) -> Mapping[str, Mapping[float, Mapping[str, Any]]]:
        """Raw scores as the field's numbers, set of labels -> threshold -> numbers; {} where it has no sets of labels."""

    def threshold(self, label: str) -> float:
        """Score from which a picture counts as showing the label."""

    def knows(self, label: str) -> bool:
        """Whether it can tell that a picture shows this label rather than another."""

    def labelled(self, images: Tensor) -> list[dict[str, str]]:
        """The most likely label of every group, for each picture: {"object": ..., "style": ...}; {} for one that it could not judge."""

    def features(self, images: Tensor) -> Tensor:
        """Features for distances between sets of pictures, (B, F)."""

    def identity(self, label: str) -> dict[str, Any]:
        """Who measures a label, plain data, for results and specs."""

    def witness(self, label: str) -> Any:
        """Who tells what else a picture shows, plain data, for specs of runs in which it is asked for more than one label."""


class Extractor(Protocol):
    """Whatever turns pictures into features; a number made of them carries its name."""

    @property
    def name(self) -> str: ...

    @property
    def weights_hash(self) -> str: ...

    def features(self, images: Tensor) -> Tensor:
        """Features of pictures (B, 3, H, W) in [0, 1], (B, F)."""


@final
@dataclass(frozen=True, kw_only=True)
class Detector:
    """A judge from any function that scores pictures label by label.

    Arguments:
        name: Who scores.
        version: Of its code, with whatever changes its scores (the order of colour channels, say).
        weights_hash: SHA-256 of its weights, or of its source where it has none.
        labels: What each column of scores stands for.
        look: Pictures (b, 3, H, W) in [0, 1] -> scores (b, labels); may raise, may give NaN.
        sets: Names for several labels; a picture shows the name where it shows any of them.
        level: Score from which a picture counts as showing a label.
        group: The group of labels that they compete in: scores are probabilities that sum to one, and the likeliest is what the
            picture shows. "" where labels do not compete: then the detector cannot tell what a picture shows instead.
        asked: Words by which the likeliest label may be called.
        batch: Pictures scored at once.
        embed: Pictures -> features (b, F), where it has any.
        unseen: Where it reads what is part of no hash, see `coverage`.
        stated: "sensitivity" and "specificity" as whoever brings it measured them, and "measured", on what; {} where nobody did.
    """

    name: str
    version: str
    weights_hash: str
    labels: tuple[str, ...]
    look: Callable[[Tensor], Tensor]
    sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    level: float = 0.5
    group: str = ""
    asked: tuple[str, ...] = ()
    batch: int = 16
    embed: Callable[[Tensor], Tensor] | None = None
    unseen: str = ""
    stated: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise ValueError(f"a detector has different labels, at least one; {self.name} has {list(self.labels)}")
        if not 0 < self.level < 1:
            raise ValueError(f"a threshold lies between 0 and 1; {self.name} was given {self.level}")

    def told(self, label: str, labels: Sequence[str], *, level: float = 0.0, group: str = "", asked: Sequence[str] = ()) -> Detector:
        """The same detector for one concept.

        Arguments:
            label: What the concept is called.
            labels: The detector's own labels for it; () is `label` itself.
            level: Threshold; 0 keeps the detector's.
            group: The concept's group, for a detector whose labels compete.
            asked: Other words that pictures may be asked for.
        """
        sets = {**self.sets, label: tuple(labels)} if labels else dict(self.sets)
        made = replace(self, sets=sets, level=level or self.level, group=group if self.group else "", asked=(label, *asked))
        made.columns(label)
        return made

    @property
    def embeds(self) -> bool:
        return self.embed is not None

    @property
    def stores(self) -> bool:
        return True

    def heads(self, label: str) -> tuple[str, ...]:
        return self.labels

    @torch.no_grad()
    def raw(self, images: Tensor, label: str = "") -> Tensor:
        """Scores of every label, whichever is asked for, (B, labels); a row of NaN for a picture that could not be judged."""
        why: list[str] = []
        parts = [self._looked(part, why) for part in images.split(self.batch)] if len(images) else []
        if why:
            _log.warning("%s could not judge %d of %d pictures; the last one: %s", self.name, len(why), len(images), why[-1])
        return torch.cat(parts) if parts else torch.zeros(0, len(self.labels))

    def _looked(self, images: Tensor, why: list[str]) -> Tensor:
        """Scores of one batch; where it fails as a whole, picture by picture, and `why` a picture failed."""
        shape = (len(images), len(self.labels))
        try:
            found = self.look(images)
            if tuple(found.shape) != shape:
                raise ValueError(f"gave scores of shape {tuple(found.shape)} for {shape[0]} pictures and {shape[1]} labels")
            return found.detach().float().cpu()
        except Exception as error:  # whatever a detector stumbles over: the picture is missing, not absent
            if len(images) > 1:
                return torch.cat([self._looked(image[None], why) for image in images])
            why.append(f"{type(error).__name__}: {error}")
            return torch.full(shape, math.nan)

    def columns(self, label: str) -> list[int]:
        """Which columns speak of a label or of a named set of them."""
        if label in self.sets:
            return list(dict.fromkeys(spot(self.labels, one, self.name) for one in self.sets[label]))  # two synonyms may be one label
        return [spot((*self.labels, *self.sets), label, self.name)]

    def knows(self, label: str) -> bool:
        """Whether it can tell that a picture shows this rather than something else."""
        if not self.group:
            return False
        try:
            return bool(self.columns(label))
        except UnknownName:
            return False

    def shows(self, images: Tensor, label: str) -> Tensor:
        """Score that each picture shows the label, or any of a set: the sum where labels compete, else the largest; (B,)."""
        return self.read(self.raw(images), label)

    def read(self, raw: Tensor, label: str) -> Tensor:
        """The same from raw scores (B, labels)."""
        found = raw[:, self.columns(label)]
        return found.sum(1) if self.group else found.amax(1)

    def table(self, raw: Tensor, levels: Sequence[float] = LEVELS, *, units: Sequence[Any] = ()) -> dict[str, dict[float, dict[str, Any]]]:
        """Stored raw scores (B, labels) as the field's numbers: for every label set and threshold the pictures, and the labels counted.

        Arguments:
            units: As for `score`.
        Returns:
            Set -> threshold -> {"rate": a Score over pictures, "labels": how many pairs of picture and label cross it}.
        """
        who = {"version": self.version, "weights_hash": self.weights_hash}
        made: dict[str, dict[float, dict[str, Any]]] = {}
        for name in self.sets:
            for level in levels:
                found = score(crossed(self.read(raw, name), level), detector=f"{self.name} {name}", threshold=level, units=units, **who)
                made.setdefault(name, {})[level] = {"rate": found, "labels": int((raw[:, self.columns(name)] >= level).sum())}
        return made

    def threshold(self, label: str) -> float:
        """Score from which a picture counts as showing the label."""
        self.columns(label)
        return self.level

    def labelled(self, images: Tensor) -> list[dict[str, str]]:
        """The likeliest label of each picture, by the word that was asked for where it has one; {} for a picture without scores."""
        if not self.group:
            return [{} for _ in images]
        words = {column: word for word in reversed(self.asked) if self.knows(word) for column in self.columns(word)}
        found = self.raw(images)
        best = [None if row.isnan().any() else int(row.argmax()) for row in found]
        return [{} if i is None else {self.group: words.get(i, self.labels[i])} for i in best]

    def features(self, images: Tensor) -> Tensor:
        """Its network's features, (B, F); an error where it has none."""
        if self.embed is None:
            raise Incompatible(f"{self.name} gives scores and no features; distances between pictures need another network")
        with torch.no_grad():
            return torch.cat([self.embed(part) for part in images.split(self.batch)])

    def identity(self, label: str) -> dict[str, Any]:
        """Who measures; `accuracy` says that nobody measured how often it is right here."""
        told = {"name": self.name, "version": self.version, "weights_hash": self.weights_hash, "threshold": self.level}
        return {**told, "labels": [self.labels[i] for i in self.columns(label)], "accuracy": "not measured here"}

    def witness(self, label: str) -> dict[str, Any]:
        return {**self.identity(label), "asked": list(self.asked)}


def spot(labels: Sequence[str], label: str, who: str) -> int:
    """The place of a label: its whole text, one of its synonyms ("church" of "church, church building"), or its number."""
    plain = [_plain(one) for one in labels]
    if _plain(label) in plain:
        return plain.index(_plain(label))
    meant = [i for i, one in enumerate(labels) if _plain(label) in map(_plain, one.split(","))]
    if len(meant) == 1:
        return meant[0]
    if not meant and label.isdecimal() and int(label) < len(labels):
        return int(label)
    if meant:
        raise UnknownName(f"label of {who}: several have the name", label, [labels[i] for i in meant])
    raise UnknownName(f"label of {who}", label, labels)


def _plain(text: str) -> str:
    return " ".join(text.lower().replace("_", " ").split())


def scored(judge: Judge, images: Tensor, label: str, units: Sequence[Any] = ()) -> Score:
    """How often a judge sees a label, with who it is."""
    level = judge.threshold(label)
    return by(judge, crossed(judge.shows(images, label), level), level, units)


def by(judge: Judge, hits: Hits, level: float | None = None, units: Sequence[Any] = ()) -> Score:
    """Hits, at a threshold if there is one, as a rate that names its judge."""
    who, weights = {"detector": judge.name, "version": judge.version}, judge.weights_hash
    return score(hits, **who, weights_hash=weights, threshold=level, units=units)
