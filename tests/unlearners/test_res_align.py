"""ResAlign: its slope is the implicit one, F is its formula, and adapters that begin at nothing stay there where nothing is to go."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from oracles import counted, small, tiny_classes, tiny_exact, tiny_flow, tiny_model, tiny_xl
from vestige import concepts
from vestige.concepts.images import PictureSet
from vestige.diffusion.sampling import noise, sample
from vestige.edits import Edit
from vestige.methods import Data, Training, fit
from vestige.methods.contract import TRAINED
from vestige.methods.implicit import hypergradient, shaped, slopes
from vestige.methods.training_data import paired, renamed
from vestige.models.latent import LatentModel
from vestige.seeds import generator
from vestige.unlearners.res_align import RELEASED, ResAlign, Tuning, _Bilevel

SNEAKER, BAG = concepts.load("sneaker"), concepts.load("bag")
FREE: dict[str, Any] = {"halvings": 0, "limit": 0.0}


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


@pytest.fixture(scope="module")
def exact() -> LatentModel:
    return tiny_exact()


def given(caption: str) -> PictureSet:
    return PictureSet(torch.rand(4, 3, 32, 32, generator=generator(0, caption)), "random", captions=((caption,),) * 4)


SOME = Data(target=given("a picture of a sneaker"), retain=given("a boot"))


def bilevel(model: LatentModel, **settings: Any) -> _Bilevel:
    """A step of adapters that are far from nothing."""
    method = ResAlign(**{"rank": 1, "down_spread": 0.3, "up_spread": 0.3, "limit": 0.0, "batch": 2, "retain_batch": 2, **settings})
    target = paired(model, given("a picture of a sneaker"))
    retain = paired(model, given("a boot")) if method._keeps else None
    anchors = model.condition(renamed(["a picture of a sneaker"], SNEAKER, "boot"))
    return _Bilevel(method, model, target, anchors, retain, seed=0)


# The series of the inverse


class Bowl:
    """A fine-tuning's loss of ten parameters: a quartic one, with its Hessian by automatic differentiation of the whole."""

    def __init__(self, scale: float, seed: int = 0) -> None:
        rng = generator(seed, "bowl")
        self.matrix = torch.randn(10, 10, generator=rng, dtype=torch.float64)
        self.at = torch.randn(10, generator=rng, dtype=torch.float64).requires_grad_()
        self.own, self.through = (torch.randn(10, generator=rng, dtype=torch.float64) for _ in range(2))
        self.scale = scale / float(torch.linalg.eigvalsh(self.hessian(1.0)).abs().max())

    def value(self, x: Tensor, scale: float) -> Tensor:
        return scale * ((self.matrix @ x).square().sum() + (x**4).sum() - 3 * (x * x.roll(1)).sum())

    def hessian(self, scale: float | None = None) -> Tensor:
        found: Tensor = torch.autograd.functional.hessian(lambda x: self.value(x, self.scale if scale is None else scale), self.at.detach())
        return found

    def curvature(self, v: Tensor) -> Tensor:
        first = slopes(self.value(self.at, self.scale), [self.at], twice=True)
        return slopes(first, [self.at], along=v)


def test_series_ends_at_the_dense_solution() -> None:
    bowl = Bowl(0.9)
    found, pace = hypergradient(bowl.own, bowl.through, bowl.curvature, terms=500, **FREE)
    dense = bowl.own + torch.linalg.solve(torch.eye(10, dtype=torch.float64) + bowl.hessian(), bowl.through)
    torch.testing.assert_close(found, dense, rtol=1e-9, atol=1e-9)
    assert pace == 1


@pytest.mark.parametrize("terms", [1, 2, 5])
def test_few_terms_are_the_first_of_the_series(terms: int) -> None:
    bowl = Bowl(0.9)
    found, _ = hypergradient(bowl.own, bowl.through, bowl.curvature, terms=terms, **FREE)
    powers = sum(torch.linalg.matrix_power(-bowl.hessian(), k) for k in range(terms))
    torch.testing.assert_close(found, bowl.own + powers @ bowl.through)


