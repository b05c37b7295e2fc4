"""SubAttack: words inside the cone of the vocabulary's, at right angles to each other, and a gradient by the chain rule."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor

from oracles import tiny_flow, tiny_model
from vestige import concepts
from vestige.attacks.sub_attack import SubAttack, combination, mixer, shares, without
from vestige.concepts.images import PictureSet
from vestige.methods import Budget, Candidate
from vestige.methods.objectives import denoising
from vestige.methods.wording import words
from vestige.models.latent import LatentModel
from vestige.seeds import derive, generator

SNEAKER = concepts.load("sneaker")


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


@pytest.fixture(scope="module")
def given() -> PictureSet:
    return PictureSet(torch.rand(2, 3, 32, 32, generator=generator(0, "references")), "random")


def run(model: LatentModel, given: PictureSet, points: tuple[int, ...], shown: float = 1.0) -> list[Candidate]:
    method = SubAttack(each=3, lr=0.05, batch=2, draws=2, sampling_steps=2)
    select = lambda images: torch.full((len(images),), shown)  # noqa: E731
    return list(method(model, SNEAKER, Budget(points), seed=0, select=select, pictures=given))


def rows_of(model: LatentModel, candidate: Candidate) -> Tensor:
    """What stands in the rows of the concept's own words, (rows, D)."""
    ((name, rows),) = words(model, SNEAKER).items()
    assert candidate.edit is not None
    return model.edited(candidate.edit).tensor(name)[rows]


def test_words_stand_at_right_angles_and_in_what_is_left_of_the_vocabulary(tiny: LatentModel, given: PictureSet) -> None:
    """The first is a non-negative sum of rows, by a solver that knows nothing else; each later one is at right angles to all before."""
    (name,) = words(tiny, SNEAKER)
    table = tiny.tensor(name)
    found = [rows_of(tiny, c)[0] for c in run(tiny, given, (0, 3, 6, 9))[1:]]
    _, miss = nnls(table.double().T.numpy(), found[0].double().numpy())
    assert miss < 1e-4 * float(found[0].norm())
    unit = torch.stack([v / v.norm() for v in found])
    torch.testing.assert_close(unit @ unit.T, torch.eye(3), atol=1e-4, rtol=0)
    for v in found:
        assert v.norm() == pytest.approx(float(table.norm(dim=1).mean()), rel=0.1)


def test_the_projected_table_holds_nothing_of_what_was_found() -> None:
    table, found = torch.randn(9, 5, generator=generator(0)), [torch.randn(5, generator=generator(k)) for k in (1, 2)]
    rest = without(table, found)
    torch.testing.assert_close(rest @ torch.stack(found, 1), torch.zeros(9, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(without(rest, found), rest, atol=1e-6, rtol=0)
    assert without(table, []) is table


def test_shares_are_not_negative_and_the_length_says_nothing() -> None:
    table = torch.randn(30, 6, generator=generator(3))
    net = mixer({"t": table}, 8, generator(4))
    alpha = shares(table, net, "t")
    assert (alpha >= 0).all()
    assert alpha.any()
    v = combination(table, net, "t")
    assert v.norm().item() == pytest.approx(table.norm(dim=1).mean().item(), rel=1e-5)
    torch.testing.assert_close(v / v.norm(), alpha @ table / (alpha @ table).norm())


def test_gradient_is_that_of_the_word_through_the_encoder(tiny: LatentModel, given: PictureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against autograd through weights over the vocabulary, by which the encoder reads the same vector."""
    method = SubAttack(each=1, batch=2)
    own, pairs = words(tiny, SNEAKER), method._pairs(tiny, SNEAKER, given)
    ((name, rows),) = own.items()
    table = tiny.tensor(name).detach().float()
    net, kept = mixer({name: table}, 8, generator(1)), {}

    def fit(leaves: dict[str, Tensor], loss: object, *_: object, **__: object) -> list[int]:
        value = loss(generator(2))  # type: ignore[operator]
        kept["value"], kept["slopes"] = value.item(), torch.autograd.grad(value, list(leaves.values()))
        return [1]

    monkeypatch.setattr("vestige.attacks.sub_attack.fit", fit)
    list(method._learn(tiny, pairs, own, {name: table}, net, 1, [1], 0, lambda *_: None, None))  # type: ignore[arg-type]
    rng = generator(2)
    latents, ids = pairs.draw(2, rng)
    v = combination(table, net, name)
    hard = torch.nn.functional.one_hot(ids.text, len(table)).float()
    soft = (v @ torch.linalg.pinv(table)).expand(*ids.text.shape, -1)
    mine = torch.isin(ids.text, torch.tensor(rows))[..., None]
    error = denoising(tiny, latents, tiny.embed(torch.where(mine, soft, hard)), rng)
    assert kept["value"] == pytest.approx(error.item(), rel=1e-4)
    for one, other in zip(kept["slopes"], torch.autograd.grad(error, list(net.values())), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3 * float(other.abs().max()), rtol=1e-3)


def test_finished_words_are_counted_by_whether_they_work(tiny: LatentModel, given: PictureSet) -> None:
    for shown, working in ((1.0, [0, 0, 1, 2]), (0.5, [0, 0, 0, 0])):
        found = run(tiny, given, (0, 2, 4, 6), shown)
        assert [c.notes["embeddings"] for c in found] == [0, 0, 1, 2]
        assert [c.notes["working"] for c in found] == working


def test_every_table_has_a_network_of_its_own(given: PictureSet) -> None:
    model = tiny_flow()
    method = SubAttack(each=2, batch=1, draws=1, sampling_steps=1)
    candidate = list(method(model, SNEAKER, Budget((0, 1)), seed=0, select=torch.zeros_like, pictures=given))[-1]
    assert candidate.edit is not None
    assert len(candidate.edit.factors) == len(model.tables()) == 2
    model.edited(candidate.edit)


def test_batches_of_the_second_word_are_others(tiny: LatentModel, given: PictureSet) -> None:
    assert derive(0, "batches", 0) != derive(0, "batches", 1)
    one, other = (rows_of(tiny, c) for c in run(tiny, given, (0, 3, 6))[1:])
    assert not torch.equal(one, other)
