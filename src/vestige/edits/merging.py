"""Merging of edits that were each made on the original: TIES (Yadav et al., 2023).

    tau_j   = theta_j - theta_0, of which the largest entries by magnitude stay and the rest becomes 0
    gamma_k = sign(sum_j tau_jk)
    tau_k   = mean of the tau_jk that are not 0 and whose sign is gamma_k, 0 where there is none
    theta   = theta_0 + scale * tau

A plain sum or mean is `arithmetic.combine`. There opposite changes wear each other down, and under a mean what one edit alone moves
shrinks with the number of edits; here the majority's changes are averaged among themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vestige.edits.precision import wide
from vestige.errors import BadSetting, Incompatible

if TYPE_CHECKING:
    from vestige.edits.edit import Edit, Weights


def ties(model: Weights, edits: Sequence[Edit], *, share: float = 0.2, scale: float = 1.0) -> Edit:
    """One edit of `model` from several, by the rule above.

    Edits that leave a weight alone count as no change of it. The largest entries are found over all weights of an edit together, as the
    paper does; equal ones stay together, so that the order of weights makes no difference.

    Arguments:
        edits: Made on `model`, by methods that change weights. One edit merges to its own trimmed self.
        share: Share of each edit's changed weights that stays, above 0; 1 trims nothing.
        scale: What the merged change is multiplied by. Public code for continual unlearning scales every edit before trimming, which
            comes to the same.
    """
    if not edits or not 0 < share <= 1:
        raise BadSetting(f"merging takes one or more edits and a share above 0 and at most 1; given {len(edits)} and {share}")
    for edit in edits:
        edit.check(model)
        if edit.hooks:
            raise Incompatible(f"{edit.method} acts at inference time; only edits that change weights are merged")
    names = sorted({name for edit in edits for name in edit.touched})
    changes = [trimmed({n: _change(model, edit, n) for n in edit.touched}, share) for edit in edits]
    tensors = {}
    for name in names:
        base = model.tensor(name)
        held = [change.get(name, torch.zeros(base.shape, dtype=torch.float64)) for change in changes]
        tensors[name] = (base.cpu().double() + scale * disjoint_mean(torch.stack(held))).to(wide(base))
    parts = [{"method": e.method, "settings": dict(e.settings)} for e in edits]
    scope = "+".join(sorted({e.scope for e in edits}))
    notes = {"concept": ", ".join(str(e.notes.get("concept")) for e in edits), "seed": edits[0].notes.get("seed")}
    settings = {"share": share, "scale": scale, "parts": parts}
    return replace(edits[0], method="ties", settings=settings, scope=scope, tensors=tensors, factors={}, notes=notes)


def _change(model: Weights, edit: Edit, name: str) -> Tensor:
    base = model.tensor(name)
    return edit.weight(name, base).cpu().double() - base.cpu().double()


def trimmed(change: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """The change with all but the largest `share` of its entries, over all weights together, set to 0; ties at the edge stay."""
    sizes = torch.cat([value.abs().flatten() for value in change.values()])
    edge = sizes.topk(max(1, round(share * len(sizes)))).values[-1] if len(sizes) else torch.zeros(())
    return {name: torch.where(value.abs() >= edge, value, 0.0) for name, value in change.items()}


def disjoint_mean(changes: Tensor) -> Tensor:
    """The elected sign's mean, (edits, ...) -> (...); where positive and negative changes cancel exactly, nothing is elected: 0."""
    # Sorted, so that the sum, and with it a narrow election, does not depend on the order of edits.
    changes = changes.sort(0).values
    elected = changes.sum(0).sign()
    agree = (changes.sign() == elected) & (changes != 0)
    total: Tensor = torch.where(agree, changes, 0.0).sum(0)
    return total / agree.sum(0).clamp_min(1)
