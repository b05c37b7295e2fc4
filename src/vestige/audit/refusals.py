"""What cannot be audited together, told before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vestige import concepts, data, models, registry
from vestige.audit.controls import Control
from vestige.audit.power import armed
from vestige.audit.request import Request
from vestige.concepts import Concept
from vestige.concepts.images import shipped
from vestige.concepts.joint import Joint
from vestige.errors import BadInput, BadSetting, UnknownName
from vestige.harness import suites
from vestige.harness.attacker import check_enough
from vestige.methods import Attack
from vestige.methods.contract import Holds

NAMED_SOURCES = ("shipped", "generated")  # where references come from, other than a folder
LEAST_UNSHOWN = 32
Attacks = Mapping[str, tuple[Attack, suites.Planned]]


def held(attacks: Attacks) -> list[Holds]:
    """What attacks are given that train on what was retained."""
    return [given for attack, _ in attacks.values() if (given := attack.holds) is not None]


def check_several(request: Request, concept: Joint) -> None:
    """What an audit of several concepts as one cannot do."""
    if not request.original or request.unshown:
        what = "without an original" if not request.original else "with unshown"
        raise BadSetting(f"an audit {what} is of one concept; given {concept.name}")
    if request.forget != "drawn":
        raise BadSetting(f"--forget is pictures of one concept; given {concept.name}: leave it out, and the model draws them")


def check_read(left: Mapping[str, Mapping[str, Any]], attacks: Attacks, others: Sequence[str]) -> None:
    """Settings of a method that is not run; where another attack takes its place, the error says how they are given to that one.

    Arguments:
        left: Method -> setting -> value, which nobody read.
        others: Methods that are run beside the attacks.
    """
    for name, settings in left.items():
        for instead, (attack, _) in attacks.items():
            if attack.counterpart != name or name not in (its := registry.settings(attack)):
                continue
            kept = [item for item in its[name] if item.partition("=")[0] not in settings]
            every = ",".join([*kept, *(f"{key}={value}" for key, value in settings.items())])
            why = f"{instead} takes the place of {name}, and reads its settings as one list"
            raise BadSetting(f"{', '.join(f'{name}.{key}' for key in settings)}: {why}; give {instead}.{name}={every}")
        raise UnknownName("method in a setting", name, [*attacks, *others])


def check_retained(request: Request, attacks: Attacks) -> None:
    """A folder of what must stay is given where an attack reads it, and only there."""
    sources = [given.source for given in held(attacks)]
    if request.attack_retain == "shipped" and "folder" in sources:
        raise BadSetting("data=folder needs the folder: --attack-retain DIR, with captions of its pictures in metadata.jsonl")
    if request.attack_retain != "shipped" and not {"retain", "folder"} & set(sources):
        raise BadSetting(
            f"--attack-retain {request.attack_retain} is read by attacks with data=retain or data=folder; none is among {[*attacks]}"
        )


def check_unshown(request: Request, attacks: Attacks, against: Control) -> None:
    """What was not shown is told apart only beside never-models, real pictures and an attack that is shown some."""
    if not request.unshown:
        return
    if request.unshown < LEAST_UNSHOWN:
        raise BadSetting(f"unshown is a number of pictures, at least {LEAST_UNSHOWN}, or 0; given {request.unshown}")
    if not request.original:
        raise BadSetting("what the original draws of the unshown is the measure of it, and no original is at hand; leave out unshown")
    if not any(map(armed, attacks)):
        raise BadSetting(f"unshown asks what comes back beside an attack's pictures; none of {', '.join(attacks)} trains on any")
    if not against.of_the_concept:
        raise BadSetting("unshown compares with models that never drew the concept: give twins, or --control distilled:2")
    if request.references == "generated":
        raise BadSetting("unshown needs real pictures of the concept; give a folder of them with references")


def check_references(request: Request, concept: Concept, against: Control, attacks: Attacks) -> None:
    """Enough pictures for a replicate: the attacker's, and a proxy's own."""
    if isinstance(concept, Joint) and request.references not in NAMED_SOURCES:
        places = [Path(request.references) / part.name for part in concept.parts]
        if missing := [place.name for place in places if not place.is_dir()]:
            raise BadInput(f"{request.references} holds a folder of pictures for each concept, by its name; there is none for {missing[0]}")
        for place in places:
            check_enough(str(place), attacks, "add some, or take fewer with --reference-count")
        return
    if isinstance(concept, Joint) and request.references == "shipped":
        for own in filter(None, (part.pictures for part in concept.parts)):
            check_enough(own, attacks, "add some, or take fewer with --reference-count")
    source = concept.pictures if request.references == "shipped" else request.references
    if source and request.references != "generated":
        check_enough(source, attacks, "add some, or take fewer with --reference-count")
    for name in against.names if against.kind == "proxy" else ():
        if pictures := concepts.load(name, models.world_of(request.model)).pictures:
            check_enough(pictures, attacks, f"add some of the proxy {Path(name).stem}, or take fewer with --reference-count")


def check_no_edit(attacks: Attacks) -> None:
    """An attack that takes an edit off again, where there is none."""
    if back := [name for name, (attack, _) in attacks.items() if attack.restores]:
        raise BadSetting(f"{back[0]} takes parts of an edit off again, and there is none; give --edit or --unlearner")


def check_without_original(request: Request, concept: Concept, attacks: Attacks, world: str) -> None:
    """Without an original nothing may ask for it, and real pictures of the concept have to be there."""
    if request.unlearner != "none" or request.edit is not None:
        raise BadSetting("without an original, --model is the edited model itself: leave out --unlearner and --edit, or --no-original")
    if drawn := [name for name, (attack, _) in attacks.items() if (held := attack.holds) is not None and held.source == "original"]:
        raise BadSetting(f"{drawn[0]} with data=original trains on pictures by the original, which is not at hand; choose another data")
    if back := [name for name, (attack, _) in attacks.items() if "original" in attack.needs]:
        raise BadSetting(f"{back[0]} needs the original, which is not at hand; choose another attack, or give the original")
    need = f"give --references FOLDER, or a concept file that names its pictures, with real pictures of {concept.name}"
    if request.references == "generated":
        raise BadSetting(f"generated references are drawn by the original, which is not at hand; {need}")
    if request.references != "shipped" or concept.pictures:
        return
    why = f"without an original, what a detector sees in real pictures says where {concept.name}'s curves would end"
    if concept.detector:
        raise BadSetting(f"{why}; {need}")
    with suppress(BadInput):
        shipped(data.references(world), {concept.group: concept.label})
        return
    raise BadSetting(f"{why}, and none ships with the package; {need}")
