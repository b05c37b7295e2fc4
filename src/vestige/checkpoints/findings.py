"""What was found out about a checkpoint or an edit: a value to print, or to decide by."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vestige.diffusion import Model
from vestige.edits.arithmetic import Change, distance

_BLOCK = re.compile(r"^\w+?\.(?:[a-z_]*blocks\.\d+|(?:text_model\.)?encoder\.layers\.\d+|mid_block|[^.]+)")


@dataclass(frozen=True)
class Finding:
    """What a checkpoint is, and what became of every tensor in it.

    Arguments:
        format: Key of `kinds.KINDS`, or "edit".
        made_by: Methods that probably made it.
        tensors: How many it holds that count; `aside` says what else there was.
        matched: Tensors (of a LoRA: modules) that are weights of the model.
        missing: Weights of a denoiser that the file was meant to hold whole.
        unexpected: Tensors that the model has no weight for.
        changed: Weights that differ from the model's; None without a model.
        rounded: Weights equal to the model's at the file's precision, not at the model's.
        relative: Norm of all changes beside the norm of the weights they are made to.
        share: Of the elements of changed weights, how many moved.
        blocks: Block -> relative norm, share of its elements that moved, and number of changed weights.
        refusal: Why it cannot become an edit; "" if it can.
    """

    file: str
    format: str
    what: str
    made_by: tuple[str, ...] = ()
    tensors: int = 0
    dtypes: Mapping[str, int] = field(default_factory=dict)
    matched: int = 0
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    aside: Mapping[str, int] = field(default_factory=dict)
    changed: int | None = None
    rounded: int = 0
    relative: float | None = None
    share: float | None = None
    blocks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    refusal: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def moved_by_block(model: Model, changes: list[Change]) -> dict[str, Any]:
    """Sums over all changes, and by block."""
    groups: dict[str, list[Change]] = {}
    for change in changes:
        match = _BLOCK.match(change.name)
        groups.setdefault(match[0] if match else change.name, []).append(change)
    whole = _summed(model, changes)
    blocks = {block: _summed(model, own) for block, own in sorted(groups.items())}
    return {"changed": sum(c.norm > 0 for c in changes), "relative": whole["relative"], "share": whole["share"], "blocks": blocks}


def _summed(model: Model, changes: list[Change]) -> dict[str, float]:
    counts = [model.tensor(c.name).numel() for c in changes]
    share = sum(c.share * n for c, n in zip(changes, counts, strict=True)) / max(1, sum(counts))
    return {"relative": distance(model, changes) or 0.0, "share": share, "weights": len(changes)}


def lines(finding: Finding) -> Iterator[str]:
    """A finding for reading."""
    row: Callable[[str, Any], str] = lambda label, value: f"{label:<11} {value}"  # noqa: E731
    yield row("format", f"{finding.format}: {finding.what}")
    if finding.made_by:
        yield row("probably", ", ".join(finding.made_by))
    yield row("tensors", f"{finding.tensors} ({', '.join(f'{n} {k}' for k, n in finding.dtypes.items()) or 'see the edit'})")
    yield from (row("set aside", f"{count} of {reason}") for reason, count in finding.aside.items())
    if finding.changed is not None or finding.matched:
        yield row("matched", f"{finding.matched}, missing {len(finding.missing)}, unexpected {len(finding.unexpected)}")
    if finding.changed is not None:
        rounding = f"; {finding.rounded} more differ by rounding alone" if finding.rounded else ""
        yield row("changed", f"{finding.changed} weights{rounding}")
    if finding.relative is not None:
        yield row("moved", f"relative change {finding.relative:.4f}, {finding.share or 0:.1%} of their elements")
    yield from (f"  {v['relative']:8.4f}  {v['share']:6.1%}  {v['weights']:>4}  {k}" for k, v in finding.blocks.items())
    yield from (row("note", remark) for remark in finding.remarks)
    if finding.refusal:
        yield row("refused", finding.refusal)
