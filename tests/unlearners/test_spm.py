"""SPM: its goal and its anchors are their formulas, and membranes start and stay where they should."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from oracles import scheduler, tiny_model, tiny_parts, tokenizer
from vestige import concepts
from vestige.diffusion import Condition, Model
from vestige.diffusion.sampling import noise, sample
from vestige.edits import Edit
from vestige.models.latent import LatentModel
from vestige.seeds import generator
from vestige.unlearners.spm import SPM, anchored

SNEAKER = concepts.load("sneaker")
SMALL: dict[str, Any] = {"steps": 2, "batch": 2, "lr": 1e-2, "rollout_steps": 3, "warmup": 0}


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


@pytest.fixture(scope="module")
def exact() -> LatentModel:
    """The tiny model in float64."""
    return LatentModel("tiny64", {name: part.double() for name, part in tiny_parts().items()}, tokenizer(), scheduler())


def made(model: Model, seed: int = 0, **settings: Any) -> Edit:
    return SPM(**{**SMALL, **settings})(model, SNEAKER, seed=seed)


def gap(model: Model, edited: Model, condition: Condition) -> float:
    """Mean squared change of the prediction at pure noise."""
    x, t = noise(model.latent_shape, range(len(condition))).to(condition.text), torch.full((len(condition),), 800)
    with torch.no_grad():
        return float((edited.denoise(x, t, condition).value - model.denoise(x, t, condition).value).square().mean())


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_goal_lies_past_the_neutral_prediction(exact: LatentModel, strength: float) -> None:
    method = SPM(**SMALL, strength=strength)
    other = LatentModel("other", {name: part.double() for name, part in tiny_parts(1).items()}, tokenizer(), scheduler())
    x_t, t = noise(exact.latent_shape, [0, 1]).double(), torch.tensor([500, 500])
    given, null = exact.condition(["a sneaker", "neon sneaker"]), exact.condition(["", ""])
    own, free = (exact.denoise(x_t, t, c).noise.detach() for c in (given, null))
    expected = (other.denoise(x_t, t, given).noise - (free - strength * (own - free))).square().mean()
    torch.testing.assert_close(method._erasing(other, exact, x_t, t, given, null), expected)


def test_states_lie_on_the_students_guided_path(exact: LatentModel) -> None:
    method = SPM(**{**SMALL, "rollout_steps": 6}, rollout_guidance=3.0)
    view = exact.edited(made(exact))
    given, null = exact.condition(["a sneaker", "neon sneaker"]), exact.condition([""])
    grid, stops = exact.grid(6), set()
    for seed in range(12):
        x_t, t = method._state(view, given, null, generator(seed))
        stop = grid.tolist().index(int(t[0]))
        stops.add(stop)
        rng = generator(seed)
        torch.randint(1, 6, (1,), generator=rng)
        start = torch.randn(2, *exact.latent_shape, generator=rng).double()
        path = sample(view, start, given, steps=6, guidance=3.0, null=null, stop=stop)
        torch.testing.assert_close(x_t, path)
        assert (t == t[0]).all()
    assert stops == {1, 2, 3, 4, 5}


def test_anchors_are_as_long_as_the_text_and_point_anywhere(exact: LatentModel) -> None:
    given = exact.condition(["a sneaker"]).repeat(400)
    random = anchored(given, generator(0)).text.flatten(1)
    text = given.text.flatten(1)
    share = random.norm(dim=1) / text.norm(dim=1)
    assert 0.8 <= float(share.min()) < 0.81
    assert 1.19 < float(share.max()) <= 1.2
    assert float(share.mean()) == pytest.approx(1.0, abs=0.02)
    cosine = torch.cosine_similarity(random, text)
    assert float(cosine.abs().max()) < 5 / text.shape[1] ** 0.5  # the reason why nothing is rejected
    assert float(cosine.std()) == pytest.approx(text.shape[1] ** -0.5, rel=0.15)


def test_strength_minus_one_leaves_the_model_bit_for_bit(tiny: LatentModel) -> None:
    """Adapters start at nothing, and neither loss has a gradient there."""
    edit = made(tiny, strength=-1.0)
    assert all(not up.any() for _, up in edit.factors.values())
    view = tiny.edited(edit)
    assert all(torch.equal(view.tensor(n), tiny.tensor(n)) for n in edit.touched)


def test_membranes_are_of_rank_one_on_every_map_of_the_transformers(tiny: LatentModel) -> None:
    edit = made(tiny)
    assert not edit.tensors
    blocks = [m for n, m in tiny.parts["unet"].named_modules() if n.endswith(("attentions.0", "attentions.1"))]
    maps = [m for block in blocks for m in block.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    assert len(edit.factors) == len(maps) == 4 * (2 + 8 + 2)  # proj_in, proj_out; two attentions; feed-forward
    assert {down.shape[0] for down, _ in edit.factors.values()} == {1}
    assert all(up.any() for _, up in edit.factors.values())
    assert set(made(tiny, scope="attention").factors) == set(tiny.scope("attention"))


def test_edit_is_the_network_that_was_trained(exact: LatentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its scale alpha / rank folded in."""
    kept: list[Model] = []
    adapted = LatentModel.adapted

    def keeping(self: LatentModel, *names: Any, **settings: Any) -> Any:
        student, leaves = adapted(self, *names, **settings)
        kept.append(student)
        return student, leaves

    monkeypatch.setattr(LatentModel, "adapted", keeping)
    edit = made(exact, rank=2, alpha=3.0)
    x, t, condition = noise(exact.latent_shape, [0]).double(), torch.tensor([500]), exact.condition(["a sneaker"])
    with torch.no_grad():
        trained, found, before = (m.denoise(x, t, condition).value for m in (kept[0], exact.edited(edit), exact))
    torch.testing.assert_close(found, trained, atol=1e-10, rtol=1e-8)
    assert not torch.allclose(found, before, atol=1e-6)


