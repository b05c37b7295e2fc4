"""Continual unlearning's comparison: one sequence of requests under many methods, protocols and guards. Resumable.

    python tools/continual_panel.py --out build/continual --dry-run
    python tools/continual_panel.py --out build/continual                    # what is missing, cheapest first
    python tools/continual_panel.py --out build/continual --only uce         # the row of this name, else every row that contains it
    python tools/continual_panel.py --out build/continual --table docs/results/continual.md
    python tools/continual_panel.py --out build/continual --part duge --first 2 --table docs/results/continual_duge.md

Part "methods" compares methods, protocols and guards; part "duge" takes DUGE apart, on as many requests as `--first` says.
A cell is a row of the table under one order and one seed: a ledger of its own, computed by one thread. What cells share (the
original's pictures, the memory, equal first steps) is computed once. Several processes may work on one folder: a cell that another
one holds is passed over. The table is made of finished cells alone, and names the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from vestige import continual, course, deltas, merging, models
from vestige.course import Order
from vestige.edits import Edit
from vestige.errors import BadInput, RunConflict
from vestige.guards import Guards

MODEL, TWIN = "wardrobe", "wardrobe-never-five"
FIVE = ("sneaker", "bag", "dress", "trouser", "neon")
ORDERS = (FIVE, FIVE[::-1], ("trouser", "neon", "sneaker", "dress", "bag"))  # of the later two, nothing was looked at beforehand
METHODS = ("uce", "concept_ablation", "esd", "duge", "forget_me_not")
# Under Concept Ablation. The share is the released one, TIES' share and scale are not tuned. The released pull of 25,000 belongs to a
# sixtieth of this world's rate; here it lets nothing move. On the development concept (bag, 16 pictures each, selection judge; target,
# neighbours, unrelated): 25,000 left 1.00 / 1.00 / 0.94, and 30 gave 0.06 / 1.00 / 0.88; the projection 0.19 / 1.00 / 0.88.
GUARDS = {"L2 pull": Guards(pull=30.0), "selective": Guards(share=0.05), "projection": Guards(project=True)}
SHARE, SCALE = 0.2, 1.0
# A joint run may spend what the sequence spends: settings that count steps or pictures are multiplied by the number of requests.
COUNTED = ("steps", "rollouts", "anchor_pictures", "target_pictures")
SECONDS_A_CALL = 0.0020  # of CPU: the uce cell under quick-2, order 0, seed 0, took 104 s for 51,840 planned calls on one thread


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Arguments:
        order: Fields of a `course.Order`.
        made: Makes the edit that is measured, from the folder of the cell that it rests on; None takes the order's steps.
        rests: Row whose cell must be finished before.
    """

    order: dict[str, Any] = field(default_factory=dict)
    made: Callable[[Path], Edit] | None = None
    rests: str = ""

    @property
    def ordered(self) -> bool:
        """Whether the order of requests is in it; a row without it has cells under the first order alone."""
        return self.made is None and self.order.get("mode", "sequential") in ("sequential", "cumulative")


def merged(folder: Path) -> Edit:
    """TIES of the edits of an independent ledger, each checked by the ledger's own hashes."""
    return merging.ties(models.load(MODEL), alone(folder), share=SHARE, scale=SCALE)


def summed(folder: Path) -> Edit:
    return deltas.combine(models.load(MODEL), [(edit, 1.0) for edit in alone(folder)], method="sum")


def averaged(folder: Path) -> Edit:
    parts = alone(folder)
    return deltas.combine(models.load(MODEL), [(edit, 1 / len(parts)) for edit in parts], method="mean")


def alone(folder: Path) -> list[Edit]:
    from vestige.ledger import Ledger
    from vestige.runs import Run

    return [edit for edit, _ in Ledger(Run(folder, {}), "independent").states(models.load(MODEL))]


def twin(folder: Path) -> Edit:
    """The whole difference to a model that drew none of the requests; both share everything but the denoiser."""
    model = models.load(MODEL)
    return deltas.difference(model, models.load(TWIN), model.scope("unet"), method=TWIN)


def methods() -> dict[str, Row]:
    """Name -> row, cheapest first."""
    made = {"twin of five": Row(made=twin)}
    made |= {name: Row({"method": name}) for name in METHODS}
    made |= {f"concept_ablation + {name}": Row({"method": "concept_ablation", "guards": held}) for name, held in GUARDS.items()}
    made |= {f"{name}, again at every step": Row({"method": name, "mode": "cumulative"}) for name in METHODS if name in course.JOINT}
    made |= {f"{name}, each alone": Row({"method": name, "mode": "independent"}) for name in METHODS}
    for title, how in (("TIES", merged), ("sum", summed), ("mean", averaged)):
        made[f"concept_ablation, {title} of each alone"] = Row(made=how, rests="concept_ablation, each alone")
    made |= {f"{name}, all at once": Row({"method": name, "mode": "simultaneous"}) for name in METHODS if name in course.JOINT}
    return made


