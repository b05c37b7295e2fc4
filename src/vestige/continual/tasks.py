"""A sequence as tasks of the engine: its steps one after another, and beside them everything that is measured of a step that was taken.

Under limits of acceptance, or after a withdrawal, what is measured decides the next step: then the whole sequence is one task.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from vestige import runs
from vestige.continual.guards import Guards
from vestige.continual.order import Order
from vestige.continual.plan import SequencePlan, resolve
from vestige.continual.probes import look, probes
from vestige.continual.result import attempted
from vestige.continual.steps import state_of, walked
from vestige.diffusion import Model
from vestige.engine import Graph, LocalPool, Progress, Task, execute
from vestige.errors import Diverged
from vestige.harness import cost
from vestige.harness.bench import Bench
from vestige.harness.processes import means, working
from vestige.methods import Data


def order_told(order: Order) -> dict[str, Any]:
    """An order as plain data, without what is usual."""
    usual = asdict(Order())
    return {name: value for name, value in json.loads(json.dumps(asdict(order), default=str)).items() if value != usual[name]}


def order_from(given: Mapping[str, Any]) -> Order:
    """The order that `order_told` made plain."""
    lists = {name: tuple(given[name]) for name in ("requests", "withdrawn", "attacks") if name in given}
    guards = {"guards": Guards(**given["guards"])} if "guards" in given else {}
    return Order(**{**given, **lists, **guards})


def sequence_tasks(chosen: SequencePlan, root: str, out: str) -> list[Task]:
    """The steps of a sequence and what is measured after each; none where its steps depend on what is measured."""
    order = chosen.order
    if order.accept or order.withdrawn:
        return []
    told = {"order": order_told(order), "means": means()}
    about = runs.key({"spec": chosen.spec(), "out": out})[:12]
    drawn, picture = cost.picture(Data().protocol), cost.picture(chosen.suite.protocol)
    each = max(1.0, cost.unlearning(chosen.unlearner, drawn, 0 if chosen.rehearses else drawn))
    found: list[Task] = []

    def task(what: str, name: str, content: Any, entry: Any, data: Any, taken: float, needs: tuple[str, ...]) -> Task:
        key = f"{what}-{runs.key({'content': content, 'about': about})[:20]}"
        return Task(key, f"{name}: {order.method}", f"{__name__}:{entry.__name__}", {**told, **data}, root, out, needs, taken, about)

    before: tuple[str, ...] = ()
    for step in range(len(chosen.steps) + 1):
        if step:
            done: list[Any] = [chosen.steps[step - 1].as_dict(), list(before)]
            found.append(task("step", f"step {step}, {chosen.asked_in(step)}", done, do_step, {"step": step}, each, before))
            before = (found[-1].key,)
        for number, probe in enumerate(probes(chosen.requests).all):
            content: list[Any] = [step, probe.concept.as_dict(), list(probe.words or ()), probe.bank, list(before)]
            taken, data = float(len(probe.prompts(chosen.suite)) * picture), {"step": step, "probe": number}
            found.append(task("look", f"look {number + 1} after step {step}", content, do_look, data, taken, before))
        found += (task("arm", *row, before) for row in _attacks(chosen, step, picture, before))
    return list({one.key: one for one in found}.values())


def _attacks(chosen: SequencePlan, step: int, picture: int, before: tuple[str, ...]) -> Iterator[tuple[str, Any, Any, Any, float]]:
    """Every attack's replicates on every request so far: name, content, entry, data and cost."""
    first, order = chosen.order.first_replicate, chosen.order
    for concept, name, k in itertools.product(chosen.so_far(step), chosen.attacks, range(first, first + order.replicates)):
        attack, planned = chosen.attacks[name]
        scored = cost.scored_pictures(attack, planned.budget, chosen.suite) * picture
        taken = sum(scored + way.calls(planned.budget.last, planned.references) for way in attack.ways().values())
        content = [step, concept.as_dict(), name, chosen.asked()["attacks"][name], k, order.references, order.attack_retain, list(before)]
        told = f"{name} on {concept.name} after step {step}, replicate {k}"
        yield told, content, do_attack, {"step": step, "concept": concept.name, "attack": name, "replicate": k}, float(taken)


def by_processes(order: Order, out: Path, root: Path, count: int, watch: Any) -> None:
    """Let so many processes do what a sequence consists of; what fails there is met again by who needs it, and is told."""
    graph = Graph()
    graph.add(sequence_tasks(resolve(order), str(root), str(out)))
    if not graph.tasks:
        return

    def tell(now: Progress) -> None:
        if now.trouble:
            watch(now.trouble, 1, 1)
        watch("pieces", now.done, now.total)

    with LocalPool(count) as pool:
        execute(graph, pool, watch=tell)


# In a worker process


def do_step(data: Mapping[str, Any], root: Path, out: Path) -> dict[str, Any]:
    """Take a step, unless the ledger has it."""
    with working(data["means"]):
        walked(order_from(data["order"]), out, root, data["step"])
    return {"wrote": ["ledger.json"]}


def do_look(data: Mapping[str, Any], root: Path, out: Path) -> dict[str, Any]:
    """Look at a probe after a step."""
    with working(data["means"]):
        chosen, bench, _, model = _state(json.dumps(data["order"]), json.dumps(data["means"]), str(out), str(root), data["step"])
        look(bench, model, probes(chosen.requests).all[data["probe"]])
    return {}


def do_attack(data: Mapping[str, Any], root: Path, out: Path) -> dict[str, Any]:
    """One replicate of an attack on one request after a step; one that diverges is met again by whoever puts the result together."""
    with working(data["means"]), suppress(Diverged):
        chosen, bench, original, model = _state(json.dumps(data["order"]), json.dumps(data["means"]), str(out), str(root), data["step"])
        one = replace(chosen, order=replace(chosen.order, replicates=1, first_replicate=data["replicate"]))
        concept = next(c for c in chosen.requests if c.name == data["concept"])
        attempted(one, bench, original, model, concept, data["attack"])
    return {}


@lru_cache(maxsize=1)
def _state(order: str, how: str, out: str, root: str, step: int) -> tuple[SequencePlan, Bench, Model, Model]:
    """The models of a step, placed as it was told how; a worker that goes on with the same step keeps them."""
    return state_of(order_from(json.loads(order)), Path(out), Path(root), step)
