"""SalUn: the mask holds exactly its share by the gradient's formula, nothing else moves by a bit, and labels are the model's own."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import tiny_model
from vestige import concepts
from vestige.diffusion import Model
from vestige.methods import Data, Training
from vestige.methods.objectives import denoising, matching, noisy
from vestige.methods.training_data import Pairs, paired, renamed
from vestige.models.latent import LatentModel
from vestige.seeds import generator
from vestige.unlearners import salun
from vestige.unlearners.salun import SalUn, largest

SNEAKER = concepts.load("sneaker")
SMALL: dict[str, Any] = {"steps": 4, "batch": 4, "lr": 1e-2, "target_pictures": 4, "retain_pictures": 6}


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def bits(value: Tensor) -> Tensor:
    """Equal exactly for equal bits, zeros of either sign included."""
    return value.contiguous().view(torch.int32)


def target(model: Model, method: SalUn, seed: int = 0) -> tuple[Pairs, list[str]]:
    given = Data().targeted(model, SNEAKER, method.target_pictures, seed=seed)
    return paired(model, given), given.texts


def mask(model: Model, method: SalUn, seed: int = 0) -> dict[str, Tensor]:
    pairs, _ = target(model, method, seed)
    return method._mask(model, model.scope(method.scope), pairs, model.condition([""]), seed, lambda *_: None)


@pytest.mark.parametrize("count", [0, 1, 5, 17, 49, 50])
@pytest.mark.parametrize("levels", [1, 3, 10_000])
def test_largest_are_exactly_so_many_and_ties_go_in_order(count: int, levels: int) -> None:
    """Against a stable sort; with one level everything is a tie."""
    flat = torch.randint(levels, (50,), generator=generator(levels)).float()
    sizes = {"a": flat[:20].reshape(4, 5), "b": flat[20:27], "c": flat[27:].reshape(1, 23)}
    chosen = largest(sizes, count)
    assert {n: m.shape for n, m in chosen.items()} == {n: s.shape for n, s in sizes.items()}
    together = torch.cat([m.flatten() for m in chosen.values()])
    expected = sorted(range(50), key=lambda i: (-flat[i].item(), i))[:count]
    assert together.nonzero().flatten().tolist() == sorted(expected)


@pytest.mark.parametrize("guidance", [1.0, 8.5])
def test_mask_is_the_largest_of_the_accumulated_gradient(tiny: LatentModel, guidance: float) -> None:
    """The formula in the released code's terms: (1 + w) eps(c) - w eps(null), gradients with their sign summed over batches."""
    method, w = SalUn(**{**SMALL, "target_pictures": 6}, share=0.3, mask_guidance=guidance), guidance - 1
    pairs, _ = target(tiny, method)
    view, leaves = tiny.trainable(tiny.scope("unet"))
    total = {n: torch.zeros_like(leaf) for n, leaf in leaves.items()}
    for start, stop in ((0, 4), (4, 6)):
        x, condition = pairs.latents[start:stop], pairs.table[[rows[0] for rows in pairs.rows[start:stop]]]
        t, eps, x_t = noisy(view, x, generator(0, "mask", start))
        null = tiny.condition([""] * len(x))
        guided = (1 + w) * view.denoise(x_t, t, condition).value - w * view.denoise(x_t, t, null).value
        for (name, leaf), found in zip(
            leaves.items(), torch.autograd.grad((guided - eps).square().mean(), list(leaves.values())), strict=True
        ):
            assert leaf.shape == found.shape
            total[name] += found
    sizes = torch.cat([total[n].abs().flatten() for n in leaves])
    chosen = torch.cat([m.flatten() for m in mask(tiny, method).values()])
    assert chosen.sum() == round(0.3 * len(sizes))
    margin = 1e-5 * sizes.max()  # passes of another form round differently
    assert sizes[chosen].min() >= sizes[~chosen].max() - margin


