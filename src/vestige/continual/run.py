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

from vestige import models, runs
from vestige.concepts import Concept
from vestige.continual.acceptance import judged_by, judged_from, limits
from vestige.continual.certificates import certificate
from vestige.continual.guards import Guards
from vestige.continual.ledger import Ledger, chained, slug
from vestige.continual.order import Order
from vestige.continual.plan import SequencePlan, resolve
from vestige.continual.probes import Probe, look, probes
from vestige.continual.result import Account, State, attempted
from vestige.continual.steps import Steps, with_judges
from vestige.continual.verdicts import verdict_on
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit
from vestige.edits.arithmetic import describe, distance, moved
from vestige.errors import BadInput, Incompatible
from vestige.harness.bench import Bench
from vestige.methods import Data, Paper, Unlearner

SCHEMA = "vestige-continual-1"
COMBINED = "combined.safetensors"


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
    if order.withdrawn:
        with run.held(steal=steal):
            Ledger(run, order.mode).withdraw(order.withdrawn)
    Ledger(run, order.mode).check(chosen.steps, chosen.sorted_by())
    if run.result is None or run.result.get("asked") != runs.key(chosen.asked()):
        if ahead is not None:
            ahead()
        with run.held(steal=steal):
            ledger = Ledger(run, order.mode)
            ledger.check(chosen.steps, chosen.sorted_by())
            _finish(chosen, ledger, cache, command, steal=steal, watch=watch)
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
            _finish(chosen, ledger, cache, command, steal=steal, watch=watch)
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


def _finish(chosen: SequencePlan, ledger: Ledger, cache: Path | None, command: str, *, steal: bool, watch: Watch) -> None:
    """Take and measure every step that is missing, and store the result; the ledger's run is held."""
    bench = with_judges(chosen, cache or ledger.run.folder / "runs", watch, steal)
    ledger.run.finish({**_Sequence(chosen, bench, ledger).result(command), "asked": runs.key(chosen.asked())})


