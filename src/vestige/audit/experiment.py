"""The experiment of an audit: its models, its edit, and every attack on every one of them.

Three arms under one protocol: *edited* (the model under audit), *never* (twins that never drew the concept, never-models made of the
original, or the original being taught proxies that it never drew), *original* (the ceiling, and a check that the attack does not destroy
what is known).
Where the original is not at hand, `no_original` says what stands in for it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vestige import checkpoints, concepts, data, metrics, models, runs
from vestige.audit import no_original
from vestige.audit.plan import PLASTICITY_REPLICATES, Plan
from vestige.audit.restoring import with_restoring
from vestige.concepts import Concept
from vestige.diffusion import Model
from vestige.diffusion.model import Watch
from vestige.edits import Edit
from vestige.errors import BadInput, BadSetting
from vestige.harness import arms
from vestige.harness.attacker import AttackerData
from vestige.harness.bench import Bench
from vestige.harness.never import never_model
from vestige.harness.positives import hidden
from vestige.harness.unlearning import training_data, unlearned
from vestige.harness.ways import still_open
from vestige.methods import Attack, Budget
from vestige.methods.stock import Stock
from vestige.metrics import loading

GROUPS = ("neighbours", "unrelated")


def furnished(planned: Plan, root: Path, watch: Watch, steal: bool = False) -> Bench:
    """A plan's bench, with the judges of its concept."""
    watch("load judges", 0, 1)
    verify, select = metrics.pair(planned.concept, planned.world)
    if planned.request.unshown and not verify.embeds:
        raise BadSetting(f"unshown lays pictures side by side by a judge's features, and {verify.name} gives none; see docs/metrics.md")
    by = loading.yardstick(planned.concept.fidelity) if planned.concept.fidelity else None
    return Bench(root, planned.suite, verify, select, steal=steal, watch=watch, keep=planned.request.keep_images, measured_by=by)


@dataclass(frozen=True)
class Lesson:
    """What plasticity is measured by: an attack that teaches, and a concept that it teaches to the edited and to the original model."""

    attack: str
    method: Attack
    concept: Concept


