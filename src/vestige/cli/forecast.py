"""What a command would do, said without doing it: its spec, its model calls, and how long they take here."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from vestige.cli.frame import give


def dry_run(
    spec: Mapping[str, Any],
    calls: Mapping[str, int],
    model: str,
    as_json: bool,
    remarks: Sequence[str] = (),
    most: Mapping[str, int] | None = None,
) -> None:
    """Print it, and what there is to say of it.

    Arguments:
        most: Calls if no earlier look decides; None where there is but one.
    """
    each = _seconds_per_call(model)
    seconds, longest = (each * sum(part.values()) for part in (calls, most or calls))
    data = {"spec": spec, "planned_calls": calls, "expected_seconds": round(seconds), **({"remarks": list(remarks)} if remarks else {})}
    data |= {"planned_calls_at_most": most, "expected_seconds_at_most": round(longest)} if most else {}
    text = json.dumps(data["spec"], indent=2)
    parts = ", ".join(f"{k} {v:,}" for k, v in calls.items())
    notes = "".join(f"\nnote: {remark}" for remark in remarks)
    took = f"expected time on this machine, nothing cached: about {_minutes(seconds)} min"
    took += f" if the first look decides, {_minutes(longest)} min if only the last one does" if most else ""
    give(data, as_json, f"{text}\nplanned denoiser calls: {parts}\n{took}{notes}")


def _minutes(seconds: float) -> int:
    return max(1, round(seconds / 60))


def _seconds_per_call(name: str) -> float:
    """Time of one denoiser call in a batch of 64, measured here and now."""
    import torch

    from vestige import models

    model = models.load(name)
    condition = model.condition([""]).repeat(64)
    x = torch.zeros(64, *model.latent_shape).to(condition.text)
    t = model.grid(10)[:1].expand(64).to(x.device)
    with torch.no_grad():
        model.denoise(x, t, condition)
        began = time.monotonic()
        for _ in range(3):
            model.denoise(x, t, condition)
    return (time.monotonic() - began) / 3 / 64
