"""ESD: its pool is the original's guided path, its goals are the formula's, and training falls towards them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oracles import scheduler, tiny_flow, tiny_model, tiny_parts, tokenizer
from vestige import concepts
from vestige.concepts import Concept
from vestige.diffusion import Model
from vestige.diffusion.sampling import noise, predict, sample
from vestige.edits import Edit
from vestige.models.latent import LatentModel
from vestige.seeds import derive, generator
from vestige.unlearners import esd
from vestige.unlearners.esd import ESD, SCOPE, Variant

SNEAKER = concepts.load("sneaker")
SMALL: dict[str, Any] = {"steps": 3, "batch": 2, "rollouts": 4, "rollout_steps": 5, "lr": 1e-3}


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


@pytest.fixture(scope="module")
def exact() -> LatentModel:
    """The tiny model in float64."""
    return LatentModel("tiny64", {name: part.double() for name, part in tiny_parts().items()}, tokenizer(), scheduler())


def pool(model: Model, method: ESD, concept: Concept = SNEAKER, seed: int = 0) -> Any:
    return method.pool(model, concept, seed, lambda *_: None)


def loss(original: Model, student: Model, method: ESD) -> float:
    """The method's own objective over its whole pool."""
    x, t, goals, rows, condition = pool(original, method)
    with torch.no_grad():
        return float((student.denoise(x, t, condition[rows]).value - goals).square().mean())


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_pool_is_the_guided_path_at_every_index(guidance: float, prediction: str) -> None:
    model = tiny_model(prediction_type=prediction)
    method = ESD(**SMALL, rollout_guidance=guidance, prompts="all")
    x, t, _, rows, condition = pool(model, method, seed=7)
    count, steps = method.rollouts, method.rollout_steps
    assert x.shape == (count * steps, *model.latent_shape)
    first = noise(model.latent_shape, [derive(7, "rollout", i) for i in range(count)])
    given, null, grid = condition[rows[:count]], model.condition([""]), model.grid(steps)
    for i in range(steps):
        part = slice(i * count, (i + 1) * count)
        path = sample(model, first, given, steps=steps, guidance=guidance, null=null, stop=i)
        torch.testing.assert_close(x[part], path, atol=1e-5, rtol=1e-5)
        assert (t[part] == grid[i]).all()
        assert torch.equal(rows[part], rows[:count])


@pytest.mark.parametrize("strength", [-1.0, 0.0, 1.0, 2.5])
def test_goals_are_the_formula(tiny: LatentModel, strength: float) -> None:
    """free - strength * (given - free), in whatever the network predicts."""
    x, t, goals, rows, condition = pool(tiny, ESD(**SMALL, strength=strength, prompts="all"))
    with torch.no_grad():
        given = tiny.denoise(x, t, condition[rows]).value
        free = tiny.denoise(x, t, tiny.condition([""] * len(x))).value
    torch.testing.assert_close(goals, free - strength * (given - free), atol=1e-5, rtol=1e-5)


