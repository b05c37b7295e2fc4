"""AdvUnlearn: free words are the embeddings that they say, attacks bring the concept nearer, and without them it is ESD on the encoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from oracles import scheduler, small, tiny_classes, tiny_exact, tiny_flow, tiny_model, tiny_xl, tokenizer
from vestige import concepts
from vestige.concepts import Concept
from vestige.diffusion import Model
from vestige.edits import Edit
from vestige.edits.surgery import rebuild
from vestige.errors import Incompatible
from vestige.methods.rollouts import rollouts
from vestige.models.latent import LatentModel
from vestige.seeds import generator
from vestige.unlearners.adv_unlearn import AdvUnlearn, Words, _Attacks, _layers

SNEAKER = concepts.load("sneaker")
PROMPT = "a neon picture of a sneaker"


def made(model: Model, **settings: Any) -> Edit:
    edit: Edit = small("unlearners", "adv_unlearn", **settings)(model, SNEAKER, seed=0)
    return edit


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


@pytest.fixture(scope="module")
def exact() -> LatentModel:
    return tiny_exact()


def test_a_free_word_that_is_a_known_ones_embedding_is_that_word(exact: LatentModel) -> None:
    """Between what came before the concept's words and what follows; the rest moves on."""
    room = Words.of(exact, [(PROMPT, "sneaker")], 1)
    boot = exact.tokenizer("boot").input_ids[1]
    free = room.table[boot][None, None].double()
    found = exact.embed(room.weights(free, torch.tensor([0]))).text
    torch.testing.assert_close(found, exact.condition(["a neon picture of a boot sneaker"]).text, atol=1e-4, rtol=1e-4)


def test_a_free_word_may_be_any_embedding(exact: LatentModel) -> None:
    """One that no word has, written into the table in a word's place: the encoder reads the same."""
    room = Words.of(exact, [(PROMPT, "sneaker")], 2)
    free = room.begin(1, 2, generator(0)).double()
    name = next(iter(exact.tables()))
    table, spare = exact.tensor(name).clone(), [exact.tokenizer(word).input_ids[1] for word in ("bag", "boot")]
    table[spare] = free[0]
    parts = {**exact.parts, "text_encoder": rebuild(exact.parts["text_encoder"], {name.partition(".")[2]: table})}
    other = LatentModel("other", parts, tokenizer(), scheduler())
    found = exact.embed(room.weights(free, torch.tensor([0]))).text
    torch.testing.assert_close(found, other.condition(["a neon picture of a bag boot sneaker"]).text, atol=1e-4, rtol=1e-4)


def test_two_encoders_read_a_word_each() -> None:
    model = tiny_xl()
    room = Words.of(model, [(PROMPT, "sneaker")], 1)
    assert room.table.shape[1] == 24 + 8
    boot = model.tokenizer("boot").input_ids[1]
    found, wanted = (
        model.embed(room.weights(room.table[boot][None, None], torch.tensor([0]))),
        model.condition([PROMPT.replace("a s", "a boot s")]),
    )
    torch.testing.assert_close(found.text, wanted.text, atol=1e-3, rtol=1e-3)


def test_an_attack_brings_the_prediction_nearer_to_the_originals(tiny: LatentModel) -> None:
    """At an encoder that has been edited, from words that take the prompt far away."""
    method = AdvUnlearn(attack_steps=30, attack_lr=0.05, batch=2)
    room = Words.of(tiny, [(PROMPT, "sneaker")], 1)
    own = rollouts(tiny, room.texts, count=2, steps=2, guidance=1.0, seed=0)
    picked, attack = torch.tensor([0, 1]), _Attacks(method, room, 0)

    def gap(free: torch.Tensor) -> float:
        with torch.no_grad():
            condition = tiny.embed(room.weights(free, own.rows[picked]))
            return float((tiny.denoise(own.x_t[picked], own.t[picked], condition).value - own.given[picked]).square().mean())

    found = attack(tiny, own, picked, generator(5))
    assert gap(found) < 0.9 * gap(room.begin(2, 1, generator(5)))
    assert torch.equal(attack.last, found)


def test_without_attacks_and_what_stays_it_is_esds_loss(tiny: LatentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The squared distance to past the unconditional prediction, written out."""
    losses: list[float] = []

    def fit(leaves: Any, loss: Any, *given: Any, **named: Any) -> Any:
        losses.append(float(loss(generator(0)).detach()))
        return iter(())

    monkeypatch.setattr("vestige.unlearners.adv_unlearn.fit", fit)
    made(tiny, attack_steps=0, retain_weight=0.0, batch=3, strength=0.5)
    own = rollouts(tiny, list(dict.fromkeys(SNEAKER.plain())), count=2, steps=3, guidance=3.0, seed=0)
    picked = torch.randint(len(own), (3,), generator=generator(0))
    x, t, rows = own.x_t[picked], own.t[picked], own.rows[picked]
    with torch.no_grad():
        given = tiny.denoise(x, t, own.condition[rows]).value
        free = tiny.denoise(x, t, tiny.condition([""] * 3)).value
    expected = float((given - (free - 0.5 * (given - free))).square().mean())
    assert losses == [pytest.approx(expected, rel=1e-3)]


def test_what_stays_costs_nothing_before_anything_moved(tiny: LatentModel) -> None:
    method: AdvUnlearn = small("unlearners", "adv_unlearn")
    texts = method._kept(SNEAKER)
    assert not any(SNEAKER.named(text) for text in texts)
    kept = rollouts(tiny, texts, count=2, steps=2, guidance=3.0, seed=0)
    with torch.no_grad():
        assert float(method._staying(tiny, texts, kept, generator(0))) == pytest.approx(0, abs=1e-10)


def test_tables_stay_and_every_layer_moves(tiny: LatentModel) -> None:
    edit = made(tiny)
    assert edit.touched == sorted(_layers(tiny))
    assert not [n for n in edit.touched if "embedding" in n]
    assert all(n.startswith("text_encoder.") for n in edit.touched)
    assert sum(not torch.equal(edit.tensors[n], tiny.tensor(n)) for n in edit.touched) > len(edit.touched) / 2


def test_latest_attacks_go_on_where_the_last_one_ended(tiny: LatentModel) -> None:
    random, latest = (made(tiny, start=start, steps=4) for start in ("random", "latest"))
    name = random.touched[0]
    assert not torch.equal(random.tensors[name], latest.tensors[name])


def test_where_nothing_that_stays_is_named_the_empty_prompt_stays(tiny: LatentModel) -> None:
    assert AdvUnlearn()._kept(Concept(name="sneaker")) == [""]


@pytest.mark.parametrize(("family", "why"), [(tiny_classes, "reads no tokens"), (tiny_flow, "weights over one vocabulary mean nothing")])
def test_models_that_read_no_soft_words_are_refused(family: Any, why: str) -> None:
    with pytest.raises(Incompatible, match=why):
        small("unlearners", "adv_unlearn")(family(), concepts.load("bag"), seed=0)


def test_settings_are_the_released_ones() -> None:
    found = AdvUnlearn()
    assert (found.attack_steps, found.attack_lr, found.plain_steps, found.retain_batch, found.steps, found.lr) == (
        30,
        1e-3,
        200,
        5,
        1000,
        1e-5,
    )
    assert replace(found, steps=150).calls(0, 0) == replace(found, steps=150, attack_steps=0).calls(0, 0)
