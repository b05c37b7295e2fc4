"""The case that an audit hears: its models, its edit, what an attacker holds, and every attack on every one of them.

Three arms under one protocol: *edited* (the model under audit), *never* (a twin that never drew the concept, or the original
being taught a proxy that it never drew), *original* (the ceiling, and a check that the attack does not destroy what is known).
Where the original is not at hand, `alone` says what stands in for it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from vestige import checkpoints, concepts, metrics, models, registry, runs
from vestige.audit import no_original
from vestige.audit.plan import Plan
from vestige.concepts import Concept
from vestige.concepts.images import PictureSet, folder
from vestige.diffusion import Model
from vestige.diffusion.model import Attack, Budget, Watch
from vestige.edits import Edit
from vestige.harness import arms, workers
from vestige.harness.attacker import Holdings
from vestige.harness.bench import Bench
from vestige.harness.unlearning import unlearned
from vestige.harness.utility import kept
from vestige.methods import Data


def furnished(planned: Plan, root: Path, watch: Watch, steal: bool = False) -> Bench:
    """A plan's bench, with the judges of its concept."""
    watch("load judges", 0, 1)
    verify, select = metrics.pair(planned.concept, planned.world)
    return Bench(root, planned.suite, verify, select, steal=steal, watch=watch, keep=planned.request.keep_images)


def training_data(model: Model, forget: str, retain: str, cache: Path | None = None) -> Data:
    """What an unlearner may train on: each is "drawn", by the model itself, or a folder of pictures."""

    def read(source: str) -> PictureSet | None:
        return None if source == "drawn" else folder(source, model.image_size)

    return Data(read(forget), read(retain), cache=cache)


class Case:
    """One audit's models and arms; made, asked, and thrown away."""

    def __init__(self, planned: Plan, bench: Bench, run: runs.Run) -> None:
        self.plan, self.bench, self.run, self.began = planned, bench, run, time.monotonic()
        self.concept = planned.concept
        bench.watch("load models", 0, 1)
        self.original = models.load(planned.original) if planned.original else None
        same = self.original if planned.request.model == planned.original else None
        self.subject = models.load(planned.request.model) if same is None else same
        self.diagnostics: dict[str, Any] = {}
        self._held(self.subject).check(self.concept, [attack for attack, _ in planned.attacks.values()])
        self.edit, self.unlearn_seconds = self._edit()
        self.edited = self.subject if self.edit is None else self.subject.edited(self.edit)
        self.base = self.edited if self.original is None else self.original  # whose pictures' size holds, and who is taught a proxy
        kind, name = planned.control
        self.never = models.load(name) if kind == "twin" else self.base
        self.never_concept = self.concept if kind != "proxy" else concepts.load(name, planned.world or "wardrobe")
        if self.never_concept.detector and self.never_concept is not self.concept:
            self.bench = replace(bench, own={self.never_concept.name: metrics.pair(self.never_concept, planned.world)})

    def _edit(self) -> tuple[Edit | None, float]:
        """The edit under audit, given or made now, and the seconds that its making took."""
        request, watch = self.plan.request, self.bench.watch
        if request.edit is not None:
            return checkpoints.load(request.edit, self.subject), 0.0
        if self.plan.unlearner is None:
            return None, 0.0
        run = unlearned(
            self.bench.root,
            self.subject,
            self.concept,
            request.unlearner,
            self.plan.unlearner,
            request.edit_seed,
            data=training_data(self.subject, request.forget, request.retain, self.bench.album(self.concept).cache(self.bench.root)),
            watch=watch,
            wait=self.bench.wait,
        )
        edit, self.diagnostics = Edit.load(run.path("edit.safetensors")), dict(run.outcome.get("diagnostics", {}))
        if self.diagnostics and not edit.hooks:
            self.diagnostics["rate_on_line"] = arms.line(self.bench, self.subject, edit, self.concept)
        return edit, float(run.outcome["seconds"])

    @cached_property
    def real(self) -> no_original.Real | None:
        """What stands in for the original's ceiling; None where there is an original."""
        return no_original.seen(self) if self.original is None else None

    @property
    def holdings(self) -> Holdings:
        """What the attacker holds."""
        return self._held(self.base)

    def _held(self, original: Model) -> Holdings:
        request = self.plan.request
        return Holdings(
            original=original,
            world=self.plan.world,
            protocol=self.plan.suite.protocol,
            references=request.references,
            retain=request.attack_retain,
            cache=self.bench.album(self.concept).cache(self.bench.root),
        )

    def arm(self, model: Model, concept: Concept, name: str, attack: Attack, replicate: int) -> runs.Run:
        """One attack on one model for one replicate, with what its attacker holds."""
        planned, audited = self.plan.attacks[name][1], self.concept
        told = audited if "retain" in attack.needs else concept  # what was retained has no pictures of the concept under audit
        proxy = concept is not audited
        held = self.holdings.of(told, attack, planned.references, replicate, proxy=proxy, watch=self.bench.watch)
        return arms.run_arm(self.bench.of(concept), model, concept, (name, attack), planned.budget, replicate, held)

    def attack(self, name: str) -> dict[str, Any]:
        """Every arm of one attack, as point lists a replicate, and the ways of attacking that count.

        On either model the attacker does what works better there, by the selection judge.
        """
        method, seeds = self.plan.attacks[name][0], self.plan.seeds
        ways, sides = {"": method, **method.variants()}, {"edited": (self.edited, self.concept), "never": (self.never, self.never_concept)}
        tried = {arm: {way: [self.arm(*side, name, a, k) for k in seeds] for way, a in ways.items()} for arm, side in sides.items()}
        chosen = {arm: arms.favoured(rows) for arm, rows in tried.items()}
        taken = {arm: tried[arm][way] for arm, way in chosen.items()}
        original, plain = [], []
        if self.original is not None:
            original = [self.arm(self.original, self.concept, name, method, seeds[0])]
            plain = [original[0], *(self.plain(self.original, self.concept, k) for k in seeds[1:])]
        return {**taken, "original": original, "ceiling": plain, "ways": chosen, "tried": tried}

    def plain(self, model: Model, concept: Concept, replicate: int) -> runs.Run:
        """Plain prompts on the verification seeds of a replicate: the zero point of every attack's curve."""
        return arms.run_arm(self.bench, model, concept, ("direct", registry.build("attacks", "direct")), Budget((0,)), replicate, None)

    def errands(self) -> Iterator[workers.Errand]:
        """Every run of the attacks and of the plain models, in an order that suits several processes: long ones first."""
        seeds = self.plan.seeds
        for name, (method, _) in self.plan.attacks.items():
            for k in seeds:
                for way in (method, *method.variants().values()):
                    yield partial(self.arm, self.edited, self.concept, name, way, k)
                    yield partial(self.arm, self.never, self.never_concept, name, way, k)
            if self.original is not None:
                yield partial(self.arm, self.original, self.concept, name, method, seeds[0])
        for k in seeds[1:] if self.original is not None else ():
            yield partial(self.plain, self.base, self.concept, k)
        drawing = [self.edited] if self.original is None else [self.original, self.edited]
        for model, group in itertools.product(drawing, ("neighbours", "unrelated")):
            yield partial(kept, self.bench, model, self.concept, group)
