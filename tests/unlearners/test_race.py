"""RACE: its attack is its formula and stays in its ball, its loss is ESD's at what the attack found, and without one it is ESD."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import counted, small, tiny_classes, tiny_exact, tiny_flow, tiny_model
from vestige import concepts, registry
from vestige.concepts.joint import joint
from vestige.diffusion.sampling import noise, sample
from vestige.edits import Edit
from vestige.methods import Training, fit
from vestige.methods.contract import TRAINED
from vestige.models.latent import LatentModel
from vestige.seeds import derive, generator
from vestige.unlearners import esd, race
from vestige.unlearners.race import RACE, States

SNEAKER, BAG = concepts.load("sneaker"), concepts.load("bag")
ESD = {"variant": "x", "steps": 3, "rollouts": 4, "rollout_steps": 3, "batch": 2, "lr": 1e-2, "strength": 1.5}
INNER = tuple(f"{name}={value}" for name, value in ESD.items())


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


@pytest.fixture(scope="module")
def exact() -> LatentModel:
    return tiny_exact()


def states(model: Any, count: int = 3, step: int = 1) -> States:
    """States on the model's own paths, with no goal."""
    given = model.condition(["a sneaker", "neon sneaker", "a picture of a sneaker"][:count])
    began = noise(model.latent_shape, range(count)).to(given.text)
    t = model.grid(4)[step].expand(count)
    x_t = sample(model, began, given, steps=4, guidance=3.0, null=model.condition([""]), stop=step)
    return States(x_t, t, began, torch.zeros_like(x_t), given)


# A second implementation, of diffusers' U-Net and the schedule's numbers alone.


def predicted(model: Any, weights: dict[str, Tensor], x: Tensor, t: Tensor, text: Tensor) -> Tensor:
    changed = {name.removeprefix("unet."): w for name, w in weights.items()}
    value: Tensor = torch.func.functional_call(model.parts["unet"], changed, (x, t), {"encoder_hidden_states": text}).sample
    return value


def pgd(model: Any, weights: dict[str, Tensor], found: States, rng: torch.Generator, epsilon: float, steps: int, pace: float) -> Tensor:
    """The attack, row by row and with its gradient taken by hand of the negative loss, which rises."""
    e = found.given.text
    start = (torch.rand(e.shape, generator=rng) * 2 - 1).to(e) * epsilon
    made = []
    for i in range(len(e)):
        own, low, high = e[i : i + 1], float(e[i].min()), float(e[i].max())
        at = torch.clamp(own + start[i : i + 1], min=low, max=high)
        for _ in range(steps):
            free = at.clone().requires_grad_()
            loss = -torch.nn.functional.mse_loss(
                predicted(model, weights, found.x_t[i : i + 1], found.t[i : i + 1], free), found.began[i : i + 1]
            )
            loss.backward()
            delta = torch.clamp(at + pace * epsilon * free.grad.sign() - own, min=-epsilon, max=epsilon)  # type: ignore[union-attr]
            at = torch.clamp(own + delta, min=low, max=high)
        made.append(at)
    return torch.cat(made)


@pytest.mark.parametrize(("epsilon", "steps", "pace"), [(0.1, 10, 0.25), (0.5, 3, 1.0), (0.3, 0, 0.25)])
def test_the_attack_is_its_formula(exact: LatentModel, epsilon: float, steps: int, pace: float) -> None:
    found = states(exact)
    ours = RACE(epsilon=epsilon, attack_steps=steps, pace=pace).attacked(exact, found, generator(3))
    torch.testing.assert_close(ours.text, pgd(exact, {}, found, generator(3), epsilon, steps, pace), atol=1e-12, rtol=0)
    assert not ours.text.requires_grad


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 3.0])
@pytest.mark.parametrize("steps", [0, 1, 10])
def test_the_attack_stays_in_the_ball_and_in_the_range(exact: LatentModel, epsilon: float, steps: int) -> None:
    """Steps three times as large as the ball, so that both bind."""
    found = states(exact)
    e, at = found.given.text, RACE(epsilon=epsilon, attack_steps=steps, pace=3.0).attacked(exact, found, generator(0)).text
    assert float((at - e).abs().max()) <= epsilon + 1e-12
    for own, row in zip(e, at, strict=True):
        assert own.min() <= row.min() and row.max() <= own.max()
        if epsilon == 3.0:
            assert row.min() == own.min() and row.max() == own.max()
    assert float((at - e).abs().max()) > 0.9 * epsilon if epsilon < 3.0 else not torch.equal(at, e)


