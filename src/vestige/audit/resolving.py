"""From a user's request to a plan: every name found, every setting resolved, every mistake told before anything is computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from vestige import models, registry
from vestige.audit import refusals
from vestige.audit.controls import control
from vestige.audit.plan import Plan
from vestige.audit.power import armed
from vestige.audit.request import Request
from vestige.concepts import Concept
from vestige.concepts.album import KEEPS
from vestige.concepts.joint import Joint
from vestige.errors import BadSetting
from vestige.harness import banks, suites
from vestige.harness.banks import PromptBank
from vestige.harness.positives import hiding
from vestige.harness.settings import by_method, chosen, configured, content, looks, requested
from vestige.harness.unlearning import check_joint, check_memorises
from vestige.metrics import loading
from vestige.models import Card
from vestige.verdict import Lines


def resolve(request: Request) -> Plan:
    """Resolve names and settings; every mistake that a user can make is found here, before anything is computed."""
    card = models.card(request.model)
    concept = requested(request.concept, card)
    _check(request, concept)
    suite = suites.load(request.suite, card.world)
    own = by_method(request.settings)
    unlearner = _unlearner(request, concept, card, own)
    attacks = chosen(request.attacks or _suited(suite, concept), suite, card, request.preset, own, request.reference_count)
    for attack, _ in attacks.values():
        attack.check(concept)
    refusals.check_retained(request, attacks)
    if request.original and unlearner is None and request.edit is None:
        refusals.check_no_edit(attacks)
    if not request.original:
        refusals.check_without_original(request, concept, attacks, card.world)
    refusals.check_read(own, attacks, [request.unlearner] if unlearner else [])
    several = () if request.seeds else suite.looks
    seeds = request.seeds or tuple(range(several[0] if several else suite.replicates))
    if len(set(seeds)) != len(seeds) or any(s < 0 for s in seeds):
        raise BadSetting(f"seeds are different whole numbers from 0 on; given {list(seeds)}")
    original = (card.twin_of or request.model) if request.original else ""
    against, lines = control(request.control, request.model, concept), Lines(replicates=min(3, max(2, len(seeds))))
    if against.kind == "distilled" and not original:
        raise BadSetting("never-models are made of the original, which is not at hand; choose another control")
    refusals.check_unshown(request, attacks, against)
    refusals.check_references(request, concept, against, attacks)
    compared = against.kind != "none"
    positives = hiding(suite, card, concept) if original and compared and any(map(armed, attacks)) else {}
    asked = _banks(request, concept, suite, card.world) if compared else ()
    return Plan(request, concept, suite, seeds, unlearner, attacks, against, original, card.world, lines, positives, several, asked)


def _check(request: Request, concept: Concept) -> None:
    """What a request says apart from its methods; a detector that is not there is found now."""
    if isinstance(concept, Joint):
        refusals.check_several(request, concept)
    loading.contents(concept)
    if concept.fidelity:
        looks(replace(concept, pictures=""))
    if request.reference_count < 0:
        raise BadSetting(f"reference_count is at least 1, or 0 for the suite's number; given {request.reference_count}")
    if request.keep_images not in KEEPS:
        raise BadSetting(f"pictures are kept: {' or '.join(KEEPS)}; given {request.keep_images!r}")
    if request.unlearner != "none" and request.edit is not None:
        raise BadSetting("give an unlearner or an edit, not both")


def _unlearner(request: Request, concept: Concept, card: Card, own: dict[str, dict[str, Any]]) -> Any | None:
    """The unlearner that is asked for, if any; its settings are taken out of `own`."""
    unlearner = None
    if request.unlearner != "none":
        given = own.pop(request.unlearner, {})
        unlearner = configured("unlearners", request.unlearner, card.world, request.preset, given, model=card.name).resolved(concept)
    if request.alternative != "drawn":
        if unlearner is None:
            raise BadSetting("--alternative is read by an unlearner, and none is asked for")
        check_memorises(request.unlearner, unlearner, request.alternative)
        content(Path(request.alternative))
    if unlearner is not None and isinstance(concept, Joint):
        check_joint(request.unlearner, unlearner)
    return unlearner


def _suited(suite: suites.Suite, concept: Concept) -> tuple[str, ...]:
    """A suite's attacks that bring back what was erased: where one does not, the one that does the same to as many concepts, if any."""
    wrong, found = "one" if isinstance(concept, Joint) else "several", dict[str, None]()
    for name in suite.attacks:
        made = registry.find("attacks", name)
        if instead := made.counterpart if made.brings == wrong else name:
            found[instead] = None
    if not found:
        raise BadSetting(f"no attack of suite {suite.version} brings back {'several concepts' if wrong == 'one' else 'one concept'}")
    return tuple(found)


def _banks(request: Request, concept: Concept, suite: suites.Suite, world: str) -> tuple[PromptBank, ...]:
    """The banks of prompts that are asked; what is wrong with a file is found now."""
    shipped_ = bool(world) and Path(request.concept).suffix.lower() != ".toml"
    return banks.gathered(concept, suite, request.banks, request.bank_pictures, shipped=shipped_)
