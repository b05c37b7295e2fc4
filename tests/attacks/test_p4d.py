"""P4D: the gradient of an embedding through weights over the vocabulary, the projection, and the whole search against a plain one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from oracles import tiny_flow, tiny_model, tiny_xl
from vestige import concepts
from vestige.attacks.p4d import P4D
from vestige.errors import BadSetting, Incompatible
from vestige.methods import Budget, Candidate
from vestige.methods.objectives import noisy
from vestige.methods.stock import Stock
from vestige.methods.wording import Embeddings, inserted, read_back
from vestige.models.latent import LatentModel
from vestige.seeds import derive, generator

BAG = concepts.load("bag")


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


@pytest.fixture(scope="module")
def other() -> LatentModel:
    return tiny_model(1)


@pytest.mark.parametrize("make", [tiny_model, tiny_xl])
def test_gradient_is_that_of_the_embedding_itself(make: Any) -> None:
    """Against the rows of the tables as leaves, at tokens that stand nowhere else in the prompt."""
    model = make()
    table, ids = Embeddings.of(model), torch.tensor([[17, 40, 99]])
    goal = torch.randn(model.condition(["a"]).text.shape, generator=generator(0))
    moving = table.table[ids].clone().requires_grad_(True)
    base = model.tokens([""])
    (model.embed(inserted(base, table.weights(ids, moving), [[1, 1, 1]])).text * goal).sum().backward()
    view, leaves = model.trainable(list(model.tables()))
    whole = torch.cat([base[:, :1], ids, base[:, 1:-3]], 1)
    (view.embed(whole).text * goal).sum().backward()
    rows = torch.cat([leaf.grad[ids[0]] for leaf in leaves.values()], 1)  # type: ignore[index]
    assert moving.grad is not None
    torch.testing.assert_close(moving.grad[0], rows, atol=1e-5 * float(rows.abs().max()), rtol=1e-3)  # the pseudo-inverse is float32


def test_projection_is_the_nearest_word_by_cosine(tiny: LatentModel) -> None:
    table = Embeddings.of(tiny)
    e = torch.randn(5, 2, table.table.shape[1], generator=generator(1))
    near = F.cosine_similarity(e[..., None, :], table.table, dim=-1)
    near[..., list(tiny.tokenizer.all_special_ids)] = -2
    assert torch.equal(table.nearest(e), near.argmax(-1))
    torch.testing.assert_close(table.nearest(3 * table.table[20:30]), torch.arange(20, 30))


@pytest.mark.parametrize("layout", ["n", "k"])
def test_search_is_the_authors_by_a_plain_optimiser(layout: Any, tiny: LatentModel, other: LatentModel) -> None:
    """Three steps again with torch's AdamW, the encoder fed with rows of a table, and the loss written out."""
    method, texts = P4D(layout=layout, tokens=2, gap=2, lr=0.05), ["a picture of a bag", "a bag"]
    latents = torch.randn(2, *tiny.latent_shape, generator=generator(3))
    table = Embeddings.of(other)
    found = dict(method.search(tiny, other, table, latents, texts, Budget((0, 1, 3)), seed=5))
    spots = [[1, 1]] * 2 if layout == "n" else [[3, 5], [3]]
    base = tiny.tokens(["", ""] if layout == "n" else texts)
    drawn = torch.randint(len(table.allowed), (2, 2), generator=generator(5, "words"))
    e = torch.nn.Parameter(table.table[table.allowed[drawn]].clone())
    optimiser = torch.optim.AdamW([e], lr=0.05, weight_decay=0.1)
    for step in range(3):
        near = F.normalize(e.detach(), dim=-1) @ F.normalize(table.table, dim=-1).T
        near[..., list(tiny.tokenizer.all_special_ids)] = -2
        ids = near.argmax(-1)
        rows = table.table[ids].clone().requires_grad_(True)
        # the attacked model's own table reads the tokens; its slope there is carried over to e
        hard = F.one_hot(ids, len(table.table)).float() + (rows - rows.detach()) @ torch.linalg.pinv(table.table)
        t, _, x_t = noisy(tiny, latents, generator(derive(5, "words"), "step", step, 0))
        goal = other.denoise(x_t, t, other.condition(texts)).value.detach()
        own = tiny.denoise(x_t, t, tiny.embed(inserted(base, hard, spots))).value
        e.grad = torch.autograd.grad((own - goal).square().mean((1, 2, 3)).sum(), rows)[0]
        optimiser.step()
    near = F.normalize(e.detach(), dim=-1) @ F.normalize(table.table, dim=-1).T
    near[..., list(tiny.tokenizer.all_special_ids)] = -2
    want = inserted(base, F.one_hot(near.argmax(-1), len(table.table)).float(), spots).argmax(-1)
    assert torch.equal(found[3], want)
    assert not torch.equal(found[0], found[3])


def test_layout_k_keeps_the_prompts_words_in_their_order(tiny: LatentModel) -> None:
    texts = ["a picture of a bag", "bag"]
    ids, spots = P4D(layout="k", gap=3)._places(tiny, texts)
    assert spots == [[4], [2]]
    free = F.one_hot(torch.tensor([[50], [51]]), len(tiny.tokenizer)).float()
    made = inserted(ids, free, spots).argmax(-1)
    assert made[0, :8].tolist() == [*ids[0, :4].tolist(), 50, *ids[0, 4:7].tolist()]
    assert read_back(tiny, ids) == (texts, [True, True])


def test_what_shows_the_concept_is_kept_and_counted_apart_from_plain(tiny: LatentModel, other: LatentModel) -> None:
    seen: list[int] = []

    def select(images: torch.Tensor) -> torch.Tensor:
        """The first prompt succeeds plainly, the second at the first look and never again."""
        seen.append(len(images))
        return torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]][min(len(seen), 3) - 1])

    method = P4D(tokens=2, targets=2, every=2, sampling_steps=2, lr=0.05)
    found: list[Candidate] = list(method(tiny, BAG, Budget((0, 2, 6)), seed=0, select=select, stock=Stock(other)))
    assert seen == [2, 2, 2, 2]
    assert [(c.notes["prompts"], c.notes["plain"], c.notes["new"]) for c in found] == [(2, 1, 0), (2, 1, 1), (2, 1, 1)]
    assert found[1].prompts is not None and found[2].prompts is not None
    assert found[1].prompts[1] == found[2].prompts[1]
    assert found[1].prompts[0] != found[2].prompts[0]


def test_models_without_one_vocabulary_and_prompts_too_long_are_refused(tiny: LatentModel) -> None:
    with pytest.raises(Incompatible, match="whose vocabularies differ"):
        Embeddings.of(tiny_flow())
    with pytest.raises(BadSetting, match=r"reads prompts of 75 tokens; p4d\.tokens is 76"):
        P4D(tokens=76)._places(tiny, ["a bag"])
