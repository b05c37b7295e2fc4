"""What a sequence of requests will do: an order with every name found and every setting resolved, and what it will cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vestige import concepts, models, registry
from vestige.concepts import Concept
from vestige.concepts.joint import joint, targets
from vestige.continual import refusals
from vestige.continual.acceptance import limits
from vestige.continual.guards import PASSES
from vestige.continual.ledger import CHAINED
from vestige.continual.order import Order
from vestige.continual.probes import probes
from vestige.continual.verdicts import Due, attackers_of, due, planned_audits, timing
from vestige.errors import BadSetting, UnknownName
from vestige.harness import cost, families, suites
from vestige.harness.bench import NUMERICS, held_in
from vestige.harness.protocols import Published, published
from vestige.harness.settings import by_method, check_judged, chosen, configured, content, looks, one_prompt, told
from vestige.methods import Attack, Data, optimiser
from vestige.methods.contract import TRAINED
from vestige.metrics import loading
from vestige.models import placement


@dataclass(frozen=True)
class SequencePlan:
    """An order with every name found and every setting resolved.

    Arguments:
        requests: What is to be forgotten, in order, without what was withdrawn.
        attacks: By name, each with its budget and how many references it is given.
        world: The embedded world that the model is of; "" for none.
        verdicts: Audits that are due if every step stands.
    """

    order: Order
    requests: tuple[Concept, ...]
    suite: suites.Suite
    unlearner: Any
    attacks: Mapping[str, tuple[Attack, suites.Planned]]
    world: str
    verdicts: tuple[Due, ...] = ()

    @property
    def rehearses(self) -> bool:
        """Whether the method trains on pictures of what must stay."""
        return "retain" in self.unlearner.needs

    @property
    def steps(self) -> tuple[Concept, ...]:
        """What is forgotten in each step."""
        if self.order.mode == "simultaneous":
            return (joint(self.requests),)
        if self.order.mode == "cumulative":
            return tuple(joint(self.requests[:n]) if n > 1 else self.requests[0] for n in range(1, len(self.requests) + 1))
        return self.requests

    def so_far(self, step: int) -> tuple[Concept, ...]:
        """The requests that the model after a step was to forget; step 0 is the original."""
        if self.order.mode == "simultaneous":
            return self.requests if step else ()
        return self.requests[:step] if self.order.mode in CHAINED else self.requests[max(0, step - 1) : step]

    @property
    def judges_every_step(self) -> bool:
        """Whether verdicts are given after every step, and not only at the end; of independent edits each is an end."""
        when = timing(self.order)
        return when == "every" or (when == "last" and self.order.mode == "independent")

    def rounds(self) -> list[tuple[int, tuple[Concept, ...]]]:
        """Steps after which verdicts are given, each with the requests so far, if every step stands."""
        last = len(self.steps)
        return [(step, self.so_far(step)) for step in range(1 if self.judges_every_step else last, last + 1)]

    def asked_in(self, step: int) -> str:
        """The name of what a step was taken for."""
        return self.steps[0].name if self.order.mode == "simultaneous" else self.requests[step - 1].name

    def spec(self) -> dict[str, Any]:
        """What every step of the ledger shares, plain data."""
        return {
            "what": "continual",
            "numerics": NUMERICS,
            "model": self.order.model,
            **models.identified(self.order.model),
            "method": self.order.method,
            "settings": registry.settings(self.unlearner),
            "mode": self.order.mode,
            "seed": self.order.seed,
            "memory": self.order.memory if self.rehearses else None,
            "suite": self.suite.version,
            "protocol": asdict(self.suite.protocol),
            **{key: content(Path(folder)) for key, folder in self.given().items()},
            **({"accept": limits(self.order.accept)} if self.order.accept else {}),
            **({"guards": self.order.guards.as_dict()} if self.order.guards.active else {}),
            **({"keep_images": self.order.keep_images} if self.order.keep_images != "all" else {}),
            **placement.current().as_dict(),
            **held_in(placement.current().dtype),
            **optimiser.current().as_dict(),
        }

    def given(self) -> dict[str, str]:
        """Folders of the user's own that steps train on."""
        order = self.order
        told = {"retain": order.retain, "related": order.related, "alternative": order.alternative}
        return {key: folder for key, folder in told.items() if folder not in ("drawn", "")}

    def asked(self) -> dict[str, Any]:
        """What may grow from one command to the next, plain data."""
        attacks = {name: {"settings": registry.settings(a), "budget": list(p.budget.points)} for name, (a, p) in self.attacks.items()}
        replicates = self.order.replicates if attacks else 0
        looked = {c.name: found for c in self.requests if (found := looks(c))}
        indirect = {c.name: list(c.indirect) for c in self.requests if c.indirect}
        more = {c.name: list(words) for c, words in zip(self.requests[1:], new_words(self.requests)[1:], strict=True) if words}
        grown = {"remembered": more} if more and self.rehearses and self.order.retain == "drawn" else {}
        told: dict[str, Any] = {**grown, **({"looks": looked} if looked else {}), **({"indirect": indirect} if indirect else {})}
        if self.order.features:
            told["features"] = loading.identity(self.order.features)
        for key, usual in (("references", "known"), ("attack_retain", "shipped")):
            if attacks and (own := getattr(self.order, key)) != usual:
                told[key] = own if own == "generated" else content(Path(own))
        if attacks and self.order.first_replicate:
            told["first_replicate"] = self.order.first_replicate
        if self.verdicts:
            told["verdicts"] = [[one.step, one.concept.name, one.content()] for one in self.verdicts]
        return {"requests": [c.as_dict() for c in self.requests], "attacks": attacks, "replicates": replicates, **told}

    def sorted_by(self) -> dict[str, Any]:
        """By step, the detectors of the user's own that decide which pictures of the memory it rehearses; {} for the world's judges."""
        if not self.rehearses:
            return {}
        rows = {step.name: {c.name: loading.contents(c) for c in targets(step) if c.detector} for step in self.steps}
        return {name: row for name, row in rows.items() if row}

    def remarks(self) -> list[str]:
        """What a plan says of a model of a user's own, whose family is not what a suite was made for, and of single prompts."""
        own = families.remarks(models.card(self.order.model), self.suite, self.attacks, self.order.model)
        return [*own, *filter(None, map(one_prompt, self.requests))]

    def planned_calls(self) -> dict[str, int]:
        """Calls, as `vestige.calls` counts them, that the whole sequence needs if nothing is stored, by part."""
        picture, drawn = (cost.picture(protocol) for protocol in (self.suite.protocol, Data().protocol))
        seen = sum(len(probe.prompts(self.suite)) for probe in probes(self.requests).all)
        steps, asked = len(self.steps), len(self.requests)
        each = cost.unlearning(self.unlearner, drawn, 0 if self.rehearses else drawn)
        if self.order.guards.share < 1:
            each += PASSES * TRAINED * self.unlearner.batch
        edits = sum(len(targets(step)) for step in self.steps) if self.unlearner.per_target else steps
        made = {"scoring": (steps + 1) * seen * picture, "unlearning": edits * each}
        if self.rehearses:
            first, *others = map(len, new_words(self.requests))
            pictures = self.order.memory + sum(min(self.order.memory, -(-self.order.memory // max(1, first)) * more) for more in others)
            made["memory"] = pictures * drawn if self.order.retain == "drawn" else 0
        attacked = self.order.replicates * (asked * (asked + 1) // 2 if self.order.mode in CHAINED else asked)
        plain = 0  # of every attacked state, once for all attacks and ways
        for name, (attack, planned) in self.attacks.items():
            ways = tuple(attack.ways().values())
            scored = cost.scored_pictures(attack, planned.budget, self.suite) * picture
            if cost.shares_plain(attack, planned.budget) and not plain:
                plain = attacked * cost.plain_pictures(self.suite) * picture
            made[name] = attacked * sum(scored + way.calls(planned.budget.last, planned.references) for way in ways)
        made["scoring"] += plain
        if self.verdicts:
            made["verdicts"] = planned_audits(self.verdicts)
        return made

    def most_calls(self) -> dict[str, int] | None:
        """The same if no earlier look of an audit decides; None where nothing is looked at more than once."""
        if not any(one.plan.looks for one in self.verdicts):
            return None
        return {**self.planned_calls(), "verdicts": planned_audits(self.verdicts, most=True)}


def resolve(order: Order) -> SequencePlan:
    """Resolve names and settings; every mistake that a user can make with them is found here, before anything is computed."""
    card, known = models.card(order.model), _published(order)
    requests = _requests(order, card, known)
    refusals.check_order(order, requests)
    suite = _suite(order, card.world, known)
    own = by_method(order.settings)
    unlearner = configured("unlearners", order.method, card.world, order.preset, own.pop(order.method, {}), model=card.name)
    refusals.check_method(order, unlearner)
    attacks = chosen(order.attacks, suite, card, order.preset, own)
    for name in attackers_of(order) if timing(order) != "none" else ():
        own.pop(name, None)  # the audits read them
    refusals.check_one_model(attacks)
    if own:
        raise UnknownName("method in a setting", next(iter(own)), [order.method, *attacks])
    refusals.check_attacks(order, requests, attacks, bool(card.world))
    refusals.check_folders(order, unlearner, requests, attacks)
    planned = SequencePlan(order, requests, suite, unlearner, attacks, card.world)
    return replace(planned, verdicts=due(order, planned.rounds()))


def _published(order: Order) -> Published | None:
    """The protocol that is asked for."""
    if not order.protocol:
        if order.detector or order.selector:
            raise BadSetting("detector and selector are for a protocol's concepts; a concept file names its own")
        return None
    if order.protocol != "duge":
        raise UnknownName("protocol", order.protocol, ["duge"])
    return published()


def _requests(order: Order, card: models.Card, known: Published | None) -> tuple[Concept, ...]:
    """Every concept that is to be forgotten, without those that are withdrawn."""
    names = known.sequence if known is not None and not order.requests else order.requests
    loaded = (concepts.load(n, card.world) if known is None else known.concept(n, order.detector, order.selector) for n in names)
    found = tuple(told(concept, card) for concept in loaded)
    refusals.check_withdrawn(order, found)
    requests = tuple(c for c in found if c.name not in order.withdrawn)
    refusals.check_different(order, requests)
    for name in order.requests if known is None else ():
        check_judged(name, concepts.load(name, card.world), card.world)
    for concept in requests:
        looks(concept)  # a detector or a folder of pictures that is not there is found now
    return requests


def _suite(order: Order, world: str, known: Published | None) -> suites.Suite:
    """The suite; under a protocol with its sampler, and as many pictures a word as it draws."""
    suite = suites.load(order.suite, world)
    if known is None:
        return suite
    version, many = f"{order.protocol} by {suite.version}", known.pictures
    return replace(suite, version=version, pictures=many, utility_pictures=4 * many, protocol=known.protocol)


def new_words(requests: Sequence[Concept]) -> list[tuple[str, ...]]:
    """By request, the words that must stay of those that no request before it named, and that none is."""
    seen, found = set[str](), []
    for concept in requests:
        seen.add(concept.target)
        words = tuple(dict.fromkeys(w for w in (*concept.neighbours, *concept.unrelated) if w not in seen))
        seen.update(words)
        found.append(words)
    return found