class _Sequence:
    """One sequence, step after step taken and measured; made, asked for its result, and thrown away."""

    def __init__(self, chosen: SequencePlan, bench: Bench, ledger: Ledger) -> None:
        self.plan, self.bench, self.ledger, self.run = chosen, bench, ledger, ledger.run
        self.began = time.monotonic()
        self.probes = probes(chosen.requests)
        self.steps = Steps(chosen, bench, ledger)
        self.original = self.steps.original
        self.touched: set[str] = set()  # weights that the steps so far changed

    def seen(self, step: int, model: Model, known: dict[str, Any]) -> State:
        """Everything that is measured of the model after a step, beside what is known of the step itself."""
        found: list[tuple[Probe, runs.Run]] = []
        for probe in self.probes.all:
            found.append((probe, look(self.bench, model, probe)))
            self.bench.watch(f"look at step {step}", len(found), len(self.probes.all))
        asked = {bank: {p.concept.name: run for p, run in found if p.words is None and p.bank == bank} for bank in ("held-out", "indirect")}
        around = [run for probe, run in found if probe.words is not None]
        so_far, held = self.steps.standing(step), (self.plan, self.bench, self.original, model)
        returns = {name: {c.name: attempted(*held, c, name) for c in so_far} for name in self.plan.attacks}
        told = {**known, "fingerprint": model.fingerprint[:16], "attacks": returns}
        return State(step, asked["held-out"], asked["indirect"], around, told, so_far)

    def drift(self, edit: Edit, base: Model, model: Model) -> dict[str, Any]:
        """Relative distance of the weights touched so far to the original's, and of this step's to the previous model's."""
        self.touched = {*edit.touched, *(self.touched if self.steps.chained else ())}
        whole = moved(self.original, {name: model.tensor(name) for name in sorted(self.touched)})
        made = describe(base, edit)
        return {"drift": {"original": distance(self.original, whole), "previous": made["relative_norm"]}, "edit": made}

    def result(self, command: str) -> dict[str, Any]:
        """Take and measure every step that is missing, and put the result together."""
        model, states = self.original, [self.seen(0, self.original, {"drift": {"original": 0.0, "previous": 0.0}, "edit": None})]
        stands, parts = 0, list[Edit]()
        account = Account(self.plan, self.bench, self.run, self.original.image_size)
        rows = [account.described(states[0], states)]
        for step in range(1, len(self.plan.steps) + 1):
            base, touched = self.steps.base(model), set(self.touched)
            edit, after, told = self.steps.taken(step, base)
            states.append(self.seen(step, after, {**told, **self.drift(edit, base, after)}))
            rows.append(account.described(states[-1], states))
            self.run.event("measured", step=step)
            made = [*parts, edit] if self.steps.chained else [edit]
            rows[-1]["verdicts"] = self.judged(step, made, after) if self.plan.judges_every_step else {}
            rows[-1]["accepted"] = self.accepted(step, rows)
            if rows[-1]["accepted"] is None or rows[-1]["accepted"]["stands"]:
                model, stands, parts = after, step, made if self.plan.verdicts else []
            else:
                self.touched = touched
        if self.plan.verdicts and not self.plan.judges_every_step and stands:
            rows[stands]["verdicts"] = self.judged(stands, parts, model)
        combined = None
        if self.plan.order.mode != "independent":
            combined = str(self.ledger.edit(self.original).save(self.run.path(COMBINED)))
        found = {"steps": rows, "certificates": self.certificates(rows), "withdrawn": self.ledger.withdrawn, "combined": combined}
        return {"schema": SCHEMA, **account.heading(), **found, **self.provenance(model, command)}

    def judged(self, step: int, parts: Sequence[Edit], model: Model) -> dict[str, Any]:
        """The verdict on every request so far, by an audit of the model after a step.

        Arguments:
            parts: The edits that made it of the original, in order.
        """
        so_far, found = self.steps.standing(step), dict[str, Any]()
        file = self.run.path(f"verdicts/{model.fingerprint[:16]}.safetensors")
        if not file.is_file():  # written once: the audits' runs are known by what is in it
            (parts[0] if len(parts) == 1 else chained(self.original, model, parts)).save(file)
        for concept in so_far:
            found[concept.name] = verdict_on(self.plan.order, self.bench, self.run.folder, concept, so_far, file)
            self.run.event("judged", step=step, request=concept.name, verdict=found[concept.name]["kind"])
        return found

    def accepted(self, step: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        """Whether a step stands under the order's limits, and why; None where there are none."""
        conditions = limits(self.plan.order.accept)
        if not conditions:
            return None
        found = judged_from(rows[step], rows[0], [c.name for c in self.steps.standing(step)])
        reasons = judged_by(conditions, found)
        if reasons:
            self.steps.refuse(step, reasons)
            self.run.event("rolled back", step=step, request=self.plan.asked_in(step))
        return {"limits": conditions, "found": found, "stands": not reasons, "reasons": reasons}

    def certificates(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """One a request, also as a file of its own."""
        made, together = [], self.plan.order.mode == "simultaneous"
        for number, concept in enumerate(self.plan.requests, 1):
            step = 1 if together else number
            found = certificate(self.plan, concept, step, rows, self.ledger.steps[step - 1], self.original.fingerprint)
            self.run.write_json(f"certificates/{number:02d}-{slug(concept.name)}.json", found)
            made.append(found)
        return made

    def provenance(self, model: Model, command: str) -> dict[str, Any]:
        """What it took, of what versions and models it was made, and where it lies."""
        versions = {name: metadata.version(name) for name in ("vestige", "torch", "diffusers", "transformers")}
        hashes = {"model_hash": self.original.fingerprint[:16], "edited_hash": model.fingerprint[:16]}
        finished = datetime.now(timezone.utc).isoformat(timespec="seconds")
        told = {**versions, "python": platform.python_version(), **hashes, "finished": finished, "command": command}
        cost = {"seconds": round(time.monotonic() - self.began, 1), "stages": {"unlearn": round(self.steps.seconds, 1)}}
        return {"cost": cost, "provenance": told, "run": str(self.run.folder), "report": str(self.run.folder / "report.html")}


@final
@dataclass(frozen=True, kw_only=True)
class Given(Unlearner):
    """Stands for whatever made an edit that is there already; it makes none."""

    paper = Paper("", "", 0)
    needs = frozenset()

    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        raise Incompatible("this edit was given; nothing makes it again")