def test_training_erases_and_anchoring_holds_random_embeddings(tiny: LatentModel) -> None:
    settings: dict[str, Any] = {"steps": 25, "batch": 4, "lr": 3e-3, "schedule": "constant", "rollout_steps": 4}
    loose, held = (tiny.edited(made(tiny, anchoring=weight, **settings)) for weight in (0.0, 1000.0))
    own = tiny.condition(["a sneaker"] * 8)
    random = anchored(own, generator(3))
    assert gap(tiny, loose, own) > 0
    assert gap(tiny, held, random) < 0.5 * gap(tiny, loose, random)
    method = SPM(**SMALL, anchoring=0.0)
    x_t, t = noise(tiny.latent_shape, range(8)), torch.full((8,), 800)
    null = tiny.condition([""]).repeat(8)
    with torch.no_grad():
        before, after = (float(method._erasing(m, tiny, x_t, t, own, null)) for m in (tiny, loose))
    assert after < 0.7 * before


def test_neutral_may_be_the_anchor(tiny: LatentModel) -> None:
    texts, others = SPM(neutral="anchor", prompts="all")._texts(SNEAKER)
    assert others == [text.replace("sneaker", "boot") for text in texts]
    texts, others = SPM()._texts(SNEAKER)
    assert texts == SNEAKER.plain()
    assert set(others) == {""}
    assert SPM(neutral="anchor")._texts(replace(SNEAKER, anchor=""))[1] == [""] * len(texts)


def test_other_seeds_other_membranes(tiny: LatentModel) -> None:
    one, other = made(tiny), made(tiny, seed=1)
    assert all(not torch.equal(one.factors[n][0], other.factors[n][0]) for n in one.factors)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"rollout_steps": 1}, {"strength": -2.0}, {"anchoring": -1.0}, {"lr": 0.0}])
def test_senseless_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least|above"):
        SPM(**bad)
