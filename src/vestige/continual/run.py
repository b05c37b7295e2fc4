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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, final

from vestige import models, registry, runs
from vestige.concepts import Concept
from vestige.concepts.album import Album
from vestige.concepts.concept import Prompt
from vestige.concepts.images import PictureSet
from vestige.continual.guards import Guarded, Guards, protected
from vestige.continual.ledger import CHAINED, Ledger
from vestige.continual.plan import Order, SequencePlan, resolve
from vestige.continual.probes import Probe, look, names, probes
from vestige.continual.result import Account, State, attempted
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit
from vestige.edits.arithmetic import describe, distance, moved
from vestige.errors import BadInput, Incompatible
from vestige.harness.bench import Bench, shows
from vestige.harness.unlearning import unlearned
from vestige.methods import Data, Paper, Unlearner
from vestige.metrics import Judge, loading
from vestige.seeds import derive

SCHEMA = "vestige-continual-1"
COMBINED = "combined.safetensors"


def continual(
    order: Order, out: Path | str, *, cache: Path | None = None, steal: bool = False, watch: Watch = silent, command: str = ""
) -> dict[str, Any]:
    """Run a sequence in the folder `out`, resume or continue it; returns its result, which is also `out/result.json`.

    Arguments:
        cache: Folder of the content-addressed runs and pictures, shared between sequences; None keeps them in `out`.
        steal: Take over the lock of another process that is known to be gone.
        command: The command line that asked for it, for the report.
    """
    chosen = resolve(order)
    run = runs.claim(out, chosen.spec())
    asked = runs.key(chosen.asked())
    Ledger(run, order.mode).check(chosen.steps, chosen.sorted_by())
    if run.result is None or run.result.get("asked") != asked:
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
        self.touched: set[str] = set()

    def _memory(self) -> PictureSet:
        """Pictures by the original, drawn once; they depend on the first request alone, so a longer list changes none."""
        first, order, watch = self.requests[0], self.course.order, self.bench.watch
        words = (*first.neighbours, *first.unrelated)
        if not words:
            raise BadInput(f"{first.name} names neither neighbours nor unrelated concepts; a memory needs some")
        prompts, cache = first.spread(order.memory, "training", words=words), self.album.cache(self.bench.root)
        seed = derive(order.seed, "memory")
        made = Data(cache=cache).drawn(self.original, prompts, seed=seed, watch=lambda _, i, n: watch("draw the memory", i, n))
        if self.ledger.memory not in (None, made.content):
            raise BadInput(f"the memory in {cache} is not the one that earlier steps rehearsed; restore the folder from a copy")
        self.ledger.memory = made.content
        self.ledger.write()
        return made

    def remembered(self, requests: Sequence[Concept]) -> PictureSet | None:
        """The memory without whatever names one of the requests, or is not known by the selection judge to show none."""
        if self.memory is None:
            return None
        shown = [shows(self.bench.of(concept).select, self.memory.images, concept) for concept in requests]
        prompts = [Prompt(text, labels) for (text,), labels in zip(self.memory.captions, self.memory.labels, strict=True)]
        kept = [i for i, prompt in enumerate(prompts) if not names(prompt, requests) and all(hits[i] is False for hits in shown)]
        if not kept:
            raise BadInput(f"of the memory's {len(prompts)} pictures none is known to be without a request; raise --memory")
        return self.memory.take(kept)

    def forgotten(self, step: int, base: Model) -> tuple[Edit, Model, dict[str, Any]]:
        """A step's edit and the model after it, from the ledger or made now, and what it rehearsed."""
        concept, order, memory = self.course.steps[step - 1], self.course.order, self.remembered(self.course.so_far(step))
        told: dict[str, Any] = {"memory": None if memory is None else len(memory)}
        if step <= len(self.ledger.steps):
            return *self.ledger.taken(step, base), {**told, "diagnostics": self.ledger.steps[step - 1].get("diagnostics")}
        needed = memory is not None or (order.guards.pull > 0 and order.guards.pull_towards == "original")
        before = self.original if needed and base is not self.original else None
        data = Data(retain=memory, cache=self.album.cache(self.bench.root), original=before)
        method = self.method(concept, step)
        made = unlearned(self.bench.root, base, concept, order.method, method, order.seed, data=data, watch=self.bench.watch)
        self.run.event("unlearned", step=step, request=concept.name)
        file = made.path("edit.safetensors")
        edit = Edit.load(file)
        after = base.edited(edit)
        found = made.outcome.get("diagnostics")
        self.ledger.record(concept, file, base, after, self.course.sorted_by().get(concept.name), found)
        self.seconds += float(made.outcome["seconds"])
        self.run.event("recorded", step=step, request=concept.name)
        return edit, after, {**told, "diagnostics": found}

    def method(self, concept: Concept, step: int) -> Any:
        """The order's method, within its guards."""
        method, guards = self.course.unlearner, self.course.order.guards
        if not guards.active:
            return method
        settled = self.course.so_far(step)[:-1] if self.course.order.mode == "sequential" else ()
        words = protected(concept, settled) if guards.project else ()
        return Guarded(method=self.course.order.method, settings=registry.settings(method), guards=asdict(guards), protected=words)

    def seen(self, step: int, model: Model, known: dict[str, Any]) -> State:
        """Everything that is measured of one model."""
        found: list[tuple[Probe, runs.Run]] = []
        for probe in self.probes.all:
            found.append((probe, look(self.bench, model, probe)))
            self.bench.watch(f"look at step {step}", len(found), len(self.probes.all))
        asked = {bank: {p.concept.name: run for p, run in found if p.words is None and p.bank == bank} for bank in ("held-out", "indirect")}
        around = [run for probe, run in found if probe.words is not None]
        so_far, held = self.course.so_far(step), (self.course, self.bench, self.original, model)
        returns = {name: {c.name: attempted(*held, c, name) for c in so_far} for name in self.course.attacks}
        told = {**known, "fingerprint": model.fingerprint[:16], "attacks": returns}
        return State(step, asked["held-out"], asked["indirect"], around, told)

    def drift(self, edit: Edit, base: Model, model: Model) -> dict[str, Any]:
        """Relative distance of the weights touched so far to the original's, and of this step's to the previous model's."""
        self.touched = {*edit.touched, *(self.touched if self.chained else ())}
        whole = moved(self.original, {name: model.tensor(name) for name in sorted(self.touched)})
        made = describe(base, edit)
        return {"drift": {"original": distance(self.original, whole), "previous": made["relative_norm"]}, "edit": made}

    def result(self, command: str) -> dict[str, Any]:
        """Take and measure every step that is missing, and put the result together."""
        model, states = self.original, [self.seen(0, self.original, {"drift": {"original": 0.0, "previous": 0.0}, "edit": None})]
        for step in range(1, len(self.course.steps) + 1):
            base = model if self.chained else self.original
            edit, model, told = self.forgotten(step, base)
            states.append(self.seen(step, model, {**told, **self.drift(edit, base, model)}))
            self.run.event("measured", step=step)
        combined = None
        if self.course.order.mode != "independent":
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


@final
@dataclass(frozen=True, kw_only=True)
class Given(Unlearner):
    """Stands for whatever made an edit that is there already; it makes none."""

    paper = Paper("", "", 0)
    needs = frozenset()

    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, model: Model, concept: Concept, *, seed: int, data: Data | None = None, watch: Watch = silent) -> Edit:
        raise Incompatible("this edit was given; nothing makes it again")