@dataclass(frozen=True)
class Experiment:
    """One audit's models, and the arms that may be asked for; `prepared` makes it.

    Arguments:
        run: The audit's own run.
        original: The model before the edit; None where it is not at hand.
        subject: What the edit is put on.
        edited: The model under audit.
        nevers: Who stand for a model that never drew the concept, and what each is attacked for.
        real: What stands in for the original's ceiling; None where there is an original.
        diagnostics: What was measured of an edit that was made here.
        began: When, by the monotonic clock.
        probes: Whether positive controls are attacked.
    """

    plan: Plan
    bench: Bench
    run: runs.Run
    original: Model | None
    subject: Model
    edit: Edit | None
    edited: Model
    nevers: tuple[tuple[Model, Concept], ...]
    real: no_original.Real | None
    diagnostics: Mapping[str, Any]
    unlearn_seconds: float
    began: float
    probes: bool = True

    @property
    def concept(self) -> Concept:
        return self.plan.concept

    @cached_property
    def positives(self) -> Mapping[str, Model | str]:
        """By name, the original under each positive control, made when asked for; why there is none, where it could not be made."""
        planned = self.plan.positives if self.probes else {}
        return {} if self.original is None else hidden(self.bench, self.original, self.concept, planned)

    @property
    def base(self) -> Model:
        """Whose pictures' size holds, and who is taught a proxy."""
        return self.edited if self.original is None else self.original

    @property
    def attacker(self) -> AttackerData:
        """What the attacker holds."""
        return _attacker(self.plan, self.bench, self.base)

    @property
    def lesson(self) -> Lesson | None:
        """How plasticity is measured; None where nothing was edited, or nobody could compare."""
        plan, concept = self.plan, self.concept
        if self.original is None or self.edited is self.original or not plan.suite.plasticity:
            return None
        teacher = next(((name, way) for name, (a, _) in plan.attacks.items() if (way := a.lesson) is not None), None)
        worlds = bool(plan.world and not concept.detector and concept.group in data.PROXY)
        if teacher is None or not (worlds or plan.control.kind == "proxy"):
            return None
        return Lesson(*teacher, concepts.load(data.PROXY[concept.group], plan.world) if worlds else self.nevers[0][1])

    @property
    def asks(self) -> dict[str, list[Model]]:
        """Who is asked the banks of prompts."""
        first = {} if self.original is None else {"original": [self.original]}
        twins = {"never": [model for model, _ in self.nevers]} if self.plan.control.of_the_concept else {}
        return {**first, "edited": [self.edited], **twins}

    def arm(self, model: Model, concept: Concept, name: str, attack: Attack, replicate: int, budget: Budget | None = None) -> runs.Run:
        """One attack on one model for one replicate, with what its attacker holds.

        Arguments:
            budget: None: the plan's.
        """
        planned, audited = self.plan.attacks[name][1], self.concept
        told = audited if "retain" in attack.needs else concept  # what was retained has no pictures of the concept under audit
        proxy = concept is not audited
        held = self.attacker.of(told, attack, planned.references, replicate, proxy=proxy, watch=self.bench.watch)
        stock = Stock(self.subject, self.edit if model is self.edited else None) if "original" in attack.needs else None
        return arms.run_arm(self.bench.of(concept), model, concept, (name, attack), budget or planned.budget, replicate, held, stock)

    def attack(self, name: str) -> dict[str, Any]:
        """Every arm of one attack, as point lists a replicate, and the ways of attacking that count.

        On every model the attacker does what works better there, by the selection judge. "nevers" holds the never-models one by one,
        "never" all of their runs.
        """
        seeds = self.plan.seeds
        edited, *nevers = (self.ways(*side, name, seeds) for side in ((self.edited, self.concept), *self.nevers))
        chosen, others = arms.favoured(edited), [arms.favoured(rows) for rows in nevers]
        taken = [rows[way] for rows, way in zip(nevers, others, strict=True)]
        original, plain = [], []
        if self.original is not None:
            original = [self.ceiling(name)]
            plain = [original[0], *(self.plain(self.original, self.concept, k) for k in seeds[1:])]
        return {
            "edited": edited[chosen],
            "never": [run for rows in taken for run in rows],
            "nevers": taken,
            "original": original,
            "ceiling": plain,
            "ways": {"edited": [chosen], "never": others},
            "tried": {"edited": edited, "never": {way: [run for rows in nevers for run in rows[way]] for way in edited}},
        }

    def ways(self, model: Model, concept: Concept, name: str, seeds: Sequence[int]) -> dict[str, list[runs.Run]]:
        """An attack on one model in every way of it, a run a replicate; fewer of a way that was given up where the suite is sparing."""
        ways, gives_up = self.plan.attacks[name][0].ways(), self.plan.gives_up(name)
        made: dict[str, list[runs.Run]] = {way: [] for way in ways}
        for k in seeds:
            for way in still_open(made) if gives_up else ways:
                made[way].append(self.arm(model, concept, name, ways[way], k))
        return made

    def turn(self, model: Model, concept: Concept, name: str, way: str, replicate: int) -> None:
        """One replicate of any look of a way of attacking, unless that was given up before; needs those before where one may be."""
        seeds = self.plan.most.seeds  # of the last look: a worker process knows of the first alone
        before = seeds[: seeds.index(replicate)]
        if not self.plan.gives_up(name) or way in still_open(self.ways(model, concept, name, before)):
            self.arm(model, concept, name, self.plan.attacks[name][0].ways()[way], replicate)

    def ceiling(self, name: str) -> runs.Run:
        """The original under an attack, in the first replicate; where the suite is sparing, as far as tells whether the attack destroys."""
        if self.original is None:
            raise ValueError("there is no original to attack")
        method, own = self.plan.attacks[name]
        if not self.plan.suite.sparing:
            return self.arm(self.original, self.concept, name, method, self.plan.seeds[0])
        if name not in self.plan.armed:
            return self.plain(self.original, self.concept, self.plan.seeds[0])
        return self.arm(self.original, self.concept, name, method, self.plan.seeds[0], Budget(tuple(sorted({0, own.budget.last}))))

    def plain(self, model: Model, concept: Concept, replicate: int) -> runs.Run:
        """Plain prompts on the verification seeds of a replicate: the zero point of every attack's curve."""
        return arms.plain_arm(self.bench.of(concept), model, concept, replicate)

    def taught(self) -> dict[str, list[runs.Run]]:
        """The arms of the lesson, by who was taught; {} without one."""
        lesson = self.lesson
        if lesson is None or self.original is None:
            return {}
        pupils, seeds = {"edited": self.edited, "original": self.original}, self.plan.seeds[:PLASTICITY_REPLICATES]
        return {who: [self.arm(pupil, lesson.concept, lesson.attack, lesson.method, k) for k in seeds] for who, pupil in pupils.items()}


