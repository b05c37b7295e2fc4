"""EAP: its loss and its choice are their formulas, what suffers most comes to be kept, and at strength -1 nothing changes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from oracles import counted, small, tiny_classes, tiny_exact, tiny_flow, tiny_model, tiny_xl
from vestige import concepts
from vestige.concepts.joint import joint
from vestige.diffusion import Condition
from vestige.edits import Edit
from vestige.methods.contract import TRAINED
from vestige.models.latent import LatentModel
from vestige.seeds import generator
from vestige.unlearners.eap import EAP, Choice, _Erasing, may_suffer, places

SNEAKER, BAG = concepts.load("sneaker"), concepts.load("bag")
THREE: dict[str, Any] = {"variant": "x", "words": ("boot", "sandal", "dress"), "rollout_steps": 4, "batch": 2, "strength": 0.5}


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


@pytest.fixture(scope="module")
def exact() -> LatentModel:
    return tiny_exact()


def erasing(model: LatentModel, method: EAP, moved: float = 0.0, concept: Any = SNEAKER) -> tuple[_Erasing, dict[str, Tensor]]:
    """The loss of a network that is so far from the original, and its weights."""
    student, leaves = model.trainable(model.scope("cross-attention"))
    with torch.no_grad():
        for name, leaf in leaves.items():
            leaf += moved * leaf.std() * torch.randn(leaf.shape, generator=generator(1, name)).to(leaf)
    return _Erasing(method, model, student, concept), leaves


# A second implementation, of diffusers' U-Net and the schedule's numbers alone.


def clean(model: LatentModel, weights: dict[str, Tensor], x: Tensor, t: int, text: Tensor, compared: str) -> Tensor:
    """x0 (B, C, h, w), or the noise that is predicted."""
    changed = {name.removeprefix("unet."): w for name, w in weights.items()}
    times = torch.full((len(x),), t)
    eps: Tensor = torch.func.functional_call(model.parts["unet"], changed, (x, times), {"encoder_hidden_states": text}).sample
    bar = model.scheduler.alphas_cumprod[t].double()
    return (x - (1 - bar).sqrt() * eps) / bar.sqrt() if compared == "data" else eps


@torch.no_grad()
def walked(model: LatentModel, weights: dict[str, Tensor], x: Tensor, text: Tensor, stop: int) -> tuple[Tensor, int]:
    """Four guided steps, as far as `stop`."""
    grid, null = model.grid(4).long().tolist(), model.condition([""]).text.repeat(len(x), 1, 1)
    bars = model.scheduler.alphas_cumprod.double()
    for i in range(stop):
        free, own = (clean(model, weights, x, grid[i], told, "output") for told in (null, text))
        eps = free + 3 * (own - free)
        data = (x - (1 - bars[grid[i]]).sqrt() * eps) / bars[grid[i]].sqrt()
        x = bars[grid[i + 1]].sqrt() * data + (1 - bars[grid[i + 1]]).sqrt() * eps
    return x, grid[stop]


def chosen(pi: Tensor, table: Tensor, temperature: float, rng: torch.Generator) -> Tensor:
    """Two mixtures, word by word."""
    uniform, rows = torch.rand(2, len(pi), generator=rng), []
    for row in uniform.tolist():
        powers = [math.e ** ((float(p) - math.log(-math.log(u))) / temperature) for p, u in zip(pi, row, strict=True)]
        rows.append(sum(power / sum(powers) * part for power, part in zip(powers, table, strict=True)))
    return torch.stack(rows)


@pytest.mark.parametrize("compared", ["data", "output"])
def test_loss_is_its_formula(exact: LatentModel, compared: Any) -> None:
    method = EAP(**THREE, retain_weight=0.7, compared=compared)
    made, leaves = erasing(exact, method, 0.3)
    value = float(made.loss(generator(3)).detach())

    rng, weights = generator(3), {name: leaf.detach() for name, leaf in leaves.items()}
    torch.randint(1, (1,), generator=rng)  # which of one target
    own = exact.condition(list(dict.fromkeys(SNEAKER.plain()))).text
    c = own[torch.randint(len(own), (2,), generator=rng)]
    table = exact.condition(may_suffer(SNEAKER, ("boot", "sandal", "dress"))).text
    both = torch.cat([c, chosen(torch.full((len(table),), 1 / len(table)), table, 2.0, rng)])
    x, t = walked(exact, weights, torch.randn(4, *exact.latent_shape, generator=rng).double(), both, 1)
    null = exact.condition([""]).text.repeat(2, 1, 1)
    with torch.no_grad():
        seen, was = (clean(exact, w, x, t, both, compared) for w in (weights, {}))
        free = clean(exact, {}, x[:2], t, null, compared)
        expected = (seen[:2] - (free - 0.5 * (was[:2] - free))).square().mean() + 0.7 * (seen[2:] - was[2:]).square().mean()
    assert value == pytest.approx(float(expected), rel=1e-5)  # the model's levels are float32


def test_choice_is_its_formula(exact: LatentModel) -> None:
    """One step of Adam up the slope of what is lost, taken by differences."""
    method = EAP(**THREE, choice_lr=0.05)
    made, leaves = erasing(exact, method, 0.3)
    pool, weights = made.parts[0], {name: leaf.detach() for name, leaf in leaves.items()}
    begun = pool.pi.detach().clone()
    made.ascend(generator(4))

    table = exact.condition(may_suffer(SNEAKER, ("boot", "sandal", "dress"))).text
    assert torch.equal(begun, torch.full((len(table),), 1 / len(table), dtype=torch.float64))
    rng = generator(4)
    torch.randint(1, (1,), generator=rng)
    state = rng.get_state()
    text = chosen(begun, table, 2.0, rng)
    x, t = walked(exact, weights, torch.randn(2, *exact.latent_shape, generator=rng).double(), text, 1)
    goal = clean(exact, {}, x, t, text, "data").detach()

    def harm(pi: Tensor) -> float:
        again = torch.Generator()
        again.set_state(state)
        with torch.no_grad():
            return float((clean(exact, weights, x, t, chosen(pi, table, 2.0, again), "data") - goal).square().mean())

    h, slope = 1e-4, []
    for k in range(len(table)):
        step = h * torch.eye(len(table), dtype=torch.float64)[k]
        slope.append((harm(begun + step) - harm(begun - step)) / (2 * h))
    assert pool.pi.grad is not None
    torch.testing.assert_close(pool.pi.grad, torch.tensor(slope, dtype=torch.float64), rtol=1e-3, atol=1e-9)
    first = pool.pi.grad / (pool.pi.grad.abs() + 1e-8)  # Adam's first step
    torch.testing.assert_close(pool.pi.detach() - begun, 0.05 * first, rtol=1e-6, atol=0)


@pytest.mark.parametrize("worst", [0, 1, 2])
def test_what_suffers_most_comes_to_be_kept(tiny: LatentModel, monkeypatch: pytest.MonkeyPatch, worst: int) -> None:
    """Of three prompts, one alone is drawn otherwise than by the original, as far as it is in the mixture: it is chosen."""
    made, _ = erasing(tiny, EAP(**{**THREE, "batch": 8}))
    pool = made.parts[0]
    short = Choice(pool.given, pool.texts[:3], pool.kept[:3], pool.pi.detach()[:3].clone().requires_grad_())
    made.parts, made.adam = [short], torch.optim.Adam([short.pi], lr=0.1, maximize=True)
    share = torch.linalg.pinv(short.kept.text.flatten(1).double())[:, worst]  # of a mixture's embedding, what of it is that prompt

    def seen(model: Any, x_t: Tensor, t: Tensor, told: Condition) -> Tensor:
        harm = (told.text.flatten(1).double() @ share).to(x_t) if model is made.student else torch.zeros(len(x_t))
        return torch.zeros_like(x_t) + harm[:, None, None, None]

    monkeypatch.setattr(made, "_seen", seen)
    for step in range(20):
        made.ascend(generator(5, step))
    assert short.foremost() == short.texts[worst]
    assert float(short.pi.detach().softmax(0)[worst]) > 0.8


def test_low_temperatures_draw_one_prompt_by_its_share(exact: LatentModel) -> None:
    """As often as the softmax of pi says: the Gumbel trick."""
    pool = Choice.of(EAP(**THREE), exact, SNEAKER)
    three = Choice(pool.given, pool.texts[:3], pool.kept[:3], torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64))
    mixed = three.mixed(4000, 1e-4, generator(0)).text
    apart = (mixed[:, None] - three.kept.text[None]).flatten(2).norm(dim=2)
    share = torch.bincount(apart.argmin(1), minlength=3) / 4000
    torch.testing.assert_close(share.double(), three.pi.softmax(0), atol=0.03, rtol=0)
    assert float(apart.min(1).values.median()) < 1e-6


def test_the_pool_is_what_is_nearest_and_never_the_concept(tiny: LatentModel) -> None:
    texts = may_suffer(SNEAKER)
    assert texts
    assert not any(SNEAKER.named(text) for text in texts)
    assert may_suffer(SNEAKER, ("boot", "sneaker", "boot")) == may_suffer(SNEAKER, ("boot",))
    few = Choice.of(EAP(pool=3), tiny, SNEAKER)
    table, own = tiny.condition(texts).text, tiny.condition([SNEAKER.prompt]).text[0]
    ranked = sorted(texts, key=lambda text: float((table[texts.index(text)] - own).norm()))
    assert sorted(few.texts) == sorted(ranked[:3])
    assert torch.equal(few.kept.text, tiny.condition(few.texts).text)
    wide = may_suffer(SNEAKER, ("boot",), contexts=True)
    assert wide == [prompt.text for prompt in SNEAKER.prompts("training", "boot")]
    assert Choice.of(EAP(prompts="all", words=("boot",)), tiny, SNEAKER).texts == wide
    bare = concepts.Concept(name="Van Gogh")
    assert may_suffer(bare) == [""]


@pytest.mark.parametrize("steps", [2, 3, 10, 50])
def test_places_are_even_and_inside(steps: int) -> None:
    drawn, stops = [], places(steps)
    for _ in range(40 * (steps - 1)):
        drawn.append(next(stops))
    often = [drawn.count(place) for place in range(1, steps)]
    assert sum(often) == len(drawn)
    assert max(often) - min(often) <= 3


def test_at_strength_minus_one_nothing_changes_bit_for_bit(tiny: LatentModel) -> None:
    """Nor would it if it were trained: the goal is the original's own prediction."""
    edit: Edit = small("unlearners", "eap", strength=-1.0)(tiny, SNEAKER, seed=0)
    assert edit.touched
    assert all(torch.equal(edit.tensors[name], tiny.tensor(name)) for name in edit.touched)
    made, leaves = erasing(tiny, EAP(**{**THREE, "strength": -1.0}))
    loss = made.loss(generator(0))
    assert float(loss.detach()) == 0
    assert all(not slope.any() for slope in torch.autograd.grad(loss, list(leaves.values()), allow_unused=True) if slope is not None)


