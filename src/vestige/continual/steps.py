"""The steps of a sequence: each request's edit by the order's method, within its guards, beside what it rehearses, and in the ledger.

A step is taken once. Whoever asks for it again, in this process or in another, finds it in the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from vestige import models, registry, runs
from vestige.concepts import Concept
from vestige.concepts.album import Album
from vestige.continual.guards import Guarded, protected
from vestige.continual.ledger import CHAINED, Ledger
from vestige.continual.memory import Memory
from vestige.continual.order import Order
from vestige.continual.plan import SequencePlan, resolve
from vestige.continual.result import attackers
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.edits import Edit
from vestige.errors import BadInput
from vestige.harness.bench import Bench
from vestige.harness.unlearning import training_data, unlearned
from vestige.methods import Data
from vestige.metrics import Judge, loading

NEIGHBOUR = 3600.0  # seconds to wait for a process that takes an earlier step of the ledger


def with_judges(chosen: SequencePlan, root: Path, watch: Watch, steal: bool) -> Bench:
    """A bench with the first request's judges, and those of every other request that is not judged by the same."""
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


@final
class Steps:
    """Takes a sequence's steps, one after another, or reads them from its ledger.

    Arguments:
        ledger: Under its run's lock, and checked against the plan's requests.
    """

    def __init__(self, chosen: SequencePlan, bench: Bench, ledger: Ledger) -> None:
        self.plan, self.bench, self.ledger, self.run = chosen, bench, ledger, ledger.run
        self.chained = chosen.order.mode in CHAINED
        bench.watch("load model", 0, 1)
        self.album = Album(any(concept.sensitive for concept in chosen.requests), chosen.order.keep_images)
        self.original = models.load(chosen.order.model)
        if not ledger.steps:
            ledger.write()
        self.memory = self._memory() if chosen.rehearses else None
        self.alternative = training_data(self.original, "drawn", "drawn", alternative=chosen.order.alternative).alternative
        self.refused: list[str] = []  # requests whose step does not stand
        self.seconds = 0.0  # of making what was not there
        for concept in chosen.requests:  # what an attacker cannot be given is found before the first step
            attackers(chosen, self.original, concept).check(concept, [attack for attack, _ in chosen.attacks.values()])

    def _memory(self) -> Memory:
        """What steps rehearse; what the first request adds is what the ledger's steps rehearsed."""
        made = Memory(self.plan, self.bench, self.original, self.album)
        if self.ledger.memory not in (None, made.first.content):
            raise BadInput(f"the memory in {self.bench.root} is not the one that earlier steps rehearsed; restore the folder from a copy")
        self.ledger.memory = made.first.content
        self.ledger.write()
        return made

    def base(self, model: Model) -> Model:
        """What the next step starts from, where the steps so far led to `model`."""
        return model if self.chained else self.original

    def standing(self, step: int) -> tuple[Concept, ...]:
        """The requests that the model after a step was to forget, without earlier ones whose step was rolled back."""
        own = self.plan.so_far(step)
        return tuple(c for i, c in enumerate(own) if c.name not in self.refused or i == len(own) - 1)

    def taken(self, step: int, base: Model) -> tuple[Edit, Model, dict[str, Any]]:
        """A step's edit and the model after it, from the ledger or made now; and what it rehearsed and was diagnosed with."""
        if step <= len(self.ledger.steps):
            entry = self.ledger.steps[step - 1]
            return *self.ledger.taken(step, base), {"memory": entry.get("memory"), "diagnostics": entry.get("diagnostics")}
        concept, order = self.plan.steps[step - 1], self.plan.order
        data = self._data(step, base)
        made = unlearned(
            self.bench.root, base, concept, order.method, self._method(concept, step), order.seed, data=data, watch=self.bench.watch
        )
        self.run.event("unlearned", step=step, request=concept.name)
        file, rehearsed = made.path("edit.safetensors"), None if data.retain is None else len(data.retain)
        edit = Edit.load(file)
        after = base.edited(edit)
        found = made.outcome.get("diagnostics")
        self.ledger.record(concept, file, base, after, self.plan.sorted_by().get(concept.name), found, rehearsed)
        self.seconds += float(made.outcome["seconds"])
        self.run.event("recorded", step=step, request=concept.name)
        return edit, after, {"memory": rehearsed, "diagnostics": found}

    def _data(self, step: int, base: Model) -> Data:
        """What a step's method may train on."""
        guards = self.plan.order.guards
        memory, related = self.memory.without(self.plan.so_far(step), step) if self.memory is not None else (None, None)
        needed = memory is not None or (guards.pull > 0 and guards.pull_towards == "original")
        before = self.original if needed and base is not self.original else None
        cache = self.album.cache(self.bench.root)
        return Data(retain=memory, related=related, alternative=self.alternative, cache=cache, original=before)

    def _method(self, concept: Concept, step: int) -> Any:
        """The order's method, within its guards."""
        order, method = self.plan.order, self.plan.unlearner
        if not order.guards.active:
            return method
        settled = self.standing(step)[:-1] if order.mode == "sequential" else ()
        words = protected(concept, settled) if order.guards.project else ()
        return Guarded(method=order.method, settings=registry.settings(method), guards=order.guards.as_dict(), protected=words)

    def refuse(self, step: int, reasons: Sequence[str]) -> None:
        """Let a step not stand: what follows starts from the model before it."""
        self.ledger.refuse(step, reasons)
        self.refused.append(self.plan.asked_in(step))


# In a worker process


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
            steps = Steps(chosen, with_judges(chosen, root, silent, False), ledger)
            model = steps.original
            for number in range(1, step + 1):
                _, model, _ = steps.taken(number, steps.base(model))


def state_of(order: Order, out: Path, root: Path, step: int) -> tuple[SequencePlan, Bench, Model, Model]:
    """A sequence's plan and bench, its original, and the model after a step that has been taken; step 0 is the original."""
    chosen = resolve(order)
    original = models.load(order.model)
    ledger = Ledger(runs.claim(out, chosen.spec()), order.mode)
    model = original if not step else next(after for n, (_, after) in enumerate(ledger.states(original), 1) if n == step)
    return chosen, with_judges(chosen, root, silent, False), original, model
