"""UnlearnDiffAtk: its projection, its relaxed tokens, its optimiser against a plain one, and what it counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

from oracles import Gaussian, small, tiny_model
from vestige import concepts
from vestige.attacks.unlearn_diff_atk import UnlearnDiffAtk, decoded, sampled, simplex
from vestige.concepts.images import PictureSet
from vestige.diffusion import Condition
from vestige.edits import Edit
from vestige.errors import BadInput, Incompatible
from vestige.methods import Budget, Candidate, optimiser
from vestige.methods.training import Trace
from vestige.methods.wording import joined
from vestige.models.latent import LatentModel
from vestige.seeds import derive, generator

BAG = concepts.load("bag")
TEXTS = ["a picture of a bag", "neon bag", "a bag"]


@pytest.fixture(scope="module")
def tiny() -> LatentModel:
    return tiny_model()


def references(count: int = 3) -> PictureSet:
    labels = tuple({"object": "bag", "style": s} for s in ("neon", "photo", "sunset", "mosaic")[:count])
    return PictureSet(torch.rand(count, 3, 32, 32, generator=generator(count, "references")), "random", labels)


def never(images: Tensor) -> Tensor:
    return torch.zeros(len(images), dtype=torch.bool)


def run(method: UnlearnDiffAtk, model: Any, points: tuple[int, ...], select: Any = never, pictures: Any = None) -> list[Candidate]:
    return list(method(model, BAG, Budget(points), seed=2, select=select, pictures=pictures or references()))


# The projection.


@pytest.mark.parametrize("seed", range(5))
def test_projection_is_the_nearest_point(seed: int) -> None:
    """Against a constrained solver that knows nothing of sorting."""
    u = 0.7 * torch.randn(6, generator=generator(seed), dtype=torch.float64)
    solved = minimize(
        lambda x: ((x - u.numpy()) ** 2).sum(),
        x0=[1 / 6] * 6,
        jac=lambda x: 2 * (x - u.numpy()),
        bounds=[(0, 1)] * 6,
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1, "jac": lambda x: torch.ones(6).numpy()},
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    assert solved.success
    torch.testing.assert_close(simplex(u), torch.from_numpy(solved.x), atol=1e-6, rtol=0)


def test_projection_meets_its_optimality_conditions() -> None:
    """On the simplex; what stays above zero was moved by one and the same tau, and what went to zero lay below it."""
    u = torch.randn(40, 3, 228, generator=generator(0), dtype=torch.float64)
    p = simplex(u)
    torch.testing.assert_close(p.sum(-1), torch.ones(40, 3, dtype=torch.float64))
    assert (p >= 0).all()
    low, high = torch.where(p > 0, u - p, torch.inf).amin(-1), torch.where(p > 0, u - p, -torch.inf).amax(-1)
    torch.testing.assert_close(low, high)
    assert (torch.where(p > 0, -torch.inf, u).amax(-1) <= low + 1e-12).all()


def test_projection_knows_closed_forms() -> None:
    on = torch.tensor([0.2, 0.5, 0.3])
    torch.testing.assert_close(simplex(on), on)
    torch.testing.assert_close(simplex(on + 7), on)
    torch.testing.assert_close(simplex(torch.tensor([3.0, 0.0, 1.0])), torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(simplex(torch.tensor([1.0, 1.0, -5.0])), torch.tensor([0.5, 0.5, 0.0]))
    torch.testing.assert_close(simplex(torch.zeros(2, 4)), torch.full((2, 4), 0.25))


# Relaxed tokens.


def test_a_vertex_is_the_hard_prompt_bit_for_bit(tiny: LatentModel) -> None:
    ids = tiny.tokens(TEXTS)
    hard = tiny.condition(TEXTS).text
    assert torch.equal(tiny.embed(ids).text, hard)
    assert torch.equal(tiny.embed(F.one_hot(ids, len(tiny.tokenizer)).float()).text, hard)


def test_between_vertices_embeddings_are_mixed(tiny: LatentModel) -> None:
    """The same as a table whose row for an unused token is the mixture."""
    ids, size = tiny.tokens(["a wug"]), len(tiny.tokenizer)
    wug, bag, boot = (tiny.tokenizer(w).input_ids[1] for w in ("wug", "bag", "boot"))
    weights = F.one_hot(ids, size).float()
    weights[0, 2] = 0.3 * F.one_hot(torch.tensor(bag), size) + 0.7 * F.one_hot(torch.tensor(boot), size)
    name = next(n for n in tiny.scope("text-encoder") if n.endswith("token_embedding.weight"))
    table = tiny.tensor(name).clone()
    table[wug] = 0.3 * table[bag] + 0.7 * table[boot]
    mixed = tiny.edited(Edit(tiny.fingerprint, "mixed", {}, "text-encoder", {name: table}))
    torch.testing.assert_close(tiny.embed(weights).text, mixed.condition(["a wug"]).text, atol=1e-5, rtol=1e-5)


def test_relaxed_tokens_leave_no_hook_behind(tiny: LatentModel) -> None:
    before = tiny.condition(TEXTS).text
    tiny.embed(torch.full((1, 77, len(tiny.tokenizer)), 1 / len(tiny.tokenizer)))
    assert torch.equal(tiny.condition(TEXTS).text, before)
    encoder: Any = tiny.parts["text_encoder"]
    assert not encoder.get_input_embeddings()._forward_hooks


def test_a_model_that_reads_no_words_says_so() -> None:
    for call in (lambda: Gaussian().tokens(["1"]), lambda: Gaussian().embed(torch.zeros(1, 1))):
        with pytest.raises(Incompatible, match="gaussian reads no tokens"):
            call()


def test_gradient_passes_straight_through() -> None:
    u = simplex(torch.randn(4, 3, 9, generator=generator(1))).requires_grad_(True)
    made = sampled(u, generator(2))
    assert torch.equal(made.detach().round(), F.one_hot(made.argmax(-1), 9).float())
    torch.testing.assert_close(made.sum(-1), torch.ones(4, 3))
    weight = torch.randn(4, 3, 9, generator=generator(3))
    (made * weight).sum().backward()
    torch.testing.assert_close(u.grad, weight)


def test_tokens_are_drawn_as_often_as_their_rows_say() -> None:
    u = torch.tensor([0.6, 0.0, 0.3, 0.1]).expand(4000, 1, 4)
    share = sampled(u, generator(0)).mean((0, 1))
    assert share[1] == 0
    torch.testing.assert_close(share, u[0, 0], atol=0.03, rtol=0)


def test_prefix_stands_in_front_of_the_prompt(tiny: LatentModel) -> None:
    ids = tiny.tokens(TEXTS)
    prefix = tiny.tokens(["neon sunset boot"])[:, 1:4].expand(3, -1)
    weights = joined(ids, F.one_hot(prefix, len(tiny.tokenizer)).float())
    assert torch.equal(weights.argmax(-1), tiny.tokens([f"neon sunset boot {t}" for t in TEXTS]))
    texts, kept = decoded(tiny, prefix, TEXTS)
    assert texts == [f"neon sunset boot {t}" for t in TEXTS]
    assert kept == [True] * 3


def test_a_prefix_that_reads_back_otherwise_is_noticed(tiny: LatentModel) -> None:
    """A piece without a word's end glues itself to the next word; a special token disappears."""
    words = tiny.tokenizer
    piece, end = words.convert_tokens_to_ids("n"), words.eos_token_id
    texts, kept = decoded(tiny, torch.tensor([[piece], [end]]), ["eon bag", "a bag"])
    assert kept == [False, False]
    assert texts[1] == "a bag"


