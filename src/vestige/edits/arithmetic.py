"""Arithmetic of edits: how far they move a model, their weighted sums, and the difference of two models."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vestige.edits.edit import Edit, Hook, Weights, flattened
from vestige.edits.precision import low, wide
from vestige.errors import Incompatible


@dataclass(frozen=True)
class Change:
    """How one weight differs from the base: Frobenius norm of the difference, absolute and relative to the weight's."""

    name: str
    norm: float
    relative: float
    share: float  # of its elements that differ


def measure(model: Weights, edit: Edit) -> list[Change]:
    """How far each touched weight moved from `model`, the largest relative change first: as the edited model has it, so rounded."""
    return moved(model, {name: _taken(edit, name, model.tensor(name)) for name in edit.touched})


def _taken(edit: Edit, name: str, base: Tensor) -> Tensor:
    value = edit.weight(name, base)
    return value.to(base.dtype) if low(base) and name not in edit.factors else value


def moved(model: Weights, values: Mapping[str, Tensor]) -> list[Change]:
    """How far weights with these values are from `model`'s, the largest relative change first."""
    changes = []
    for name, value in values.items():
        before = model.tensor(name).cpu().double()  # not every device has doubles
        delta = value.cpu().double() - before
        norm, size = delta.norm().item(), before.norm().item()
        relative = norm / size if size else (float("inf") if norm else 0.0)
        changes.append(Change(name, norm, relative, (delta != 0).double().mean().item()))
    return sorted(changes, key=lambda c: -c.relative)


def distance(model: Weights, changes: Sequence[Change]) -> float | None:
    """Norm of several changes together, relative to that of the weights they touch; None where these are all zero."""
    whole = math.hypot(*(model.tensor(c.name).cpu().double().norm().item() for c in changes))
    return math.hypot(*(c.norm for c in changes)) / whole if whole else None


def combine(model: Weights, edits: Sequence[tuple[Edit, float]], *, method: str = "combined") -> Edit:
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
            base = wide(model.tensor(name))
            tensors[name] = tensors.get(name, base) + weight * (value.to(base) - base)
        for name, (down, up) in edit.factors.items():
            pairs.setdefault(name, []).append((down, weight * up))
    factors = {k: (torch.cat([d for d, _ in v]), torch.cat([u for _, u in v], dim=1)) for k, v in pairs.items()}
    parts = [{"method": e.method, "settings": dict(e.settings), "weight": w} for e, w in edits]
    scopes = sorted({e.scope for e, _ in edits})
    made = Edit(model.fingerprint, method, {"parts": parts}, "+".join(scopes), tensors, factors, tuple(hooks))
    return replace(made, notes=dict(edits[0][0].notes)) if len(edits) == 1 else made


def scale(model: Weights, edit: Edit, weight: float) -> Edit:
    """The edit with its change multiplied by `weight`: 0 is the model itself, 1 the edit, above 1 extrapolates."""
    return replace(combine(model, [(edit, weight)], method=edit.method), settings=edit.settings, scope=edit.scope)


def stacked(under: Edit, view: Weights, adapters: Sequence[tuple[Edit, float]]) -> Edit:
    """One edit of the model below: `under`, and the weighted sum of edits of the model that it makes. Their order makes no difference.

    Arguments:
        view: The model with `under`, on which the others were made.
    Raises:
        Incompatible: One was made on another model, or acts at inference time, where it cannot be added up.
    """
    for edit, _ in adapters:
        if edit.hooks:
            raise Incompatible(f"{edit.method} acts at inference time; only changes of weights are stacked on an edit")
    whole = combine(view, sorted((pair for pair in adapters if pair[1]), key=lambda pair: (_mark(pair[0]), pair[1])))
    tensors = {**under.tensors, **whole.tensors}
    factors = {name: pair for name, pair in under.factors.items() if name not in whole.tensors}  # what replaces a weight holds them
    for name, (down, up) in whole.factors.items():
        low_, high = factors.get(name, (down[:0], up[:, :0]))
        factors[name] = (torch.cat([low_.to(down), down]), torch.cat([high.to(up), up], dim=1))
    parts = {"under": {"method": under.method, "settings": dict(under.settings)}, **whole.settings}
    scope = "+".join(sorted({under.scope, *(edit.scope for edit, _ in adapters)}))
    names = list(dict.fromkeys(str(edit.notes["concept"]) for edit, _ in adapters if "concept" in edit.notes))
    notes = {"concept": "+".join(sorted(names))} if names else {}
    return Edit(under.base, "stacked", parts, scope, tensors, factors, under.hooks, notes)


def _mark(edit: Edit) -> str:
    """A hash of what an edit changes."""
    whole = hashlib.sha256(edit.method.encode())
    for name, value in sorted(flattened(edit).items()):
        whole.update(name.encode() + value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def truncated(edit: Edit, rank: int) -> Edit:
    """The nearest adapter of a smaller rank, weight by weight: the largest singular values of `up @ down` (Eckart and Young, 1936).

    Both sides are first brought to orthonormal bases, so that what is decomposed is as small as the adapter's own rank.

    Raises:
        Incompatible: An edit that is no adapter.
    """
    if edit.tensors or edit.hooks or not edit.factors:
        raise Incompatible(f"only adapters are brought to a smaller rank; this {edit.method} edit holds other changes, or none")
    factors = {}
    for name, (down, up) in edit.factors.items():
        left, upper = torch.linalg.qr(up.double())
        right, lower = torch.linalg.qr(down.double().T)
        u, s, v = torch.linalg.svd(upper @ lower.T, full_matrices=False)
        factors[name] = ((right @ v[:rank].T).T.contiguous().to(down), (left @ (u[:, :rank] * s[:rank])).to(up))
    return replace(edit, settings={**edit.settings, "rank": rank}, factors=factors)


def difference(model: Weights, other: Weights, names: Sequence[str], *, method: str = "difference") -> Edit:
    """The edit that turns `model` into `other`: every named weight whose value differs."""
    changed = {name: other.tensor(name) for name in names if not torch.equal(wide(other.tensor(name)), wide(model.tensor(name)))}
    return Edit(model.fingerprint, method, {}, "all", changed)


def describe(model: Weights, edit: Edit) -> dict[str, Any]:
    """What an edit is and how far it moved the model, plain data."""
    changes = measure(model, edit)
    return {
        "method": edit.method,
        "settings": dict(edit.settings),
        "scope": edit.scope,
        "changed_tensors": sum(c.norm > 0 for c in changes),
        "changed_weights": int(sum(c.share * model.tensor(c.name).numel() for c in changes)),
        "relative_norm": distance(model, changes),
        "hooks": [hook.name for hook in edit.hooks],
        "seed": edit.notes.get("seed"),
        "notes": noted({key: value for key, value in edit.notes.items() if key not in ("concept", "seed")}),
    }


def noted(notes: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """What a method noted while it trained (losses, calibrated weights, since when a loss stands still), nested names joined."""
    flat: dict[str, Any] = {}
    for name, value in notes.items():
        flat |= noted(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
