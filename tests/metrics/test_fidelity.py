"""FID and KID against their formulas, on features that a test controls."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from vestige.concepts.images import save
from vestige.errors import BadInput
from vestige.metrics.fidelity import Distance, batches, cmmd, fid, inception, kid, precision_recall, rows

WIDTH = 6  # features a picture: its first pixels


class Pixels:
    """A judge whose features are a picture's first values, as whole numbers of 0..255."""

    name, weights_hash = "pixels", "none"

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :WIDTH] * 255


def pictures(features: Tensor) -> Tensor:
    """Pictures (N, 3, 2, 2) with the given features (N, 6), whole numbers of 0..255."""
    assert torch.equal(features, features.round().clamp(0, 255))
    return torch.cat([features, torch.zeros(len(features), 12 - WIDTH)], 1).reshape(-1, 3, 2, 2) / 255


def drawn(count: int, seed: int, mean: float = 100, deviation: float = 15) -> Tensor:
    """Correlated normal features, rounded."""
    rng = torch.Generator().manual_seed(seed)
    mix = torch.eye(WIDTH) + 0.4 * torch.ones(WIDTH, WIDTH).tril(-1)
    return (mean + deviation * torch.randn(count, WIDTH, generator=rng) @ mix.T).round().clamp(0, 255)


def frechet(a: Tensor, b: Tensor) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), with scipy's matrix root."""
    x, y = a.double().numpy(), b.double().numpy()
    s1, s2 = np.cov(x.T), np.cov(y.T)
    root = np.real(scipy.linalg.sqrtm(s1 @ s2))
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * root))


