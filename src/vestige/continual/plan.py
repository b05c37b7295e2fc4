"""What a sequence of requests will do: an order with every name found and every setting resolved, and what it will cost.

Every mistake that a user can make with names and settings is found here, before anything is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from vestige import concepts, models, registry
from vestige.concepts import Concept
from vestige.concepts.album import KEEPS, Keep
from vestige.concepts.joint import joint, targets
from vestige.continual.guards import PASSES, Guards
from vestige.continual.ledger import CHAINED, Mode
from vestige.continual.probes import probes
from vestige.errors import BadSetting, UnknownName
from vestige.harness import cost, families, suites
from vestige.harness.attacker import check_enough
from vestige.harness.bench import NUMERICS, held_in
from vestige.harness.settings import by_method, chosen, configured, looks, told
from vestige.methods import Attack, Data, optimiser
from vestige.methods.contract import TRAINED
from vestige.metrics import loading
from vestige.models import placement


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a user asks of a sequence.

    Arguments:
        model: Built-in model or pipeline folder: the original.
        requests: Concepts in the order in which they must go: built-in names or TOML files.
        method: Unlearner of every step.
        mode: "sequential": each request from the model that the one before left. "independent": each from the original.
            "cumulative": from that model too, and every step forgets all requests so far again. "simultaneous": all together from
            the original.
        suite: Whose sampler and numbers of pictures hold.
        seed: Of every unlearning run, and of the memory.
        memory: Pictures by the original that a method which rehearses may train on, drawn once, before the first step: of the first
            request's neighbours and unrelated words, on which ripple and erosion are measured too, by other prompts and seeds.
        attacks: Attacks of the suite that are run after every step on every request so far.
        replicates: Replicates of each attack.
        first_replicate: Number of the first. Sequences whose attacks are pooled need different ones, or they share the attacks' seeds.
        settings: METHOD.SETTING -> value, as on the command line.
        preset: Named preset whose settings hold before `settings`.
        guards: What holds every step's training back.
        keep_images: "all", or "none": scores only.
        features: Whose features KID and FID are measured in: "hf:FOLDER", "inception:FILE" or a world's judge ("wardrobe"); "" the
            first request's verification judge, where it gives any.
    """

    model: str = "wardrobe"
    requests: tuple[str, ...] = ()
    method: str = "uce"
    mode: Mode = "sequential"
    suite: str = "quick"
    seed: int = 0
    memory: int = 200
    attacks: tuple[str, ...] = ()
    replicates: int = 1
    first_replicate: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    preset: str = ""
    guards: Guards = field(default_factory=Guards)
    keep_images: Keep = "all"
    features: str = ""