def duge() -> dict[str, Row]:
    """The world's preset, and what each of its parts does: it keeps no pull, and 192 pictures of a memory of 200."""

    def changed(**settings: Any) -> Row:
        return Row({"method": "duge", "settings": {f"duge.{k}": v for k, v in settings.items()}})

    return {
        "duge": Row({"method": "duge"}),
        "duge, no prior preservation": changed(retain_weight=0.0, related_weight=0.0),
        "duge, memory of 20": Row({"method": "duge", "memory": 20}),
        "duge, held to the original": changed(reference="original"),
        "duge, all of cross-attention": changed(scope="cross-attention"),
        "duge, pulled back": changed(pull_weight=1e-3),
        "duge, pulled back by importance": changed(pull_weight=1e-3, importance="mas"),
        "duge, towards the empty prompt": changed(reference_condition="null"),
        "duge, no cross-attention loss": changed(attention_weight=0.0),
    }


TITLES = {"methods": "Continual unlearning, compared", "duge": "DUGE taken apart"}
ROWS = {
    "methods": f"""
A row of the form "again at every step" forgets every request so far in each step, at the price of one; "each alone" is the mean over
models that each forgot one request. All at once may spend as many steps and pictures as the sequence in all. The twin never drew any
of them; its drift is that between two trainings. The pull is {GUARDS["L2 pull"].pull:g}, chosen on bag; the share that moves is
{GUARDS["selective"].share:g}, TIES' share {SHARE:g} and scale {SCALE:g}, not tuned.""",
    "duge": """
Every row is the world's preset, chosen on bag, but for what its name says: keys and values alone train, towards the start token, beside
a memory of 200 and with no pull. Towards the start token no reference is asked and without a pull none is held to, so "held to the
original" must give the first row's numbers.""",
}

PARTS: dict[str, Callable[[], dict[str, Row]]] = {"methods": methods, "duge": duge}


def order_of(row: Row, requests: tuple[str, ...], seed: int, suite: str) -> Order:
    order = Order(model=MODEL, requests=requests, suite=suite, seed=seed, **row.order)
    if order.mode != "simultaneous":
        return order
    method = course.course(order).unlearner
    more = {f"{order.method}.{k}": getattr(method, k) * len(requests) for k in COUNTED if hasattr(method, k)}
    return replace(order, settings=more)


@dataclass(frozen=True)
class Cell:
    """A row under one order and one seed."""

    name: str
    row: Row
    number: int
    seed: int
    options: argparse.Namespace

    @property
    def requests(self) -> tuple[str, ...]:
        return ORDERS[self.number][: self.options.first]

    @property
    def order(self) -> Order:
        return order_of(self.row, self.requests, self.seed, self.options.suite)

    def folder(self, name: str = "") -> Path:
        short = (name or self.name).replace(",", "").replace("+", "and").replace(" ", "_")
        part = "" if len(self.requests) == len(ORDERS[self.number]) else f"-first-{len(self.requests)}"
        return self.options.out / self.options.suite / f"order-{self.number}-seed-{self.seed}{part}" / short

    def result(self) -> dict[str, Any] | None:
        """The finished result, of these requests and with all that is measured today; anything less counts as missing."""
        try:
            found = json.loads((self.folder() / "result.json").read_text("utf-8"))
        except (OSError, ValueError):
            return None
        whole = [r["name"] for r in found["requests"]] == list(self.requests) and "leakage" in found["steps"][-1]
        return found if whole else None

    def calls(self) -> tuple[int, int]:
        """Denoiser calls that it plans, its own and shared ones; one that is trained through counts three."""
        order = self.order if self.row.made is None else replace(self.order, mode="simultaneous", method="uce")  # two states to look at
        chosen = course.course(order)
        planned = chosen.planned_calls()
        shared = planned["scoring"] // (len(chosen.steps) + 1) + planned.get("memory", 0)
        return sum(planned.values()) - shared, shared

    def run(self) -> dict[str, Any]:
        from vestige import report_continual

        cache = self.options.out / "runs"
        command = f"python tools/continual_panel.py --suite {self.options.suite}"
        if self.row.made is None:
            result = continual.continual(self.order, self.folder(), cache=cache, command=command)
        else:
            if self.row.rests and not (self.folder(self.row.rests) / "result.json").exists():
                raise BadInput(f"{self.name} rests on {self.row.rests!r}, which is not finished")
            result = continual.compared(self.order, self.row.made(self.folder(self.row.rests)), self.folder(), cache=cache, command=command)
        report_continual.write(self.folder())
        return result


