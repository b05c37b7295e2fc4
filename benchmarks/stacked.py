"""What training several replicates' adapters in one batch would bring, before anybody builds it.

    python benchmarks/stacked.py                3 replicates, on the embedded model (two minutes)

A replicate trains a rank-4 adapter of its own on all attention, batch 8: the step of MemoRa under `quick`. *apart*: K such steps, one
after another, as an audit takes them. *stacked*: one step of K times 8 pictures through one network, whose attention layers add to every
K-th part of the batch the product of that replicate's own two factors. Both take the same pictures, times and noise; how far their
gradients differ is a column. *pictures*: the same for drawing, K budgets' adapters with 64 pictures each at 6 guided steps.

Times are of the processor, on one thread; ratios are of the medians of runs that take turns.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

RANK, BATCH, PICTURES, STEPS = 4, 8, 64, 6
ATTENTION = "attention"


def seconds(work: Callable[[], Any]) -> float:
    """Processor time of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def factors(model: Any, count: int) -> dict[str, tuple[Any, Any]]:
    """By layer, down (K, in, rank) and up (K, rank, out) of `count` adapters, none of them zero."""
    import torch

    from vestige.seeds import generator

    made = {}
    for name in model.scope(ATTENTION):
        rows, columns = model.tensor(name).shape
        rng = generator(0, name)
        down, up = torch.randn(count, columns, RANK, generator=rng) / RANK, torch.randn(count, RANK, rows, generator=rng) / 100
        made[name.removesuffix(".weight")] = (down.requires_grad_(), up.requires_grad_())
    return made


@contextmanager
def stacked(network: Any, layers: dict[str, tuple[Any, Any]]) -> Any:
    """The network with K adapters on it: the first K-th of a batch passes the first, and so on."""
    import torch

    def hook(down: Any, up: Any) -> Any:
        def add(_: Any, given: tuple[Any, ...], out: Any) -> Any:
            x = given[0]
            grouped = x.reshape(len(down), -1, x.shape[-1])
            return out + torch.bmm(torch.bmm(grouped, down), up).reshape(out.shape)

        return add

    part = lambda name: network.get_submodule(name.split(".", 1)[1] if name.startswith("unet.") else name)  # noqa: E731
    handles = [part(name).register_forward_hook(hook(*pair)) for name, pair in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def folded(model: Any, layers: dict[str, tuple[Any, Any]], k: int) -> Any:
    """The model with the k-th adapter as MemoRa puts it on: folded into the weights, leaves of its own."""
    from vestige.seeds import generator

    view, leaves = model.adapted(model.scope(ATTENTION), rank=RANK, alpha=float(RANK), init="gaussian", rng=generator(0, "adapter"))
    import torch

    with torch.no_grad():
        for name, (down, up) in layers.items():
            ours = leaves[f"{name}.weight"]
            ours[0].copy_(down[k].T)
            ours[1].copy_(up[k].T)
    return view, leaves


def step(model: Any, x: Any, t: Any, condition: Any, noise: Any) -> Any:
    """The mean squared error of the predicted noise."""
    return (model.denoise(x, t, condition).value - noise).square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicates", type=int, default=3)
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    count = options.replicates

    import torch

    from vestige import models
    from vestige.seeds import generator

    torch.set_num_threads(1)
    model = models.load("wardrobe")
    network, layers = model.parts["unet"], factors(model, count)
    rng = generator(0, "data")
    x, noise = (torch.randn(count * BATCH, *model.latent_shape, generator=rng) for _ in range(2))
    t, condition = torch.randint(1000, (count * BATCH,), generator=rng), model.condition(["a picture of a bag"]).repeat(count * BATCH)
    views = [folded(model, layers, k) for k in range(count)]
    pieces = [slice(k * BATCH, (k + 1) * BATCH) for k in range(count)]

    def apart() -> None:
        for (view, _), part in zip(views, pieces, strict=True):
            step(view, x[part], t[part], condition[part], noise[part]).backward()

    def together() -> None:
        with stacked(network, layers):
            (count * step(model, x, t, condition, noise)).backward()

    apart()
    together()
    gaps = [
        (leaves[f"{name}.weight"][0].grad - down.grad[k].T).norm() / down.grad[k].norm()
        for k, (_, leaves) in enumerate(views)
        for name, (down, _) in layers.items()
    ]
    pictures = PICTURES * count * 2  # guided: two conditions a picture
    big = torch.randn(pictures, *model.latent_shape, generator=rng)
    when, asked = torch.full((pictures,), 500), condition[:1].repeat(pictures)
    share = pictures // count

    @torch.no_grad()
    def drawn_apart() -> None:
        for k, (view, _) in enumerate(views):
            part = slice(k * share, (k + 1) * share)
            for _ in range(STEPS):
                view.denoise(big[part], when[part], asked[part])

    @torch.no_grad()
    def drawn_together() -> None:
        with stacked(network, layers):
            for _ in range(STEPS):
                model.denoise(big, when, asked)

    print(f"torch {torch.__version__}, one thread of {os.cpu_count()}, {platform.machine()}; {count} replicates\n")
    print("| | apart, s | stacked, s | stacked is faster by | gradients apart by at most |\n|---|---|---|---|---|")
    for what, one, other, gap in (("a step", apart, together, max(gaps)), ("pictures", drawn_apart, drawn_together, None)):
        found = [(seconds(one), seconds(other)) for _ in range(options.times)]
        a, b = (statistics.median(row[i] for row in found) for i in (0, 1))
        print(f"| {what} | {a:.3f} | {b:.3f} | {a / b:.2f}x | {'' if gap is None else f'{float(gap):.1e}'} |", flush=True)


if __name__ == "__main__":
    main()
