"""What cannot be asked of a sequence, told before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from vestige import registry
from vestige.concepts import Concept
from vestige.concepts.album import KEEPS
from vestige.continual.acceptance import limits
from vestige.continual.ledger import Mode
from vestige.continual.order import Order
from vestige.continual.verdicts import attackers_of, timing
from vestige.errors import BadInput, BadSetting, UnknownName
from vestige.harness import suites
from vestige.harness.attacker import check_enough
from vestige.harness.settings import content
from vestige.harness.unlearning import check_joint, check_memorises
from vestige.methods import Attack
from vestige.metrics import loading

Attacks = Mapping[str, tuple[Attack, suites.Planned]]


def check_withdrawn(order: Order, requests: Sequence[Concept]) -> None:
    """What was not asked for is not taken back, nor all of it; and a mode has to keep the conditions that a step stands under."""
    known = [c.name for c in requests]
    for name in order.withdrawn:
        if name not in known:
            raise UnknownName("request to withdraw", name, known)
    if known and not set(known) - set(order.withdrawn):
        raise BadSetting(f"every request is withdrawn, {', '.join(known)}: what is left is the original")
    limits(order.accept)
    if (order.accept or order.withdrawn) and order.mode in ("simultaneous", "cumulative"):
        raise BadSetting(f"in mode {order.mode} a step holds several requests; --accept and --withdraw take sequential or independent")


def check_different(order: Order, requests: Sequence[Concept]) -> None:
    """A sequence forgets something, and nothing twice."""
    if not requests or len({c.target for c in requests}) < len(requests) or len({c.name for c in requests}) < len(requests):
        raise BadSetting(f"requests are one or more different concepts, e.g. bag,dress; given {', '.join(order.requests) or 'none'}")


def check_order(order: Order, requests: Sequence[Concept]) -> None:
    """Words and numbers of an order, each by itself."""
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


def check_method(order: Order, unlearner: Any) -> None:
    """A method has to do what the mode and the guards ask of it."""
    if order.mode in ("simultaneous", "cumulative"):
        check_joint(order.method, unlearner)
    order.guards.check(order.method, unlearner)


def check_one_model(attacks: Attacks) -> None:
    """An attack has the model after a step, and not the original beside it."""
    if back := [name for name, (attack, _) in attacks.items() if "original" in attack.needs]:
        raise BadSetting(f"{back[0]} sets one edit against its original; a sequence has several, so audit the edit of a step instead")


def check_attacks(order: Order, requests: Sequence[Concept], attacks: Attacks, shipped: bool) -> None:
    """Attacks have to bring back one concept each, from pictures that a sequence can give.

    Arguments:
        shipped: Whether the model's world ships pictures of everything else.
    """
    for attack, _ in attacks.values():
        attack.check(requests[0])  # each request is attacked by itself
        _check_held(order, attack, shipped)
    for concept in requests:
        if concept.pictures:
            check_enough(concept.pictures, attacks, "add some")


def _check_held(order: Order, attack: Attack, shipped: bool) -> None:
    """An attack's pictures of everything else have to be some that a sequence can give."""
    held, given = attack.holds, order.attack_retain != "shipped"
    if held is None or held.source == "own" or (held.source == "retain" and (shipped or given)) or (held.source == "folder" and given):
        return
    raise BadSetting(
        "a sequence gives an attacker the world's pictures, a folder with captions (--attack-retain DIR), or with data=own none; "
        f"given data={held.source}"
    )


def check_folders(order: Order, unlearner: Any, requests: Sequence[Concept], attacks: Attacks) -> None:
    """Folders of the user's own are there, and somebody reads them."""
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
        _check_references(order, requests, attacks)


def _check_references(order: Order, requests: Sequence[Concept], attacks: Attacks) -> None:
    """A folder of pictures for each request, and an attack, here or in the verdicts' audits, that is given some."""
    if timing(order) == "none":
        used: list[Any] = [attack for attack, _ in attacks.values()]
    else:
        used = [registry.find("attacks", name) for name in attackers_of(order)]
    if not any("pictures" in attack.needs for attack in used):
        raise BadSetting(f"--references {order.references} is read by attacks with pictures of a request; none is asked for")
    missing = [c.name for c in requests if not (Path(order.references) / c.name).is_dir()]
    if missing:
        raise BadInput(f"{order.references} holds a folder of pictures for each request, by its name; there is none for {missing[0]}")
