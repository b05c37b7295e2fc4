"""Views of a model: a module tree around the same tensors, adapters on it, hooks around it. The untouched model is never modified."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, final

import torch
from torch import Generator, Tensor, nn

from vestige import registry
from vestige.diffusion.model import Condition, Factors, Model, Prediction
from vestige.errors import Incompatible

if TYPE_CHECKING:
    from vestige.edits import Edit, Hook


def rebuild(module: nn.Module, values: Mapping[str, Tensor], *, leaves: bool = False) -> nn.Module:
    """A module tree around the same tensors, except `values`, which replace parameters by their qualified names.

    With `leaves`, the values become trainable parameters. Tied parameters and shared sub-modules stay tied and shared.
    """
    named, seen = dict(module.named_parameters(remove_duplicate=False)), dict[int, nn.Module]()
    unknown = sorted(set(values) - set(named))
    if unknown:
        raise Incompatible(f"the model has no weight named {unknown[0]!r} ({len(unknown)} unknown in all)")
    fresh: dict[int, nn.Parameter] = {}  # by the parameter that is replaced, under all of its names
    for name, value in values.items():
        if value.shape != named[name].shape:
            raise Incompatible(f"{name} has shape {tuple(named[name].shape)}; the edit brings {tuple(value.shape)}")
        fresh[id(named[name])] = nn.Parameter(value.to(named[name]), requires_grad=leaves)

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
        return new

    return walk(module)


def attach(module: nn.Module, names: Sequence[str], *, rank: int, alpha: float, init: str, rng: Generator) -> tuple[nn.Module, Factors]:
    """A view of `module` with peft's LoRA layers on the named weights, and their leaves by weight name."""
    from peft import LoraConfig, inject_adapter_in_model

    view = rebuild(module, {})
    targets = [name.removesuffix(".weight") for name in names]
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, init_lora_weights=True)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator; the values are drawn again below
        inject_adapter_in_model(config, view)
    leaves: Factors = {}
    for name, target in zip(names, targets, strict=True):
        layer = view.get_submodule(target)
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight  # type: ignore[index,union-attr]
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


def hooked(model: Model, hooks: Sequence[Hook]) -> Model:
    """`model` with its hooks around it, the first one innermost."""
    for hook in hooks:
        payload = {"tensors": hook.tensors} if hook.tensors else {}
        model = registry.find(hook.kind, hook.name).hook(model, **hook.arguments, **payload)
    return model


@final
class Wrapped(Model):
    """A model whose conditioning or prediction a hook replaces; everything else is the inner model's.

    Arguments:
        again: Wraps another model in the same way; needed when an edit or adapter is put on the inner model.
        frozen: Why the wrapped model cannot be trained; empty where it can.
    """

    def __init__(
        self,
        inner: Model,
        again: Callable[[Model], Model],
        *,
        condition: Callable[[Sequence[str]], Condition] | None = None,
        denoise: Callable[[Tensor, Tensor, Condition], Prediction] | None = None,
        identity: str = "",
        frozen: str = "",
    ) -> None:
        self.inner, self._again, self._identity, self._frozen = inner, again, identity, frozen
        self.name, self.latent_shape, self.image_size = inner.name, inner.latent_shape, inner.image_size
        self.distilled = inner.distilled
        self._condition, self._denoise = condition or inner.condition, denoise or inner.denoise

    def condition(self, prompts: Sequence[str]) -> Condition:
        return self._condition(prompts)

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        return self.inner.tokens(prompts)

    def embed(self, tokens: Tensor) -> Condition:
        return self.inner.embed(tokens)

    def tables(self) -> dict[str, slice]:
        return self.inner.tables()

    def denoise(self, x_t: Tensor, t: Tensor, condition: Condition) -> Prediction:
        return self._denoise(x_t, t, condition)

    def grid(self, steps: int) -> Tensor:
        return self.inner.grid(steps)

    def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner.schedule(t)

    def draw_times(self, count: int, rng: Generator) -> Tensor:
        return self.inner.draw_times(count, rng)

    def encode(self, images: Tensor) -> Tensor:
        return self.inner.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        return self.inner.decode(latents)

    def scope(self, name: str) -> list[str]:
        return self.inner.scope(name)

    def tensor(self, name: str) -> Tensor:
        return self.inner.tensor(name)

    def edited(self, edit: Edit) -> Model:
        edit.check(self)
        return hooked(self._again(self.inner.edited(replace(edit, base=self.inner.fingerprint, hooks=()))), edit.hooks)

    def trainable(self, names: Sequence[str]) -> tuple[Model, dict[str, Tensor]]:
        self._thaw()
        view, leaves = self.inner.trainable(names)
        return self._again(view), leaves

    def adapted(self, names: Sequence[str], *, rank: int, alpha: float, init: str, rng: Generator) -> tuple[Model, Factors]:
        self._thaw()
        view, leaves = self.inner.adapted(names, rank=rank, alpha=alpha, init=init, rng=rng)
        return self._again(view), leaves

    def _thaw(self) -> None:
        if self._frozen:
            raise Incompatible(self._frozen)

    @property
    def fingerprint(self) -> str:
        import hashlib

        return hashlib.sha256(f"{self.inner.fingerprint} {self._identity}".encode()).hexdigest()