@pytest.mark.parametrize("scale", [1.6, 6.0])
def test_where_it_diverges_a_slower_pace_finds_the_same(scale: float) -> None:
    bowl = Bowl(scale)
    dense = bowl.own + torch.linalg.solve(torch.eye(10, dtype=torch.float64) + bowl.hessian(), bowl.through)
    found, pace = hypergradient(bowl.own, bowl.through, bowl.curvature, terms=4000, halvings=5, limit=0.0)
    assert 0 < pace < 1
    torch.testing.assert_close(found, dense, rtol=1e-8, atol=1e-8)
    alone, none = hypergradient(bowl.own, bowl.through, bowl.curvature, terms=4000, **FREE)
    assert none == 0
    assert torch.equal(alone, bowl.own)


def test_without_a_fine_tuning_loss_it_is_the_sum_of_both_slopes() -> None:
    """H = 0: theta* is theta itself, bit for bit, however many terms."""
    bowl = Bowl(1.0)
    for terms in (1, 2, 5):
        found, pace = hypergradient(bowl.own, bowl.through, torch.zeros_like, terms=terms, **FREE)
        assert torch.equal(found, bowl.own + bowl.through)
        assert pace == 1


def test_a_slope_above_the_limit_is_damped_or_left_out() -> None:
    """With one term, half the pace is half of what comes through theta*."""
    bowl = Bowl(0.5)
    own, through = 0.1 * bowl.own / bowl.own.norm(), 4 * bowl.own / bowl.own.norm()
    found, pace = hypergradient(own, through, bowl.curvature, terms=1, halvings=5, limit=1.2)
    torch.testing.assert_close(found, own + through / 4)
    assert pace == 0.25
    assert hypergradient(own, through, bowl.curvature, terms=1, halvings=1, limit=1.2)[1] == 0


# Against a second implementation: weights with the adapters added, diffusers' U-Net, and differences of a plain gradient


