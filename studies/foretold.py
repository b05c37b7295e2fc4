"""Does the spread between never-models that other concepts show foretell a concept's own? One concept left out at a time.

    python studies/foretold.py                                                    those in data/calibration.toml, under suite quick
    python studies/foretold.py --beside strawberry of charms=RESULT.json ...      and of audits on worlds that nothing is fitted to

What is known of a concept before its own never-models are seen (`verdict.spread.fitted`) is laid beside what they show; deviations are
factors of F. A concept that is given by `--beside` is foretold and foretells nothing; its never-models' distances are those of log F of
one edit against each (`against`). With as few degrees of freedom as concepts may count for, p is too large rather than too small.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

import tables
from vestige import data
from vestige.harness import suites
from vestige.harness.calibration import calibration
from vestige.verdict.spread import Matrix, Spread, fitted

HEAD = ("concept", "never-models", "one deviation", "foretold by the rest", "ratio of variances", "p", "within what was foretold")
REPLICATES = 3


def known(version: str, attack: str) -> dict[str, Matrix]:
    """By concept, what each never-model learned in each replicate: areas of its rise, whose differences are those of log F."""
    worlds = data.shipped_table("calibration")
    return {f"{name} of {w}": areas for w in worlds for name, (areas, _) in calibration(w, version, attack).never.items() if len(areas) > 1}


def measured(result: Path, attack: str) -> Matrix:
    """The same of an audit, but for a shift: less log F of its edit against each never-model, the mean over replicates."""
    found = json.loads(result.read_text("utf-8"))["attacks"][attack]
    return [[-math.log(one["speedup"])] for one in found["against"]]


def row(name: str, own: Matrix, before: Spread) -> tuple[str, ...]:
    """What was foretold of a concept's never-models, and what they show, to three replicates."""
    seen = fitted({name: own}, min(REPLICATES, len(own[0])))
    means = np.array([np.mean(each) for each in own])
    d = len(means) - 1
    ratio = seen.variance / before.variance
    tail = float(stats.f.sf(ratio, d, before.freedom))
    bound = float(stats.t.ppf(0.975, before.freedom)) * math.sqrt(before.variance * (1 + 1 / d))
    near = sum(abs(x - float(np.delete(means, i).mean())) <= bound for i, x in enumerate(means))
    how = f"{math.exp(math.sqrt(before.variance)):.2f}, {before.freedom:.0f} degrees of freedom"
    apart = f"a factor of {math.exp(math.sqrt(seen.variance)):.2f}"
    return name, str(len(means)), apart, how, f"{ratio:.2f}", f"{2 * min(tail, 1 - tail):.2f}", f"{near} of {len(means)}"


def compared(fitting: Mapping[str, Matrix], beside: Mapping[str, Matrix]) -> str:
    """A table of every concept, foretold by those of `fitting` but itself."""
    rows = []
    for name, own in {**fitting, **beside}.items():
        rest = {other: rows_ for other, rows_ in fitting.items() if other != name}
        if rest:
            rows.append(row(name, own, fitted(rest, REPLICATES)))
    return tables.table(HEAD, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="quick")
    parser.add_argument("--attack", default="memora")
    parser.add_argument("--beside", nargs="*", default=[], metavar="NAME=RESULT.json", help="a concept that foretells nothing")
    options = parser.parse_args()
    beside = {name: measured(Path(file), options.attack) for name, _, file in (given.partition("=") for given in options.beside)}
    print(compared(known(suites.load(options.suite).version, options.attack), beside))


if __name__ == "__main__":
    main()
