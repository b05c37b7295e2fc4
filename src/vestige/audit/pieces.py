"""The pieces of an audit: every run that can be asked for before any other of them is known, by name, so that any process can do one.

A piece names what it is of in a plan's own words ("never wardrobe-no-sneaker"), not by the weights, which are known only once an edit is
made. What depends on results, as the utility after the strongest attack, is left to whoever puts the result together.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vestige.audit.experiment import GROUPS, Experiment
from vestige.audit.plan import PLASTICITY_REPLICATES, Plan
from vestige.audit.scores import after_attack
from vestige.concepts import Concept
from vestige.diffusion import Model
from vestige.harness import cost
from vestige.harness.banks import answers
from vestige.harness.keeping import captioned_by, lost
from vestige.harness.utility import kept

EDITED, ORIGINAL = "edited", "original"
NEVER, POSITIVE = "never ", "positive "  # and a name


@dataclass(frozen=True)
class Piece:
    """A run of an audit.

    Arguments:
        what: "arm", "plain", "lesson", "utility", "after" (an attack: what must stay), "fidelity" or "bank".
        who: Which model: "edited", "original", "never NAME" or "positive NAME".
        attack: Its name, and its way and replicate; "" without one.
        of: The group of what must stay, or the bank of prompts.
    """

    what: str
    who: str
    attack: str = ""
    way: str = ""
    replicate: int = 0
    of: str = ""

    @property
    def edited(self) -> bool:
        """Whether it sees the edit under audit; any other piece is every audit's of the same model and concept."""
        return self.who == EDITED

    @property
    def after(self) -> Piece | None:
        """The piece that it needs; None where it needs none."""
        return Piece("arm", self.who, self.attack, self.way, self.replicate) if self.what == "after" else None

    def __str__(self) -> str:
        way = f" ({self.way})" if self.way else ""
        what = f"{self.attack}{way} on {self.who}, replicate {self.replicate}" if self.attack else f"{self.what} of {self.who}"
        return f"{what}{': ' if self.of else ''}{self.of}{' afterwards' if self.what == 'after' else ''}"


def pieces(plan: Plan) -> list[Piece]:
    """Every piece of one look, each once; those of a later look begin with them."""
    return list(dict.fromkeys(itertools.chain(_arms(plan), _others(plan))))


def _arms(plan: Plan) -> Iterator[Piece]:
    nevers = [f"{NEVER}{name}" for name in plan.control.names or ("",)]
    for name, (method, _) in plan.attacks.items():
        ways, probed = list(method.ways()), plan.positives if name in plan.armed else ()
        for k, way in itertools.product(plan.seeds, ways):
            yield from (Piece("arm", who, name, way, k) for who in (EDITED, *nevers))
            if k in plan.probing:
                yield from (Piece("arm", f"{POSITIVE}{own}", name, way, k) for own in probed)
        if plan.original:
            yield Piece("arm", ORIGINAL, name, "", plan.seeds[0])
        if len(ways) == 1:  # of several, which counts is known at the end
            yield from (Piece("after", EDITED, name, ways[0], plan.seeds[0], group) for group in GROUPS)


def _others(plan: Plan) -> Iterator[Piece]:
    if teacher := _teacher(plan):
        for k, who in itertools.product(plan.seeds[:PLASTICITY_REPLICATES], (EDITED, ORIGINAL)):
            yield Piece("lesson", who, teacher, "", k)
    drawing = (ORIGINAL, EDITED) if plan.original else (EDITED,)
    if plan.original:
        yield from (Piece("plain", ORIGINAL, replicate=k) for k in plan.seeds[1:])
    yield from (Piece("utility", who, of=group) for who, group in itertools.product(drawing, GROUPS))
    if plan.concept.fidelity and plan.original:
        yield from (Piece("fidelity", EDITED, of=group) for group in GROUPS)
    asked = [*drawing, *(f"{NEVER}{name}" for name in plan.control.names if plan.control.of_the_concept)]
    yield from (Piece("bank", who, of=bank.name) for bank, who in itertools.product(plan.banks, asked))


def _teacher(plan: Plan) -> str:
    """The attack by which plasticity is measured; "" where it is not."""
    made = plan.unlearner is not None or plan.request.edit is not None
    if not (plan.original and made and plan.suite.plasticity):
        return ""
    return next((name for name, (attack, _) in plan.attacks.items() if attack.lesson is not None), "")


def calls_of(plan: Plan, piece: Piece) -> float:
    """Calls of the denoiser that a piece takes, about."""
    suite, each = plan.suite, cost.picture(plan.suite.protocol)
    if piece.attack and piece.what != "after":
        attack, planned = plan.attacks[piece.attack]
        way = attack.ways().get(piece.way, attack)
        return way.calls(planned.budget.last, planned.references) + cost.scored_pictures(attack, planned.budget, suite) * each
    if piece.what == "plain":
        return float((suite.pictures + suite.select_pictures) * each)
    if piece.what == "bank":
        return float(sum(len(bank.asked) for bank in plan.banks if bank.name == piece.of) * each)
    if piece.what == "fidelity":
        return float(3 * len(captioned_by(plan.concept, suite, piece.of)) * each)
    return float(suite.utility_pictures * each)


def do(experiment: Experiment, piece: Piece) -> Any:
    """Do a piece, or find it done; nothing, where the experiment turned out to have no such model."""
    held, bench = _held(experiment, piece.who), experiment.bench
    if held is None:
        return None
    model, concept = held
    if piece.what in ("arm", "lesson"):
        return _attacked(experiment, piece, model, concept)
    if piece.what == "plain":
        return experiment.plain(model, concept, piece.replicate)
    if piece.what == "bank":
        return answers(bench, model, concept, next(bank for bank in experiment.plan.banks if bank.name == piece.of))
    if piece.what == "fidelity":
        return None if experiment.original is None else lost(bench, experiment.original, model, concept, piece.of)
    if piece.what == "after":
        method = experiment.plan.attacks[piece.attack][0].ways()[piece.way]
        model = after_attack(experiment, [experiment.arm(model, concept, piece.attack, method, piece.replicate)])
    return kept(bench, model, concept, piece.of)


def _attacked(experiment: Experiment, piece: Piece, model: Model, concept: Concept) -> Any:
    if piece.what == "arm":
        method = experiment.plan.attacks[piece.attack][0]
        return experiment.arm(model, concept, piece.attack, method.ways().get(piece.way, method), piece.replicate)
    lesson = experiment.lesson
    return None if lesson is None else experiment.arm(model, lesson.concept, lesson.attack, lesson.method, piece.replicate)


def _held(experiment: Experiment, who: str) -> tuple[Model, Concept] | None:
    """A model, and what it is asked for; None for one that there is not."""
    if who == EDITED:
        return experiment.edited, experiment.concept
    if who == ORIGINAL:
        return None if experiment.original is None else (experiment.original, experiment.concept)
    if who.startswith(POSITIVE):
        found = experiment.positives.get(who.removeprefix(POSITIVE), "")
        return None if isinstance(found, str) else (found, experiment.concept)
    names = experiment.plan.control.names or ("",)
    return next((side for name, side in zip(names, experiment.nevers, strict=True) if who == f"{NEVER}{name}"), None)
