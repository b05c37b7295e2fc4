"""What a suite's attacks find where nothing is to be found: how never-models differ, and the proxies' error against true twins.

    python tools/calibrate.py --suite quick --out build/panel
    python tools/calibrate.py --suite quick --out build/panel --attacks memora --spread --further build/wardrobe/pipelines
    python tools/calibrate.py --suite quick --out build/panel --world letters --model M --concept FILE.toml --never A,B,C --set ...

Writes the suite's part of `data/calibration.toml`, from which every audit takes how wide its intervals have to be. The first form measures
the embedded world, the second how its never-models differ and no more, with twins that do not ship (`tools/wardrobe/build.sh`), the third a
world of one's own. Audits resume; arms are shared with the truth panel's in the same folder.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from scipy.special import stdtrit  # type: ignore[import-untyped]

from vestige import api, concepts, data, models
from vestige.audit.controls import control
from vestige.cli.options import assigned
from vestige.data import toml
from vestige.harness import suites
from vestige.verdict import Arms
from vestige.verdict.savings import learned

DATA = data.folder() / "calibration.toml"
WORLD = "wardrobe"
HEAD = "# Written by tools/calibrate.py: what the suites' attacks find where nothing is to be found.\n"
Table = dict[str, dict[str, dict[str, Any]]]  # world -> version -> attack -> what was found


def paired(differences: list[float]) -> list[float]:
    """exp of the mean difference, and of the ends of its 95 % t interval."""
    n = len(differences)
    mean = sum(differences) / n
    half = stdtrit(n - 1, 0.975) * math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1) / n)
    return [round(math.exp(v), 3) for v in (mean, mean - half, mean + half)]


def arms_of(result: Mapping[str, Any], attack: str) -> list[Arms]:
    """Every model of an audit as a never arm of its own: the audited one first, then its controls."""
    found, ceiling = result["attacks"][attack], tuple(result["plain"]["original"]["replicates"])
    edited, never = (found["arms"][arm]["replicates"] for arm in ("edited", "never"))
    budgets = tuple(point["budget"] for point in found["arms"]["edited"]["curve"])
    each = [edited, *(never[i : i + len(edited)] for i in range(0, len(never), len(edited)))]
    made = []
    for rows in each:
        curves = tuple(map(tuple, rows))
        made.append(Arms(budgets, curves, curves, tuple(row[0] for row in curves), ceiling))
    return made


def spread(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By attack: what each never-model learned, a row each and in it the replicates."""
    made = {}
    for attack in result["attacks"]:
        areas, ends = zip(*map(learned, arms_of(result, attack)), strict=True)
        rounded = {key: [[round(x, 4) for x in row] for row in rows] for key, rows in (("areas", areas), ("ends", ends))}
        made[attack] = rounded
    return made


def fixed(suite: str) -> tuple[int, ...]:
    """As many replicates as a suite has where it does not stop early."""
    return tuple(range(suites.load(suite, WORLD).replicates))


def never_models(suite: str, out: Path, concept: str, twins: tuple[str, ...], **asked: Any) -> dict[str, dict[str, Any]]:
    """The first twin audited against the others."""
    name = f"{Path(twins[0]).name}-{Path(concept).stem}"
    against = ",".join(f"twin:{twin}" for twin in twins[1:])
    result = api.run_audit(
        out / f"never-{suite}" / name, cache=out / "runs", concept=concept, suite=suite, seeds=fixed(suite), control=against, **asked
    )
    print(f"{name} against {result['control']['name']}: {result['verdict']['reason']}", flush=True)
    return {attack: {"models": list(twins), **rows} for attack, rows in spread(result).items()}


def proxies(suite: str, out: Path, known: Mapping[str, tuple[str, ...]]) -> tuple[dict[str, list[float]], dict[str, float]]:
    """By concept with twins: F against the proxy over F against them, and the difference in reach; the same edit and attack."""
    speed, further = {}, {}
    for concept in known:
        found = {}
        for asked in ("twin", "proxy"):
            folder = out / f"proxy-{suite}" / f"{concept}-{asked}"
            result = api.run_audit(
                folder,
                cache=out / "runs",
                concept=concept,
                unlearner="uce",
                suite=suite,
                seeds=fixed(suite),
                attacks=("memora",),
                control=asked,
            )
            found[asked] = result["attacks"]["memora"]
        logs = (found[asked]["log_speedups"] for asked in ("proxy", "twin"))
        speed[concept] = paired([p - t for p, t in zip(*logs, strict=True)])
        further[concept] = round(found["proxy"]["reach"]["value"] - found["twin"]["reach"]["value"], 4)
        print(f"{concept}: F against the proxy is {speed[concept][0]} times F against the twins", flush=True)
    return speed, further


