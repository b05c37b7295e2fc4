"""Whole audits by two versions of this package, from the command to the page: seconds, calls, and how sharp the answer is.

    python benchmarks/whole.py --before 003a136            three audits by each (half an hour)
    python benchmarks/whole.py --audits uce                one, each version's replicates as it ships

Each version is a work tree of the repository with its own source on the path and the same installed libraries. Audits of one version
follow each other with one cache, so that the first begins with nothing and the others find what audits of the concept share; versions
take turns, one thread each. Processor time is the figure to compare: other work on the machine lengthens it less than the clock. *Calls*
are all that a result rests on, whether made now or before. *log F +-* is half of the width of its interval, on which the number of
replicates, the number of controls and, in later versions, the spread between never-models weigh.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
AUDITS = ("esd", "uce", "dimum")  # unlearners; the first audit finds nothing at hand, the others what audits of the concept share


def tree(revision: str, folder: Path) -> Path:
    """A work tree of the repository at a revision."""
    subprocess.run(["git", "-C", str(HERE), "worktree", "add", "--detach", str(folder), revision], check=True, capture_output=True)
    return folder


def audited(source: Path, asked: list[str], out: Path, cache: Path) -> dict[str, float | str]:
    """One audit by the package in `source`, in a process of its own."""
    command = [sys.executable, "-m", "vestige", "audit", "--model", "wardrobe", "--concept", "sneaker", "--attack", "memora"]
    command += ["--suite", "quick", *asked, "--out", str(out), "--cache", str(cache)]
    environment = {**os.environ, "PYTHONPATH": str(source / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with (out.parent / f"{out.name}.log").open("w") as log:
        subprocess.run(command, check=True, env=environment, stdout=log, stderr=log)
    clock, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    speedup, spent = result["speedup"], result["cost"]
    low, high = (speedup[end] for end in ("low", "high"))
    return {
        "clock": clock,
        "processor": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "calls": float(spent["denoiser_calls"]),
        "F": speedup["value"],
        "half": math.log(high / low) / 2 if low and high else math.nan,
        "verdict": result["verdict"]["kind"],
        "replicates": len(result["provenance"]["seeds"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default="003a136", help="revision that this work tree is compared with")
    parser.add_argument("--seeds", default="", help="replicates of every audit, e.g. 0,1,2; default: as each version has it")
    parser.add_argument("--audits", default=",".join(AUDITS), help="unlearners, in turn")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp())
    earlier = tree(options.before, root / "before")
    sources = {options.before: earlier, "this one": HERE}
    import torch

    print(f"torch {torch.__version__}, one thread of {os.cpu_count()}, {platform.machine()}\n")
    print(
        "| audit | version | replicates | calls | processor, s | clock, s | F | log F +- | verdict |\n|---|---|---|---|---|---|---|---|---|"
    )
    seeds = ["--seeds", options.seeds] if options.seeds else []
    try:
        for i, unlearner in enumerate(options.audits.split(",")):
            what, found = f"{unlearner}, {'controls' if i else 'nothing'} at hand", {}
            for name, source in sources.items():
                label = f"{unlearner}-{name.replace(' ', '-')}"
                found[name] = r = audited(
                    source, ["--unlearner", unlearner, *seeds], root / label, root / f"cache-{name.replace(' ', '-')}"
                )
                numbers = (
                    f"{r['replicates']} | {r['calls']:,.0f} | {r['processor']:.0f} | {r['clock']:.0f} | {r['F']:.2f} | {r['half']:.2f}"
                )
                print(f"| {what} | {name} | {numbers} | {r['verdict']} |", flush=True)
            one, other = (found[name]["processor"] for name in sources)
            print(f"| | ratio | | | {other / one:.2f} | | | | |", flush=True)
    finally:
        subprocess.run(["git", "-C", str(HERE), "worktree", "remove", "--force", str(earlier)], check=False, capture_output=True)
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