def test_the_attack_comes_nearer_to_where_paths_began(exact: LatentModel) -> None:
    """Nearer than the prompts themselves, and than the random step it begins with; more in a larger ball."""

    def gap(epsilon: float, steps: int) -> float:
        told = RACE(epsilon=epsilon, attack_steps=steps).attacked(exact, found, generator(1))
        with torch.no_grad():
            return float((exact.denoise(found.x_t, found.t, told).noise - found.began).square().mean())

    found = states(exact)
    plain, wide, wider = gap(0.0, 10), gap(0.1, 10), gap(0.5, 10)
    assert wider < wide < min(plain, gap(0.1, 0))


def test_a_network_that_predicts_velocities_is_attacked_through_its_noise() -> None:
    model = tiny_model(prediction_type="v_prediction")
    found = states(model)
    told = RACE(epsilon=0.3).attacked(model, found, generator(1))
    with torch.no_grad():
        gaps = [(model.denoise(found.x_t, found.t, c).noise - found.began).square().mean() for c in (told, found.given)]
    assert gaps[0] < gaps[1]


def seen_by(model: Any, monkeypatch: pytest.MonkeyPatch, module: Any, method: Any, *, moved: float = 1.0) -> dict[str, Any]:
    """What a method would train: its leaves, scaled by `moved`, and its loss."""
    seen: dict[str, Any] = {}
    with monkeypatch.context() as patch:
        patch.setattr(
            module, "fit", lambda leaves, loss, training, **told: iter([seen.update(leaves=leaves, loss=loss, training=training, **told)])
        )
        method(model, SNEAKER, seed=0)
    with torch.no_grad():
        for leaf in seen["leaves"].values():
            leaf.mul_(moved)
    return seen


@pytest.mark.parametrize("epsilon", [0.0, 0.2])
def test_loss_on_own_paths_is_its_formula(exact: LatentModel, monkeypatch: pytest.MonkeyPatch, epsilon: float) -> None:
    """The student's path and the student's attack, the original's goal; all by the draws of a step."""
    method = RACE(esd=(*INNER, "rollout_steps=4"), epsilon=epsilon, attack_steps=2, batch=2)
    seen = seen_by(exact, monkeypatch, race, method, moved=1.3)
    student = {name: leaf.detach() for name, leaf in seen["leaves"].items()}
    told = dict(item.split("=") for item in (*INNER, "rollout_steps=4"))
    begun = registry.build("unlearners", "esd", told)(exact, SNEAKER, seed=0)
    assert all(torch.equal(student[n], begun.tensors[n] * 1.3) for n in begun.touched)

    rng, table, null = generator(7), exact.condition(list(dict.fromkeys(SNEAKER.plain()))), exact.condition([""])
    given = table[torch.randint(len(table), (2,), generator=rng).tolist()]
    stop = int(torch.randint(1, 4, (1,), generator=rng))
    began = torch.randn(2, *exact.latent_shape, generator=rng).double()
    bars, grid, x = exact.scheduler.alphas_cumprod.double(), exact.grid(4).long(), began
    with torch.no_grad():
        for i in range(stop):
            free, own = (predicted(exact, student, x, grid[i].expand(2), c.text) for c in (null.repeat(2), given))
            eps, now, then = free + 3 * (own - free), bars[grid[i]], bars[grid[i + 1]]
            x = then.sqrt() * (x - (1 - now).sqrt() * eps) / now.sqrt() + (1 - then).sqrt() * eps
        t = grid[stop].expand(2)
        free, own = (predicted(exact, {}, x, t, c.text) for c in (null.repeat(2), given))
    at = given.text if not epsilon else pgd(exact, student, States(x, t, began, x, given), rng, epsilon, 2, 0.25)
    with torch.no_grad():
        expected = (predicted(exact, student, x, t, at) - (free - 1.5 * (own - free))).square().mean()
    assert float(seen["loss"](generator(7)).detach()) == pytest.approx(float(expected), rel=1e-6)  # its levels are float32


