"""Edit: the difference an unlearner or an attack makes, and the view of a model under it.

An edit's payload is replaced tensors, low-rank factors (`W + up @ down`), or named hooks with JSON arguments. It names the
model it was made on by its fingerprint and refuses any other. The untouched model is never modified: a *view* re-builds the
module tree around the same tensors, except those that the edit replaces.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Generator, Tensor, nn

from vestige import registry
from vestige.base import Condition, Factors, Model, Prediction
from vestige.errors import BadInput, Incompatible

FORMAT = "vestige-edit-1"


@dataclass(frozen=True)
class Hook:
    """An inference-time change: the unlearner or attack that defines it, its JSON arguments, and the tensors that it needs, if any."""

    kind: registry.Kind
    name: str
    arguments: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """How one weight differs from the base: Frobenius norm of the difference, absolute and relative to the weight's."""

    name: str
    norm: float
    relative: float
    share: float  # of its elements that differ


@dataclass(frozen=True)
class Edit:
    """The difference between a model and its edited self.

    Arguments:
        base: Fingerprint of the model it was made on.
        method: Name of the unlearner or attack.
        settings: Its resolved settings, plain data.
        scope: The scope of weights that the method declared.
        tensors: Qualified weight name -> its new value.
        factors: Qualified weight name -> (down (r, in), up (out, r)); the weight gains `up @ down`.
        hooks: Inference-time changes, applied in order.
        notes: What else is worth knowing, e.g. the concept's name and the seed.
    """

    base: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    scope: str = "all"
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    factors: Factors = field(default_factory=dict)
    hooks: tuple[Hook, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)

    def check(self, model: Model) -> None:
        """Refuse a model that this edit was not made on."""
        if self.base != model.fingerprint:
            raise Incompatible(
                f"this {self.method} edit was made on a model with fingerprint {self.base[:12]}; {model.name} has "
                f"{model.fingerprint[:12]}; use the model it was made on"
            )

    def weight(self, name: str, base: Tensor) -> Tensor:
        """The edited value of a weight."""
        value = self.tensors.get(name, base)
        if name in self.factors:
            down, up = (f.to(value) for f in self.factors[name])
            value = value + (up @ down).reshape(value.shape)
        return value

    @property
    def touched(self) -> list[str]:
        return sorted({*self.tensors, *self.factors})

    def save(self, path: Path | str) -> Path:
        """Write one safetensors file, by rename: a file that exists is whole."""
        from safetensors.torch import save_file

        path = Path(path)
        flat = packed(self) | {f"hook:{i}:{k}": v for i, hook in enumerate(self.hooks) for k, v in hook.tensors.items()}
        flat = {k: v.detach().cpu().contiguous() for k, v in flat.items()} or {"empty": torch.zeros(0)}
        meta = {key: getattr(self, key) for key in ("base", "method", "settings", "scope", "notes")}
        meta["hooks"] = [{"kind": hook.kind, "name": hook.name, "arguments": hook.arguments} for hook in self.hooks]
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        try:
            save_file(flat, part, metadata={"format": FORMAT, "edit": json.dumps(meta, sort_keys=True)})
            part.replace(path)
        except OSError as error:
            raise BadInput(f"cannot write {path}: {error.strerror or error}; free some space or choose another place") from error
        finally:
            part.unlink(missing_ok=True)
        return path

    @staticmethod
    def load(path: Path | str) -> Edit:
        """Read a file that `save` wrote; anything else is refused with what was found."""
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        if not path.is_file():
            raise BadInput(f"no edit at {path}; give a file written by `vestige unlearn --out FILE`")
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                # Cloned, because a mapped file's tensors are not aligned, and sums over them would differ in the last bit.
                flat = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise BadInput(f"{path} is not a whole safetensors file ({error}); was its copy or download cut short?") from error
        if header.get("format") != FORMAT:
            raise BadInput(f"{path} is a safetensors file, but no Vestige edit ({len(flat)} tensors, no {FORMAT!r} header)")
        return Edit._unpacked(path, flat, header.get("edit", ""))

    @staticmethod
    def _unpacked(path: Path, flat: Mapping[str, Tensor], text: str) -> Edit:
        try:
            meta = json.loads(text)
            hooks = tuple(Hook(**hook, tensors=_under(f"hook:{i}:", flat)) for i, hook in enumerate(meta.pop("hooks")))
            tensors, factors = unpacked(flat)
            return Edit(**meta, tensors=tensors, factors=factors, hooks=hooks)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{path} has a damaged edit header ({error})") from error

    def to_pipeline(self, pipe: Any) -> Any:
        """A diffusers pipeline like `pipe` with this edit applied; `pipe` stays as it is. Hooks cannot leave Vestige."""
        if self.hooks:
            raise Incompatible(f"{self.method} acts at inference time; a diffusers pipeline cannot hold its hook")
        parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
        fresh = {}
        for name, part in parts.items():
            known = dict(part.named_parameters()) | dict(part.named_buffers())
            values = {k[len(name) + 1 :]: k for k in self.touched if k.startswith(name + ".")}
            fresh[name] = rebuild(part, {short: self.weight(long, known[short].data) for short, long in values.items()})
        return type(pipe)(**{**pipe.components, **fresh})


