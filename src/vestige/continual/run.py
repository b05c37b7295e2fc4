"""Continual unlearning: requests that arrive one after another, each forgotten by the model that the one before left behind.

After every step everything is measured again: what was forgotten so far and whether it returns, what is still to come, what
lies near a request and what lies near none. The folder is a ledger: the same command with a longer list continues it. The
requests are no part of its spec, only what it has done; neither are attacks, which measure and change nothing.

Modes. *sequential*: step n starts from the model after step n - 1. *cumulative*: from the same model, and forgets the requests
before it once more, in the steps and pictures that one request may spend. *independent*: every request from the original, for drift
and for merging. *simultaneous*: all requests together from the original in one step, by the methods whose target is a set of
prompts or pictures, on all requests' sets. Whatever else became of the original is measured alike by `compared`.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, final

from vestige import models, registry, runs
from vestige.concepts import Concept
from vestige.concepts.album import Album
from vestige.continual.acceptance import judged_by, judged_from, limits
from vestige.continual.certificates import certificate
from vestige.continual.guards import Guarded, Guards, protected
from vestige.continual.ledger import CHAINED, Ledger, chained, slug
from vestige.continual.memory import Memory
from vestige.continual.order import Order
from vestige.continual.plan import SequencePlan, resolve
from vestige.continual.probes import Probe, look, probes
from vestige.continual.result import Account, State, attackers, attempted
from vestige.continual.verdicts import verdict_on
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit
from vestige.edits.arithmetic import describe, distance, moved
from vestige.errors import BadInput, Incompatible
from vestige.harness.bench import Bench
from vestige.harness.unlearning import training_data, unlearned
from vestige.methods import Data, Paper, Unlearner
from vestige.metrics import Judge, loading

SCHEMA = "vestige-continual-1"
COMBINED = "combined.safetensors"
NEIGHBOUR = 3600.0  # seconds to wait for a process that takes an earlier step of the ledger


def continual(
    order: Order,
    out: Path | str,
    *,
    cache: Path | None = None,
    ahead: Callable[[], object] | None = None,
    steal: bool = False,
    watch: Watch = silent,
    command: str = "",
) -> dict[str, Any]:
    """Run a sequence in the folder `out`, resume or continue it; returns its result, which is also `out/result.json`.

    Arguments:
        cache: Folder of the content-addressed runs and pictures, shared between sequences; None keeps them in `out`.
        ahead: Called before anything is computed, with the folder free: `tasks.by_processes` does most of the work there.
        steal: Take over the lock of another process that is known to be gone.
        command: The command line that asked for it, for the report.
    """
    chosen = resolve(order)
    run = runs.claim(out, chosen.spec())
    asked = runs.key(chosen.asked())
    if order.withdrawn:
        with run.held(steal=steal):
            Ledger(run, order.mode).withdraw(order.withdrawn)
    Ledger(run, order.mode).check(chosen.steps, chosen.sorted_by())
    if run.result is None or run.result.get("asked") != asked:
        if ahead is not None:
            ahead()
        with run.held(steal=steal):
            ledger = Ledger(run, order.mode)
            ledger.check(chosen.steps, chosen.sorted_by())
            sequence = _Sequence(chosen, _bench(chosen, cache or run.folder / "runs", watch, steal), ledger)
            run.finish({**sequence.result(command), "asked": asked})
    return run.outcome


def compared(
    order: Order,
    edit: Edit,
    out: Path | str,
    *,
    cache: Path | None = None,
    steal: bool = False,
    watch: Watch = silent,
    command: str = "",
) -> dict[str, Any]:
    """The result of a simultaneous order whose one step is an edit that is there already: a merge, or a twin's whole difference.

    Arguments:
        edit: A change of the original; it stands in for whatever `order.method` would have made.
        cache: As for `continual`, and so are the rest.
    """
    chosen = resolve(replace(order, mode="simultaneous", method="uce", guards=Guards(), settings={}))
    chosen = replace(chosen, order=replace(chosen.order, method=edit.method), unlearner=Given(settings=edit.settings))
    original = models.load(order.model)
    run = runs.claim(out, {**chosen.spec(), "edited": original.edited(edit).fingerprint})
    if run.result is None or run.result.get("asked") != runs.key(chosen.asked()):
        with run.held(steal=steal):
            ledger = Ledger(run, "simultaneous")
            if not ledger.steps:
                ledger.record(chosen.steps[0], edit.save(run.path("given.safetensors")), original, original.edited(edit))
            ledger.check(chosen.steps)
            sequence = _Sequence(chosen, _bench(chosen, cache or run.folder / "runs", watch, steal), ledger)
            run.finish({**sequence.result(command), "asked": runs.key(chosen.asked())})
    return run.outcome


def rebuilt(out: Path | str, steps: int | None = None) -> Edit:
    """The first `steps` steps of a sequential ledger as one edit of the original, bit for bit; None: all of them."""
    run = runs.Run(Path(out), {})
    try:
        spec = json.loads((run.folder / "spec.json").read_text("utf-8"))
        model, mode = spec["model"], spec["mode"]
    except (OSError, KeyError, ValueError) as error:
        raise BadInput(f"{out} is no ledger ({error!r}); give the folder of a `vestige continual`") from error
    return Ledger(run, mode).edit(models.load(model), steps)


def _bench(chosen: SequencePlan, root: Path, watch: Watch, steal: bool) -> Bench:
    """The first request's judges, and those of every other request that is not judged by the same."""
    watch("load judges", 0, 1)
    first, *more = chosen.requests
    verify, select = loading.pair(first, chosen.world)
    plain = None if first.detector else (verify, select)
    own: dict[str, tuple[Judge, Judge]] = {}
    for concept in more:
        if concept.detector:
            own[concept.name] = loading.pair(concept, chosen.world)
        elif plain is None:
            plain = own[concept.name] = loading.pair(concept, chosen.world)
        elif first.detector:
            own[concept.name] = plain
    features = loading.extractor(chosen.order.features) if chosen.order.features else None
    keep = chosen.order.keep_images
    return Bench(root, chosen.suite, verify, select, steal=steal, watch=watch, keep=keep, own=own, features=features)


