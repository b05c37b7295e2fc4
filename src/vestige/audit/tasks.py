"""An audit as tasks of the engine: what it is made of first, then its pieces; and what a worker process does with one.

Pieces that do not see the edit are the same for every audit of that model and concept. They are carried by a request without the
edit, so that no cell of a grid waits for, or fails with, another cell's edit. Keys are hashes of all that a piece depends on, written
before any model is loaded: equal keys are one run; where two keys turn out to be one run after all, the second finds it stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from vestige import models, registry, runs
from vestige.audit.experiment import Experiment, edit_of, furnished, prepared
from vestige.audit.pieces import NEVER, POSITIVE, Piece, calls_of, do, pieces
from vestige.audit.plan import Plan
from vestige.audit.request import Request
from vestige.audit.resolving import resolve
from vestige.diffusion.model import silent
from vestige.engine import Task
from vestige.errors import BadSetting, Diverged
from vestige.harness import cost
from vestige.harness.never import Distillation, never_model
from vestige.harness.positives import hidden
from vestige.harness.processes import means, working
from vestige.methods import Data

# What a plan's spec says that pieces without the edit do not depend on; a piece names its own attack.
OF_THE_EDIT = frozenset({"unlearner", "edit", "edit_seed", "data", "alternative"})
OF_THE_AUDIT = frozenset(
    {"what", "verdict", "suite", "attacks", "positives", "seeds", "control", "floor", "banks", "unshown", "lines", "volatile"}
)
COUNTS = ("pictures", "select_pictures", "utility_pictures", "strip", "sparing")
CLOSED_FORM = 1.0  # cost of what takes no call
EDIT, NEVER_MADE, POSITIVE_MADE = "edit", "never", "positive"


@dataclass(frozen=True)
class _Carrier:
    """A request by which pieces are done, and what they depend on."""

    plan: Plan
    root: str
    about: Mapping[str, Any]
    edits: bool

    def task(self, what: str, name: str, content: Any, entry: Any, data: Any, needs: tuple[str, ...], cost: float) -> Task:
        request = self.plan.request
        key = f"{what}-{runs.key({'what': what, 'content': content, 'about': dict(self.about)})[:20]}"
        title = f"{name}: {request.model}, {self.plan.concept.name}{f', {_edit_told(request)}' if self.edits else ''}"
        given = {"request": plain_request(request), "means": means(), **data}
        group = runs.key({"request": given["request"], "means": given["means"]})[:12]
        return Task(key, title, f"{__name__}:{entry.__name__}", given, self.root, needs=needs, cost=max(cost, CLOSED_FORM), group=group)


def _edit_told(request: Request) -> str:
    return f"{request.unlearner}, seed {request.edit_seed}" if request.edit is None else Path(request.edit).name


def plain_request(request: Request) -> dict[str, Any]:
    """A request as plain data, without what is usual."""
    usual = asdict(Request())
    return {name: value for name, value in json.loads(json.dumps(asdict(request), default=str)).items() if value != usual[name]}


def request_from(given: Mapping[str, Any]) -> Request:
    """The request that `plain_request` made plain."""
    return Request(**{**given, **{name: tuple(given[name]) for name in ("attacks", "seeds") if name in given}})


def look_tasks(plan: Plan, root: str) -> list[Task]:
    """The pieces of a look, after what they are made of; what needs no edit comes without it where the request can do without."""
    full, bare = _carrier(plan, root), _without_edit(plan, root)
    shared, own = _made(bare), _made(full)
    keys: dict[Piece, str] = {}
    made = [*shared, *own]
    for piece, needed in pieces(plan).items():
        known = not piece.attack or piece.attack in bare.plan.attacks  # not one that the edit's own parts added
        carrier, before = (bare, shared) if known and not piece.edited else (full, own)
        needs = [*(task.key for task in before), *(keys[one] for one in needed)]
        task = _piece_task(carrier, plan, piece, tuple(needs))
        keys[piece] = task.key
        made.append(task)
    return list({task.key: task for task in made}.values())


def _carrier(plan: Plan, root: str) -> _Carrier:
    spec = {name: value for name, value in plan.spec().items() if name not in OF_THE_AUDIT}
    counts = {name: getattr(plan.suite, name) for name in COUNTS}
    return _Carrier(plan, root, {**spec, **counts}, plan.unlearner is not None or plan.request.edit is not None)


def _without_edit(plan: Plan, root: str) -> _Carrier:
    """The carrier of what does not see the edit; the whole request where an attack of it is about the edit."""
    carrier, request = _carrier(plan, root), plan.request
    about = {name: value for name, value in carrier.about.items() if name not in OF_THE_EDIT}
    if not carrier.edits:
        return replace(carrier, about=about)
    settings = {name: value for name, value in request.settings.items() if name.partition(".")[0] != request.unlearner}
    drawn = {"forget": "drawn", "retain": "drawn", "alternative": "drawn"}
    with suppress(BadSetting):
        bare = resolve(replace(request, unlearner="none", edit=None, edit_seed=0, settings=settings, unshown=0, **drawn))  # type: ignore[arg-type]
        return _Carrier(bare, root, about, edits=False)
    return replace(carrier, about=about)


def _made(carrier: _Carrier) -> list[Task]:
    """What the pieces of a carrier are made of: its edit, never-models that are made, positive controls."""
    plan, found = carrier.plan, list[Task]()
    each = cost.picture(Data().protocol)
    if carrier.edits:
        taken = 0.0 if plan.unlearner is None else cost.unlearning(plan.unlearner, each, each)
        found.append(carrier.task("edit", "edit", {}, do_part, {"part": EDIT}, (), taken))
    if plan.control.kind == "distilled":
        for seed, name in enumerate(plan.control.names):
            content = {"seed": seed}
            taken = Distillation().calls(plan.suite.protocol)
            found.append(carrier.task("never", name, content, do_part, {"part": NEVER_MADE, "seed": seed}, (), taken))
    for name, own in plan.positives.items():
        taken = cost.unlearning(own.method, each, each)
        found.append(carrier.task("positive", name, own.as_dict(), do_part, {"part": POSITIVE_MADE, "name": name}, (), taken))
    return found


def _piece_task(carrier: _Carrier, plan: Plan, piece: Piece, needs: tuple[str, ...]) -> Task:
    content: dict[str, Any] = {"piece": asdict(piece), "control": [plan.control.kind, plan.control.content(plan.world)]}
    if not piece.who.startswith(NEVER):
        content.pop("control")
    if piece.attack:
        attack, planned = plan.attacks[piece.attack]
        content |= {"settings": registry.settings(attack), "budget": list(planned.budget.points), "references": planned.references}
    if piece.who.startswith(POSITIVE):
        content["positive"] = plan.positives[piece.who.removeprefix(POSITIVE)].as_dict()
    if piece.what == "bank":
        content["asked"] = [bank.rows() for bank in plan.banks if bank.name == piece.of]
    return carrier.task("piece", str(piece), content, do_piece, {"piece": asdict(piece)}, needs, calls_of(plan, piece))


def done_here(experiment: Experiment, task: Task) -> dict[str, Any]:
    """Do a task of this very experiment, whose models are loaded; what pieces are made of is there already."""
    if "piece" in task.data:
        with suppress(Diverged):
            do(experiment, Piece(**task.data["piece"]))
    return {}


# In a worker process


def do_part(data: Mapping[str, Any], root: Path, out: Path) -> dict[str, Any]:
    """Make what pieces need: an edit, a never-model or a positive control."""
    with working(data["means"]):
        planned = resolve(request_from(data["request"]))
        bench = furnished(planned, root, silent)
        if data["part"] == EDIT:
            edit_of(planned, bench, models.load(planned.request.model))
            return {}
        original = models.load(planned.original or planned.request.model)
        if data["part"] == NEVER_MADE:
            never_model(bench, original, planned.concept, data["seed"])
        else:
            hidden(bench, original, planned.concept, {data["name"]: planned.positives[data["name"]]})
    return {}


def do_piece(data: Mapping[str, Any], root: Path, out: Path) -> dict[str, Any]:
    """Do a piece; one that diverges is met again by whoever puts the result together."""
    with working(data["means"]), suppress(Diverged):
        do(_experiment(json.dumps(data["request"]), json.dumps(data["means"]), str(root)), Piece(**data["piece"]))
    return {}


@lru_cache(maxsize=1)
def _experiment(request: str, how: str, root: str) -> Experiment:
    """A request's models, placed as it was told how; a worker that goes on with the same request keeps them."""
    planned = resolve(request_from(json.loads(request)))
    return prepared(planned, furnished(planned, Path(root), silent), runs.Run(Path(root), planned.spec()))