def test_without_weight_nothing_is_kept_nor_chosen(tiny: LatentModel) -> None:
    method = EAP(**THREE, retain_weight=0.0, steps=3, lr=1e-3)
    with counted() as seen:
        edit = method(tiny, SNEAKER, seed=0)
    stops = [stop for stop, _ in zip(places(4), range(3), strict=False)]
    assert method.calls(0, 0) == seen["plain"] + TRAINED * seen["trained"] == 2 * sum(2 * stop + 2 + TRAINED for stop in stops)
    assert edit.notes["kept"] == [may_suffer(SNEAKER, THREE["words"])[0]]


@pytest.mark.parametrize("ascents", [0, 1, 2])
def test_calls_are_those_that_are_made(tiny: LatentModel, ascents: int) -> None:
    method = EAP(**THREE, ascents=ascents, steps=4, lr=1e-3)
    with counted() as seen:
        method(tiny, SNEAKER, seed=0)
    assert method.calls(0, 0) == seen["plain"] + TRAINED * seen["trained"]


def test_the_network_comes_nearer_to_the_goal_and_more_is_kept_for_its_weight(tiny: LatentModel) -> None:
    """At states of a fixed draw: what the concept's prompt loses falls, and what is kept suffers less with the term than without."""
    found: dict[float, tuple[float, float]] = {}
    for weight in (0.0, 5.0):
        edit = EAP(**{**THREE, "batch": 4}, retain_weight=weight, steps=30, lr=3e-3, compared="output")(tiny, SNEAKER, seed=0)
        rng, student = generator(9), tiny.edited(edit)
        x, t = torch.randn(32, *tiny.latent_shape, generator=rng), torch.full((32,), 600)
        with torch.no_grad():
            own, free = (tiny.denoise(x, t, tiny.condition([text]).repeat(32)).value for text in (SNEAKER.plain()[0], ""))
            goal = own - 1.5 * (own - free)
            gap = (student.denoise(x, t, tiny.condition([SNEAKER.plain()[0]]).repeat(32)).value - goal).square().mean()
            other = tiny.condition(may_suffer(SNEAKER, THREE["words"])[:1]).repeat(32)
            lost = (student.denoise(x, t, other).value - tiny.denoise(x, t, other).value).square().mean()
        assert weight or float(gap) < 0.5 * float((own - goal).square().mean())
        found[weight] = float(gap), float(lost)
    assert found[5.0][1] < 0.5 * found[0.0][1]


