"""Distances between sets of pictures: FID, KID, CMMD, precision and recall.

FID is Heusel et al.'s (2017), KID Binkowski et al.'s (2018), CMMD Jayasumana et al.'s (2024), precision and recall are
Kynkaanniemi et al.'s (2019).

The features are whatever network is given, and the number is named after it: "FID-inception" from the Inception-v3 that published
figures use, "FID-judge-verify" from a judge. A number is comparable with others of its name, its size and its resizing alone, never
with a figure of another name. A set is a tensor, a folder, or a list of batches; folders are read in parts, so they may be of any
size, but KID, CMMD, precision and recall keep one row of features a picture.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from vestige import files
from vestige.concepts.images import SUFFIXES, found, read
from vestige.errors import BadInput
from vestige.metrics.judge import Extractor

Source = Tensor | Path | str | Iterable[Tensor]
BATCH = 64
ENOUGH = {"FID": 10_000, "KID": 1_000, "CMMD": 1_000, "precision": 1_000, "recall": 1_000}  # pictures a side, as the field uses


@dataclass(frozen=True)
class Distance:
    """A distance between two sets of pictures.

    Arguments:
        name: What was measured, by whose features.
        spread: Over subsets, where it has one; subsets overlap, so it is no interval.
        counts: Pictures of either side.
        note: Why the value may mean little, or nothing.
        weights_hash: Of the network whose features these are.
    """

    name: str
    value: float
    spread: float | None
    counts: tuple[int, int]
    note: str = ""
    weights_hash: str = ""

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" (spread over subsets {self.spread:.4g})"
        note = f"; {self.note}" if self.note else ""
        return f"{self.name} {self.value:.4g}{spread}, {self.counts[0]} against {self.counts[1]} pictures{note}"


def batches(source: Source) -> Iterator[Tensor]:
    """Pictures (b, 3, H, W) in [0, 1], in parts; those of a folder in the order of their names, each at its own size.

    A folder is read with what lies in it; of a sensitive set the originals count, and not their blurred copies beside them.
    """
    if isinstance(source, Tensor):
        yield from source.split(BATCH)
        return
    if not isinstance(source, str | Path):
        yield from source
        return
    folder = Path(source)
    files = found(folder) if folder.is_dir() else []
    if not files:
        raise BadInput(f"no pictures in {folder} ({', '.join(SUFFIXES)} are read)")
    held: list[Tensor] = []
    for file in files:
        picture = read(file)
        if held and (picture.shape != held[0].shape or len(held) == BATCH):
            yield torch.stack(held)
            held = []
        held.append(picture)
    yield torch.stack(held)


def rows(extractor: Extractor, source: Source) -> Tensor:
    """Features of every picture, (N, F), float64."""
    return torch.cat([extractor.features(_whole(part)).double().cpu() for part in batches(source)])


def _whole(images: Tensor) -> Tensor:
    """As 8-bit files keep them: both sides of a comparison pass through the same rounding."""
    return (images.clamp(0, 1) * 255).round() / 255


class _Features(nn.Module):
    """An extractor as torchmetrics wants it: 8-bit pictures in, (B, F) out."""

    def __init__(self, extractor: Extractor, width: int) -> None:
        super().__init__()
        self._extractor, self.num_features = extractor, width

    def forward(self, images: Tensor) -> Tensor:
        return self._extractor.features(images.float() / 255)


def _fed(metric: Any, real: Source, made: Source) -> tuple[int, int]:
    """Feed both sides to a metric of torchmetrics, part by part; how many pictures each had."""
    counts = []
    for source, is_real in ((real, True), (made, False)):
        counts.append(0)
        for part in batches(source):
            metric.update((part.clamp(0, 1) * 255).round().byte(), real=is_real)
            counts[-1] += len(part)
    return counts[0], counts[1]


def _note(kind: str, counts: tuple[int, int], more: str = "") -> str:
    few = f"the field uses {ENOUGH[kind]} pictures a side" if min(counts) < ENOUGH[kind] else ""
    uneven = "the sides differ in size" if kind == "FID" and counts[0] != counts[1] else ""
    return "; ".join(text for text in (more, few, uneven) if text)


def _width(extractor: Extractor, source: Source) -> int:
    """Features a picture, from a set that can be read twice."""
    if isinstance(source, Iterator):
        raise BadInput("a distance needs sets that can be read again: a tensor, a folder or a list of batches")
    return extractor.features(_whole(next(iter(batches(source)))[:1])).shape[1]


def fid(extractor: Extractor, real: Source, made: Source) -> Distance:
    """Frechet distance between Gaussians fitted to the features of two sets.

    Biased upwards by about 1 / N with a slope that depends on the model: compare only at equal sizes. With no more pictures than
    features the covariance is singular and the value says little, which its note says.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    width = _width(extractor, real)
    metric = FrechetInceptionDistance(feature=_Features(extractor, width))
    metric.set_dtype(torch.float64)
    counts = _fed(metric, real, made)
    _least(f"FID-{extractor.name}", counts)
    singular = f"no more pictures than the {width} features: the covariance is singular" if min(counts) <= width else ""
    return Distance(f"FID-{extractor.name}", float(metric.compute()), None, counts, _note("FID", counts, singular), extractor.weights_hash)


