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
        what: "plain", "arm", "ceiling" (an attack on the original), "lesson", "utility", "after" (an attack: what must stay), "fidelity"
            or "bank".
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

    def __str__(self) -> str:
        way = f" ({self.way})" if self.way else ""
        what = f"{self.attack}{way} on {self.who}, replicate {self.replicate}" if self.attack else f"{self.what} of {self.who}"
        return f"{what}{': ' if self.of else ''}{self.of}{' afterwards' if self.what == 'after' else ''}"


def pieces(plan: Plan) -> dict[Piece, tuple[Piece, ...]]:
    """Every piece of one look, each once and after those that it needs, which stand beside it; those of a later look begin with them."""
    made: dict[Piece, tuple[Piece, ...]] = dict.fromkeys(_plain(plan), ())
    for piece in itertools.chain(_arms(plan), _others(plan)):
        made[piece] = tuple(need for need in _needs(plan, piece) if need in made)
    return made


def _needs(plan: Plan, piece: Piece) -> Iterator[Piece]:
    """What a piece begins with; not all of it is a piece of every look."""
    if piece.what == "after":
        yield Piece("arm", piece.who, piece.attack, piece.way, piece.replicate)
    elif piece.what in ("arm", "ceiling"):
        attack, planned = plan.attacks[piece.attack]
        if cost.shares_plain(attack, planned.budget):
            yield Piece("plain", piece.who, replicate=piece.replicate)
        earlier = plan.seeds[: plan.seeds.index(piece.replicate)]
        if earlier and piece.what == "arm" and plan.gives_up(piece.attack):
            yield from (Piece("arm", piece.who, piece.attack, way, earlier[-1]) for way in attack.ways())


def _nevers(plan: Plan) -> list[str]:
    return [f"{NEVER}{name}" for name in plan.control.names or ("",)]


def _plain(plan: Plan) -> Iterator[Piece]:
    """States that several arms begin with, and those of the original."""
    shares = {name: cost.shares_plain(attack, planned.budget) for name, (attack, planned) in plan.attacks.items()}
    probed = [f"{POSITIVE}{own}" for own in plan.positives] if any(shares[name] for name in plan.armed) else []
    for k in plan.seeds:
        attacked = [EDITED, *_nevers(plan)] if any(shares.values()) else []
        first = k == plan.seeds[0] and not plan.suite.sparing and not any(shares.values())  # is in the original's attacked arm
        original = [ORIGINAL] if plan.original and not first else []
        yield from (Piece("plain", who, replicate=k) for who in (*attacked, *(probed if k in plan.probing else ()), *original))


def _arms(plan: Plan) -> Iterator[Piece]:
    for name, (method, _) in plan.attacks.items():
        ways, probed = list(method.ways()), plan.positives if name in plan.armed else ()
        for k, way in itertools.product(plan.seeds, ways):
            yield from (Piece("arm", who, name, way, k) for who in (EDITED, *_nevers(plan)))
            if k in plan.probing:
                yield from (Piece("arm", f"{POSITIVE}{own}", name, way, k) for own in probed)
        if plan.original and (name in plan.armed or not plan.suite.sparing):
            yield Piece("ceiling", ORIGINAL, name, replicate=plan.seeds[0])
        if len(ways) == 1:  # of several, which counts is known at the end
            yield from (Piece("after", EDITED, name, ways[0], plan.seeds[0], group) for group in GROUPS)


def _others(plan: Plan) -> Iterator[Piece]:
    if teacher := _teacher(plan):
        for k, who in itertools.product(plan.seeds[:PLASTICITY_REPLICATES], (EDITED, ORIGINAL)):
            yield Piece("lesson", who, teacher, "", k)
    drawing = (ORIGINAL, EDITED) if plan.original else (EDITED,)
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
        drawn = cost.scored_pictures(attack, planned.budget, suite)
        if piece.what == "ceiling" and suite.sparing:
            drawn = cost.plain_pictures(suite)
        if piece.what == "lesson" and cost.shares_plain(attack, planned.budget):
            drawn += cost.plain_pictures(suite)  # of another concept
        return float(plan.attacking(way, planned) + drawn * each)
    if piece.what == "plain":
        return float(cost.plain_pictures(suite) * each)
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
    if piece.what == "arm":
        return experiment.turn(model, concept, piece.attack, piece.way, piece.replicate)
    if piece.what == "ceiling":
        return experiment.ceiling(piece.attack)
    if piece.what == "lesson":
        lesson = experiment.lesson
        return None if lesson is None else experiment.arm(model, lesson.concept, lesson.attack, lesson.method, piece.replicate)
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
