"""What an audit of the embedded world costs under two versions of a suite, and what cheaper pictures do to the spread of log F.

    python benchmarks/audit.py --suites quick-5 quick               calls by part, from the plan, and what they take here (a minute)
    python benchmarks/audit.py --steps 10 6 --replicates 6          the spread by sampling steps, on the development concept (15 minutes)

Calls are of the first look of an audit of sneaker, ESD, attacked by MemoRa: with nothing at hand, and with everything at hand that other
audits of the concept share (twins, the original, positive controls). Seconds are of one thread: calls that draw at the measured time of
a drawn and judged picture, calls that train at that of a training step.

The spread is of log F of a UCE edit of bag against its twin, MemoRa on raw references: the same adapters, seeds and prompts under every
number of steps, so that rows differ in how pictures are drawn alone. Beside it the share of the untouched original's pictures that show
the concept, and the share of the machine's limit that drawing reaches: multiply-adds of the denoiser a second against those of a large
matrix product on the same thread.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

CONCEPT, TWIN, WORLD = "bag", "wardrobe-never-bag", "wardrobe"
DRAWS = ("scoring", "positives", "utility", "restoring", "banks")


def planned(suite: str, *, shared: bool) -> dict[str, int]:
    """Calls of an audit's first look by part; `shared`: of what is this edit's own alone."""
    from vestige.audit import Request, resolve
    from vestige.audit.plan import Plan

    plan: Plan = resolve(Request(suite=suite, unlearner="esd", attacks=("memora",)))
    calls = plan.planned_calls()
    if not shared:
        return calls
    sides = 1 + len(plan.control.names)
    alone = replace(plan, original="", positives={}).planned_calls()  # no arms of the original's
    models = len([plan.original, "edited", "after the attack"])
    return {
        "scoring": alone["scoring"] // sides,
        "attacks": alone["attacks"] // sides,
        "utility": calls["utility"] * (models - 1) // models,
        **{part: calls[part] for part in ("unlearning", "restoring")},
    }


def best(work: Callable[[], Any], times: int = 3) -> float:
    """Seconds of the fastest of a few times, after one that counts for nothing."""
    work()
    found = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def timed(steps: int) -> dict[str, float]:
    """Seconds of a drawn and judged picture and of a trained call, and the share of the machine's limit, on one thread."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from vestige import concepts, metrics, models
    from vestige.cli.forecast import seconds_trained
    from vestige.diffusion.sampling import Drawing, pictures

    model, concept = models.load(WORLD), concepts.load(CONCEPT, WORLD)
    judges, size = metrics.pair(concept, WORLD), 64
    prompts, seeds = [p.text for p in concept.spread(size, "held-out")], list(range(size))
    drawing = Drawing(steps=steps, guidance=3.0, batch=size)
    drawn = best(lambda: pictures(model, prompts, seeds, drawing))
    images = pictures(model, prompts, seeds, drawing)
    looked = best(lambda: [judge.shows(images, concept.label) for judge in judges])
    x, condition = torch.zeros(2 * size, *model.latent_shape), model.condition([""]).repeat(2 * size)
    t = model.grid(steps)[:1].expand(2 * size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.denoise(x, t, condition)
    square = torch.randn(2048, 2048)
    limit = 2 * 2048**3 / best(lambda: square @ square)
    return {
        "picture": (drawn + looked) / size,
        "trained": seconds_trained(model),
        "limit": steps * counter.get_total_flops() / drawn / limit,
    }


def costs(suites: Sequence[str]) -> None:
    """A row a suite, with nothing at hand and with what is shared at hand."""
    from vestige.harness import cost
    from vestige.harness.suites import load

    print(
        "| suite | at hand | " + " | ".join((*DRAWS[:4], "attacks", "unlearning", "all calls", "seconds, computed", "of the limit")) + " |"
    )
    print("|---|---|" + "---|" * 9)
    for name in suites:
        protocol = load(name, WORLD).protocol
        speed = timed(protocol.steps)
        for shared in (False, True):
            calls = planned(name, shared=shared)
            pictures = sum(calls.get(part, 0) for part in DRAWS) / cost.picture(protocol)
            seconds = pictures * speed["picture"] + (calls["attacks"] + calls["unlearning"]) * speed["trained"]
            row = [*(calls.get(part, 0) for part in (*DRAWS[:4], "attacks", "unlearning")), sum(calls.values())]
            cells = " | ".join(f"{n:,}" for n in row)
            print(f"| {name} | {'controls' if shared else 'nothing'} | {cells} | {seconds:,.0f} | {speed['limit']:.0%} |")


def log_f(root: Path, steps: int, replicates: int) -> tuple[list[float], float]:
    """Log F of every replicate at a number of sampling steps, and the original's rate over all replicates by the selection judge."""
    from vestige import api, concepts, metrics, models, registry
    from vestige.harness import arms, suites
    from vestige.harness.attacker import AttackerData
    from vestige.harness.bench import Bench
    from vestige.verdict import Arms, measure
    from vestige.verdict.intervals import share

    suite = suites.load("quick-5", WORLD)
    suite = replace(suite, protocol=replace(suite.protocol, steps=steps))
    concept, own = concepts.load(CONCEPT, WORLD), suite.attacks["memora"]
    verify, select = metrics.pair(concept, WORLD)
    bench = Bench(root, suite, verify, select)
    original, never = models.load(WORLD), models.load(TWIN)
    edited = original.edited(api.unlearn(original, CONCEPT, "uce"))
    method = registry.build("attacks", "memora", own.settings).variants()["raw"]
    held = AttackerData(original=original, world=WORLD, protocol=suite.protocol)
    curves: dict[str, list[tuple[float, ...]]] = {"edited": [], "never": []}
    plain, seen = [], list[bool | None]()
    for k in range(replicates):
        given = held.of(concept, method, own.references, k)
        for who, model in (("edited", edited), ("never", never)):
            run = arms.run_arm(bench, model, concept, ("memora", method), own.budget, k, given)
            curves[who].append(arms.curve(run.outcome["points"], best_so_far=True)[0])
        (point,) = arms.plain_arm(bench, original, concept, k).outcome["points"]
        plain.append(share(point["hits"]))
        seen += point["other_judge"]
    floor = tuple(row[0] for row in curves["never"])
    found = measure(Arms(own.budget.points, tuple(curves["edited"]), tuple(curves["never"]), floor, tuple(plain), pictures=suite.pictures))
    return list(found.log_speedups), share(seen)


def spreads(root: Path, steps: Sequence[int], replicates: int) -> None:
    """A row a number of steps."""
    print("| steps | original shows it | mean log F | its deviation over replicates | standard error | log F a replicate |")
    print("|---|---|---|---|---|---|")
    for count in steps:
        found, rate = log_f(root, count, replicates)
        spread = statistics.stdev(found)
        cells = [f"{x:.2f}" for x in (rate, statistics.mean(found), spread, spread / math.sqrt(len(found)))]
        print(f"| {count} | {' | '.join(cells)} | {', '.join(f'{x:.2f}' for x in found)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", nargs="+", default=[])
    parser.add_argument("--steps", nargs="+", type=int, default=[])
    parser.add_argument("--replicates", type=int, default=6)
    parser.add_argument("--cache", type=Path, help="folder of runs; the next call goes on from there")
    options = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread of {os.cpu_count()}, {platform.machine()}\n")
    if options.suites:
        costs(options.suites)
    if options.steps:
        with tempfile.TemporaryDirectory() as made:
            spreads(options.cache or Path(made), options.steps, options.replicates)


if __name__ == "__main__":
    main()
