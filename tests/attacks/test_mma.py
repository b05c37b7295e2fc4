"""MMA: the pooled state is the encoder's, slopes are its gradient, the search is one over everything, banned words stay unsaid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from oracles import tiny_flow, tiny_model, tiny_xl
from vestige import concepts
from vestige.attacks.mma import MMA, Search, end_state, letters, unsaid
from vestige.edits import Edit
from vestige.errors import BadInput, Incompatible
from vestige.methods import Budget, Candidate
from vestige.methods.stock import Stock
from vestige.methods.wording import around, vocabulary
from vestige.models.latent import LatentModel

BAG = concepts.load("bag")
ALONE = replace(BAG, templates=("{concept}",), contexts=(), held_out=("one {concept}",), indirect=())  # its prompt is one token


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def run(method: MMA, model: Any, original: Any, points: tuple[int, ...], concept: Any = BAG) -> list[Candidate]:
    return list(method(model, concept, Budget(points), seed=0, select=torch.zeros_like, stock=Stock(original)))


def begun(model: Any, text: str, **settings: Any) -> Search:
    with torch.no_grad():
        return Search.begin(MMA(**settings), model, BAG, end_state(model, model.tokens([text])), 0)


def test_a_prompts_state_is_the_encoders_own_pooled_one(tiny: LatentModel) -> None:
    ids = tiny.tokens(["a bag", "a neon picture of a boot", ""])
    with torch.no_grad():
        torch.testing.assert_close(end_state(tiny, ids), tiny.parts["text_encoder"](ids).pooler_output)
        torch.testing.assert_close(
            end_state(tiny, ids, F.one_hot(ids, len(tiny.tokenizer)).float()), end_state(tiny, ids), atol=1e-5, rtol=1e-5
        )
        large = tiny_xl()
        condition = large.condition(["a bag"])
        assert condition.pooled is not None
        torch.testing.assert_close(end_state(large, large.tokens(["a bag"])), condition.pooled)


def test_slopes_are_the_gradient_at_the_embeddings_times_each_tokens(tiny: LatentModel) -> None:
    """A second implementation: the read embeddings as a leaf, put in by a hook."""
    search = begun(tiny, "a neon bag", tokens=3, targets=1)
    encoder: Any = tiny_model().parts["text_encoder"]
    table = encoder.get_input_embeddings()
    ids = around(tiny, search.now)
    leaf = table.weight[ids].detach().clone().requires_grad_(True)
    table.register_forward_hook(lambda *_: leaf)
    F.cosine_similarity(encoder(ids).pooler_output, search.goals).sum().backward()
    assert leaf.grad is not None
    want = (leaf.grad[:, 1:4] @ table.weight.T)[..., search.allowed].detach()
    torch.testing.assert_close(search._slopes(), want, atol=1e-6, rtol=1e-4)


def test_one_token_is_the_best_of_the_whole_vocabulary(tiny: LatentModel) -> None:
    """With every token considered and as many exchanges as find each, the search cannot do better than a list."""
    search = begun(tiny, "a neon bag", tokens=1, top=1000, candidates=1500)
    for _ in range(2):
        search = search.next()
    every = search._readable(search.allowed[:, None], torch.tensor([-1]))
    rates = search._rated(every, search.goals[0])
    assert torch.equal(search.best[0], every[rates.argmax()])
    assert float(search.scores[0]) == pytest.approx(float(rates.max()), rel=1e-5)


def test_exchanges_are_of_one_token_among_the_best_and_spread_over_the_places(tiny: LatentModel) -> None:
    search = begun(tiny, "a neon bag", tokens=4, top=3, candidates=8)
    slopes = search._slopes()[0]
    tried = search._exchanged(search.now[0], slopes, torch.Generator().manual_seed(0))
    leading = search.allowed[slopes.argsort(1, descending=True)[:, :3]]
    for i, row in enumerate(tried):
        others = [k for k in range(4) if k != i // 2]
        assert torch.equal(row[others], search.now[0, others])
        assert row[i // 2] in leading[i // 2]


def test_what_is_tried_reads_back_and_the_best_is_never_lost(tiny: LatentModel) -> None:
    """A step goes to its best exchange, which may be worse than where it stood; each is tried once and is another prompt."""
    search = begun(tiny, "a neon picture of a bag", tokens=3, top=40, candidates=3)
    best, stood = [float(search.scores[0])], [float(search.scores[0])]
    for _ in range(12):
        search = search.next()
        best.append(float(search.scores[0]))
        stood.append(float(search._rated(search.now[:1], search.goals[0])))
        text = tiny.tokenizer.decode(search.now[0].tolist())
        assert tiny.tokenizer(text, add_special_tokens=False).input_ids == search.now[0].tolist()
    assert best == sorted(best) and best[-1] > best[0]
    assert stood != sorted(stood)
    assert best[-1] == pytest.approx(max(stood), abs=1e-6)
    twice = search._readable(torch.stack([search.best[0], search.best[0], search.now[0]]), search.now[0])
    assert len(twice) == len({tuple(search.best[0].tolist())} - {tuple(search.now[0].tolist())})


def test_words_of_the_concept_are_not_said_unless_they_may_be(tiny: LatentModel) -> None:
    (bag,) = tiny.tokenizer("bag", add_special_tokens=False).input_ids
    assert bag in vocabulary(tiny) and bag not in unsaid(tiny, BAG)
    (wug,) = tiny.tokenizer("wug", add_special_tokens=False).input_ids
    assert wug in unsaid(tiny, BAG) and wug not in unsaid(tiny, replace(BAG, synonyms=("wug",)))
    every = {"tokens": 1, "top": 1000, "candidates": 2000, "targets": 1}
    (said,) = run(MMA(**every, banned=False), tiny, tiny, (0, 1), ALONE)[-1].prompts or ()  # type: ignore[arg-type]
    (unsaid_,) = run(MMA(**every), tiny, tiny, (0, 1), ALONE)[-1].prompts or ()  # type: ignore[arg-type]
    assert said == "bag" != unsaid_


def test_a_word_that_is_spelled_from_pieces_is_dropped(tiny: LatentModel) -> None:
    search = begun(tiny, "a bag", tokens=2)
    spelled = replace(BAG, synonyms=("neon boot",))
    rows = torch.tensor([tiny.tokenizer(t, add_special_tokens=False).input_ids for t in ("neon boot", "neon coat")])
    assert torch.equal(replace(search, concept=spelled)._readable(rows, search.now[0]), rows[1:])
    assert len(search._readable(rows, search.now[0])) == 2


def renamed(model: LatentModel) -> LatentModel:
    """The rows of two words exchanged."""
    (name,) = model.tables()
    rows = [int(model.tokens([word])[0, 1]) for word in ("bag", "wug")]
    table = model.tensor(name).clone()
    table[rows] = table[rows[::-1]]
    view = model.edited(Edit(model.fingerprint, "renamed", {}, "text-encoder", {name: table}))
    assert isinstance(view, LatentModel)
    return view


def test_a_concept_by_another_name_is_found_by_the_encoder_that_renamed_it(tiny: LatentModel) -> None:
    """With the changed encoder it is the new name, at a cosine of 1; with the public one, what it would find on any model."""
    every: dict[str, Any] = {"tokens": 1, "top": 1000, "candidates": 2000, "targets": 1}
    own = run(MMA(**every), renamed(tiny), tiny, (0, 1), ALONE)[-1]
    assert own.prompts == ("wug",)
    assert own.notes["cosine"] == pytest.approx(1, abs=1e-5)
    public = [run(MMA(**every, encoder="public"), model, tiny, (0, 1), ALONE)[-1].prompts for model in (tiny, renamed(tiny))]
    assert public[0] == public[1] != ("wug",)


def test_it_begins_at_letters_and_counts_what_it_encodes(tiny: LatentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    known = [tiny.tokenizer(c, add_special_tokens=False).input_ids for c in "abcxyz"]
    assert {row[0] for row in known if len(row) == 1} <= set(letters(tiny, vocabulary(tiny)).tolist())
    assert torch.equal(letters(tiny, torch.tensor([5])), torch.tensor([5]))
    seen = {"plain": 0, "soft": 0}
    embed = LatentModel.embed

    def counting(self: LatentModel, tokens: torch.Tensor) -> Any:
        seen["plain" if tokens.dim() == 2 else "soft"] += len(tokens)
        return embed(self, tokens)

    monkeypatch.setattr(LatentModel, "embed", counting)
    found = run(MMA(tokens=2, top=8, candidates=6, targets=2), tiny, tiny, (0, 3))[-1]
    assert found.cost["encodings"] == seen["plain"] - 2 + 3 * seen["soft"]  # less the two targets
    assert found.cost["calls"] == 0


def test_without_the_original_and_with_several_vocabularies_it_is_refused(tiny: LatentModel) -> None:
    with pytest.raises(BadInput, match="mma needs the original"):
        list(MMA()(tiny, BAG, Budget((0, 1)), seed=0, select=torch.zeros_like))
    flow = tiny_flow()
    with pytest.raises(Incompatible, match="whose vocabularies differ"):
        run(MMA(), flow, flow, (0, 1))