def predicted(model: LatentModel, made: _Bilevel, flat: Tensor, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
    """The noise that the U-Net predicts with the factors `flat` added to its weights."""
    parts, changed = shaped(flat, list(made.leaves.values())), {}
    for (name, _), down, up in zip(made.factors.items(), parts[::2], parts[1::2], strict=True):
        changed[name.removeprefix("unet.")] = model.tensor(name) + up @ down
    value: Tensor = torch.func.functional_call(model.parts["unet"], changed, (x, t), {"encoder_hidden_states": text}).sample
    return value


def denoised(model: LatentModel, made: _Bilevel, flat: Tensor, count: int, rng: Generator) -> Tensor:
    """The denoising loss on pictures of the concept, drawn as a step draws them."""
    data, text = made.target.draw(count, rng)
    t, eps = model.draw_times(count, rng), torch.randn(count, *model.latent_shape, generator=rng).double()
    bar = model.scheduler.alphas_cumprod[t].double()[:, None, None, None]
    return (predicted(model, made, flat, bar.sqrt() * data + (1 - bar).sqrt() * eps, t, text.text) - eps).square().mean()


def sloped(value: Any, at: Tensor) -> Tensor:
    free = at.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(value(free), [free])
    return found


@pytest.mark.parametrize("forget", ["ascent", "esd"])
@pytest.mark.parametrize(("tuning", "terms"), [("gd:3:0.05", 1), ("gd:3:0.05", 3), ("adam:2:0.01", 2)])
def test_slope_is_the_implicit_one(exact: LatentModel, forget: Any, tuning: str, terms: int) -> None:
    told = {"forget": forget, "strength": 0.5, "share": 0.7, "forget_weight": 1.5, "retain_weight": 0.8, "retain_end": 0.8}
    made = bilevel(exact, **told, tunings=(tuning,), terms=terms)
    theta = torch.cat([leaf.detach().flatten() for leaf in made.leaves.values()])
    value, slope = made.simulated(generator(7))

    rng, parsed = generator(7), Tuning.of(tuning)
    after, mean, square = theta, torch.zeros_like(theta), torch.zeros_like(theta)
    for k in range(1, parsed.steps + 1):
        state = rng.get_state()
        step = sloped(lambda flat: denoised(exact, made, flat, 1, _again(state)), after)  # noqa: B023
        denoised(exact, made, after, 1, rng)
        mean, square = 0.9 * mean + 0.1 * step, 0.999 * square + 0.001 * step**2
        moved = step if parsed.kind == "gd" else (mean / (1 - 0.9**k)) / ((square / (1 - 0.999**k)).sqrt() + 1e-8)
        after = after - parsed.lr * moved
    data, text = made.target.draw(2, rng)
    t, eps = exact.draw_times(2, rng), torch.randn(2, *exact.latent_shape, generator=rng).double()
    bar = exact.scheduler.alphas_cumprod[t].double()[:, None, None, None]
    x_t, still = bar.sqrt() * data + (1 - bar).sqrt() * eps, torch.zeros_like(theta)
    other, null = (exact.condition([word]).text.repeat(2, 1, 1) for word in ("a picture of a boot", ""))

    def gone(flat: Tensor) -> Tensor:
        seen = predicted(exact, made, flat, x_t, t, text.text)
        if forget == "ascent":
            return -1.5 * (seen - eps).square().mean()
        with torch.no_grad():
            anchor, own, free = (predicted(exact, made, still, x_t, t, told) for told in (other, text.text, null))
        return 1.5 * (seen - anchor + 0.5 * (own - free)).square().mean()

    assert made.retain is not None
    kept, beside = made.retain.draw(2, rng)
    again, fresh = exact.draw_times(2, rng), torch.randn(2, *exact.latent_shape, generator=rng).double()
    level = exact.scheduler.alphas_cumprod[again].double()[:, None, None, None]
    r_t = level.sqrt() * kept + (1 - level).sqrt() * fresh

    def stays(flat: Tensor) -> Tensor:
        with torch.no_grad():
            goal = predicted(exact, made, still, r_t, again, beside.text)
        return 0.8 * (predicted(exact, made, flat, r_t, again, beside.text) - goal).square().mean()

    own, through, state = (
        sloped(lambda flat: 0.3 * gone(flat) + stays(flat), theta),
        sloped(lambda f: 0.7 * gone(f), after),
        rng.get_state(),
    )
    v = through
    for _ in range(terms - 1):
        h = 1e-4 / float(v.norm())
        up, down = (sloped(lambda flat: denoised(exact, made, flat, 1, _again(state)), after + sign * h * v) for sign in (1, -1))
        v = through - (up - down) / (2 * h)
    torch.testing.assert_close(slope, own + v, rtol=1e-5, atol=1e-6 * float(slope.abs().max()))
    with torch.no_grad():
        assert value == pytest.approx(float(0.3 * gone(theta) + stays(theta) + 0.7 * gone(after)), rel=1e-6)
    assert made.direct == 0


def _again(state: Tensor) -> Generator:
    rng = torch.Generator()
    rng.set_state(state)
    return rng


def test_loss_has_the_mean_slope_of_its_simulations(exact: LatentModel) -> None:
    told = {"tunings": ("gd:1:0.1", "adam:2:0.01"), "simulations": 2, "terms": 2}
    made, other = bilevel(exact, **told), bilevel(exact, **told)
    loss = made.loss(generator(3))
    rng = generator(3)
    found = [other.simulated(rng) for _ in range(2)]
    torch.testing.assert_close(slopes(loss, list(made.leaves.values())), (found[0][1] + found[1][1]) / 2)
    assert float(loss.detach()) == pytest.approx((found[0][0] + found[1][0]) / 2)
    assert not torch.equal(found[0][1], found[1][1])


def test_fine_tunings_come_in_turn() -> None:
    method = ResAlign()
    assert len(RELEASED) == 13
    assert [method.tuning(k) for k in range(26)] == [Tuning.of(text) for text in RELEASED] * 2
    assert Tuning.of("adam:5:1e-4") == ("adam", 5, 1e-4)


def test_weight_of_what_stays_rises_in_the_second_half() -> None:
    method = ResAlign()
    told = [method.retaining(step) for step in range(160)]
    assert told[:80] == [1.6] * 80
    assert told == sorted(told)
    assert told[120] == pytest.approx(1.8)
    assert told[159] == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("forget", ["ascent", "esd"])
def test_where_nothing_is_to_go_nothing_changes(tiny: LatentModel, forget: Any) -> None:
    """Bit for bit, of adapters that begin at the original: what stays is at its least there."""
    edit: Edit = small("unlearners", "res_align", forget=forget, forget_weight=0.0, up_spread=0.0, rank=2)(tiny, SNEAKER, seed=0, data=SOME)
    assert all(not up.any() for _, up in edit.factors.values())
    condition, x = tiny.condition(["a sneaker"]), noise(tiny.latent_shape, [0])
    assert torch.equal(sample(tiny.edited(edit), x, condition, steps=3), sample(tiny, x, condition, steps=3))
    moved: Edit = small("unlearners", "res_align", forget=forget, up_spread=0.0, rank=2)(tiny, SNEAKER, seed=0, data=SOME)
    assert any(up.any() for _, up in moved.factors.values())


def test_adapters_begin_as_they_are_spread(tiny: LatentModel) -> None:
    edit = ResAlign(steps=0, down_spread=0.3, up_spread=0.1)(tiny, SNEAKER, seed=0, data=SOME)
    downs, ups = (torch.cat([pair[k].flatten() for pair in edit.factors.values()]) for k in (0, 1))
    assert float(downs.std()) == pytest.approx(0.3, rel=0.05)
    assert float(ups.std()) == pytest.approx(0.1, rel=0.05)
    assert set(edit.factors) == set(tiny.scope("attention"))


def test_training_comes_nearer_to_the_goal_before_and_after_a_fine_tuning(tiny: LatentModel) -> None:
    """At states of other draws than those that were trained at."""
    told: dict[str, Any] = {"forget": "esd", "strength": 20.0, "up_spread": 0.0, "rank": 4, "retain_weight": 0.0, "retain_end": 0.0}
    made = bilevel(tiny, **told, simulations=1, tunings=("gd:2:0.1",), terms=2)

    def left() -> list[float]:
        made.tune(Tuning("gd", 2, 0.1), generator(5))
        with torch.no_grad():
            found = [made.forgetting((made.student, made.tuned), generator(6, k)) for k in range(20)]
        return [sum(float(row[side]) for row in found) for side in (0, 1)]

    began = left()
    for _ in fit(made.leaves, made.loss, Training(steps=30, lr=2e-2, clip=0.0), seed=0):
        pass
    assert all(now < 0.85 * before for now, before in zip(left(), began, strict=True))


@pytest.mark.parametrize(
    "settings",
    [{}, {"forget": "esd"}, {"terms": 1}, {"retain_weight": 0.0, "retain_end": 0.0}, {"limit": 1e-9, "halvings": 2}, {"simulations": 3}],
)
def test_calls_are_those_that_are_made(tiny: LatentModel, settings: dict[str, Any]) -> None:
    method: ResAlign = small("unlearners", "res_align", steps=3, tunings=("gd:2:1e-2", "adam:1:1e-3", "gd:0:1"), **settings)
    with counted() as seen:
        edit = method(tiny, SNEAKER, seed=0, data=SOME)
    assert method.calls(0, 0) == seen["plain"] + TRAINED * seen["trained"]
    assert edit.notes["simulations"] == 3 * method.simulations
    assert (edit.notes["direct"] == edit.notes["simulations"]) == (method.limit == 1e-9)


def test_settings_are_the_released_ones() -> None:
    made = ResAlign()
    assert (made.forget, made.share, made.retain_weight, made.retain_end, made.retain_batch) == ("ascent", 0.8, 1.6, 2.0, 4)
    assert (made.rank, made.down_spread, made.up_spread, made.weight_decay) == (4, 8e-3, 2e-3, 1e-2)
    assert (made.simulations, made.terms, made.limit, made.halvings, made.tune_batch) == (3, 5, 0.2, 5, 1)
    assert (made.steps, made.lr, made.batch) == (160, 2e-4, 1)


@pytest.mark.parametrize("family", [tiny_classes, tiny_xl, lambda: tiny_flow("dev"), lambda: tiny_flow("sd3")])
def test_other_families_are_trained_too(family: Any) -> None:
    model = family()
    edit: Edit = small("unlearners", "res_align", limit=0.0)(model, BAG, seed=0)
    assert edit.factors
    assert edit.notes["direct"] < edit.notes["simulations"]
    assert all(factor.isfinite().all() for pair in edit.factors.values() for factor in pair)


@pytest.mark.parametrize(
    "bad",
    [
        {"share": 1.5},
        {"tunings": ()},
        {"tunings": ("sgd:1:1",)},
        {"tunings": ("gd:1",)},
        {"terms": 0},
        {"limit": -1.0},
        {"up_spread": -1.0},
    ],
)
def test_what_makes_no_sense_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        ResAlign(**bad)