class _Sequence:
    """One sequence's models and states; made, asked for its result, and thrown away."""

    def __init__(self, chosen: SequencePlan, bench: Bench, ledger: Ledger) -> None:
        self.course, self.bench, self.ledger, self.run = chosen, bench, ledger, ledger.run
        self.requests, self.began, self.seconds = chosen.requests, time.monotonic(), 0.0
        self.chained = chosen.order.mode in CHAINED
        bench.watch("load model", 0, 1)
        self.album = Album(any(concept.sensitive for concept in self.requests), chosen.order.keep_images)
        self.original = models.load(chosen.order.model)
        self.probes = probes(self.requests)
        if not ledger.steps:
            ledger.write()
        self.memory = self._memory() if chosen.rehearses else None
        self.alternative = training_data(self.original, "drawn", "drawn", alternative=chosen.order.alternative).alternative
        self.refused: list[str] = []
        self.touched: set[str] = set()
        for concept in self.requests:  # what an attacker cannot be given is found before the first step
            attackers(chosen, self.original, concept).check(concept, [attack for attack, _ in chosen.attacks.values()])

    def _memory(self) -> Memory:
        """What steps rehearse; what the first request adds is what the ledger's steps rehearsed."""
        made = Memory(self.course, self.bench, self.original, self.album)
        if self.ledger.memory not in (None, made.first.content):
            raise BadInput(f"the memory in {self.bench.root} is not the one that earlier steps rehearsed; restore the folder from a copy")
        self.ledger.memory = made.first.content
        self.ledger.write()
        return made

    def standing(self, step: int) -> tuple[Concept, ...]:
        """The requests that the model after a step was to forget, without earlier ones whose step was rolled back."""
        own = self.course.so_far(step)
        return tuple(c for i, c in enumerate(own) if c.name not in self.refused or i == len(own) - 1)

    def forgotten(self, step: int, base: Model) -> tuple[Edit, Model, dict[str, Any]]:
        """A step's edit and the model after it, from the ledger or made now, and what it rehearsed."""
        concept, order = self.course.steps[step - 1], self.course.order
        if step <= len(self.ledger.steps):
            entry = self.ledger.steps[step - 1]
            return *self.ledger.taken(step, base), {"memory": entry.get("memory"), "diagnostics": entry.get("diagnostics")}
        memory, related = self.memory.without(self.course.so_far(step), step) if self.memory is not None else (None, None)
        told: dict[str, Any] = {"memory": None if memory is None else len(memory)}
        needed = memory is not None or (order.guards.pull > 0 and order.guards.pull_towards == "original")
        before = self.original if needed and base is not self.original else None
        cache = self.album.cache(self.bench.root)
        data = Data(retain=memory, related=related, alternative=self.alternative, cache=cache, original=before)
        method = self.method(concept, step)
        made = unlearned(self.bench.root, base, concept, order.method, method, order.seed, data=data, watch=self.bench.watch)
        self.run.event("unlearned", step=step, request=concept.name)
        file = made.path("edit.safetensors")
        edit = Edit.load(file)
        after = base.edited(edit)
        found = made.outcome.get("diagnostics")
        self.ledger.record(concept, file, base, after, self.course.sorted_by().get(concept.name), found, told["memory"])
        self.seconds += float(made.outcome["seconds"])
        self.run.event("recorded", step=step, request=concept.name)
        return edit, after, {**told, "diagnostics": found}

    def method(self, concept: Concept, step: int) -> Any:
        """The order's method, within its guards."""
        method, guards = self.course.unlearner, self.course.order.guards
        if not guards.active:
            return method
        settled = self.standing(step)[:-1] if self.course.order.mode == "sequential" else ()
        words = protected(concept, settled) if guards.project else ()
        return Guarded(method=self.course.order.method, settings=registry.settings(method), guards=guards.as_dict(), protected=words)

    def seen(self, step: int, model: Model, known: dict[str, Any]) -> State:
        """Everything that is measured of one model."""
        found: list[tuple[Probe, runs.Run]] = []
        for probe in self.probes.all:
            found.append((probe, look(self.bench, model, probe)))
            self.bench.watch(f"look at step {step}", len(found), len(self.probes.all))
        asked = {bank: {p.concept.name: run for p, run in found if p.words is None and p.bank == bank} for bank in ("held-out", "indirect")}
        around = [run for probe, run in found if probe.words is not None]
        so_far, held = self.standing(step), (self.course, self.bench, self.original, model)
        returns = {name: {c.name: attempted(*held, c, name) for c in so_far} for name in self.course.attacks}
        told = {**known, "fingerprint": model.fingerprint[:16], "attacks": returns}
        return State(step, asked["held-out"], asked["indirect"], around, told, so_far)

    def drift(self, edit: Edit, base: Model, model: Model) -> dict[str, Any]:
        """Relative distance of the weights touched so far to the original's, and of this step's to the previous model's."""
        self.touched = {*edit.touched, *(self.touched if self.chained else ())}
        whole = moved(self.original, {name: model.tensor(name) for name in sorted(self.touched)})
        made = describe(base, edit)
        return {"drift": {"original": distance(self.original, whole), "previous": made["relative_norm"]}, "edit": made}

    def result(self, command: str) -> dict[str, Any]:
        """Take and measure every step that is missing, and put the result together."""
        model, states = self.original, [self.seen(0, self.original, {"drift": {"original": 0.0, "previous": 0.0}, "edit": None})]
        stands, parts = 0, list[Edit]()
        account = Account(self.course, self.bench, self.run, self.original.image_size)
        steps = [account.described(states[0], states)]
        for step in range(1, len(self.course.steps) + 1):
            base, touched = model if self.chained else self.original, set(self.touched)
            edit, after, told = self.forgotten(step, base)
            states.append(self.seen(step, after, {**told, **self.drift(edit, base, after)}))
            steps.append(account.described(states[-1], states))
            self.run.event("measured", step=step)
            made = [*parts, edit] if self.chained else [edit]
            steps[-1]["verdicts"] = self.judged(step, made, after) if self.course.judges_every_step else {}
            steps[-1]["accepted"] = self.accepted(step, steps)
            if steps[-1]["accepted"] is None or steps[-1]["accepted"]["stands"]:
                model, stands, parts = after, step, made if self.course.verdicts else []
            else:
                self.touched = touched
        if self.course.verdicts and not self.course.judges_every_step and stands:
            steps[stands]["verdicts"] = self.judged(stands, parts, model)
        combined = None
        if self.course.order.mode != "independent":
            combined = str(self.ledger.edit(self.original).save(self.run.path(COMBINED)))
        told = {"steps": steps, "certificates": self.certificates(steps), "withdrawn": self.ledger.withdrawn, "combined": combined}
        return {"schema": SCHEMA, **account.heading(), **told, **self.provenance(model, command)}

    def judged(self, step: int, parts: Sequence[Edit], model: Model) -> dict[str, Any]:
        """The verdict on every request so far, by an audit of the model after a step; {} where none is asked for.

        Arguments:
            parts: The edits that made it of the original, in order.
        """
        so_far, found = self.standing(step), dict[str, Any]()
        file = self.run.path(f"verdicts/{model.fingerprint[:16]}.safetensors")
        if not file.is_file():  # written once: the audits' runs are known by what is in it
            (parts[0] if len(parts) == 1 else chained(self.original, model, parts)).save(file)
        for concept in so_far:
            found[concept.name] = verdict_on(self.course.order, self.bench, self.run.folder, concept, so_far, file)
            self.run.event("judged", step=step, request=concept.name, verdict=found[concept.name]["kind"])
        return found

    def accepted(self, step: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        """Whether a step stands under the order's limits, and why; None where there are none."""
        conditions = limits(self.course.order.accept)
        if not conditions:
            return None
        found = judged_from(rows[step], rows[0], [c.name for c in self.standing(step)])
        reasons = judged_by(conditions, found)
        if reasons:
            self.ledger.refuse(step, reasons)
            self.refused.append(self.course.asked_in(step))
            self.run.event("rolled back", step=step, request=self.course.asked_in(step))
        return {"limits": conditions, "found": found, "stands": not reasons, "reasons": reasons}

    def certificates(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """One a request, also as a file of its own."""
        made, one = [], self.course.order.mode == "simultaneous"
        for number, concept in enumerate(self.requests, 1):
            step = 1 if one else number
            found = certificate(self.course, concept, step, rows, self.ledger.steps[step - 1], self.original.fingerprint)
            self.run.write_json(f"certificates/{number:02d}-{slug(concept.name)}.json", found)
            made.append(found)
        return made

    def provenance(self, model: Model, command: str) -> dict[str, Any]:
        versions = {name: metadata.version(name) for name in ("vestige", "torch", "diffusers", "transformers")}
        hashes = {"model_hash": self.original.fingerprint[:16], "edited_hash": model.fingerprint[:16]}
        finished = datetime.now(timezone.utc).isoformat(timespec="seconds")
        told = {**versions, "python": platform.python_version(), **hashes, "finished": finished, "command": command}
        cost = {"seconds": round(time.monotonic() - self.began, 1), "stages": {"unlearn": round(self.seconds, 1)}}
        return {"cost": cost, "provenance": told, "run": str(self.run.folder), "report": str(self.run.folder / "report.html")}


def walked(order: Order, out: Path, root: Path, step: int) -> None:
    """Take the steps of a sequence up to one, and measure nothing; those of its ledger are read.

    Arguments:
        root: Folder of the content-addressed runs.
        step: Counted from 1.
    """
    chosen = resolve(order)
    run = runs.claim(out, chosen.spec())
    with run.held(wait=NEIGHBOUR):
        ledger = Ledger(run, order.mode)
        ledger.check(chosen.steps, chosen.sorted_by())
        if len(ledger.steps) < step:
            sequence = _Sequence(chosen, _bench(chosen, root, silent, False), ledger)
            model = sequence.original
            for number in range(1, step + 1):
                _, after, _ = sequence.forgotten(number, model if sequence.chained else sequence.original)
                model = after


def state_of(order: Order, out: Path, root: Path, step: int) -> tuple[SequencePlan, Bench, Model, Model]:
    """A sequence's plan and bench, its original, and the model after a step that has been taken; step 0 is the original."""
    chosen = resolve(order)
    original = models.load(order.model)
    ledger = Ledger(runs.claim(out, chosen.spec()), order.mode)
    model = original if not step else next(after for n, (_, after) in enumerate(ledger.states(original), 1) if n == step)
    return chosen, _bench(chosen, root, silent, False), original, model


@final
@dataclass(frozen=True, kw_only=True)
class Given(Unlearner):
    """Stands for whatever made an edit that is there already; it makes none."""

    paper = Paper("", "", 0)
    needs = frozenset()

    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        raise Incompatible("this edit was given; nothing makes it again")
