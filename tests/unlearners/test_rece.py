"""RECE: its embeddings and its epochs minimise what they say, in float64, one matrix at a time; its limits are the known ones."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import scheduler, tiny_flow, tiny_parts, tokenizer
from vestige import concepts
from vestige.concepts.joint import joint
from vestige.edits import Edit
from vestige.errors import Incompatible
from vestige.methods.closed_form import KEYS_AND_VALUES
from vestige.models.latent import LatentModel
from vestige.unlearners.rece import RECE, adversarial
from vestige.unlearners.uce import UCE

SNEAKER, BAG, NEON = (concepts.load(name) for name in ("sneaker", "bag", "neon"))


@pytest.fixture(scope="module")
def exact() -> LatentModel:
    """The tiny model in float64."""
    return LatentModel("tiny64", {name: part.double() for name, part in tiny_parts().items()}, tokenizer(), scheduler())


def made(model: LatentModel, **settings: Any) -> Edit:
    return RECE(**settings)(model, SNEAKER, seed=0)


def weights(model: LatentModel) -> dict[str, Tensor]:
    return {name: model.tensor(name) for name in model.scope(KEYS_AND_VALUES)}


def power(model: LatentModel) -> Tensor:
    return torch.stack([w.T @ w for w in weights(model).values()]).sum(0)


def slopes(value: Tensor, starts: tuple[Tensor, Tensor], loss: Any) -> tuple[float, float]:
    """Norms of a loss's gradient at two places."""
    found = []
    for start in starts:
        at = start.clone().requires_grad_()
        loss(at).backward()
        assert at.grad is not None
        found.append(at.grad.norm().item())
    return found[0], found[1]


def test_without_epochs_it_is_uce(exact: LatentModel) -> None:
    ours, theirs = made(exact, epochs=0, towards="anchor"), UCE()(exact, SNEAKER, seed=0)
    assert ours.touched == theirs.touched
    for name in ours.touched:
        torch.testing.assert_close(ours.tensors[name], theirs.tensors[name], atol=1e-9, rtol=1e-9)


def test_adversarial_embeddings_minimise_their_objective(exact: LatentModel) -> None:
    """Layer by layer, with the edited matrices themselves."""
    regular, start = 0.1, made(exact, epochs=0)
    c = exact.condition(["sneaker"]).text[0]
    change = RECE().resolved(SNEAKER)._start(exact, SNEAKER)
    found = adversarial(c, power(exact), change, regular)

    def loss(at: Tensor) -> Tensor:
        gaps = [(at @ start.tensors[n].T - c @ w.T).square().sum() for n, w in weights(exact).items()]
        return torch.stack(gaps).sum() + regular * at.square().sum()

    before, after = slopes(c, (c, found), loss)
    assert after < 1e-9 * before


def test_an_epoch_minimises_its_objective_on_every_matrix(exact: LatentModel) -> None:
    """From the edit before it, written out for each matrix; two epochs."""
    method = RECE(epochs=2, towards="anchor", keep="words", regular=0.05).resolved(SNEAKER)
    edits = [made(exact, epochs=n, towards="anchor", keep="words", regular=0.05) for n in range(3)]
    c, g, _ = method._rows(exact, SNEAKER)
    texts = ["", *(p.text for word in (*SNEAKER.neighbours, *SNEAKER.unrelated) for p in SNEAKER.prompts("training", word))]
    kept = exact.condition(list(dict.fromkeys(texts))).text.flatten(0, 1)
    for before, after in itertools.pairwise(edits):
        left = sum((before.tensors[n].T @ before.tensors[n] for n in before.touched), 0.05 * torch.eye(32, dtype=torch.float64))
        right = torch.stack([before.tensors[n].T @ w for n, w in weights(exact).items()]).sum(0)
        found = torch.linalg.solve(left, right @ c.T).T
        for name in before.touched:
            old = before.tensors[name]

            def loss(at: Tensor, old: Tensor = old, found: Tensor = found) -> Tensor:
                erased, held = (found @ at.T - g @ old.T).square().sum(), (kept @ (at - old).T).square().sum()
                return erased + 0.1 * held + 0.1 * (at - old).square().sum()

            first, last = slopes(old, (old, after.tensors[name]), loss)
            assert last < 1e-8 * first


def test_limits_of_the_regulariser(exact: LatentModel) -> None:
    """Nothing edited and no weight: the embedding itself. All weight: nothing."""
    c, none = exact.condition(["sneaker"]).text[0], torch.zeros(32, 32, dtype=torch.float64)
    torch.testing.assert_close(adversarial(c, power(exact), none, 1e-12), c, atol=1e-8, rtol=1e-8)
    assert float(adversarial(c, power(exact), none, 1e12).norm()) < 1e-9 * float(c.norm())


def test_erased_embeddings_speak_as_the_guide_does(exact: LatentModel) -> None:
    """The embeddings that revived the concept after UCE are brought nearer to the guide's output by the epoch against them."""
    method = RECE(towards="anchor", preserve=0.0, ridge=1e-4).resolved(SNEAKER)
    start, after = made(exact, epochs=0, towards="anchor"), method(exact, SNEAKER, seed=0)
    c, g, _ = method._rows(exact, SNEAKER)
    found = adversarial(c, power(exact), method._start(exact, SNEAKER), float(method.regular))
    for name in after.touched:
        wanted = g @ start.tensors[name].T
        gaps = [float((found @ edit.tensors[name].T - wanted).norm()) for edit in (start, after)]
        assert gaps[1] < 0.2 * gaps[0]


def test_settings_are_the_released_ones() -> None:
    made = RECE()
    assert [getattr(made.resolved(SNEAKER), n) for n in ("regular", "epochs", "towards", "keep")] == [0.1, 1, "empty", "empty"]
    assert [getattr(made.resolved(NEON), n) for n in ("regular", "epochs", "towards", "keep")] == [1e-3, 1, "anchor", "words"]
    assert (made.preserve, made.ridge) == (0.1, 0.1)


@pytest.mark.parametrize("words", ["bare", "plain", "all"])
def test_several_concepts_are_erased_at_once(exact: LatentModel, words: str) -> None:
    method = RECE(words=words)  # type: ignore[arg-type]
    both, one = method(exact, joint([SNEAKER, BAG]), seed=0), method(exact, SNEAKER, seed=0)
    assert all(value.isfinite().all() for value in both.tensors.values())
    assert not torch.equal(both.tensors[both.touched[0]], one.tensors[one.touched[0]])


@pytest.mark.parametrize("bad", [{"ridge": 0.0}, {"regular": 0.0}, {"epochs": -1}])
def test_weights_that_have_no_minimum_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"is above 0|is at least 0"):
        RECE(**bad)


def test_joint_attention_is_refused() -> None:
    with pytest.raises(Incompatible, match="there are no keys and values of the text to solve for"):
        RECE()(tiny_flow("dev"), BAG, seed=0)
