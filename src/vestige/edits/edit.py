"""Edit: the difference an unlearner or an attack makes, and the file that holds it.

An edit's payload is replaced tensors, low-rank factors (`W + up @ down`), or named hooks with JSON arguments. It names the
model it was made on by its fingerprint and refuses any other. A model puts it on itself; `arithmetic` adds edits up.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vestige import files, registry
from vestige.edits.precision import wide
from vestige.edits.surgery import Factors, rebuild
from vestige.errors import BadInput, Incompatible

FORMAT = "vestige-edit-1"


class Weights(Protocol):
    """What an edit is made on: weights by name, and a hash that tells them from all others."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def earlier(self) -> tuple[str, ...]:
        """What its fingerprint was when it told less."""

    def tensor(self, name: str) -> Tensor:
        """One weight by its qualified name."""


@dataclass(frozen=True)
class Hook:
    """An inference-time change: the unlearner or attack that defines it, its JSON arguments, and the tensors that it needs, if any."""

    kind: registry.Kind
    name: str
    arguments: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Edit:
    """The difference between a model and its edited self.

    Arguments:
        base: Fingerprint of the model it was made on.
        method: Name of the unlearner or attack.
        settings: Its resolved settings, plain data.
        scope: The scope of weights that the method declared.
        tensors: Qualified weight name -> its new value; what was trained on a weight of lower precision in float32, which the edited
            model rounds to the weight's precision.
        factors: Qualified weight name -> (down (r, in), up (out, r)); the weight gains `up @ down`. Beside a matrix or kernel of low
            precision they stay factors.
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

    def check(self, model: Weights) -> None:
        """Refuse a model that this edit was not made on; one whose weights an earlier fingerprint names is accepted, see `remark`."""
        if self.base != model.fingerprint and self.base not in model.earlier:
            raise Incompatible(
                f"this {self.method} edit was made on a model with fingerprint {self.base[:12]}; {model.name} has "
                f"{model.fingerprint[:12]}; use the model it was made on"
            )

    def remark(self, model: Weights) -> str:
        """What a base that is named by an earlier fingerprint leaves open; "" where today's names it."""
        if self.base == model.fingerprint:
            return ""
        return (
            f"this {self.method} edit names its base by an earlier identity, which knew weights and noise schedule alone: the weights "
            f"are those of {model.name}; that its tokenizer and configuration are still the same cannot be told"
        )

    def weight(self, name: str, base: Tensor) -> Tensor:
        """The edited value of a weight; in float32 where it is of lower precision and gains factors."""
        value = self.tensors.get(name, base)
        if name in self.factors:
            value = wide(value)
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
        flat = flattened(self) | {f"hook:{i}:{k}": v for i, hook in enumerate(self.hooks) for k, v in hook.tensors.items()}
        flat = {k: v.detach().cpu().contiguous() for k, v in flat.items()} or {"empty": torch.zeros(0)}
        meta = {key: getattr(self, key) for key in ("base", "method", "settings", "scope", "notes")}
        meta["hooks"] = [{"kind": hook.kind, "name": hook.name, "arguments": hook.arguments} for hook in self.hooks]
        with files.written(path) as part:
            save_file(flat, part, metadata={"format": FORMAT, "edit": json.dumps(meta, sort_keys=True)})
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
            tensors, factors = unflattened(flat)
            return Edit(**meta, tensors=tensors, factors=factors, hooks=hooks)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{path} has a damaged edit header ({error})") from error

    def to_pipeline(self, pipe: Any) -> Any:
        """A diffusers pipeline like `pipe` with this edit applied; `pipe` stays as it is. Hooks cannot leave Vestige.

        That `pipe` holds the model that this edit was made of is not looked at; `check` is for that.
        """
        if self.hooks:
            raise Incompatible(f"{self.method} acts at inference time; a diffusers pipeline cannot hold its hook")
        parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
        fresh = {}
        for name, part in parts.items():
            known = dict(part.named_parameters()) | dict(part.named_buffers())
            values = {k[len(name) + 1 :]: k for k in self.touched if k.startswith(name + ".")}
            fresh[name] = rebuild(part, {short: self.weight(long, known[short].data) for short, long in values.items()})
        return type(pipe)(**{**_told(pipe), **pipe.components, **fresh})


def _told(pipe: Any) -> dict[str, Any]:
    """What a pipeline was made with beside its components, e.g. that SDXL's empty prompt is encoded and not all zeros."""
    takes = inspect.signature(type(pipe).__init__).parameters
    told = {name: value for name, value in pipe.config.items() if name in takes and name not in pipe.components}
    return {**told, **({"add_watermarker": pipe.watermark is not None} if "add_watermarker" in takes else {})}


def flattened(edit: Edit) -> dict[str, Tensor]:
    """An edit's tensors and factors in one flat table, as a file holds them, or a hook that evaluates them apart."""
    flat = {f"tensor:{name}": value for name, value in edit.tensors.items()}
    for name, (down, up) in edit.factors.items():
        flat |= {f"down:{name}": down, f"up:{name}": up}
    return flat


def unflattened(flat: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Factors]:
    """The tensors and factors that `packed` put into one table."""
    return _under("tensor:", flat), {name: (down, flat[f"up:{name}"]) for name, down in _under("down:", flat).items()}


def _under(prefix: str, flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in flat.items() if key.startswith(prefix)}