@pytest.mark.parametrize("share", [0.001, 0.37, 0.5, 1.0])
def test_exactly_the_stated_share_may_move_and_the_rest_is_the_base_bit_for_bit(tiny: LatentModel, share: float) -> None:
    method = SalUn(**SMALL, share=share)
    edit, chosen = method(tiny, SNEAKER, seed=0), mask(tiny, method)
    whole = sum(tiny.tensor(n).numel() for n in edit.touched)
    assert edit.notes["movable"] == sum(int(m.sum()) for m in chosen.values()) == round(share * whole)
    moved = {n: bits(edit.tensors[n]) != bits(tiny.tensor(n)) for n in edit.touched}
    assert not any((moved[n] & ~chosen[n]).any() for n in moved)
    assert sum(int(m.sum()) for m in moved.values()) > 0.95 * round(share * whole)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_mask_holds_in_training_and_under_weight_decay_in_the_edit(
    tiny: LatentModel, monkeypatch: pytest.MonkeyPatch, decay: float
) -> None:
    """Momentum alone leaves masked leaves as they are; decay would move them, and the edit still takes them from the base."""
    seen: dict[str, Tensor] = {}
    plain = salun.fit

    def fit(leaves: Any, *given: Any, **others: Any) -> Any:
        seen.update(leaves)
        return plain(leaves, *given, **others)

    monkeypatch.setattr(salun, "fit", fit)
    monkeypatch.setattr(salun, "Training", functools.partial(Training, weight_decay=decay))
    method = SalUn(**SMALL, share=0.2)
    edit, chosen = method(tiny, SNEAKER, seed=0), mask(tiny, method)
    outside = [bits(seen[n].detach())[~m] != bits(tiny.tensor(n))[~m] for n, m in chosen.items()]
    assert torch.cat(outside).any() == (decay > 0)
    assert all(torch.equal(bits(edit.tensors[n])[~m], bits(tiny.tensor(n))[~m]) for n, m in chosen.items())


def test_gradients_are_not_clipped_before_the_mask(tiny: LatentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Training] = []
    monkeypatch.setattr(salun, "fit", lambda leaves, loss, training, **_: iter([seen.append(training)]))
    SalUn(**SMALL)(tiny, SNEAKER, seed=0)
    assert seen[0].clip == 0
    assert seen[0].weight_decay == 0


@pytest.mark.parametrize("towards", ["auto", "bag", ""])
def test_loss_is_the_formula(tiny: LatentModel, monkeypatch: pytest.MonkeyPatch, towards: str) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(salun, "fit", lambda leaves, loss, training, **_: iter([seen.update(loss=loss)]))
    method = SalUn(**SMALL, towards=towards, retain_weight=0.7, dropout=0.0)
    method(tiny, SNEAKER, seed=0)
    (pairs, texts), rng = target(tiny, method), generator(3)
    x, rows = pairs.pick(4, rng)
    word = "boot" if towards == "auto" else towards
    wrong = [texts[row].replace("sneaker", word) if word else "" for row in rows]
    t, _, x_t = noisy(tiny, x, rng)
    with torch.no_grad():
        label = tiny.denoise(x_t, t, tiny.condition(wrong)).value
        expected = (tiny.denoise(x_t, t, pairs.table[rows]).value - label).square().mean()
        retain = paired(tiny, Data().retained(tiny, SNEAKER, 6, seed=0))
        expected = expected + 0.7 * denoising(tiny, *retain.draw(4, rng), rng)
    torch.testing.assert_close(seen["loss"](generator(3)).detach(), expected, rtol=1e-5, atol=1e-7)


def test_a_label_that_is_right_teaches_nothing(tiny: LatentModel) -> None:
    edit = SalUn(**SMALL, towards="sneaker", retain_weight=0.0)(tiny, SNEAKER, seed=0)
    assert all(torch.equal(edit.tensors[n], tiny.tensor(n)) for n in edit.touched)


def test_training_lowers_the_distance_from_the_wrong_label(tiny: LatentModel) -> None:
    method = SalUn(**{**SMALL, "steps": 40, "lr": 1e-3}, retain_weight=0.0)
    pairs, texts = target(tiny, method)
    wrong, rows = tiny.condition(renamed(texts, SNEAKER, "boot")), [row[0] for row in pairs.rows] * 8

    def distance(model: Model) -> float:
        with torch.no_grad():
            return matching(model, pairs.latents.repeat(8, 1, 1, 1), pairs.table[rows], wrong[rows], generator(5)).item()

    assert distance(tiny.edited(method(tiny, SNEAKER, seed=0))) < 0.5 * distance(tiny)


def test_auto_is_the_anchor() -> None:
    assert SalUn().resolved(SNEAKER) == SalUn(towards="boot")
    assert SalUn(towards="").resolved(SNEAKER) == SalUn(towards="")


def test_other_seeds_other_edits(tiny: LatentModel) -> None:
    one, other = (SalUn(**SMALL)(tiny, SNEAKER, seed=seed) for seed in (0, 1))
    assert any(not torch.equal(one.tensors[n], other.tensors[n]) for n in one.touched)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("steps", 0),
        ("batch", 0),
        ("target_pictures", 0),
        ("retain_pictures", 0),
        ("lr", 0.0),
        ("retain_weight", -1.0),
        ("dropout", -0.1),
        ("share", 0.0),
        ("share", 1.5),
    ],
)
def test_senseless_settings_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{setting}.*; given.*{value}"):
        SalUn(**{setting: value})
