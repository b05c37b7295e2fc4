"""What an audit will do, with every name found and every setting resolved; what identifies it, and how many calls it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vestige import models, registry, runs
from vestige.audit import refusals
from vestige.audit.controls import Control
from vestige.audit.power import armed
from vestige.audit.request import Request
from vestige.concepts import Concept
from vestige.concepts.joint import targets
from vestige.harness import cost, families, suites
from vestige.harness.banks import PromptBank
from vestige.harness.bench import NUMERICS, held_in
from vestige.harness.keeping import captioned_by
from vestige.harness.never import Distillation
from vestige.harness.positives import Positive
from vestige.harness.settings import configured, content, looks, one_prompt
from vestige.methods import Attack, Data, optimiser
from vestige.models import placement
from vestige.verdict import Lines
from vestige.verdict.decision import FEWEST
from vestige.verdict.looks import level

PLASTICITY_REPLICATES = 3
VERDICT = "6"  # changes whenever the same arms could be judged otherwise


@dataclass(frozen=True)
class Plan:
    """A request with every name found and every setting resolved; `original` is "" where it is not at hand.

    `seeds` are the replicates of one look; `looks` are all of them, () where there is but one.
    """

    request: Request
    concept: Concept
    suite: suites.Suite
    seeds: tuple[int, ...]
    unlearner: Any | None
    attacks: Mapping[str, tuple[Attack, suites.Planned]]
    control: Control
    original: str
    world: str
    lines: Lines
    positives: Mapping[str, Positive] = field(default_factory=dict)
    looks: tuple[int, ...] = ()
    banks: tuple[PromptBank, ...] = ()

    def at(self, replicates: int) -> Plan:
        """The plan of a look; itself where replicates are fixed."""
        return replace(self, seeds=tuple(range(replicates))) if self.looks else self

    @property
    def most(self) -> Plan:
        """The plan of the last look."""
        return self.at(self.looks[-1] if self.looks else len(self.seeds))

    @property
    def level(self) -> float:
        """Coverage of every interval that decides."""
        return level(self.looks or (len(self.seeds),)) if len(self.seeds) > 1 else 0.95

    @property
    def armed(self) -> dict[str, tuple[Attack, suites.Planned]]:
        """Attacks with the model's weights and pictures of the concept."""
        return {name: own for name, own in self.attacks.items() if armed(name)}

    @property
    def guesses_floor(self) -> bool:
        """Whether the floor is what a detector that nobody measured sees in pictures of other words: there is no twin to tell."""
        return bool(self.concept.detector and self.control.kind == "proxy" and (self.concept.neighbours or self.concept.unrelated))

    @property
    def probing(self) -> tuple[int, ...]:
        """Replicates in which positive controls are attacked: as many as a verdict needs at least."""
        return self.seeds[:FEWEST]

    @property
    def sparing_positives(self) -> bool:
        """Whether a look is taken without positive controls first, which settles it where they could not change the verdict."""
        return self.suite.sparing and bool(self.positives)

    @property
    def beside(self) -> int:
        """Pictures that are laid beside unshown ones: of the original, the edited model and every never-model."""
        return len(self.seeds) * (2 + len(self.control.names)) * self.request.unshown

    def spec(self) -> dict[str, Any]:
        """The resolved spec, plain data."""
        source = self.request.references
        chosen = None if self.unlearner is None else {"method": self.request.unlearner, "settings": registry.settings(self.unlearner)}
        kept = self.request.attack_retain
        file = {"suite": self.suite.file} if self.suite.file else {}
        return {
            "what": "audit",
            "verdict": VERDICT,
            "numerics": NUMERICS,
            "model": self.request.model,
            **models.identified(self.request.model),
            "original": self.original or None,
            "concept": self.concept.as_dict(),
            "unlearner": chosen,
            "edit": None if self.request.edit is None else content(Path(self.request.edit)),
            "edit_seed": self.request.edit_seed,
            "suite": self.suite.version,
            "protocol": asdict(self.suite.protocol),
            "attacks": {n: {"settings": registry.settings(a), "budget": list(p.budget.points)} for n, (a, p) in self.attacks.items()},
            **({"positives": {name: own.as_dict() for name, own in self.positives.items()}} if self.positives else {}),
            "seeds": {"looks": list(self.looks)} if self.looks else list(self.seeds),
            "references": source if source in refusals.NAMED_SOURCES else content(Path(source)),
            **({"reference_count": self.request.reference_count} if self.request.reference_count else {}),
            "data": [s if s == "drawn" else content(Path(s)) for s in (self.request.forget, self.request.retain)],
            **({"alternative": content(Path(self.request.alternative))} if self.request.alternative != "drawn" else {}),
            **({"attack_retain": kept if kept == "shipped" else content(Path(kept))} if refusals.held(self.attacks) else {}),
            "control": [self.control.kind, self.control.content(self.world)],
            **({"looks": found} if (found := looks(self.concept)) else {}),
            **({"floor": "others"} if self.guesses_floor else {}),
            **({"keep_images": self.request.keep_images} if self.request.keep_images != "all" else {}),
            **({"banks": {bank.name: runs.key({"asked": bank.rows()}) for bank in self.banks}} if self.banks else {}),
            **({"unshown": self.request.unshown} if self.request.unshown else {}),
            "lines": asdict(self.lines),
            **placement.current().as_dict(),
            **held_in(placement.current().dtype),
            **optimiser.current().as_dict(),
            "volatile": {"edit": self.request.edit, "references": source, **file},
        }

    def as_suited(self, attack: str) -> bool:
        """Whether an attack is run as the suite runs it on this world: what was measured of it there holds here."""
        method, planned = self.attacks[attack]
        if planned != self.suite.attacks.get(attack):
            return False
        usual = configured("attacks", attack, self.world, "", {}, planned.settings, model=models.card(self.request.model).name)
        return bool(method == usual)

    def remarks(self) -> list[str]:
        """What a plan says of a model of a user's own, whose family is not what a suite was made for, and of a single prompt."""
        own = families.remarks(models.card(self.request.model), self.suite, self.attacks, self.request.model)
        return [*own, *filter(None, [one_prompt(self.concept)])]

    def planned_calls(self) -> dict[str, int]:
        """Calls that the audit needs if nothing is stored, by part."""
        suite, n, whole = self.suite, len(self.seeds), bool(self.original)
        each = cost.picture(suite.protocol)
        plain = cost.plain_pictures(suite) * each
        trained = max(1, sum(attack.access == "weights" for attack, _ in self.attacks.values()))  # models that attacks leave behind
        made = len(self.control.names) if self.control.kind == "distilled" else 0
        drawn = 2 * (1 + trained + whole + made) * suite.utility_pictures * each
        calls = {"scoring": self._states * plain, "attacks": 0, "utility": drawn}
        for name in self.attacks:
            trains, scores = self._attack_calls(name, each)
            calls["attacks"] += trains
            calls["scoring"] += scores
        if self.unlearner is not None:
            calls["unlearning"] = cost.unlearning(self.unlearner, *_drawn(self.request)) * (
                self.several if self.unlearner.per_target else 1
            )
        if whole and (self.unlearner is not None or self.request.edit is not None):
            # A point more for each part that comes apart; nothing of it is drawn where the edit has none.
            calls["restoring"] = (n + (0 if self._shares else n * self._sides + (not suite.sparing))) * plain
        if made:
            calls["controls"] = made * Distillation().calls(suite.protocol)
        if self.request.unshown:
            calls["unshown"] = self.beside * each
        if self.positives:
            calls["positives"] = self._positive_calls(each)
        if whole and self.concept.fidelity:  # the edited model, after an attack, and the original with captions and with none
            calls["utility"] += 4 * sum(len(captioned_by(self.concept, suite, group)) for group in ("neighbours", "unrelated")) * each
        if self.guesses_floor:
            calls["floor"] = suite.utility_pictures * each
        if self.banks:
            asked = 1 + whole + (len(self.control.names) if self.control.of_the_concept else 0)
            calls["banks"] = asked * sum(len(bank.asked) for bank in self.banks) * each
        return calls

    def gives_up(self, name: str) -> bool:
        """Whether a way of an attack may be given up for another, so that a replicate of it waits for those before.

        Of armed attacks alone: what is clear (`harness.ways`) was measured between ways of training on pictures of the concept.
        """
        return self.suite.sparing and armed(name) and len(self.attacks[name][0].ways()) > 1

    @property
    def several(self) -> int:
        """How many concepts are audited as one."""
        return len(targets(self.concept))

    def attacking(self, way: Attack, own: suites.Planned) -> int:
        """Calls of one arm of an attack, scoring left out; what one for several concepts does, it does for each."""
        return way.calls(own.budget.last, own.references) * (self.several if way.brings == "several" else 1)

    @property
    def _sides(self) -> int:
        """Models that every attack is run on: the edited one and the controls."""
        return 1 + max(1, len(self.control.names))

    @property
    def _shares(self) -> bool:
        """Whether any attack's arms begin with the plain state of a model, drawn once for all that do."""
        return any(cost.shares_plain(attack, own.budget) for attack, own in self.attacks.values())

    @property
    def _states(self) -> int:
        """Plain states that are drawn for attacks and for the ceiling; where no arm begins with one, the original's first is in its own."""
        n, whole = len(self.seeds), bool(self.original)
        return n * self._sides * self._shares + whole * (n - (not self._shares and not self.suite.sparing))

    def _attack_calls(self, name: str, each: int) -> tuple[int, int]:
        """Calls of an attack, and of scoring it beside plain states, on all models; in every way of it, though one may be given up.

        Arguments:
            each: Calls of a picture.
        """
        (attack, own), suite, n = self.attacks[name], self.suite, len(self.seeds)
        ways = [self.attacking(way, own) for way in attack.ways().values()]
        scored, state = (x * each for x in (cost.scored_pictures(attack, own.budget, suite), cost.plain_pictures(suite)))
        whole = bool(self.original)
        taught = 2 * min(n, PLASTICITY_REPLICATES) if whole and suite.plasticity and attack.lesson is not None else 0
        attacked = whole and (armed(name) or not suite.sparing)  # the original, which is what tells whether an attack destroys
        trains = n * self._sides * sum(ways) + (taught + attacked) * ways[0]
        ceiling = attacked * (state if suite.sparing else scored)
        return trains, n * self._sides * len(ways) * scored + taught * (scored + state) + ceiling

    def _positive_calls(self, each: int) -> int:
        """What positive controls take: their edits, and every armed attack on each in every way.

        Arguments:
            each: Calls of a picture.
        """
        one = 0
        for attack, own in self.armed.values():
            ways = [self.attacking(way, own) for way in attack.ways().values()]
            one += len(self.probing) * (sum(ways) + len(ways) * cost.scored_pictures(attack, own.budget, self.suite) * each)
        if any(cost.shares_plain(attack, own.budget) for attack, own in self.armed.values()):
            one += len(self.probing) * cost.plain_pictures(self.suite) * each
        return sum(one + cost.unlearning(own.method, each, each) for own in self.positives.values())


def _drawn(request: Request) -> tuple[int, int]:
    """What a picture of the concept and one of the rest take: nothing where a folder of them is given."""
    one = cost.picture(Data().protocol)
    given = request.forget != "drawn" or request.alternative != "drawn"
    return (0 if given else one), (0 if request.retain != "drawn" else one)
