"""Views of modules, around the same tensors but for those that an edit replaces, and adapters on them; the given one is never modified."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from vestige.edits import precision
from vestige.errors import Incompatible

Factors = dict[str, "tuple[Tensor, Tensor]"]  # weight name -> down (r, in), up (out, r)


def rebuild(module: nn.Module, values: Mapping[str, Tensor], *, leaves: bool = False, factors: Factors | None = None) -> nn.Module:
    """A module tree around the same tensors, except `values`, which replace parameters by their qualified names.

    With `leaves`, the values become trainable parameters; one of low precision stays, and is read from a leaf in float32. Tied
    parameters and shared sub-modules stay tied and shared.

    Arguments:
        factors: Low-rank changes of weights of low precision, which stay beside them.
    """
    named, seen = dict(module.named_parameters(remove_duplicate=False)), dict[int, nn.Module]()
    unknown = sorted(set(values) - set(named))
    if unknown:
        raise Incompatible(f"the model has no weight named {unknown[0]!r} ({len(unknown)} unknown in all)")
    fresh: dict[int, nn.Parameter] = {}  # by the parameter that is replaced, under all of its names
    held: dict[int, nn.Parameter] = {}  # likewise, by the parameter that is read from a leaf
    for name, value in values.items():
        old = named[name]
        if value.shape != old.shape:
            raise Incompatible(f"{name} has shape {tuple(old.shape)}; the edit brings {tuple(value.shape)}")
        if leaves and precision.low(old):
            held[id(old)] = nn.Parameter(value.to(old.device, torch.float32))
        else:
            fresh[id(old)] = nn.Parameter(value.to(old), requires_grad=leaves)
    pairs = {id(named[name]): _fitting(name, pair, named[name]) for name, pair in (factors or {}).items()}

    def walk(old: nn.Module) -> nn.Module:
        if id(old) in seen:
            return seen[id(old)]
        new = copy.copy(old)
        seen[id(old)] = new
        parameters = {
            name: parameter if parameter is None else fresh.get(id(parameter), parameter) for name, parameter in old._parameters.items()
        }
        hooks = {k: copy.copy(v) for k, v in vars(old).items() if k.endswith("_hooks")}
        children = {k: None if v is None else walk(v) for k, v in old._modules.items()}
        vars(new).update(_parameters=parameters, _buffers=dict(old._buffers), _modules=children, **hooks)
        own = {name: id(parameter) for name, parameter in old._parameters.items() if parameter is not None}
        precision.kept(new, old, {name for name, mark in own.items() if mark in fresh or mark in held})
        precision.hold(new, {name: (held[mark], None) for name, mark in own.items() if mark in held})
        if own.get("weight") in pairs:
            precision.put(new, *pairs[own["weight"]])
        return new

    return walk(module)


def _fitting(name: str, pair: tuple[Tensor, Tensor], weight: Tensor) -> tuple[Tensor, Tensor]:
    shape, wanted = (pair[1].shape[0], pair[0].shape[1]), (len(weight), weight[0].numel())
    if shape != wanted or pair[1].shape[1] != len(pair[0]):
        raise Incompatible(f"{name} is {wanted} as a matrix; the edit's factors are {tuple(pair[0].shape)} and {tuple(pair[1].shape)}")
    return pair


def attach(module: nn.Module, names: Sequence[str], *, rank: int, alpha: float, init: str, rng: Generator) -> tuple[nn.Module, Factors]:
    """A view of `module` with peft's LoRA layers on the named weights, and their leaves by weight name, in float32 at least."""
    from peft import LoraConfig, inject_adapter_in_model

    view = rebuild(module, {})
    targets = [name.removesuffix(".weight") for name in names]
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, init_lora_weights=True)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator; the values are drawn again below
        inject_adapter_in_model(config, view)
    leaves: Factors = {}
    for name, target in zip(names, targets, strict=True):
        layer: Any = view.get_submodule(target)
        for factor in (layer.lora_A["default"], layer.lora_B["default"]):
            if precision.low(factor.weight):  # peft makes them as the weight is; its layers add what they give in their own precision
                factor.float()
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        with torch.no_grad():
            fan_in = down[0].numel()
            if init == "gaussian":
                down.copy_(torch.randn(down.shape, generator=rng) / rank)
            elif init == "kaiming":
                down.copy_((torch.rand(down.shape, generator=rng) * 2 - 1) / fan_in**0.5)
            else:
                raise ValueError(f"init is 'gaussian' or 'kaiming'; given {init!r}")
            up.zero_()
        down.requires_grad_(True)
        up.requires_grad_(True)
        leaves[name] = (down, up)
    return view, leaves


def folded(leaves: Factors, *, rank: int, alpha: float) -> Factors:
    """Copies of an adapter's leaves as an edit's factors: matrices, the scale `alpha / rank` folded into `up`."""
    return {k: (down.detach().flatten(1).clone(), up.detach().flatten(1) * (alpha / rank)) for k, (down, up) in leaves.items()}
