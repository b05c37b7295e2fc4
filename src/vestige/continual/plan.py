"""What a sequence of requests will do: an order with every name found and every setting resolved, and what it will cost.

Every mistake that a user can make with names and settings is found here, before anything is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from vestige import concepts, models, registry
from vestige.concepts import Concept
from vestige.concepts.album import KEEPS
from vestige.concepts.joint import joint, targets
from vestige.continual.acceptance import limits
from vestige.continual.guards import PASSES
from vestige.continual.ledger import CHAINED, Mode
from vestige.continual.order import Order
from vestige.continual.probes import probes
from vestige.continual.verdicts import Due, attackers_of, due, planned_audits, timing
from vestige.errors import BadInput, BadSetting, UnknownName
from vestige.harness import cost, families, suites
from vestige.harness.attacker import check_enough
from vestige.harness.bench import NUMERICS, held_in
from vestige.harness.protocols import Published, published
from vestige.harness.settings import by_method, check_judged, chosen, configured, content, looks, one_prompt, told
from vestige.harness.unlearning import check_joint, check_memorises
from vestige.methods import Attack, Data, optimiser
from vestige.methods.contract import TRAINED
from vestige.metrics import loading
from vestige.models import placement


@dataclass(frozen=True)
class SequencePlan:
    """An order with every name found and every setting resolved."""

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
    card = models.card(order.model)
    known = _published(order)
    found = known.sequence if known is not None and not order.requests else order.requests
    loaded = (concepts.load(n, card.world) if known is None else known.concept(n, order.detector, order.selector) for n in found)
    requests = tuple(told(concept, card) for concept in loaded)
    _check_withdrawn(order, requests)
    requests = tuple(c for c in requests if c.name not in order.withdrawn)
    if not requests or len({c.target for c in requests}) < len(requests) or len({c.name for c in requests}) < len(requests):
        raise BadSetting(f"requests are one or more different concepts, e.g. bag,dress; given {', '.join(order.requests) or 'none'}")
    for name in order.requests if known is None else ():
        check_judged(name, concepts.load(name, card.world), card.world)
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
    if known is not None:  # as many pictures a word as the protocol draws
        suite = replace(
            suite,
            version=f"{order.protocol} by {suite.version}",
            pictures=known.pictures,
            utility_pictures=4 * known.pictures,
            protocol=known.protocol,
        )
    own = by_method(order.settings)
    unlearner = configured("unlearners", order.method, card.world, order.preset, own.pop(order.method, {}), model=card.name)
    _fits(order, unlearner)
    attacks = chosen(order.attacks, suite, card, order.preset, own)
    for name in attackers_of(order) if timing(order) != "none" else ():
        own.pop(name, None)  # the audits read them
    if back := [name for name, (attack, _) in attacks.items() if "original" in attack.needs]:
        raise BadSetting(f"{back[0]} sets one edit against its original; a sequence has several, so audit the edit of a step instead")
    if own:
        raise UnknownName("method in a setting", next(iter(own)), [order.method, *attacks])
    for attack, _ in attacks.values():
        attack.check(requests[0])  # each request is attacked by itself
        _check_held(order, attack, bool(card.world))
    for concept in requests:
        if concept.pictures:
            check_enough(concept.pictures, attacks, "add some")
    _check_folders(order, unlearner, requests, attacks)
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


def _check_withdrawn(order: Order, requests: Sequence[Concept]) -> None:
    """Refuse to take back what was not asked for, or all of it; and conditions that a mode cannot keep."""
    known = [c.name for c in requests]
    for name in order.withdrawn:
        if name not in known:
            raise UnknownName("request to withdraw", name, known)
    if known and not set(known) - set(order.withdrawn):
        raise BadSetting(f"every request is withdrawn, {', '.join(known)}: what is left is the original")
    limits(order.accept)
    if (order.accept or order.withdrawn) and order.mode in ("simultaneous", "cumulative"):
        raise BadSetting(f"in mode {order.mode} a step holds several requests; --accept and --withdraw take sequential or independent")


def new_words(requests: Sequence[Concept]) -> list[tuple[str, ...]]:
    """By request, the words that must stay of those that no request before it named, and that none is."""
    seen, found = set[str](), []
    for concept in requests:
        seen.add(concept.target)
        words = tuple(dict.fromkeys(w for w in (*concept.neighbours, *concept.unrelated) if w not in seen))
        seen.update(words)
        found.append(words)
    return found


def _check_held(order: Order, attack: Attack, worlds: bool) -> None:
    """Refuse an attack whose pictures of everything else a sequence cannot give."""
    held, given = attack.holds, order.attack_retain != "shipped"
    if held is None or held.source == "own" or (held.source == "retain" and (worlds or given)) or (held.source == "folder" and given):
        return
    raise BadSetting(
        "a sequence gives an attacker the world's pictures, a folder with captions (--attack-retain DIR), or with data=own none; "
        f"given data={held.source}"
    )


def _check_folders(order: Order, unlearner: Any, requests: Sequence[Concept], attacks: Mapping[str, tuple[Attack, suites.Planned]]) -> None:
    """Find what is wrong with folders of the user's own before anything is computed."""
    check_memorises(order.method, unlearner, order.alternative)
    for option, folder in (("--retain", order.retain), ("--related", order.related)):
        if folder not in ("drawn", "") and "retain" not in unlearner.needs:
            raise BadSetting(f"{option} {folder} is rehearsed, and {order.method} rehearses nothing")
    for folder in (order.retain, order.related, order.alternative):
        if folder not in ("drawn", ""):
            content(Path(folder))
    if order.attack_retain != "shipped":
        if not any(attack.holds is not None for attack, _ in attacks.values()):
            raise BadSetting(f"--attack-retain {order.attack_retain} is read by attacks with data=retain or data=folder; none is asked for")
        content(Path(order.attack_retain))
    if order.references not in ("known", "generated"):
        used = (
            [registry.find("attacks", name) for name in attackers_of(order)]
            if timing(order) != "none"
            else [a for a, _ in attacks.values()]
        )
        if not any("pictures" in attack.needs for attack in used):
            raise BadSetting(f"--references {order.references} is read by attacks with pictures of a request; none is asked for")
        missing = [c.name for c in requests if not (Path(order.references) / c.name).is_dir()]
        if missing:
            raise BadInput(f"{order.references} holds a folder of pictures for each request, by its name; there is none for {missing[0]}")


def _fits(order: Order, unlearner: Any) -> None:
    """Refuse a method that cannot do what the mode and the guards ask of it."""
    together = order.mode in ("simultaneous", "cumulative")
    if together:
        check_joint(order.method, unlearner)
    order.guards.check(order.method, unlearner)