def kid(extractor: Extractor, real: Source, made: Source, subsets: int = 50, subset_size: int = 400) -> Distance:
    """Kernel distance, the unbiased MMD^2 with the kernel (x.y / d + 1)^3; the spread is over (overlapping) random subsets."""
    from torchmetrics.image.kid import KernelInceptionDistance

    width = _width(extractor, real)
    with warnings.catch_warnings():  # every construction warns that features are kept in memory, which is what is wanted
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance`", category=UserWarning)
        metric = KernelInceptionDistance(feature=_Features(extractor, width), subsets=subsets, subset_size=subset_size)
    counts = _fed(metric, real, made)
    _least(f"KID-{extractor.name}", counts)
    metric.subset_size = min(subset_size, *counts)
    with torch.random.fork_rng(devices=[]):  # its subsets come from the global generator
        torch.manual_seed(0)
        mean, deviation = metric.compute()
    return Distance(f"KID-{extractor.name}", float(mean), float(deviation), counts, _note("KID", counts), extractor.weights_hash)


def cmmd(extractor: Extractor, real: Source, made: Source, sigma: float = 10.0) -> Distance:
    """1000 MMD^2 of unit features with a Gaussian kernel of width `sigma`, the biased estimate, as CMMD has it on CLIP's.

    At that width the kernel is almost linear: the value is about 10 |mean - mean|^2 (for sigma 10) and sees a shift of the mean, not
    a loss of diversity. Read it beside precision and recall, never alone.
    """
    x, y = (nn.functional.normalize(rows(extractor, source), dim=1) for source in (real, made))
    _least(f"CMMD-{extractor.name}", (len(x), len(y)))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        total = sum(
            (torch.exp(-(torch.cdist(part, b) ** 2) / (2 * sigma**2)).sum() for part in a.split(1024)), torch.zeros((), dtype=a.dtype)
        )
        return total / (len(a) * len(b))

    value = 1000 * float(kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))
    return Distance(f"CMMD-{extractor.name}", value, None, (len(x), len(y)), _note("CMMD", (len(x), len(y))), extractor.weights_hash)


def precision_recall(extractor: Extractor, real: Source, made: Source, k: int = 5) -> tuple[Distance, Distance]:
    """Share of made pictures that lie within reach of the real ones, and of real ones within reach of the made ones.

    A set reaches a point that is at most as far from one of its members as that member's k-th nearest fellow. Precision falls with
    fidelity, recall with diversity. Both depend on N and k: the name says k.
    """
    x, y = rows(extractor, real), rows(extractor, made)
    counts = (len(x), len(y))
    if min(counts) <= k:
        raise BadInput(f"precision and recall with k = {k} need more than {k} pictures a side; given {counts[0]} and {counts[1]}")
    values = {"precision": _reached(x, y, k), "recall": _reached(y, x, k)}
    made_ = [
        Distance(f"{kind}-{extractor.name}-k{k}", value, None, counts, _note(kind, counts), extractor.weights_hash)
        for kind, value in values.items()
    ]
    return made_[0], made_[1]


def _reached(members: Tensor, points: Tensor, k: int) -> float:
    """Share of points within the union of balls around members, each out to its k-th nearest other member."""
    exact = "donot_use_mm_for_euclid_dist"  # the fast way rounds a distance of zero to something above it
    radii = torch.cat([torch.cdist(part, members, compute_mode=exact).kthvalue(k + 1).values for part in members.split(512)])
    inside = [(torch.cdist(part, members, compute_mode=exact) <= radii).any(1) for part in points.split(512)]
    return float(torch.cat(inside).double().mean())


def _least(name: str, counts: tuple[int, int]) -> None:
    if min(counts) < 2:
        raise BadInput(f"{name} needs at least 2 pictures a side; given {counts[0]} and {counts[1]}")


@final
@dataclass(frozen=True)
class Inception:
    """The Inception-v3 of published FID figures, from a file of the user's.

    Arguments:
        weights_hash: SHA-256 of the file.
        network: 8-bit values (B, 3, H, W) as floats -> features (B, 2048); resizes by itself.
    """

    weights_hash: str
    network: Callable[[Tensor], Tensor]
    name: str = "inception"

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        return torch.cat([self.network(_whole(part) * 255) for part in images.split(16)]).flatten(1)


def inception(file: Path | str) -> Inception:
    """Read the TorchScript file `inception-2015-12-05.pt`, TensorFlow's weights as StyleGAN's authors publish them.

    The file is not part of this package and was not at hand when this was written: the adapter was run on a stand-in only. Whoever
    has it should compare one published FID first. TorchScript is a program: take it from its authors.
    """
    path = Path(file)
    if not path.is_file():
        raise BadInput(f"no Inception at {path}; it is the TorchScript file inception-2015-12-05.pt")
    try:
        with warnings.catch_warnings():  # torch gives up the format; the published file has no other
            warnings.filterwarnings("ignore", message=".torch.jit", category=DeprecationWarning)
            network = torch.jit.load(str(path), map_location="cpu").eval()
    except RuntimeError as error:
        raise BadInput(f"{path} is no TorchScript file ({str(error).splitlines()[0]})") from error
    return Inception(files.digest(path), lambda images: network(images, return_features=True))
