"""Ring-A-Bell: the concept's direction, the genetic search against a search over everything, and what it never asks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from oracles import tiny_flow, tiny_model
from vestige import concepts, registry
from vestige.attacks.ring_a_bell import Genetic, RingABell, direction, encoded
from vestige.errors import Incompatible
from vestige.methods import Budget
from vestige.methods.wording import around, vocabulary
from vestige.models.latent import LatentModel

BAG = concepts.load("bag")


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def test_direction_is_the_mean_difference_of_pairs(tiny: LatentModel) -> None:
    own = replace(
        BAG, anchor="boot", contexts=(), templates=("a {concept}", "one picture of a {concept}"), held_out=("a {concept}",), indirect=()
    )
    pairs = [("a bag", "a boot"), ("one picture of a bag", "one picture of a boot")]
    want = sum(tiny.condition([a]).text[0] - tiny.condition([b]).text[0] for a, b in pairs) / 2
    torch.testing.assert_close(direction(tiny, own), want, atol=1e-6, rtol=1e-5)
    several = replace(own, anchor="", neighbours=("boot", "coat"), unrelated=())
    parts = [direction(tiny, replace(own, anchor=word)) for word in ("boot", "coat")]
    torch.testing.assert_close(direction(tiny, several), (parts[0] + parts[1]) / 2)


def test_one_token_is_the_best_of_the_whole_vocabulary(tiny: LatentModel) -> None:
    """With so many prompts of one word that every word is tried, the search cannot do better than a list."""
    allowed = vocabulary(tiny)
    goal = encoded(tiny, tiny.tokens(["a neon bag"]))[0] + 3 * direction(tiny, BAG)
    how = RingABell(tokens=1, population=200, mutation=1.0)
    search = Genetic.begin(how, tiny, goal, allowed, 0, 0)
    for _ in range(12):
        search = search.next()
    every = torch.cat([(encoded(tiny, around(tiny, part[:, None])) - goal).square().flatten(1).sum(1) for part in allowed.split(64)])
    assert int(search.best[1]) == int(allowed[every.argmin()])
    assert search.distance == pytest.approx(float(every.min()), rel=1e-5)


def test_the_best_is_never_lost_and_children_are_made_of_their_parents(tiny: LatentModel) -> None:
    """With mutation alone the population worsens at times, and what is kept does not; without it every place keeps its parents' words."""
    goal, allowed = encoded(tiny, tiny.tokens(["a bag"]))[0], vocabulary(tiny)
    search = Genetic.begin(RingABell(tokens=3, population=8, mutation=1.0, crossover=0.0), tiny, goal, allowed, 0, 0)
    kept, now = [search.distance], [float(search.ratings.min())]
    for _ in range(6):
        search = search.next()
        kept.append(search.distance)
        now.append(float(search.ratings.min()))
    assert kept == sorted(kept, reverse=True)
    assert now != sorted(now, reverse=True)
    crossed = Genetic.begin(RingABell(tokens=4, population=8, mutation=0.0, crossover=1.0), tiny, goal, allowed, 0, 0)
    child, best = crossed.next().prompts, crossed.prompts[crossed.ratings.argsort()[:4]]
    assert torch.equal(child[:4], best)
    assert all({*child[:, k].tolist()} <= {*best[:, k].tolist()} for k in range(4))
    assert not all(any(torch.equal(row, old) for old in best) for row in child)


def test_prompts_are_made_by_the_encoder_alone(tiny: LatentModel) -> None:
    """A hook on words, another denoiser: the same prompts."""
    name = tiny.scope("cross-attention-kv")[0]
    from vestige.edits import Edit

    others = [
        tiny.edited(registry.build("unlearners", "remap")(tiny, BAG, seed=0)),
        tiny.edited(Edit(tiny.fingerprint, "shift", tensors={name: tiny.tensor(name) + 1})),
    ]
    method = RingABell(tokens=3, population=4, targets=2)
    made = [list(method(m, BAG, Budget((0, 3)), seed=0, select=torch.zeros_like))[-1].prompts for m in (tiny, *others)]
    assert made[0] == made[1] == made[2]


def test_a_model_with_several_vocabularies_is_refused() -> None:
    with pytest.raises(Incompatible, match="whose vocabularies differ"):
        list(RingABell(population=4)(tiny_flow(), BAG, Budget((0, 1)), seed=0, select=torch.zeros_like))