def prepared(planned: Plan, bench: Bench, run: runs.Run) -> Experiment:
    """Load the models, make or read the edit, and load what stands for a model that never knew the concept."""
    began, concept = time.monotonic(), planned.concept
    bench.watch("load models", 0, 1)
    original = models.load(planned.original) if planned.original else None
    same = original if planned.request.model == planned.original else None
    subject = models.load(planned.request.model) if same is None else same
    _attacker(planned, bench, subject).check(concept, [attack for attack, _ in planned.attacks.values()])
    edit, seconds, diagnostics = edit_of(planned, bench, subject)
    planned = with_restoring(planned, original, subject, edit)
    edited = subject if edit is None else subject.edited(edit)
    base = edited if original is None else original
    planned, nevers = _apart(planned, original, edited, _nevers(planned, bench, base))
    own = {never.name: metrics.pair(never, planned.world) for _, never in nevers if never.detector and never is not concept}
    bench = replace(bench, own=own) if own else bench
    real = None if original is not None else _real(planned, bench, edited)
    return Experiment(planned, bench, run, original, subject, edit, edited, nevers, real, diagnostics, seconds, began)


def _nevers(planned: Plan, bench: Bench, base: Model) -> tuple[tuple[Model, Concept], ...]:
    """What stands for a model that never knew the concept; alone, a model stands beside itself."""
    names, concept = planned.control.names, planned.concept
    if planned.control.kind == "distilled":
        return tuple((never_model(bench, base, concept, seed), concept) for seed in range(len(names)))
    if planned.control.kind == "twin":
        return tuple((models.load(name), concept) for name in names)
    if planned.control.kind == "proxy":
        return tuple((base, concepts.load(name, planned.world)) for name in names)
    return ((base, concept),)


def _apart(
    planned: Plan, original: Model | None, edited: Model, nevers: tuple[tuple[Model, Concept], ...]
) -> tuple[Plan, tuple[tuple[Model, Concept], ...]]:
    """Twins that are no copies of the original or of one another, without the model under audit itself."""
    names, prints = planned.control.names, [model.fingerprint for model, _ in nevers]
    if planned.control.kind != "twin":
        return planned, nevers
    for name, mark in zip(names, prints, strict=True):
        if original is not None and mark == original.fingerprint:
            raise BadInput(f"{name} equals the original in every weight; a control never drew {planned.concept.name}")
        if prints.count(mark) > 1:
            raise BadInput(f"{name} equals another control in every weight; a control counts once")
    others = [i for i, mark in enumerate(prints) if mark != edited.fingerprint]
    if not others:
        raise BadInput(f"{names[0]} is the model under audit itself, and no other control was given")
    control = replace(planned.control, names=tuple(names[i] for i in others))
    return replace(planned, control=control), tuple(nevers[i] for i in others)


def _attacker(planned: Plan, bench: Bench, original: Model) -> AttackerData:
    return AttackerData(
        original=original,
        world=planned.world,
        protocol=planned.suite.protocol,
        references=planned.request.references,
        retain=planned.request.attack_retain,
        cache=bench.album(planned.concept).cache(bench.root),
    )


def _real(planned: Plan, bench: Bench, edited: Model) -> no_original.Real:
    """Real pictures of the concept, apart from those that an attack trains on where there are enough."""
    attacker, concept = _attacker(planned, bench, edited), planned.concept
    counts = {own.references for attack, own in planned.attacks.values() if own.references and "retain" not in attack.needs}
    given = [attacker.shown(concept, count, k) for count in sorted(counts) for k in planned.most.seeds]
    return no_original.seen(bench, edited, concept, attacker.real(concept), [one for one in given if one is not None])


def edit_of(planned: Plan, bench: Bench, subject: Model) -> tuple[Edit | None, float, dict[str, Any]]:
    """The edit under audit, given or made now, the seconds that its making took, and what was measured of it."""
    request, concept = planned.request, planned.concept
    if request.edit is not None:
        return checkpoints.load(request.edit, subject), 0.0, {}
    if planned.unlearner is None:
        return None, 0.0, {}
    given = training_data(subject, request.forget, request.retain, bench.album(concept).cache(bench.root), request.alternative)
    settled = (request.unlearner, planned.unlearner, request.edit_seed)
    run = unlearned(bench.root, subject, concept, *settled, data=given, watch=bench.watch, wait=bench.wait)
    edit, diagnostics = Edit.load(run.path("edit.safetensors")), dict(run.outcome.get("diagnostics", {}))
    if diagnostics and not edit.hooks:
        diagnostics["rate_on_line"] = arms.line(bench, subject, edit, concept)
    return edit, float(run.outcome["seconds"]), diagnostics