def packed(edit: Edit) -> dict[str, Tensor]:
    """An edit's tensors and factors in one flat table, as a file holds them, or a hook that evaluates them apart."""
    flat = {f"tensor:{name}": value for name, value in edit.tensors.items()}
    for name, (down, up) in edit.factors.items():
        flat |= {f"down:{name}": down, f"up:{name}": up}
    return flat


def unpacked(flat: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Factors]:
    """The tensors and factors that `packed` put into one table."""
    return _under("tensor:", flat), {name: (down, flat[f"up:{name}"]) for name, down in _under("down:", flat).items()}


def _under(prefix: str, flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in flat.items() if key.startswith(prefix)}


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


def measure(model: Model, edit: Edit) -> list[Change]:
    """How far each touched weight moved from `model`, the largest relative change first."""
    changes = []
    for name in edit.touched:
        before = model.tensor(name).cpu().double()  # not every device has doubles
        delta = edit.weight(name, model.tensor(name)).cpu().double() - before
        norm, size = delta.norm().item(), before.norm().item()
        relative = norm / size if size else (float("inf") if norm else 0.0)
        changes.append(Change(name, norm, relative, (delta != 0).double().mean().item()))
    return sorted(changes, key=lambda c: -c.relative)


def distance(model: Model, changes: Sequence[Change]) -> float | None:
    """Norm of several changes together, relative to that of the weights they touch; None where these are all zero."""
    whole = math.hypot(*(model.tensor(c.name).cpu().double().norm().item() for c in changes))
    return math.hypot(*(c.norm for c in changes)) / whole if whole else None


def combine(model: Model, edits: Sequence[tuple[Edit, float]], *, method: str = "combined") -> Edit:
    """The edit whose change is the weighted sum of the edits' changes; hooks compose in order and cannot be scaled."""
    tensors: dict[str, Tensor] = {}
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
    hooks: list[Hook] = []
    for edit, weight in edits:
        edit.check(model)
        if edit.hooks and weight != 1:
            raise Incompatible(f"{edit.method} acts at inference time; it cannot be scaled by {weight}")
        hooks += edit.hooks
        for name, value in edit.tensors.items():
            base = model.tensor(name)
            tensors[name] = tensors.get(name, base) + weight * (value.to(base) - base)
        for name, (down, up) in edit.factors.items():
            pairs.setdefault(name, []).append((down, weight * up))
    factors = {k: (torch.cat([d for d, _ in v]), torch.cat([u for _, u in v], dim=1)) for k, v in pairs.items()}
    parts = [{"method": e.method, "settings": dict(e.settings), "weight": w} for e, w in edits]
    scopes = sorted({e.scope for e, _ in edits})
    made = Edit(model.fingerprint, method, {"parts": parts}, "+".join(scopes), tensors, factors, tuple(hooks))
    return replace(made, notes=dict(edits[0][0].notes)) if len(edits) == 1 else made


def scale(model: Model, edit: Edit, weight: float) -> Edit:
    """The edit with its change multiplied by `weight`: 0 is the model itself, 1 the edit, above 1 extrapolates."""
    return replace(combine(model, [(edit, weight)], method=edit.method), settings=edit.settings, scope=edit.scope)


def difference(model: Model, other: Model, names: Sequence[str], *, method: str = "difference") -> Edit:
    """The edit that turns `model` into `other`: every named weight whose value differs."""
    changed = {name: other.tensor(name) for name in names if not torch.equal(other.tensor(name), model.tensor(name))}
    return Edit(model.fingerprint, method, {}, "all", changed)


def save_lora(edit: Edit, folder: Path | str) -> Path:
    """Write an edit of low-rank factors in diffusers' LoRA format; `pipeline.load_lora_weights(folder)` reads it."""
    from diffusers import FluxPipeline, StableDiffusionPipeline

    if edit.tensors or edit.hooks or not edit.factors:
        raise Incompatible(f"{edit.method} is no low-rank edit; save it with `Edit.save`")
    layers: dict[str, Tensor] = {}
    for name, (down, up) in edit.factors.items():
        module = name.partition(".")[2].removesuffix(".weight")
        layers |= {f"{module}.lora_A.weight": down.cpu().contiguous(), f"{module}.lora_B.weight": up.cpu().contiguous()}
    denoisers = {name.partition(".")[0] for name in edit.factors}
    if denoisers == {"transformer"}:
        FluxPipeline.save_lora_weights(str(folder), transformer_lora_layers=layers)
    elif denoisers == {"unet"}:
        StableDiffusionPipeline.save_lora_weights(str(folder), unet_lora_layers=layers)
    else:
        raise Incompatible(f"{edit.method} adapts {', '.join(sorted(denoisers))}; LoRA files hold adapters of one denoiser")
    return Path(folder) / "pytorch_lora_weights.safetensors"


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