def cells(options: argparse.Namespace) -> list[Cell]:
    table_ = PARTS[options.part]()
    names = [options.only] if options.only in table_ else [name for name in table_ if options.only in name]
    if not names:
        raise BadInput(f"no row is called {options.only!r}; rows: {'; '.join(table_)}")
    places = [(seed, number) for seed in range(options.seeds) for number in range(options.orders)]
    every = (Cell(name, table_[name], number, seed, options) for seed, number in places for name in names)
    return [cell for cell in every if cell.row.ordered or not cell.number]


def timing(found: Iterable[Cell]) -> tuple[float, str]:
    """Seconds a planned call, and where that is from: the slowest finished cell, since others found work done; else the constant."""
    timed = [(r["cost"]["seconds"] / sum(cell.calls()), cell.name) for cell in found if (r := cell.result()) is not None]
    each, name = max(timed, default=(SECONDS_A_CALL, ""))
    return each, f"the finished cell {name!r}" if name else "an earlier cell, uce under quick-2"


def dry(found: list[Cell]) -> str:
    each, source = timing(found)
    lines, left = ["| cell | order | seed | calls | expected hours | state |", "|---|---|---|---|---|---|"], 0.0
    paid = {(cell.number, cell.seed) for cell in found if cell.result() is not None}
    for cell in found:
        own, shared = cell.calls()
        done, calls = cell.result() is not None, own + (0 if (cell.number, cell.seed) in paid else shared)
        left += 0 if done else calls * each / 3600
        paid.add((cell.number, cell.seed))
        state = "finished" if done else "missing"
        lines.append(f"| {cell.name} | {cell.number} | {cell.seed} | {calls:,} | {calls * each / 3600:.2f} | {state} |")
    return "\n".join([*lines, "", f"missing: {left:.1f} hours of one thread, at {1e3 * each:.2f} ms a call from {source}"])


def percent(quantity: Any) -> str:
    if not isinstance(quantity, dict) or quantity.get("value") is None:
        return "-"
    ends = [quantity.get("low"), quantity.get("high")]
    shown = f"{100 * quantity['value']:.0f}"
    return shown if None in ends else f"{shown} [{100 * ends[0]:.0f}, {100 * ends[1]:.0f}]"


def mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def at(step: dict[str, Any], *keys: str) -> Any:
    found: Any = step
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


COLUMNS = {
    "unlearned": ("unlearning_accuracy",),
    "reversal, net": ("reversal", "net"),
    "unasked": ("leakage", "rate"),
    "ripple": ("ripple", "drop"),
    "erosion": ("erosion", "drop"),
    "KID": ("erosion", "kid"),
}


def measured(result: dict[str, Any]) -> list[str]:
    """The last state's quantities; of a row of separate models, their means."""
    last = result["steps"][1:] if result["mode"] == "independent" else result["steps"][-1:]
    made = []
    for name, place in COLUMNS.items():
        found = [at(step, *place) for step in last]
        if len(found) == 1 and name != "KID":
            made.append(percent(found[0]))
            continue
        value = mean(at(one, "value") for one in found)
        made.append("-" if value is None else f"{value:.3g}" if name == "KID" else f"{100 * value:.0f}")
    drift = mean(at(step, "drift", "original") for step in last)
    return [*made, "-" if drift is None else f"{drift:.2f}", f"{result['cost']['stages']['unlearn']:.0f}"]


def original(result: dict[str, Any]) -> str:
    """How often the original shows a request unasked, in per cent, as a mean over requests."""
    value = mean(at(rate, "value") for rate in result["steps"][0]["leakage"]["rates"].values())
    return "-" if value is None else f"{100 * value:.0f}"


