"""The Selective Amnesia code's network on CIFAR-10: its weights by their names and shapes, and its files."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from vestige.seeds import generator

Weights = dict[str, Tensor]


def network(
    ch: int = 32, mult: tuple[int, ...] = (1, 2, 2), layers: int = 2, attending: tuple[int, ...] = (1,), classes: int = 3
) -> Weights:
    """Random weights under the names and in the shapes of that code."""
    rng, table = generator(0, "ddpm"), dict[str, Tensor]()

    def put(name: str, *shape: int, bias: bool = True) -> None:
        table[f"{name}.weight"] = torch.randn(shape, generator=rng) / math.sqrt(math.prod(shape[1:]) or 1)
        if bias:
            table[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=rng)

    def block(name: str, into: int, out: int) -> None:
        for i, n in ((1, into), (2, out)):
            put(f"{name}.norm{i}", n)
            put(f"{name}.conv{i}", out, n, 3, 3)
        put(f"{name}.temb_cemb_proj", out, 8 * ch)
        if into != out:
            put(f"{name}.nin_shortcut", out, into, 1, 1)

    def attention(name: str, n: int) -> None:
        put(f"{name}.norm", n)
        for part in ("q", "k", "v", "proj_out"):
            put(f"{name}.{part}", n, n, 1, 1)

    for kind in ("temb", "cemb"):
        put(f"{kind}.dense.0", 4 * ch, ch)
        put(f"{kind}.dense.1", 4 * ch, 4 * ch)
    put("classes_emb", classes, ch, bias=False)
    table["null_classes_emb"] = torch.randn(ch, generator=rng)
    put("conv_in", ch, 3, 3, 3)
    widths, last = [ch * m for m in (1, *mult)], ch
    for i, out in enumerate(widths[1:]):
        for j in range(layers):
            block(f"down.{i}.block.{j}", last, out)
            last = out
            if i in attending:
                attention(f"down.{i}.attn.{j}", out)
        if i < len(mult) - 1:
            put(f"down.{i}.downsample.conv", out, out, 3, 3)
    block("mid.block_1", last, last)
    attention("mid.attn_1", last)
    block("mid.block_2", last, last)
    for i in reversed(range(len(mult))):
        out = widths[i + 1]
        for j in range(layers + 1):
            block(f"up.{i}.block.{j}", last + (widths[i] if j == layers else out), out)
            last = out
            if i in attending:
                attention(f"up.{i}.attn.{j}", out)
        if i:
            put(f"up.{i}.upsample.conv", out, out, 3, 3)
    put("norm_out", last)
    put("conv_out", 3, last, 3, 3)
    return table


def saved(table: Weights, path: Path) -> Path:
    """As that code saves: through DataParallel, with the optimiser, the step, and a smoothed copy."""
    wrapped = {f"module.{n}": v for n, v in table.items()}
    torch.save([wrapped, {"state": {}, "param_groups": [{"lr": 1e-4}]}, 19999, wrapped], path)
    return path