def test_settings_are_the_released_ones() -> None:
    made = EAP()
    assert (made.temperature, made.choice_lr, made.ascents, made.pool, made.retain_weight) == (2.0, 1e-3, 1, 100, 1.0)
    assert (made.strength, made.rollout_guidance, made.rollout_steps, made.steps, made.lr, made.batch) == (1.0, 3.0, 50, 1000, 1e-5, 1)
    assert made.compared == "data"


def test_several_targets_have_a_choice_each(tiny: LatentModel) -> None:
    both = joint([SNEAKER, BAG])
    made, _ = erasing(tiny, EAP(**{**THREE, "words": ()}), concept=both)
    assert len(made.parts) == 2
    assert not {text for part in made.parts for text in part.texts if SNEAKER.named(text) or BAG.named(text)}
    edit: Edit = small("unlearners", "eap")(tiny, both, seed=0)
    assert (edit.scope, edit.notes["concept"], len(edit.notes["kept"])) == ("non-cross-attention", "sneaker+bag", 2)


@pytest.mark.parametrize("family", [tiny_classes, tiny_xl, lambda: tiny_flow("dev"), lambda: tiny_flow("sd3")])
def test_other_families_are_erased_too(family: Any) -> None:
    model = family()
    edit: Edit = small("unlearners", "eap", variant="u")(model, BAG, seed=0)
    assert any(not torch.equal(edit.tensors[n], model.tensor(n)) for n in edit.touched)
    assert all(tensor.isfinite().all() for tensor in edit.tensors.values())


@pytest.mark.parametrize(
    "bad", [{"temperature": 0.0}, {"pool": 0}, {"rollout_steps": 1}, {"ascents": -1}, {"strength": -2.0}, {"choice_lr": 0.0}]
)
def test_what_makes_no_sense_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        EAP(**bad)