def across(done: list[tuple[Cell, dict[str, Any]]]) -> str:
    """Rows with several runs, by order and seed: the mean, the lowest and the highest."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for cell, result in done:
        rows.setdefault(cell.name, []).append(result)
    rows = {name: results for name, results in rows.items() if len(results) > 1 and results[0]["mode"] != "independent"}
    if not rows:
        return ""
    lines = ["| " + " | ".join(["row", "runs", *COLUMNS]) + " |", "|" + "---|" * (len(COLUMNS) + 2)]
    for name, results in rows.items():
        shown = [spread([at(r["steps"][-1], *place, "value") for r in results], of) for of, place in COLUMNS.items()]
        lines.append("| " + " | ".join([name, str(len(results)), *shown]) + " |")
    return "\n## Over orders\n\nMean over runs, lowest to highest.\n\n" + "\n".join(lines) + "\n"


def spread(values: list[float | None], column: str) -> str:
    known = [v if column == "KID" else 100 * v for v in values if v is not None]
    if not known:
        return "-"
    form = ".3g" if column == "KID" else ".0f"
    return f"{sum(known) / len(known):{form}} ({min(known):{form}} to {max(known):{form}})"


def missing(found: list[Cell]) -> str:
    """What is not there, by order and seed."""
    lacking: dict[tuple[int, int], list[str]] = {}
    for cell in found:
        if cell.result() is None:
            lacking.setdefault((cell.number, cell.seed), []).append(cell.name)
    if not lacking:
        return "\nAll cells are there.\n"
    told = (f"under order {number}, seed {seed}: {'; '.join(names)}" for (number, seed), names in lacking.items())
    return "\nMissing " + ".\nMissing ".join(told) + ".\n"


def table(found: list[Cell]) -> str:
    """The page: a table of finished cells, what is missing, and how it was made."""
    done = [(cell, result) for cell in found if (result := cell.result()) is not None]
    if not done:
        raise BadInput(f"no cell under {found[0].options.out} is finished; run the panel first")
    head = ["row", "order", "seed", *COLUMNS, "drift", "seconds to unlearn"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join([cell.name, str(cell.number), str(cell.seed), *measured(result)]) + " |" for cell, result in done]
    first = done[0][1]
    versions = sorted({r["provenance"]["vestige"] for _, r in done})
    asked = found[0].options
    orders = "; ".join(f"{i}: {', '.join(o[: asked.first])}" for i, o in enumerate(ORDERS[: asked.orders]))
    part = "" if asked.part == "methods" else f" --part {asked.part} --first {asked.first}"
    about = f"""# {TITLES[asked.part]}

`python tools/continual_panel.py --suite {asked.suite} --orders {asked.orders} --seeds {asked.seeds}{part}`;
suite {first["suite"]}, model {first["provenance"]["model_hash"]}, verification judge {first["detector"]["verification"]["version"]},
vestige {", ".join(versions)}. Orders: {orders}.

Per cent after the last request, with 95 % intervals over pictures of one run. *unlearned*: pictures that name a request and do not show
it, all requests pooled. *reversal, net*: how much more often earlier requests are shown than right after their own step. *unasked*:
pictures that show a request though their prompts name no garment (for a style: no style); {original(first)} of the original's. *ripple* and
*erosion*: accuracy lost on words near a request, and on words near none. *KID*: of the latter's pictures to the original's own. *drift*:
relative distance of the touched weights. Prompts that name a request count for no word that must stay. *seconds to unlearn*: of steps
that were not there before the cell's last start, training alone.
{ROWS[asked.part]}
"""
    return about + "\n" + "\n".join(lines) + "\n" + missing(found) + across(done)


def work(found: list[Cell]) -> None:
    for cell in found:
        if cell.result() is not None:
            continue
        began, cpu = time.monotonic(), time.process_time()
        try:
            result = cell.run()
        except (RunConflict, BadInput) as error:  # another process's, or resting on one that is
            print(f"{cell.name}: passed over; {error}", flush=True)
            continue
        last = " | ".join(measured(result))
        used = f"{time.monotonic() - began:.0f} s, {time.process_time() - cpu:.0f} s of CPU"
        print(f"{cell.name}, order {cell.number}, seed {cell.seed}: {last}; {used}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/continual"))
    parser.add_argument("--suite", default="quick")
    parser.add_argument("--orders", type=int, default=1, choices=range(1, len(ORDERS) + 1))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--part", default="methods", choices=PARTS)
    parser.add_argument("--first", type=int, default=len(FIVE), choices=range(1, len(FIVE) + 1), help="requests of the order to take")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    found = cells(options)
    if options.dry_run:
        sys.stdout.write(dry(found) + "\n")
    elif options.table is not None:
        page = table(found)
        options.table.parent.mkdir(parents=True, exist_ok=True)
        options.table.write_text(page, "utf-8")
        sys.stdout.write(page)
    else:
        work(found)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    main()