def test_pooled_states_know_where_their_paths_began(exact: LatentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing on from there ends at the state, at its time."""
    method, met = RACE(esd=INNER, paths="original", batch=40), list[States]()
    monkeypatch.setattr(RACE, "attacked", lambda self, student, found, rng: met.append(found) or found.given)
    seen_by(exact, monkeypatch, race, method)["loss"](generator(0))
    (found,) = met
    grid, null = exact.grid(3), exact.condition([""])
    for stop in range(3):
        rows = (found.t == grid[stop]).nonzero()[:, 0]
        assert len(rows)
        path = sample(exact, found.began[rows], found.given[rows.tolist()], steps=3, guidance=3.0, null=null, stop=stop)
        torch.testing.assert_close(found.x_t[rows], path)


def test_without_an_attack_it_is_esd_bit_for_bit(tiny: LatentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """ESD's own loss, trained on from the finished ESD."""
    own = seen_by(tiny, monkeypatch, esd, esd.ESD(**ESD))  # type: ignore[arg-type]
    begun = esd.ESD(**ESD)(tiny, SNEAKER, seed=0)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, leaf in own["leaves"].items():
            leaf.copy_(begun.tensors[name])
    for _ in fit(own["leaves"], own["loss"], Training(steps=4, lr=1e-3, clip=0.0), seed=derive(0, "race")):
        pass
    edit = RACE(esd=INNER, epsilon=0.0, paths="original", steps=4, lr=1e-3, batch=2)(tiny, SNEAKER, seed=0)
    assert edit.touched == sorted(own["leaves"])
    assert all(torch.equal(edit.tensors[name], leaf) for name, leaf in own["leaves"].items())
    hardened = RACE(esd=INNER, epsilon=0.2, paths="original", steps=4, lr=1e-3, batch=2)(tiny, SNEAKER, seed=0)
    assert any(not torch.equal(hardened.tensors[name], edit.tensors[name]) for name in edit.touched)


@pytest.mark.parametrize("paths", ["own", "original"])
def test_no_step_leaves_the_finished_esd_bit_for_bit(tiny: LatentModel, paths: Any) -> None:
    begun = esd.ESD(**ESD)(tiny, SNEAKER, seed=3)  # type: ignore[arg-type]
    edit = RACE(esd=INNER, steps=0, paths=paths)(tiny, SNEAKER, seed=3)
    assert (edit.scope, edit.touched) == (begun.scope, begun.touched)
    assert all(torch.equal(edit.tensors[n], begun.tensors[n]) for n in begun.touched)


def test_training_makes_the_attack_miss(tiny: LatentModel) -> None:
    """At states and random steps of its own, a hardened network is nearer to ESD's goals under attack than the ESD that it began as."""
    told: dict[str, Any] = {"esd": (*INNER, "steps=40", "lr=1e-3"), "epsilon": 0.5, "attack_steps": 5, "paths": "original"}
    ends = []
    for steps in (0, 40):
        method = RACE(**told, steps=steps, lr=1e-3, batch=8)
        edit = method(tiny, SNEAKER, seed=0)
        student = tiny.edited(edit)
        own = method.begin().resolved(SNEAKER)
        drawn = RACE(**told, batch=64)._pooled(tiny, own, SNEAKER, 0, lambda *_: None)(generator(5))
        at = method.attacked(student, drawn, generator(6))
        with torch.no_grad():
            ends.append(float((student.denoise(drawn.x_t, drawn.t, at).value - drawn.goal).square().mean()))
    assert ends[1] < 0.8 * ends[0]


def test_lasso_is_the_mean_distance_of_every_tensor_from_the_esd(exact: LatentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    for weight in (0.0, 0.7):
        seen = seen_by(exact, monkeypatch, race, RACE(esd=INNER, epsilon=0.0, lasso=weight), moved=1.2)
        losses.append(float(seen["loss"](generator(0)).detach()))
    gaps = sum(float((leaf.detach() / 6).abs().mean()) for leaf in seen["leaves"].values())
    assert losses[1] - losses[0] == pytest.approx(0.7 * gaps)


@pytest.mark.parametrize(("epsilon", "attack_steps", "each"), [(0.1, 2, 3), (0.0, 2, 1), (0.1, 0, 1)])
def test_calls_on_the_pool_are_those_that_are_made(tiny: LatentModel, epsilon: float, attack_steps: int, each: int) -> None:
    method = RACE(esd=INNER, paths="original", epsilon=epsilon, attack_steps=attack_steps, steps=2, batch=3)
    with counted() as seen:
        method(tiny, SNEAKER, seed=0)
    made = seen["plain"] + TRAINED * seen["trained"]
    assert method.calls(0, 0) == made == esd.ESD(**ESD).calls(0, 0) + 2 * 4 * 3 + 2 * 3 * TRAINED * each  # type: ignore[arg-type]


def test_settings_are_the_released_ones() -> None:
    made, inner = RACE(), RACE().begin()
    assert (made.epsilon, made.attack_steps, made.pace, made.steps, made.lr, made.batch) == (0.1, 10, 0.25, 1000, 1e-5, 1)
    assert (made.paths, made.lasso, inner.strength, inner.rollout_guidance, inner.rollout_steps) == ("own", 0.0, 1.0, 3.0, 50)


def test_the_weights_are_the_esds_for_the_kind_of_concept_and_several_are_one(tiny: LatentModel) -> None:
    edit = small("unlearners", "race")(tiny, concepts.load("neon"), seed=0)
    assert edit.scope == "cross-attention"
    both: Edit = small("unlearners", "race")(tiny, joint([SNEAKER, BAG]), seed=0)
    assert (both.scope, both.notes["concept"]) == ("non-cross-attention", "sneaker+bag")


@pytest.mark.parametrize("paths", ["own", "original"])
@pytest.mark.parametrize("family", [tiny_classes, lambda: tiny_flow("dev"), lambda: tiny_flow("sd3")])
def test_other_families_are_hardened_too(family: Any, paths: Any) -> None:
    model = family()
    method: RACE = small("unlearners", "race", paths=paths)
    edit, plain = method(model, BAG, seed=0), method.begin().resolved(BAG)(model, BAG, seed=0)
    assert any(not torch.equal(edit.tensors[n], plain.tensors[n]) for n in plain.touched)
    assert all(tensor.isfinite().all() for tensor in edit.tensors.values())


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"esd": ("steps",)}, "NAME=VALUE"),
        ({"esd": ("step=3",)}, "step"),
        ({"epsilon": -0.1}, "epsilon"),
        ({"attack_steps": -1}, "attack_steps"),
        ({"pace": 0.0}, "pace"),
        ({"esd": ("rollout_steps=1",)}, "at least 2 steps"),
    ],
)
def test_what_makes_no_sense_is_refused(bad: dict[str, Any], text: str) -> None:
    with pytest.raises(Exception, match=text):
        RACE(**bad)
    assert RACE(esd=("rollout_steps=1",), paths="original").calls(0, 0) > 0