# The search.


def plainly(method: UnlearnDiffAtk, model: LatentModel, latents: Tensor, steps: int, seed: int) -> Tensor:
    """The loop as it is told: torch's Adam with its own weight decay, hard-tanh on the gradient, the projection after the step."""
    size, count, ids = len(model.tokenizer), len(latents), model.tokens(TEXTS)
    grid = sorted(model.grid(2 * method.times).tolist()[:-1])[1::2]
    u = torch.full((count, method.tokens, size), 1 / size, requires_grad=True)
    optimiser = torch.optim.Adam([u], lr=method.lr, weight_decay=method.weight_decay)
    start, prompt = F.one_hot(ids, size).float().split([1, ids.shape[1] - 1], dim=1)
    for step in range(steps):
        rng = generator(derive(seed, "prefix"), "step", step, 0)
        picked = torch.multinomial(u.detach().reshape(-1, size), 1, generator=rng).reshape(count, -1)
        eps = torch.randn(latents.shape, generator=rng)
        given = model.embed(torch.cat([start, F.one_hot(picked, size) + u - u.detach(), prompt[:, : -method.tokens]], 1))
        t = torch.full((count,), grid[step // method.iterations])
        signal, level = (v.reshape(-1, 1, 1, 1) for v in model.schedule(t))
        seen = model.denoise(signal * latents + level * eps, t, given)
        optimiser.zero_grad()
        sum(F.mse_loss(a, b) for a, b in zip(seen.noise, eps, strict=True)).backward()  # type: ignore[union-attr]
        u.grad = F.hardtanh(u.grad)  # type: ignore[arg-type]
        optimiser.step()
        with torch.no_grad():
            u.copy_(simplex(u))
    return u.detach()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_search_is_the_plain_loop(tiny: LatentModel, weight_decay: float) -> None:
    method = UnlearnDiffAtk(times=4, iterations=2, weight_decay=weight_decay)
    latents = tiny.encode(references().images)
    (*_, (spent, found)) = method.search(tiny, latents, TEXTS, Budget((0, 7)), seed=3)
    expected = plainly(method, tiny, latents, 7, 3)
    assert spent == 7
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert (found - 1 / found.shape[-1]).abs().max() > 0.01


def test_rows_are_attacked_apart(tiny: LatentModel) -> None:
    """Another picture for the last prompt changes the last prefix alone."""
    method, latents = UnlearnDiffAtk(times=2, iterations=2), tiny.encode(references().images)
    other = latents.clone()
    other[2] = other[2].flip(0) + 1
    ours, theirs = (list(method.search(tiny, x, TEXTS, Budget((0, 4)), seed=3))[-1][1] for x in (latents, other))
    torch.testing.assert_close(ours[:2], theirs[:2], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(ours[2], theirs[2], atol=1e-3)


def test_times_ascend_and_each_has_its_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = tiny_model(), []
    denoise = model.denoise

    def spy(x_t: Tensor, t: Tensor, condition: Condition) -> Any:
        seen.append(t.unique().item())
        return denoise(x_t, t, condition)

    monkeypatch.setattr(model, "denoise", spy)
    method, latents = UnlearnDiffAtk(times=50, iterations=1), model.encode(references(1).images)
    list(method.search(model, latents, TEXTS[:1], Budget((0, 52)), seed=0))
    assert seen == [*range(11, 1000, 20), 11, 31]
    seen.clear()
    list(UnlearnDiffAtk(times=3, iterations=2).search(model, latents, TEXTS[:1], Budget((0, 6)), seed=0))
    assert seen[::2] == seen[1::2] == sorted(seen[::2])
    assert len(set(seen)) == 3
    plain, _ = list(seen), seen.clear()
    with optimiser.using(optimiser.FitOptions(accumulation=2)):
        list(UnlearnDiffAtk(times=3, iterations=2).search(model, latents, TEXTS[:1], Budget((0, 6)), seed=0))
    assert seen == [t for t in plain for _ in range(2)]  # a step stays at one time, in however many passes


def test_search_lowers_its_loss() -> None:
    """Where the words matter: a model whose cross-attention is loud. The loss of the proposed prompts, at fixed times and noise."""
    base = tiny_model()
    loud = {n: 8 * base.tensor(n) for n in base.scope("cross-attention-kv")}
    model = base.edited(Edit(base.fingerprint, "loud", {}, "cross-attention-kv", loud))
    latents = model.encode(references().images)
    method = UnlearnDiffAtk(times=1, iterations=1000, lr=0.05, weight_decay=0.0)
    trace = Trace()
    found = dict(method.search(model, latents, TEXTS, Budget((0, 150)), seed=1, trace=trace))
    assert sum(trace.losses[-30:]) < sum(trace.losses[:30])
    ids, t = model.tokens(TEXTS), torch.full((len(latents),), int(model.grid(2)[0]))

    def loss(u: Tensor) -> float:
        total, rng = 0.0, generator(9)
        for _ in range(16):
            eps = torch.randn(latents.shape, generator=rng)
            signal, level = (v.reshape(-1, 1, 1, 1) for v in model.schedule(t))
            with torch.no_grad():
                hard = F.one_hot(u.argmax(-1), u.shape[-1]).float()
                seen = model.denoise(signal * latents + level * eps, t, model.embed(joined(ids, hard)))
            total += float((seen.noise - eps).square().mean())
        return total

    random = torch.rand(found[150].shape, generator=generator(4))
    assert loss(found[150]) < loss(random)


# What it proposes, and what it counts.


def judge(answers: list[list[bool]]) -> Any:
    """A selection judge that gives these answers, one look after the other."""
    looks = iter(answers)

    def select(images: Tensor) -> Tensor:
        given = next(looks)
        assert len(given) == len(images)
        return torch.tensor(given)

    return select


def test_first_success_stays_and_plain_successes_are_counted_apart(tiny: LatentModel) -> None:
    method: UnlearnDiffAtk = small("attacks", "unlearn_diff_atk", iterations=2)
    # Plainly the first; after one time the second; after two the first, which is no new one; then the third.
    answers = [[True, False, False], [False, True, False], [True, False], [True]]
    found = run(method, tiny, (0, 2, 4, 6), judge(answers))
    assert [(c.notes["plain"], c.notes["new"]) for c in found] == [(1, 0), (1, 1), (1, 1), (1, 2)]
    prompts = [c.prompts for c in found]
    assert prompts[0] is None
    assert prompts[1] is not None
    assert prompts[2] is not None
    assert prompts[3] is not None
    assert prompts[1][1] == prompts[2][1] == prompts[3][1]
    assert prompts[2][0] == prompts[3][0]
    assert len({p[2] for p in prompts if p}) > 1


def test_cost_counts_rows_of_the_denoiser(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = tiny_model(), 0
    denoise = model.denoise

    def spy(x_t: Tensor, t: Tensor, condition: Condition) -> Any:
        nonlocal rows
        rows += len(x_t)
        return denoise(x_t, t, condition)

    monkeypatch.setattr(model, "denoise", spy)
    method: UnlearnDiffAtk = small("attacks", "unlearn_diff_atk", iterations=2)
    for candidate in method(model, BAG, Budget((0, 1, 2, 5)), seed=2, select=never, pictures=references()):
        assert candidate.cost["calls"] == rows


def test_prompts_agree_with_their_pictures(tiny: LatentModel) -> None:
    found = run(small("attacks", "unlearn_diff_atk"), tiny, (0, 2))[-1]
    assert found.prompts is not None
    known = [p.text for p in BAG.prompts("training")]
    for text, style in zip(found.prompts, ("neon", "photo", "sunset"), strict=True):
        (plain,) = [k for k in sorted(known, key=len, reverse=True) if text.endswith(k)][:1]
        assert style in plain or not any(c in plain for c in BAG.contexts)


def test_a_prompt_that_is_too_long_is_refused(tiny: LatentModel) -> None:
    long = concepts.Concept(name="bag", templates=("a {concept} " + ", neon" * 40,))
    with pytest.raises(BadInput, match="attacks prompts of at most 60"):
        list(UnlearnDiffAtk()(tiny, long, Budget((0,)), seed=0, select=never, pictures=references()))


@pytest.mark.parametrize("settings", [{"tokens": 0}, {"times": 0}, {"lr": 0.0}, {"weight_decay": -1.0}, {"targets": 0}], ids=str)
def test_senseless_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least|above"):
        UnlearnDiffAtk(**settings)
