"""Pipeline folders of every family, and damage to them, for `fuzz_arguments`."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

from oracles import tiny_classes, tiny_flow, tiny_model, tiny_xl

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 524619\n"
WRONG: tuple[Any, ...] = (None, True, 0, -1, 1, 3, 10**6, 10**9, 2**70, 0.5, float("nan"), "", "x", "gelu", [], [1], [[]], [3, 3, 3], {})
TEXTS = ("{", "[" * 60_000, "3", "null", "\udce9", "<html>")


def built(root: Path) -> list[Path]:
    """Whole pipeline folders of every family."""
    made = {"latent": tiny_model(), "xl": tiny_xl(), "flow": tiny_flow(), "sd3": tiny_flow("sd3"), "classes": tiny_classes()}
    for name, model in made.items():
        if name == "classes":
            model.save(root / name)
        else:
            model.pipeline().save_pretrained(root / name)
    return [root / name for name in made]


def mutated(value: Any, rng: random.Random) -> Any:
    """Plain data with one place changed, taken out or nested."""
    if isinstance(value, dict) and value and rng.random() < 0.95:
        key = rng.choice(list(value))
        if rng.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: mutated(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], mutated(value[at], rng), *value[at + 1 :]]
    if isinstance(value, int) and rng.random() < 0.4:
        return rng.choice((value + 1, value - 1, 2 * value, value // 2, -value))
    return rng.choice(WRONG)


def hurt(folder: Path, others: list[Path], rng: random.Random) -> str:
    """Damage one file or part of a pipeline folder; what was done."""
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    texts = [p for p in found if p.suffix == ".json" and p.stat().st_size < 200_000]
    way = rng.choice(("gone", "part", "cut", "empty", "pointer", "bytes", "folder", "json", "json", "json", "json", "text", "swap", "loop"))
    file = rng.choice(texts if way in ("json", "text") else found)
    if way in ("part", "swap"):
        file = rng.choice([p for p in folder.iterdir() if p.is_dir()] or [file])
        shutil.rmtree(file) if file.is_dir() else file.unlink()
        theirs = [other / file.name for other in others if (other / file.name).is_dir()]
        if way == "swap" and theirs:
            shutil.copytree(rng.choice(theirs), file)
        return f"{way} {file.relative_to(folder)}"
    data = file.read_bytes()
    file.unlink()
    if way == "cut":
        file.write_bytes(data[: rng.randrange(len(data))])
    elif way == "bytes":
        at = rng.randrange(len(data))
        file.write_bytes(data[:at] + rng.randbytes(4) + data[at + 4 :])
    elif way == "json":
        value = json.loads(data)
        for _ in range(rng.choice((1, 1, 2))):
            value = mutated(value, rng)
        file.write_text(json.dumps(value))
    elif way == "folder":
        file.mkdir()
    elif way == "loop":
        file.symlink_to(file.name)
    elif way != "gone":
        text = {"empty": "", "pointer": POINTER}.get(way, rng.choice(TEXTS))
        file.write_text(text, "utf-8", "replace")
    return f"{way} {file.relative_to(folder)}"
