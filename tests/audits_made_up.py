"""Finished audits that were never run: folders with a result, a specification and strips, of curves that are known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from pages import rate, strip
from vestige.verdict import Arms, measure

BUDGETS = (0, 2, 5, 12, 30, 80)


def curve(speed: float, noise: float = 0.0, plain: float = 0.0) -> list[float]:
    """A rate that rises to 0.9, `speed` times as fast as one that is half way there after 40 steps."""
    return [min(1.0, max(0.0, plain + (0.9 - plain) * b / (b + 40 / speed) + noise * math.log1p(b) / 4)) for b in BUDGETS]


def made(
    speed: float = 3.0,
    *,
    method: str = "esd",
    concept: str = "sneaker",
    edit: int = 0,
    seeds: tuple[int, ...] = (0, 1, 2),
    mark: str = "",
    plain: float = 0.0,
    neighbours: float = 0.9,
    noise: float = 0.02,
    **changes: Any,
) -> dict[str, Any]:
    """A result; edit and replicates shift its curves a little, the never-model's by the replicate alone."""
    shift = np.random.default_rng([edit, *method.encode()]).normal(0, noise)
    apart = [float(np.random.default_rng([1000 + seed]).normal(0, noise)) for seed in seeds]
    edited = [curve(speed, shift + x, plain) for x in apart]
    never = [curve(1.0, x) for x in apart]
    top = tuple(0.95 for _ in seeds)
    found = measure(Arms(BUDGETS, tuple(map(tuple, edited)), tuple(map(tuple, never)), tuple(r[0] for r in never), top, pictures=48))
    told = {key: getattr(found, key).as_dict() for key in ("speedup", "savings", "reach")}
    arms = {
        arm: {"replicates": rows, "curve": [{"budget": b, "score": float(np.mean([r[i] for r in rows]))} for i, b in enumerate(BUDGETS)]}
        for arm, rows in (("edited", edited), ("never", never))
    }
    attack = {**told, "censored": found.censored, "log_speedups": list(found.log_speedups), "settings": {"rank": 4}, "spread": None}
    attack |= {"references": 8, "trains": True, "arms": arms, "utility": {"neighbours": rate(0.7), "unrelated": rate(0.8)}}
    count = 48 * len(seeds)
    start = {"value": plain, "low": max(0.0, plain - 0.02), "high": plain + 0.02, "count": count, "replicates": [plain for _ in seeds]}
    result: dict[str, Any] = {
        "schema": "vestige-audit-1",
        "suite": "quick-5",
        "model": "wardrobe",
        "concept": concept,
        "sensitive": False,
        "edit": {"method": method, "settings": {"lr": 1e-4}},
        "verdict": {"kind": "short-term" if speed > 3 else "inconclusive", "reason": "as it is", "flags": [], "between": None},
        **told,
        "headline": "memora",
        "control": {"kind": "twin", "name": "t", "names": ["t"]},
        "plain": {
            "original": {"value": 0.95, "low": 0.9, "high": 0.98, "count": count, "replicates": list(top)},
            "never": {"value": 0.0, "low": 0.0, "high": 0.03, "count": count, "replicates": [0.0 for _ in seeds]},
            "edited": start,
            "recall": {"value": plain / 0.95, "low": 0.0, "high": plain / 0.95 + 0.02},
        },
        "attacks": {"memora": attack},
        "utility": {
            "neighbours": {"before": rate(0.92), "after": rate(neighbours), "after_attack": rate(0.7)},
            "unrelated": {"before": rate(0.95), "after": rate(0.94), "after_attack": rate(0.8)},
        },
        "lines": {"surface": 0.2, "savings_long": 1 / 3, "savings_short": 2 / 3, "reach_long": 0.2, "reach_short": 0.5, "replicates": 3},
        "detector": {"verification": {"name": "j", "version": "1", "weights_hash": "w", "threshold": 0.5}},
        "protocol": {"steps": 20, "guidance": 3.0, "pictures": 48, "budgets": list(BUDGETS), "held_out_prompts": [f"a {concept}"]},
        "cost": {"seconds": 60.0, "denoiser_calls": 1000, "stages": {"unlearn": 12.5}},
        "provenance": {
            "vestige": "0.1.0",
            "torch": "2",
            "model_hash": "m",
            "edited_hash": mark or f"{method}-{concept}-{edit}",
            "seeds": list(seeds),
            "edit_seed": edit,
        },
        "strips": [
            {"title": "original", "budget": None, "file": "strips/original.png", "caption": "a shoe"},
            {"title": "edited", "budget": None, "file": "strips/edited.png", "caption": "a shoe"},
            {"title": "after recovery", "budget": 80, "file": "strips/after.png", "caption": "a shoe"},
            {"title": "never knew", "budget": None, "file": "strips/never.png", "caption": "a shoe"},
        ],
    }
    return {**result, **changes}


def laid(folder: Path, result: dict[str, Any], *, form: str = "3", pictures: bool = False) -> Path:
    """A result as the folder of an audit."""
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "spec.json").write_text(json.dumps({"verdict": form, "concept": {"name": result["concept"]}}))
    for row in result["strips"] if pictures else ():
        strip(folder / row["file"], [row["title"] != "edited"] * 4)
    return folder
