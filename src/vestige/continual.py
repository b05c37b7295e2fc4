"""Continual unlearning: requests that arrive one after another, each forgotten by the model that the one before left behind.

After every step everything is measured again: what was forgotten so far and whether it returns, what is still to come, what
lies near a request and what lies near none. The folder is a ledger: the same command with a longer list continues it. The
requests are no part of its spec, only what it has done; neither are attacks, which measure and change nothing.

Modes. *sequential*: step n starts from the model after step n - 1. *independent*: every request from the original, for drift
and for merging. A simultaneous mode is missing on purpose: methods take one target, and a sum of independent edits is not it.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from vestige import arms, models, retention, runs
from vestige.account import Account, State
from vestige.arms import Bench
from vestige.audit import describe
from vestige.base import Model, Watch, silent
from vestige.concepts import Concept, Prompt
from vestige.course import Course, Order, course
from vestige.edits import Edit
from vestige.errors import BadInput
from vestige.images import Data, PictureSet, captioned, generated, shipped
from vestige.ledger import Ledger
from vestige.plan import PROXY
from vestige.probes import look, names, probes
from vestige.sampling import derive

SCHEMA = "vestige-continual-1"
COMBINED = "combined.safetensors"


def continual(order: Order, out: Path | str, *, steal: bool = False, watch: Watch = silent, command: str = "") -> dict[str, Any]:
    """Run a sequence in the folder `out`, resume or continue it; returns its result, which is also `out/result.json`.

    Arguments:
        steal: Take over the lock of another process that is known to be gone.
        command: The command line that asked for it, for the report.
    """
    chosen = course(order)
    run = runs.claim(out, chosen.spec())
    asked = runs.key(chosen.asked())
    Ledger(run, order.mode).check(chosen.requests)
    if run.result is None or run.result.get("asked") != asked:
        with run.held(steal=steal):
            ledger = Ledger(run, order.mode)
            ledger.check(chosen.requests)
            sequence = _Sequence(chosen, _bench(chosen, run.folder / "runs", watch, steal), ledger)
            run.finish({**sequence.result(command), "asked": asked})
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


def _bench(chosen: Course, root: Path, watch: Watch, steal: bool) -> Bench:
    from vestige.metrics import detection

    world = models.data_folder() / (chosen.world or "wardrobe")
    watch("load judges", 0, 1)
    verify, select = detection.load(world / "judge-verify"), detection.load(world / "judge-select")
    return Bench(root, chosen.suite, verify, select, steal=steal, watch=watch)


class _Sequence:
    """One sequence's models and states; made, asked for its result, and thrown away."""

    def __init__(self, chosen: Course, bench: Bench, ledger: Ledger) -> None:
        self.course, self.bench, self.ledger, self.run = chosen, bench, ledger, ledger.run
        self.requests, self.began, self.seconds = chosen.requests, time.monotonic(), 0.0
        self.sequential = chosen.order.mode == "sequential"
        bench.watch("load model", 0, 1)
        self.original = models.load(chosen.order.model)
        self.probes = probes(self.requests)
        if not ledger.steps:
            ledger.write()
        self.memory = self._memory() if chosen.rehearses else None
        self.touched: set[str] = set()

    def _memory(self) -> PictureSet:
        """Pictures by the original, drawn once; they depend on the first request alone, so a longer list changes none."""
        first, order, watch = self.requests[0], self.course.order, self.bench.watch
        words = (*first.neighbours, *first.unrelated)
        if not words:
            raise BadInput(f"{first.name} names neither neighbours nor unrelated concepts; a memory needs some")
        prompts, cache = first.spread(order.memory, "training", words=words), self.bench.root / "pictures"
        seed = derive(order.seed, "memory")
        made = Data(cache=cache).drawn(self.original, prompts, seed=seed, watch=lambda _, i, n: watch("draw the memory", i, n))
        if self.ledger.memory not in (None, made.content):
            raise BadInput(f"the memory in {cache} is not the one that earlier steps rehearsed; restore the folder from a copy")
        self.ledger.memory = made.content
        self.ledger.write()
        return made

    def remembered(self, requests: Sequence[Concept]) -> PictureSet | None:
        """The memory without whatever names one of the requests, or shows one by the selection judge."""
        if self.memory is None:
            return None
        shown = [arms.shows(self.bench.select, self.memory.images, concept) for concept in requests]
        prompts = [Prompt(text, labels) for (text,), labels in zip(self.memory.captions, self.memory.labels, strict=True)]
        kept = [i for i, prompt in enumerate(prompts) if not names(prompt, requests) and not any(hits[i] for hits in shown)]
        if not kept:
            raise BadInput(f"no picture of the memory's {len(prompts)} is left without a request in it; raise --memory")
        return self.memory.take(kept)

    def forgotten(self, step: int, base: Model) -> tuple[Edit, Model, dict[str, Any]]:
        """A step's edit and the model after it, from the ledger or made now, and what it rehearsed."""
        concept, order, memory = self.requests[step - 1], self.course.order, self.remembered(self.course.so_far(step))
        told = {"memory": None if memory is None else len(memory)}
        if step <= len(self.ledger.steps):
            return *self.ledger.taken(step, base), told
        before = None if base is self.original else self.original
        data = Data(retain=memory, cache=self.bench.root / "pictures", original=before if memory is not None else None)
        made = arms.unlearned(
            self.bench.root, base, concept, order.method, self.course.unlearner, order.seed, data=data, watch=self.bench.watch
        )
        self.run.event("unlearned", step=step, request=concept.name)
        file = made.path("edit.safetensors")
        edit = Edit.load(file)
        after = base.edited(edit)
        self.ledger.record(concept, file, base, after)
        self.seconds += float(made.outcome["seconds"])
        self.run.event("recorded", step=step, request=concept.name)
        return edit, after, told

    def seen(self, step: int, model: Model, known: dict[str, Any]) -> State:
        """Everything that is measured of one model."""
        every = (*self.probes.requests, *self.probes.around)
        found = []
        for probe in every:
            found.append(look(self.bench, model, probe))
            self.bench.watch(f"look at step {step}", len(found), len(every))
        looks = {c.name: run for c, run in zip(self.requests, found, strict=False)}
        attacked = {name: {c.name: self.attacked(model, c, name) for c in self.course.so_far(step)} for name in self.course.attacks}
        return State(step, looks, found[len(looks) :], {**known, "fingerprint": model.fingerprint[:16], "attacks": attacked})

    def attacked(self, model: Model, concept: Concept, name: str) -> dict[str, Any]:
        """What an attack brings back of one request: its curve with best-so-far, over all replicates."""
        attack, planned = self.course.attacks[name]
        found = []
        for k in range(self.course.order.replicates):
            held = self.held(attack, concept, planned.references, k)
            points = arms.run_arm(self.bench, model, concept, (name, attack), planned.budget, k, held).outcome["points"]
            found.append([points[i]["hits"] for i in arms.curve(points, best_so_far=True)[1]])
        rates = [retention.rate([hit for row in found for hit in row[i]]) for i in range(len(planned.budget.points))]
        return {"budgets": list(planned.budget.points), "curve": rates}

    def held(self, attack: Any, concept: Concept, count: int, replicate: int) -> PictureSet | None:
        """What the attacker trains on: pictures of the concept, or, for an attack that goes without, of what was to stay.

        The first are the world's test pictures where there is a world, else the original's. No request is among the second.
        """
        sheet = models.data_folder() / (self.course.world or "none") / "pictures/references"
        if "retain" not in attack.needs:
            if not count or not self.course.world:
                return generated(self.original, concept, count, seed=replicate, protocol=self.course.suite.protocol) if count else None
            return shipped(sheet, {concept.group: concept.label}).draw(count, replicate)
        if attack.data == "own":
            return None
        if attack.data != "retain" or not self.course.world:
            raise BadInput(
                f"a sequence gives {concept.name}'s attacker the world's pictures, or with data=own none; given data={attack.data}"
            )
        whole, away = shipped(sheet), {(c.group, c.label) for c in self.requests} | {*PROXY.items()}
        kept = whole.take([i for i, labels in enumerate(whole.labels) if not away & labels.items()])
        return captioned(kept.draw(min(attack.retain_pictures, len(kept)), replicate), concept)

    def drift(self, edit: Edit, base: Model, model: Model) -> dict[str, Any]:
        """Relative distance of the weights touched so far to the original's, and of this step's to the previous model's."""
        self.touched = {*edit.touched, *(self.touched if self.sequential else ())}
        whole = Edit(self.original.fingerprint, "drift", tensors={name: model.tensor(name) for name in self.touched})
        made = describe(base, edit)
        return {"drift": {"original": describe(self.original, whole)["relative_norm"], "previous": made["relative_norm"]}, "edit": made}

    def result(self, command: str) -> dict[str, Any]:
        """Take and measure every step that is missing, and put the result together."""
        model, states = self.original, [self.seen(0, self.original, {"drift": {"original": 0.0, "previous": 0.0}, "edit": None})]
        for step in range(1, len(self.requests) + 1):
            base = model if self.sequential else self.original
            edit, model, told = self.forgotten(step, base)
            states.append(self.seen(step, model, {**told, **self.drift(edit, base, model)}))
            self.run.event("measured", step=step)
        combined = None
        if self.sequential:
            combined = str(self.ledger.edit(self.original).save(self.run.path(COMBINED)))
        account = Account(self.course, self.bench, self.run, self.original.image_size)
        steps = [account.described(state, states) for state in states]
        return {"schema": SCHEMA, **account.heading(), "steps": steps, "combined": combined, **self.provenance(model, command)}

    def provenance(self, model: Model, command: str) -> dict[str, Any]:
        versions = {name: metadata.version(name) for name in ("vestige", "torch", "diffusers", "transformers")}
        hashes = {"model_hash": self.original.fingerprint[:16], "edited_hash": model.fingerprint[:16]}
        finished = datetime.now(timezone.utc).isoformat(timespec="seconds")
        told = {**versions, "python": platform.python_version(), **hashes, "finished": finished, "command": command}
        cost = {"seconds": round(time.monotonic() - self.began, 1), "stages": {"unlearn": round(self.seconds, 1)}}
        return {"cost": cost, "provenance": told, "run": str(self.run.folder), "report": str(self.run.folder / "report.html")}
