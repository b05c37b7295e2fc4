"""The optimisation loop: gradients, schedules, pulls and projections by formula; budgets, stops and resumes bit for bit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from vestige.methods import Training, fit
from vestige.methods.training import Loss, Pull, Schedule, Trace, mean_over
from vestige.seeds import generator

STEPS = 6


def leaf(*values: float) -> dict[str, Tensor]:
    return {"w": torch.tensor(values, dtype=torch.float64, requires_grad=True)}


def constant(leaves: Mapping[str, Tensor], gradient: Tensor) -> Loss:
    """A loss whose gradient is the same everywhere."""
    return lambda rng: (leaves["w"] * gradient).sum()


def random_batches(leaves: Mapping[str, Tensor]) -> Loss:
    """Least squares on data that every call draws anew."""

    def loss(rng: Generator) -> Tensor:
        x = torch.randn(8, 3, generator=rng)
        return (x @ leaves["w"] - x.sum(1)).square().mean()

    return loss


def run(training: Training, seed: int = 0, **others: Any) -> Tensor:
    leaves = {"w": torch.zeros(3, requires_grad=True)}
    for _ in fit(leaves, random_batches(leaves), training, seed=seed, **others):
        pass
    return leaves["w"].detach().clone()


def gradients(leaves: Mapping[str, Tensor], loss: Loss, training: Training, **others: Any) -> list[Tensor]:
    """What the optimiser was handed at every step."""
    seen: list[Tensor] = []

    def spy(found: Mapping[str, Tensor]) -> None:
        seen.append(found["w"].clone())

    for _ in fit(leaves, loss, training, seed=0, projections=[spy], **others):
        pass
    return seen


def rates(training: Training) -> list[float]:
    """The step sizes that were taken: under a constant gradient every Adam update is lr * sign, up to its epsilon of 1e-8."""
    leaves, places = leaf(0.0), []
    for _ in fit(leaves, constant(leaves, torch.ones(1)), training, seed=0, stops=range(training.steps)):
        places.append(leaves["w"].item())
    return [before - after for before, after in itertools.pairwise(places)]


@pytest.mark.parametrize(("clip", "norm"), [(0.5, 0.5), (5.0, 5.0), (100.0, 13.0), (0.0, 13.0)])
def test_clipping_clips_the_whole_gradient(clip: float, norm: float) -> None:
    leaves, gradient, trace = leaf(1.0, 2.0, 3.0), torch.tensor([3.0, 4.0, 12.0]), Trace()
    seen = gradients(leaves, constant(leaves, gradient), Training(steps=2, lr=1e-3, clip=clip), trace=trace)
    assert trace.norms == pytest.approx([13.0, 13.0])  # 3^2 + 4^2 + 12^2 = 13^2
    for found in seen:
        torch.testing.assert_close(found, gradient.double() * norm / 13, rtol=1e-5, atol=0)
        assert found.norm() <= norm * (1 + 1e-12)


def test_clipping_counts_all_leaves_together() -> None:
    leaves = {"a": torch.zeros(1, requires_grad=True), "b": torch.zeros(1, requires_grad=True)}
    seen: list[float] = []
    spy = lambda found: seen.append(math.hypot(*(g.item() for g in found.values())))  # noqa: E731
    for _ in fit(
        leaves, lambda rng: 3 * leaves["a"].sum() + 4 * leaves["b"].sum(), Training(steps=1, lr=1.0, clip=1.0), seed=0, projections=[spy]
    ):
        pass
    assert seen == pytest.approx([1.0], rel=1e-5)


@pytest.mark.parametrize(("k", "b"), [(2, 6), (4, 3), (12, 1)])
def test_accumulated_batches_equal_one_large_batch(k: int, b: int) -> None:
    """k micro-batches of b rows and one batch of k * b, on the same rows, at a loss that is a mean over rows."""
    rows = torch.randn(STEPS, k * b, 4, dtype=torch.float64, generator=generator(0))

    def trained(accumulation: int, batch: int) -> tuple[Tensor, list[Tensor], Trace]:
        leaves, calls, trace = leaf(1.0, 2.0, 3.0, 4.0), iter(rows.reshape(-1, batch, 4)), Trace()
        training = Training(steps=STEPS, lr=0.1, accumulation=accumulation, clip=0.0)
        seen = gradients(leaves, lambda rng: (next(calls) @ leaves["w"]).mean(), training, trace=trace)
        return leaves["w"].detach(), seen, trace

    (many, seen_many, trace_many), (one, seen_one, trace_one) = trained(k, b), trained(1, k * b)
    torch.testing.assert_close(seen_many, seen_one, atol=1e-12, rtol=0)
    torch.testing.assert_close(many, one, atol=1e-9, rtol=0)
    assert trace_many.losses == pytest.approx(trace_one.losses, abs=1e-12)


def test_micro_batches_draw_different_data() -> None:
    drawn: list[float] = []
    leaves = leaf(0.0)

    def loss(rng: Generator) -> Tensor:
        drawn.append(torch.rand(1, generator=rng).item())
        return leaves["w"].sum()

    list(fit(leaves, loss, Training(steps=3, lr=0.1, accumulation=4), seed=0))
    assert len(set(drawn)) == 12


@pytest.mark.parametrize(
    ("schedule", "warmup", "factor"),
    [
        ("constant", 0, lambda s: 1.0),
        ("cosine", 0, lambda s: (1 + math.cos(math.pi * s / 8)) / 2),
        ("constant", 4, lambda s: min(1.0, (s + 1) / 4)),
        ("cosine", 3, lambda s: min(1.0, (s + 1) / 3) * (1 + math.cos(math.pi * s / 8)) / 2),
    ],
)
def test_schedules_follow_their_formula(schedule: Schedule, warmup: int, factor: Callable[[int], float]) -> None:
    training = Training(steps=8, lr=0.5, schedule=schedule, warmup=warmup)
    assert [training.rate(s) for s in range(8)] == pytest.approx([factor(s) for s in range(8)])
    assert rates(training) == pytest.approx([0.5 * factor(s) for s in range(8)], rel=1e-6)


def test_a_pull_has_the_gradient_of_its_formula() -> None:
    goal, importance = torch.tensor([0.0, 1.0, -1.0, 5.0]), torch.tensor([0.0, 1.0, 2.0, 0.5])
    for weights in (None, importance):
        leaves = leaf(1.0, 2.0, 3.0, 4.0)
        expected = 0.7 * 2 * (leaves["w"].detach() - goal) * (1 if weights is None else weights) / 4
        pull = Pull(0.7, {"w": goal}, None if weights is None else {"w": weights})
        (found,) = gradients(leaves, lambda rng: 0 * leaves["w"].sum(), Training(steps=1, lr=0.1, clip=0.0), pulls=[pull])  # noqa: B023
        torch.testing.assert_close(found, expected, check_dtype=False)


def test_pulls_add_up_over_names_and_count_once_a_step() -> None:
    leaves = {n: torch.full((size,), 2.0, requires_grad=True) for n, size in (("a", 1), ("b", 4))}
    pull = Pull(3.0, {n: torch.zeros_like(v) for n, v in leaves.items()})
    assert pull(leaves).item() == pytest.approx(3 * (4 + 4))  # means of squares, not sums
    trace = Trace()
    zero = lambda rng: 0 * leaves["a"].sum()  # noqa: E731
    list(fit(leaves, zero, Training(steps=1, lr=0.1, accumulation=5), seed=0, pulls=[pull, pull], trace=trace))
    assert trace.losses == pytest.approx([48.0])


def test_a_strong_pull_holds_the_important_weights() -> None:
    leaves, start = leaf(1.0, 1.0), torch.ones(2)
    pull = Pull(1e3, {"w": start}, {"w": torch.tensor([1.0, 0.0])})
    list(fit(leaves, constant(leaves, torch.ones(2)), Training(steps=200, lr=0.01), seed=0, pulls=[pull]))
    held, free = leaves["w"].tolist()
    assert abs(held - 1) < 0.01
    assert free < 0


@pytest.mark.parametrize("share", [0.0, 0.25, 0.9])
def test_a_mask_keeps_exactly_the_masked_share_unmoved(share: float) -> None:
    leaves = {"w": torch.ones(1000, requires_grad=True)}
    mask = torch.ones(1000)
    mask[torch.randperm(1000, generator=generator(0))[: round(1000 * share)]] = 0

    def project(found: Mapping[str, Tensor]) -> None:
        found["w"].mul_(mask)

    list(fit(leaves, lambda rng: leaves["w"].square().sum(), Training(steps=4, lr=0.1, clip=0.0), seed=0, projections=[project]))
    assert torch.equal(leaves["w"] == 1, mask == 0)


def test_projections_act_in_order() -> None:
    leaves = leaf(1.0)
    seen: list[float] = []
    double = lambda found: found["w"].mul_(2)  # noqa: E731
    shift = lambda found: found["w"].add_(1)  # noqa: E731
    note = lambda found: seen.append(found["w"].item())  # noqa: E731
    list(fit(leaves, constant(leaves, torch.ones(1)), Training(steps=1, lr=0.1, clip=0.0), seed=0, projections=[double, shift, note]))
    assert seen == [3.0]


@pytest.mark.parametrize("every", [100, 2])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path, every: int) -> None:
    training = Training(steps=9, lr=0.1, accumulation=2, schedule="cosine", warmup=3, weight_decay=0.01)
    whole, kept = Trace(), Trace()
    expected = run(training, trace=whole)
    file = tmp_path / "state.pt"
    leaves = {"w": torch.zeros(3, requires_grad=True)}
    running = fit(leaves, random_batches(leaves), training, seed=0, stops=[0, 4, 7], checkpoint=file, every=every)
    assert [next(running), next(running)] == [0, 4]
    del running
    again = {"w": torch.full((3,), 9.0, requires_grad=True)}
    left = list(fit(again, random_batches(again), training, seed=0, stops=[0, 4, 7], checkpoint=file, trace=kept))
    assert left == [7, 9]
    assert torch.equal(again["w"], expected)
    assert (kept.losses, kept.norms) == (whole.losses, whole.norms)
    done = {"w": torch.zeros(3, requires_grad=True)}
    assert list(fit(done, random_batches(done), training, seed=0, checkpoint=file)) == []
    assert torch.equal(done["w"], expected)


def test_a_run_killed_between_stops_continues_from_its_last_checkpoint(tmp_path: Path) -> None:
    training = Training(steps=7, lr=0.1)
    leaves = {"w": torch.zeros(3, requires_grad=True)}
    file = tmp_path / "state.pt"

    def killed(stage: str, done: int, total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(fit(leaves, random_batches(leaves), training, seed=0, checkpoint=file, every=2, watch=killed))
    assert torch.equal(run(training, checkpoint=file), run(training))
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_a_budget_is_a_prefix_of_a_longer_run(steps: int) -> None:
    short = Training(steps=steps, lr=0.1, accumulation=2, weight_decay=0.01)
    leaves = {"w": torch.zeros(3, requires_grad=True)}
    longer = fit(leaves, random_batches(leaves), Training(steps=12, lr=0.1, accumulation=2, weight_decay=0.01), seed=0, stops=[steps])
    assert next(longer) == steps
    assert torch.equal(run(short), leaves["w"])


def test_stops_come_in_order_and_the_end_always() -> None:
    leaves = leaf(0.0)
    assert list(fit(leaves, constant(leaves, torch.ones(1)), Training(steps=5, lr=0.1), seed=0, stops=[3, 0, 1])) == [0, 1, 3, 5]
    assert list(fit(leaves, constant(leaves, torch.ones(1)), Training(steps=2, lr=0.1), seed=0)) == [2]
    before = leaves["w"].item()
    assert list(fit(leaves, constant(leaves, torch.ones(1)), Training(steps=0, lr=0.1), seed=0, stops=[0])) == [0]
    assert leaves["w"].item() == before


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_an_error_with_its_reason(bad: float) -> None:
    leaves = leaf(1.0)
    calls = iter([1.0, 1.0, bad])
    with pytest.raises(FloatingPointError, match=rf"loss is {bad} at step 2; lower lr \(0\.25\)"):
        list(fit(leaves, lambda rng: leaves["w"].sum() * 0 + next(calls), Training(steps=5, lr=0.25), seed=0))


def test_equal_seeds_equal_results_and_other_seeds_others() -> None:
    training = Training(steps=STEPS, lr=0.1)
    assert torch.equal(run(training, seed=3), run(training, seed=3))
    assert not torch.equal(run(training, seed=3), run(training, seed=4))


def test_global_randomness_is_neither_read_nor_moved() -> None:
    import random

    import numpy as np

    training = Training(steps=STEPS, lr=0.1, accumulation=2)
    expected = run(training)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        before = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
        assert torch.equal(run(training), expected)
        assert torch.equal(torch.random.get_rng_state(), before[0])
        assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]  # type: ignore[index]


def test_backend_flags_stay() -> None:
    flags = (torch.get_num_threads, torch.get_default_dtype, torch.is_grad_enabled, torch.are_deterministic_algorithms_enabled)
    before = [flag() for flag in flags]
    run(Training(steps=1, lr=0.1))
    assert [flag() for flag in flags] == before


def test_autocast_keeps_the_leaves_in_their_own_dtype() -> None:
    leaves = {"w": torch.ones(4, 4, requires_grad=True)}
    seen: list[torch.dtype] = []

    def loss(rng: Generator) -> Tensor:
        out = torch.randn(8, 4, generator=rng) @ leaves["w"]
        seen.append(out.dtype)
        return out.float().square().mean()

    list(fit(leaves, loss, Training(steps=2, lr=0.1, precision="bf16"), seed=0))
    assert seen == [torch.bfloat16] * 2
    assert leaves["w"].dtype == torch.float32
    assert not torch.equal(leaves["w"], torch.ones(4, 4))


def test_one_process_may_train_at_several_precisions() -> None:
    for precision in ("no", "bf16", "no"):
        assert run(Training(steps=1, lr=0.1, precision=precision)).isfinite().all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_half_precision_hands_out_unscaled_gradients() -> None:
    leaves = {"w": torch.zeros(1, device="cuda", requires_grad=True)}
    (found,) = gradients(leaves, lambda rng: 3 * leaves["w"].sum(), Training(steps=1, lr=0.1, clip=0.0, precision="fp16"))
    assert found.item() == pytest.approx(3.0)


def test_progress_and_trace_tell_every_step() -> None:
    told: list[tuple[str, int, int]] = []
    trace = Trace()
    run(Training(steps=3, lr=0.1), trace=trace, watch=lambda *event: told.append(event))
    assert told == [("fit", 1, 3), ("fit", 2, 3), ("fit", 3, 3)]
    assert len(trace.losses) == len(trace.norms) == 3
    assert trace.seconds > 0


def test_training_solves_least_squares() -> None:
    """The data say w = (1, 1, 1) exactly, so the optimum has loss zero."""
    found = run(Training(steps=400, lr=0.05, schedule="cosine"))
    torch.testing.assert_close(found, torch.ones(3), atol=1e-3, rtol=0)


def test_average_is_its_sum_and_without_decay_the_last() -> None:
    one = torch.zeros(1, dtype=torch.float64)

    def steps() -> Any:
        for value in (1.0, 2.0, 4.0):
            one.fill_(value)
            yield 0

    assert float(mean_over({"w": one}, steps(), 0.5)["w"]) == pytest.approx((0.25 * 1 + 0.5 * 2 + 4) / 1.75)
    assert float(mean_over({"w": one}, steps(), 0.0)["w"]) == 4