def mmd(a: Tensor, b: Tensor) -> float:
    """The unbiased squared MMD with the kernel (x.y / d + 1)^3, sums written out."""
    x, y = a.double(), b.double()

    def kernel(p: Tensor, q: Tensor) -> Tensor:
        return (p @ q.T / WIDTH + 1) ** 3

    def within(p: Tensor) -> Tensor:
        k = kernel(p, p)
        return (k.sum() - k.diagonal().sum()) / (len(p) * (len(p) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


def fid_of(a: Tensor, b: Tensor) -> Distance:
    return fid(Pixels(), pictures(a), pictures(b))


def kid_of(a: Tensor, b: Tensor, subsets: int = 1, subset_size: int = 10**6) -> Distance:
    return kid(Pixels(), pictures(a), pictures(b), subsets, subset_size)


def test_fid_is_the_closed_form() -> None:
    a, b = drawn(300, 0), drawn(200, 1, mean=120, deviation=8)
    found = fid_of(a, b)
    assert found.value == pytest.approx(frechet(a, b), rel=1e-6)
    note = "the field uses 10000 pictures a side; the sides differ in size"
    assert found == Distance("FID-pixels", found.value, None, (300, 200), note, "none")


def test_fid_of_a_shift_is_its_square() -> None:
    a = drawn(100, 0)
    shift = torch.tensor([3.0, 0, -4, 0, 12, 0])
    assert fid_of(a, a + shift).value == pytest.approx(9 + 16 + 144, rel=1e-6)


def test_fid_of_a_dilation_is_the_difference_of_deviations() -> None:
    """Twice as far from the mean: (2 - 1)^2 tr S, and no distance between means."""
    a = drawn(100, 0, deviation=8)
    a = torch.cat([a, 200 - a])  # the mean is exactly 100
    wide = 100 + 2 * (a - 100)
    assert fid_of(a, wide).value == pytest.approx(np.trace(np.cov(a.double().numpy().T)), rel=1e-6)


def test_fid_of_equal_sets_is_zero() -> None:
    a = drawn(50, 0)
    assert fid_of(a, a).value == pytest.approx(0, abs=1e-3)
    assert kid_of(a, a).value <= 0  # unbiased: the diagonal is left out within the sets, not between them


@pytest.mark.parametrize("sizes", [(WIDTH, 50), (50, WIDTH)])
def test_fid_of_few_pictures_says_what_it_is_worth(sizes: tuple[int, int]) -> None:
    singular = f"no more pictures than the {WIDTH} features: the covariance is singular"
    assert fid_of(drawn(sizes[0], 0), drawn(sizes[1], 1)).note.startswith(singular)
    assert singular not in fid_of(drawn(WIDTH + 1, 0), drawn(WIDTH + 1, 1)).note


@pytest.mark.parametrize("sizes", [(1, 50), (50, 1)])
def test_fid_of_one_picture_is_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(BadInput, match=f"FID-pixels needs at least 2 pictures a side; given {sizes[0]} and {sizes[1]}"):
        fid_of(drawn(sizes[0], 0), drawn(sizes[1], 1))


@pytest.mark.parametrize("sizes", [(1, 50), (50, 1)])
def test_kid_of_too_few_pictures_is_refused(sizes: tuple[int, int]) -> None:
    """One picture has no pair."""
    with pytest.raises(BadInput):
        kid_of(drawn(sizes[0], 0), drawn(sizes[1], 1))


def test_order_of_pictures_is_immaterial() -> None:
    a, b = drawn(60, 0), drawn(60, 1, mean=110)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(2))
    for distance in (fid_of, kid_of):
        assert distance(a, b[order]).value == pytest.approx(distance(a, b).value, rel=1e-4)
        assert distance(a[order], b).value == pytest.approx(distance(a, b).value, rel=1e-4)


def test_distances_are_symmetric() -> None:
    a, b = drawn(60, 0), drawn(60, 1, mean=110)
    for distance in (fid_of, kid_of):
        assert distance(a, b).value == pytest.approx(distance(b, a).value, rel=1e-4)


def test_kid_is_the_closed_form() -> None:
    a, b = drawn(40, 0) - 90, drawn(40, 1) - 80
    a, b = a.clamp(0, 255), b.clamp(0, 255)
    found = kid_of(a, b)
    assert found.value == pytest.approx(mmd(a, b), rel=1e-3)
    assert (found.name, found.counts) == ("KID-pixels", (40, 40))


def test_kid_is_unbiased() -> None:
    """Halves of one distribution: over many pairs of sets the estimates scatter around zero, on both sides of it."""
    found = torch.tensor(
        [kid_of((drawn(20, 2 * i) - 90).clamp(0, 255), (drawn(20, 2 * i + 1) - 90).clamp(0, 255)).value for i in range(40)]
    )
    assert abs(found.mean()) < 3 * found.std() / len(found) ** 0.5
    assert found.min() < 0 < found.max()


def test_kid_grows_with_the_distance() -> None:
    a = drawn(50, 0, mean=60)
    values = [kid_of(a, drawn(50, 1, mean=mean)).value for mean in (60, 70, 90)]
    assert values[0] < values[1] < values[2]


def test_kid_of_subsets_is_the_same_in_every_call_and_leaves_randomness_alone() -> None:
    a, b = drawn(60, 0), drawn(60, 1)
    state = torch.random.get_rng_state()
    first = kid_of(a, b, subsets=5, subset_size=20)
    torch.rand(1)
    again = kid_of(a, b, subsets=5, subset_size=20)
    torch.random.set_rng_state(state)
    assert first == again
    assert first.spread is not None
    assert first.spread > 0


def test_large_sets_are_read_in_parts() -> None:
    """More than one part of 256, of different sizes."""
    a, b = drawn(600, 0), drawn(300, 1, mean=120)
    assert fid_of(a, b).value == pytest.approx(frechet(a, b), rel=1e-6)


def test_a_folder_is_its_pictures(tmp_path: Path) -> None:
    """Read in parts, from sub-folders too, and every number the same as from memory."""
    a, b = drawn(70, 0), drawn(70, 1, mean=120)
    save(pictures(a)[:66], tmp_path / "a")
    save(pictures(a)[66:], tmp_path / "a/more", first=66)
    save(pictures(b), tmp_path / "b")
    (tmp_path / "a/notes.txt").write_text("no picture")
    assert [len(part) for part in batches(tmp_path / "a")] == [64, 6]
    for distance in (fid, kid, cmmd):
        assert distance(Pixels(), tmp_path / "a", str(tmp_path / "b")).value == pytest.approx(
            distance(Pixels(), pictures(a), list(pictures(b).split(9))).value, rel=1e-6
        )


def test_pictures_of_different_sizes_share_a_folder(tmp_path: Path) -> None:
    for i, side in enumerate((4, 4, 6)):
        save(torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(i)), tmp_path, first=i)
    assert [tuple(part.shape) for part in batches(tmp_path)] == [(2, 3, 4, 4), (1, 3, 6, 6)]
    assert rows(Pixels(), tmp_path).shape == (3, WIDTH)