def further(folder: Path, concept: str, shipped: tuple[str, ...]) -> tuple[str, ...]:
    """Twins of a concept that were trained beside those that ship."""
    return tuple(str(path) for path in sorted(folder.glob(f"{WORLD}-never-{concept}-*")) if path.name not in shipped)


def merged(known: Table, world: str, version: str, found: Mapping[str, Mapping[str, Any]]) -> Table:
    """What was known, with what was found now by attack and by what it is ("never", "proxy", "further")."""
    here = known.setdefault(world, {}).setdefault(version, {})
    for attack, parts in found.items():
        for part, rows in parts.items():
            here.setdefault(attack, {}).setdefault(part, {}).update(rows)
    return known


def written(known: Table) -> str:
    """The table as TOML."""
    lines = [HEAD]
    for world, versions in known.items():
        for version, attacks in versions.items():
            for attack, found in attacks.items():
                where = f"{world}.{version}.{attack}"
                flat = [
                    f"{part}.{concept} = {x}" for part in ("proxy", "further", "distilled") for concept, x in found.get(part, {}).items()
                ]
                lines += [f"[{where}]", *flat, ""] if flat else []
                for concept, rows in found.get("never", {}).items():
                    lines.append(f"[{where}.never.{concept}]")
                    lines.append("models = [" + ", ".join(f'"{Path(name).name}"' for name in rows["models"]) + "]")
                    for part in ("areas", "ends"):
                        lines += [f"{part} = [", *(f"    {list(row)}," for row in rows[part]), "]"]
                    lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="quick")
    parser.add_argument("--out", type=Path, default=Path("build/panel"))
    parser.add_argument("--world", default=WORLD, help="name under which it is kept")
    parser.add_argument("--model")
    parser.add_argument("--concept")
    parser.add_argument("--never", default="", help="folders of models that never drew it, with commas between")
    parser.add_argument("--attacks", default="", help="some of the suite's, with commas between; default all")
    parser.add_argument("--further", type=Path, help="folder of the embedded world's twins that do not ship")
    parser.add_argument("--spread", action="store_true", help="never-models alone, no proxies")
    parser.add_argument("--only", default="", help="concepts, with commas between; default all that have a twin of their own")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="METHOD.SETTING=VALUE")
    options = parser.parse_args()
    known, version = toml(DATA.read_text("utf-8")), suites.load(options.suite, WORLD).version
    found: dict[str, dict[str, Any]] = {}
    attacks = tuple(filter(None, options.attacks.split(",")))
    if options.model:
        twins = tuple(options.never.split(","))
        own = {"model": options.model, "edit": twins[0], "settings": assigned(options.settings), "attacks": attacks}
        by_attack = never_models(options.suite, options.out, options.concept, twins, **own)
        name = concepts.load(options.concept).name
        found = {attack: {"never": {name: rows}} for attack, rows in by_attack.items()}
    else:
        only = tuple(filter(None, options.only.split(","))) or concepts.names(WORLD)
        twinned = {c: models.twins(WORLD, c) for c in only}
        several = {c: control("auto", WORLD, concepts.load(c, WORLD)).names for c, twins in twinned.items() if twins}
        known_twins = {c: names for c, names in several.items() if len(models.card(names[0]).never_drew) == 1}
        if lacking := sorted(set(only) - set(known_twins)) if options.only else []:
            sys.exit(f"no twin of its own: {', '.join(lacking)}")
        if options.further:
            known_twins = {c: names + further(options.further, c, names) for c, names in known_twins.items()}
            if not any(Path(name).parent == options.further for names in known_twins.values() for name in names):
                sys.exit(f"{options.further} holds no further twin of {', '.join(known_twins)}: bash tools/wardrobe/build.sh TWIN ...")
        for concept, twins in known_twins.items():
            if len(twins) > 1:
                for attack, rows in never_models(options.suite, options.out, concept, twins, model=twins[0], attacks=attacks).items():
                    found.setdefault(attack, {}).setdefault("never", {})[concept] = rows
        if not options.spread:
            proxy, beyond = proxies(options.suite, options.out, known_twins)
            found.setdefault("memora", {}).update(proxy=proxy, further=beyond)
    DATA.write_text(written(merged(known, options.world, version, found)))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    main()