def test_states_and_goals_stay_the_originals_however_far_the_student_has_gone(tiny: LatentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(esd, "fit", lambda leaves, loss, training, **_: iter([seen.update(leaves=leaves, loss=loss)]))
    method = ESD(**SMALL)
    method(tiny, SNEAKER, seed=0)
    with torch.no_grad():
        for leaf in seen["leaves"].values():
            leaf.mul_(1.5)
    x, t, goals, rows, condition = pool(tiny, method)
    picked = torch.randint(len(x), (method.batch,), generator=generator(3))
    student = tiny.edited(Edit(tiny.fingerprint, "moved", {}, "", {n: leaf.detach() for n, leaf in seen["leaves"].items()}))
    with torch.no_grad():
        expected = (student.denoise(x[picked], t[picked], condition[rows[picked]]).value - goals[picked]).square().mean()
        torch.testing.assert_close(seen["loss"](generator(3)), expected)


def test_a_model_that_is_told_its_guidance_draws_its_paths_as_it_is_told() -> None:
    model = tiny_flow("dev")
    method = ESD(**SMALL, rollout_guidance=3.5)
    x, _, goals, rows, condition = pool(model, method)
    first = noise(model.latent_shape, [derive(0, "rollout", i) for i in range(method.rollouts)])
    given, count = condition[rows[: method.rollouts]], method.rollouts
    path = sample(model, first, given, steps=method.rollout_steps, guidance=3.5, stop=1)
    torch.testing.assert_close(x[count : 2 * count], path, atol=1e-5, rtol=1e-5)
    t, null = model.grid(method.rollout_steps)[0], model.condition([""]).repeat(count)
    with_c, free = (predict(model, first, t, told, None, 1.0).value for told in (given, null))
    torch.testing.assert_close(goals[:count], free - (with_c - free), atol=1e-5, rtol=1e-5)


def test_prompts_are_the_plain_ones_or_all(tiny: LatentModel) -> None:
    texts = [p.text for p in SNEAKER.prompts("training")]
    plain = [p.text for p in SNEAKER.prompts("training") if len(p.expects) == 1]
    for prompts, expected in (("plain", plain), ("all", texts)):
        *_, rows, condition = pool(tiny, ESD(**{**SMALL, "rollouts": 70, "rollout_steps": 1}, prompts=prompts))  # type: ignore[arg-type]
        torch.testing.assert_close(condition.text, tiny.condition(expected).text, atol=1e-6, rtol=1e-6)
        counts = torch.bincount(rows, minlength=len(expected))
        assert counts.max() - counts.min() <= 1
    *_, rows, _ = pool(tiny, ESD(**{**SMALL, "rollouts": 48, "rollout_steps": 1}, prompts="all"))
    assert rows.tolist() == list(range(48))  # fewer paths than prompts: the first ones
    contextual = Concept(name="sneaker", contexts=("neon",), templates=("a {context} {concept}",))
    *_, condition = pool(tiny, ESD(**SMALL), contextual)
    torch.testing.assert_close(condition.text, tiny.condition(["a neon sneaker"]).text, atol=1e-6, rtol=1e-6)


def test_at_strength_minus_one_the_model_is_at_its_goal(exact: LatentModel) -> None:
    assert loss(exact, exact, ESD(**SMALL, strength=-1.0)) < 1e-28


def test_strength_minus_one_leaves_the_model_as_it_is(tiny: LatentModel) -> None:
    """Adam must not turn the rounding of a loss of zero into steps of its full rate."""
    edit = ESD(**SMALL, strength=-1.0)(tiny, SNEAKER, seed=0)
    assert all(torch.equal(edit.weight(n, tiny.tensor(n)), tiny.tensor(n)) for n in edit.touched)


@pytest.mark.parametrize(("variant", "lr"), [("x", 1e-3), ("strict", 1e-3), ("u", 1e-4)])
def test_training_lowers_its_loss(tiny: LatentModel, variant: Variant, lr: float) -> None:
    method = ESD(variant=variant, steps=30, lr=lr, batch=8, rollouts=4, rollout_steps=5)
    edit = method(tiny, SNEAKER, seed=0)
    assert loss(tiny, tiny.edited(edit), method) < 0.75 * loss(tiny, tiny, method)


def test_first_step_descends_the_objective(exact: LatentModel) -> None:
    """With every state in the batch's reach, a small step must not raise the loss over the pool."""
    method = ESD(variant="x", steps=1, lr=1e-4, batch=64, rollouts=4, rollout_steps=4)
    assert loss(exact, exact.edited(method(exact, SNEAKER, seed=0)), method) < loss(exact, exact, method)


@pytest.mark.parametrize(("kind", "variant"), [("object", "u"), ("unsafe", "u"), ("style", "x"), ("person", "x")])
def test_auto_follows_the_kind_of_concept(tiny: LatentModel, kind: Any, variant: Variant) -> None:
    concept = Concept(name="sneaker", kind=kind)
    assert ESD().resolved(concept) == ESD(variant=variant)
    for fixed in ("x", "u", "strict"):
        assert ESD(variant=fixed).resolved(concept) == ESD(variant=fixed)
    edit = ESD(**SMALL)(tiny, concept, seed=0)
    assert edit.settings["variant"] == variant
    assert edit.scope == SCOPE[variant]


@pytest.mark.parametrize("variant", ["x", "u", "strict"])
def test_every_weight_of_the_variants_scope_is_trained_and_no_other(tiny: LatentModel, variant: Variant) -> None:
    edit = ESD(**SMALL, variant=variant)(tiny, SNEAKER, seed=0)
    assert edit.scope == {"x": "cross-attention", "u": "non-cross-attention", "strict": "cross-attention-kv"}[variant]
    assert edit.touched == sorted(tiny.scope(edit.scope))
    still = [n for n in edit.touched if torch.equal(edit.tensors[n], tiny.tensor(n))]
    assert still == []


def test_other_seeds_other_edits(tiny: LatentModel) -> None:
    one, other = (ESD(**SMALL, variant="strict")(tiny, SNEAKER, seed=seed) for seed in (0, 1))
    assert any(not torch.equal(one.tensors[n], other.tensors[n]) for n in one.touched)
    mine, theirs = (pool(tiny, ESD(**SMALL), seed=seed)[0] for seed in (0, 1))
    assert not torch.allclose(mine, theirs)


@pytest.mark.parametrize("setting", ["steps", "batch", "rollouts", "rollout_steps"])
def test_counts_below_one_are_refused(setting: str) -> None:
    none: dict[str, Any] = {setting: 0}
    with pytest.raises(ValueError, match="at least 1"):
        ESD(**none)
