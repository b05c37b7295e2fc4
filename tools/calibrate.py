"""What a suite's attacks find where nothing is to be found: the null from two twins, and the proxies' error against true twins.

    python tools/calibrate.py --suite quick --out build/panel

Writes the suite's part of `data/calibration.toml`, from which audits take their erased line and what they say of a proxy.
Audits resume; arms are shared with the truth panel's in the same folder.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any

import torch
from scipy.special import stdtrit  # type: ignore[import-untyped]

from vestige import api, concepts, data, models
from vestige.data import toml
from vestige.harness import suites

DATA = data.folder() / "calibration.toml"
WORLD = "wardrobe"
HEAD = "# Written by tools/calibrate.py: what the suites' attacks find where nothing is to be found.\n"


def paired(differences: list[float]) -> list[float]:
    """exp of the mean difference, and of the ends of its 95 % t interval."""
    n = len(differences)
    mean = sum(differences) / n
    half = stdtrit(n - 1, 0.975) * math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1) / n)
    return [round(math.exp(v), 3) for v in (mean, mean - half, mean + half)]


def of_one(twins: list[str]) -> list[str]:
    """The twins that miss one concept only."""
    return [name for name in twins if len(models.card(name).never_drew) == 1]


def log_speedups(result: dict[str, Any], attack: str) -> list[float]:
    return list(result["attacks"][attack]["log_speedups"])


def null(suite: str, out: Path) -> dict[str, list[float]]:
    """By attack: log F of each of sneaker's two twins against the other, one value a replicate."""
    twins = of_one(models.twins(WORLD, "sneaker"))
    made: dict[str, list[float]] = {}
    for name in twins:
        result = api.run_audit(out / f"null-{suite}" / name, cache=out / "runs", model=name, concept="sneaker", suite=suite)
        print(f"{name} against {result['control']['name']}: {result['verdict']['reason']}", flush=True)
        for attack in result["attacks"]:
            made.setdefault(attack, []).extend(round(x, 4) for x in log_speedups(result, attack))
    return made


def proxies(suite: str, out: Path) -> dict[str, list[float]]:
    """By concept with a twin: F against the proxy over F against the twin, the same edit and attack."""
    made = {}
    for concept in concepts.names(WORLD):
        if not of_one(models.twins(WORLD, concept)):
            continue
        logs = {}
        for control in ("twin", "proxy"):
            folder = out / f"proxy-{suite}" / f"{concept}-{control}"
            result = api.run_audit(
                folder, cache=out / "runs", concept=concept, unlearner="uce", suite=suite, attacks=("memora",), control=control
            )
            logs[control] = log_speedups(result, "memora")
        made[concept] = paired([p - t for p, t in zip(logs["proxy"], logs["twin"], strict=True)])
        print(f"{concept}: F against the proxy is {made[concept][0]} times F against the twin", flush=True)
    return made


def write(version: str, null_: dict[str, list[float]], proxy: dict[str, list[float]]) -> None:
    known = toml(DATA.read_text("utf-8"))
    known.setdefault(WORLD, {})[version] = {a: {"null": v, **({"proxy": proxy} if a == "memora" else {})} for a, v in null_.items()}
    lines = [HEAD]
    for world, versions in known.items():
        for name, attacks in versions.items():
            for attack, found in attacks.items():
                lines.append(f"[{world}.{name}.{attack}]\nnull = {found['null']}")
                lines += [f"proxy.{concept} = {list(x)}" for concept, x in found.get("proxy", {}).items()]
                lines.append("")
    DATA.write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="quick")
    parser.add_argument("--out", type=Path, default=Path("build/panel"))
    options = parser.parse_args()
    write(suites.load(options.suite, WORLD).version, null(options.suite, options.out), proxies(options.suite, options.out))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    main()