@dataclass(frozen=True)
class SequencePlan:
    """An order with every name found and every setting resolved."""

    order: Order
    requests: tuple[Concept, ...]
    suite: suites.Suite
    unlearner: Any
    attacks: Mapping[str, tuple[Attack, suites.Planned]]
    world: str

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
            **({"guards": asdict(self.order.guards)} if self.order.guards.active else {}),
            **({"keep_images": self.order.keep_images} if self.order.keep_images != "all" else {}),
            **placement.current().as_dict(),
            **held_in(placement.current().dtype),
            **optimiser.current().as_dict(),
        }

    def asked(self) -> dict[str, Any]:
        """What may grow from one command to the next, plain data."""
        attacks = {name: {"settings": registry.settings(a), "budget": list(p.budget.points)} for name, (a, p) in self.attacks.items()}
        replicates = self.order.replicates if attacks else 0
        looked = {c.name: found for c in self.requests if (found := looks(c))}
        indirect = {c.name: list(c.indirect) for c in self.requests if c.indirect}
        told: dict[str, Any] = {**({"looks": looked} if looked else {}), **({"indirect": indirect} if indirect else {})}
        if self.order.features:
            told["features"] = loading.identity(self.order.features)
        if attacks and self.order.first_replicate:
            told["first_replicate"] = self.order.first_replicate
        return {"requests": [c.as_dict() for c in self.requests], "attacks": attacks, "replicates": replicates, **told}

    def sorted_by(self) -> dict[str, Any]:
        """By step, the detectors of the user's own that decide which pictures of the memory it rehearses; {} for the world's judges."""
        if not self.rehearses:
            return {}
        rows = {step.name: {c.name: loading.contents(c) for c in targets(step) if c.detector} for step in self.steps}
        return {name: row for name, row in rows.items() if row}

    def remarks(self) -> list[str]:
        """What a plan says of a model of a user's own, whose family is not what a suite was made for."""
        return families.remarks(models.card(self.order.model), self.suite, self.attacks, self.order.model)

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
            made["memory"] = self.order.memory * drawn
        attacked = self.order.replicates * (asked * (asked + 1) // 2 if self.order.mode in CHAINED else asked)
        for name, (attack, planned) in self.attacks.items():
            ways = tuple(attack.ways().values())
            scored = cost.scored_pictures(attack, planned.budget, self.suite) * picture
            made[name] = attacked * sum(scored + way.calls(planned.budget.last, planned.references) for way in ways)
        return made


def resolve(order: Order) -> SequencePlan:
    """Resolve names and settings; every mistake that a user can make with them is found here, before anything is computed."""
    card = models.card(order.model)
    requests = tuple(told(concepts.load(name, card.world), card) for name in order.requests)
    if not requests or len({c.target for c in requests}) < len(requests) or len({c.name for c in requests}) < len(requests):
        raise BadSetting(f"requests are one or more different concepts, e.g. bag,dress; given {', '.join(order.requests) or 'none'}")
    for concept in requests:
        looks(concept)  # a detector or a folder of pictures that is not there is found now
    if order.features:
        loading.identity(order.features)
    if order.keep_images not in KEEPS:
        raise BadSetting(f"pictures are kept: {' or '.join(KEEPS)}; given {order.keep_images!r}")
    if order.mode not in get_args(Mode):
        raise BadSetting(f"mode is {', '.join(get_args(Mode)[:-1])} or {get_args(Mode)[-1]}; given {order.mode!r}")
    if order.mode == "simultaneous" and len(requests) < 2:
        raise BadSetting("for one request, mode is sequential or independent; given 'simultaneous', which takes at least two")
    if order.memory < 1 or order.replicates < 1 or order.first_replicate < 0:
        counts = f"{order.memory}, {order.replicates} and {order.first_replicate}"
        raise BadSetting(f"memory and replicates are at least 1, the first replicate at least 0; given {counts}")
    suite = suites.load(order.suite, card.world)
    own = by_method(order.settings)
    unlearner = configured("unlearners", order.method, card.world, order.preset, own.pop(order.method, {}), model=card.name)
    _fits(order, unlearner)
    attacks = chosen(order.attacks, suite, card, order.preset, own)
    if back := [name for name, (attack, _) in attacks.items() if "original" in attack.needs]:
        raise BadSetting(f"{back[0]} takes one edit off its original; a sequence has several, so audit the edit of a step instead")
    if own:
        raise UnknownName("method in a setting", next(iter(own)), [order.method, *attacks])
    for attack, _ in attacks.values():
        _check_held(attack, bool(card.world))
    for concept in requests:
        if concept.pictures:
            check_enough(concept.pictures, attacks, "add some")
    return SequencePlan(order, requests, suite, unlearner, attacks, card.world)


def _check_held(attack: Attack, worlds: bool) -> None:
    """Refuse an attack whose pictures of everything else a sequence cannot give."""
    held = attack.holds
    if held is not None and held.source != "own" and (held.source != "retain" or not worlds):
        raise BadSetting(f"a sequence gives an attacker the world's pictures, or with data=own none; given data={held.source}")


def _fits(order: Order, unlearner: Any) -> None:
    """Refuse a method that cannot do what the mode and the guards ask of it."""
    together = order.mode in ("simultaneous", "cumulative")
    if together and (not unlearner.joint or unlearner.apart):
        how = f"{unlearner.apart} does" if unlearner.joint else f"{order.method} looks for one target's words or teaches one anchor"
        able = ", ".join(name for name in registry.names("unlearners") if registry.find("unlearners", name).joint)
        raise BadSetting(f"{how}, so it cannot erase several together; {able} can, or erase each by itself and merge")
    order.guards.check(order.method, unlearner)
