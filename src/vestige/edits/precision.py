"""Weights of low precision: leaves that train in float32 behind a cast, and low-rank factors that stay beside the weight.

    a leaf:     W = cast(w)                              w in float32
    factors:    y <- cast(W x + up (down x))             both products in float32

bfloat16 keeps 8 significant bits: a step smaller than 1 / 512 of a weight rounds away, wherever the weight itself takes it. A leaf adds
its steps up in float32 (Micikevicius et al., 2018), and factors never meet the weight's rounding at all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LOW = (torch.bfloat16, torch.float16)
Through = Callable[[Tensor], Tensor]


def low(value: Tensor) -> bool:
    """Whether a tensor has fewer bits than arithmetic on small changes needs."""
    return value.dtype in LOW


def wide(value: Tensor) -> Tensor:
    """In float32 where it is of lower precision, else the tensor itself."""
    return value.float() if low(value) else value


def exact_in(values: Iterable[Tensor]) -> tuple[torch.dtype, ...]:
    """The low precisions that hold every one of these tensors exactly, whatever holds them now."""
    left, none = list(LOW), True
    for value in values:
        none, left = False, [kind for kind in left if torch.equal(value, value.to(kind).to(value.dtype))]
        if not left:
            break
    return () if none else tuple(left)


def roundings(one: Tensor, other: Tensor, ones: Iterable[torch.dtype], others: Iterable[torch.dtype]) -> bool:
    """Whether two tensors may be one, at two precisions: either is the other rounded, or both are roundings of a third.

    Arguments:
        ones, others: Precisions in which each is exact, below float32.
    """
    ones, others = tuple(ones), tuple(others)
    pairs = ((one, other, ones), (other, one, others))
    if any(torch.equal(a.double(), b.to(kind).double()) for a, b, kinds in pairs for kind in kinds):
        return True
    apart = (one.double() - other.double()).abs()
    return any(bool((apart <= _half_step(one, a) + _half_step(other, b)).all()) for a in ones for b in others if a != b)


def _half_step(value: Tensor, kind: torch.dtype) -> Tensor:
    """How far a number may lie from the one that it was rounded to, in float64."""
    limits, x = torch.finfo(kind), value.double()
    power = torch.ldexp((x != 0).double(), torch.frexp(x)[1] - 1)  # the power of 2 at or below it
    return power.clamp_min(limits.tiny) * limits.eps / 2


def weight(module: nn.Module, name: str) -> Tensor:
    """A weight by its qualified name, as the module computes with it: in float32 where factors lie beside it.

    Errors:
        AttributeError, where there is none.
    """
    owner, short = _owner(module, name)
    found: Tensor = getattr(owner, short) if short in _held(owner) else owner.get_parameter(short)
    pair = _factors(owner) if short == "weight" else None
    if pair is None:
        return found
    down, up = (factor.to(found.device) for factor in pair)
    return found.float() + (up @ down).reshape(found.shape)


def leaf(module: nn.Module, name: str) -> Tensor:
    """What is trained of a weight: its float32 leaf, or the parameter itself."""
    owner, short = _owner(module, name)
    return _held(owner)[short][0] if short in _held(owner) else owner.get_parameter(short)


def leaves(module: nn.Module) -> dict[str, Tensor]:
    """Everything of a module that requires gradients, by qualified name."""
    found: dict[str, Tensor] = {name: p for name, p in module.named_parameters() if p.requires_grad}
    for name, part in module.named_modules():
        found |= {f"{name}.{short}" if name else short: held for short, (held, _) in _held(part).items()}
    return found


def read_through(module: nn.Module, name: str, through: Through) -> None:
    """Let a module's trained weight be read as a function of its leaf, computed before any cast; for a view, whose modules are its own."""
    owner, short = _owner(module, name)
    hold(owner, {short: (leaf(module, name), through)})


def beside(module: nn.Module, name: str) -> bool:
    """Whether factors of this weight stay beside it: a matrix, or a plain convolution's kernel, of low precision."""
    owner, short = _owner(module, name)
    plain = isinstance(owner, nn.Conv2d) and owner.groups == 1 and owner.padding_mode == "zeros"
    return short == "weight" and (isinstance(owner, nn.Linear) or plain) and low(owner.get_parameter(short))


def hold(owner: nn.Module, held: dict[str, tuple[Tensor, Through | None]]) -> None:
    """Put leaves before a module's parameters, which stay what they are: the module is as precise as it says."""
    if held:
        _become(owner, _Reading)
        vars(owner)["_held"] = {**_held(owner), **held}


def put(owner: nn.Module, down: Tensor, up: Tensor) -> None:
    """Put factors (r, in), (out, r) beside a module's weight, added to those that are there."""
    before, own = _factors(owner), owner.get_parameter("weight")
    down, up = (f.detach().to(own.device, torch.float32) for f in (down, up))
    _become(owner, _Adding)
    vars(owner)["_factors"] = (down, up) if before is None else (torch.cat([before[0], down]), torch.cat([before[1], up], 1))


def kept(new: nn.Module, old: nn.Module, replaced: set[str]) -> None:
    """Make a copy of a module hold what the module held, but for the parameters that were replaced in it."""
    held, pair = {k: v for k, v in _held(old).items() if k not in replaced}, None if "weight" in replaced else _factors(old)
    for name in ("_held", "_factors"):
        vars(new).pop(name, None)
    new.__class__ = getattr(type(old), "_plain", type(old))
    hold(new, held)
    if pair is not None:
        put(new, *pair)


class _Reading:
    """Reads the leaves that are held before parameters."""

    def __getattr__(self, name: str) -> Any:
        held = vars(self).get("_held", {})
        if name not in held:
            return super().__getattr__(name)  # type: ignore[misc]
        value, through = held[name]
        return (value if through is None else through(value)).to(vars(self)["_parameters"][name])


class _Adding:
    """Adds what the factors beside its weight make of the input."""

    def forward(self, x: Tensor, *given: Any, **named: Any) -> Tensor:
        out: Tensor = super().forward(x, *given, **named)  # type: ignore[misc]
        down, up = (factor.to(x.device) for factor in vars(self)["_factors"])
        x = x.to(down)
        if isinstance(self, nn.Conv2d):
            kernel = down.reshape(len(down), self.in_channels, *self.kernel_size)
            more = F.conv2d(F.conv2d(x, kernel, None, self.stride, self.padding, self.dilation), up[:, :, None, None])
        else:
            more = F.linear(F.linear(x, down), up)
        return (out + more).to(out.dtype)


@functools.cache
def _kind(kind: type, trait: type) -> type:
    """The class with a trait, under its own name: libraries look at names."""
    return type(kind.__name__, (trait, kind), {"_plain": getattr(kind, "_plain", kind), "__module__": kind.__module__})


def _become(owner: nn.Module, trait: type) -> None:
    if not isinstance(owner, trait):
        kind: Any = type(owner)
        owner.__class__ = _kind(kind, trait)


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, short = name.rpartition(".")
    return module.get_submodule(path), short


def _held(owner: nn.Module) -> dict[str, tuple[Tensor, Through | None]]:
    found: dict[str, tuple[Tensor, Through | None]] = vars(owner).get("_held", {})
    return found


def _factors(owner: nn.Module) -> tuple[Tensor, Tensor] | None:
    found: tuple[Tensor, Tensor] | None = vars(owner).get("_factors")
    return found