@pytest.mark.parametrize("what", ["nothing", "empty", "broken", "once"])
def test_sets_that_cannot_be_read_are_refused(tmp_path: Path, what: str) -> None:
    source = {"nothing": tmp_path / "absent", "once": iter([pictures(drawn(9, 0))])}.get(what, tmp_path)
    if what == "broken":
        (tmp_path / "a.png").write_bytes(b"no png")
    with pytest.raises(
        BadInput, match="read again" if what == "once" else r"a\.png cannot be read" if what == "broken" else "no pictures in"
    ):
        fid(Pixels(), source, pictures(drawn(9, 0)))


def test_cmmd_is_the_closed_form() -> None:
    a, b = drawn(30, 0), drawn(20, 1, mean=60, deviation=40)
    x, y = (torch.nn.functional.normalize(f.double(), dim=1) for f in (a, b))

    def mean(p: Tensor, q: Tensor) -> float:
        return float(np.mean([[math.exp(-float(((u - v) ** 2).sum()) / 200) for v in q] for u in p]))

    found = cmmd(Pixels(), pictures(a), pictures(b))
    assert found.value == pytest.approx(1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y)), abs=1e-5)
    assert (found.name, found.counts) == ("CMMD-pixels", (30, 20))


def test_cmmd_sees_little_but_the_mean() -> None:
    """About 10 |mean - mean|^2, which is why it never stands alone."""
    a, b = drawn(60, 0), drawn(60, 1, mean=60, deviation=40)
    x, y = (torch.nn.functional.normalize(f.double(), dim=1).mean(0) for f in (a, b))
    assert cmmd(Pixels(), pictures(a), pictures(b)).value == pytest.approx(10 * float(((x - y) ** 2).sum()), rel=0.05)


def test_precision_and_recall_of_constructed_sets() -> None:
    """Made pictures are a tight part of the real ones: faithful, hardly diverse. The naive count agrees."""
    real, made = drawn(80, 0, deviation=12), drawn(40, 1, deviation=2)
    precision, recall = precision_recall(Pixels(), pictures(real), pictures(made), k=3)
    assert precision.value > 0.9 and recall.value < 0.4
    assert (precision.name, recall.name) == ("precision-pixels-k3", "recall-pixels-k3")

    def reached(members: Tensor, points: Tensor) -> float:
        m, p = members.double(), points.double()
        radius = [sorted((u - v).norm().item() for v in m)[3] for u in m]
        return float(np.mean([any((q - u).norm().item() <= r for u, r in zip(m, radius, strict=True)) for q in p]))

    assert (precision.value, recall.value) == pytest.approx((reached(real, made), reached(made, real)))


def test_precision_and_recall_of_equal_and_of_distant_sets() -> None:
    a = drawn(30, 0)
    assert [d.value for d in precision_recall(Pixels(), pictures(a), pictures(a))] == [1, 1]
    assert [d.value for d in precision_recall(Pixels(), pictures(a), pictures((a + 120).clamp(0, 255)))] == [0, 0]
    with pytest.raises(BadInput, match="need more than 5 pictures a side; given 5 and 30"):
        precision_recall(Pixels(), pictures(a[:5]), pictures(a))


class Standin(torch.nn.Module):
    """What the published TorchScript Inception answers to: 8-bit values as floats, and a flag."""

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        assert return_features
        return x.flatten(1)[:, :6]


def test_inception_is_fed_8_bit_values_and_names_the_number(tmp_path: Path) -> None:
    file = tmp_path / "inception-2015-12-05.pt"
    with warnings.catch_warnings():  # the published file is of a format that torch gives up
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Standin()), file)
    a, b = drawn(20, 0), drawn(20, 1, mean=120)
    found = fid(inception(file), pictures(a), pictures(b))
    assert (found.name, found.value) == ("FID-inception", pytest.approx(fid_of(a, b).value, rel=1e-6))
    assert len(found.weights_hash) == 64
    for wrong in (tmp_path / "absent.pt", tmp_path / "text.pt"):
        (tmp_path / "text.pt").write_text("no program")
        with pytest.raises(BadInput, match=r"no Inception at|is no TorchScript file"):
            inception(wrong)
