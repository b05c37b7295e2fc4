"""What names and settings stand for: a method with its settings, a concept as a model is told of it, a file by its content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from vestige import concepts, data, files, models, registry
from vestige.concepts import Concept, prompts
from vestige.concepts.joint import Joint, joint
from vestige.errors import BadInput, BadSetting, HalfPrecision, UnknownName, shortened
from vestige.harness import families
from vestige.harness.suites import Planned, Suite
from vestige.methods import Attack
from vestige.metrics import loading
from vestige.models import Card, placement


def configured(
    kind: registry.Kind,
    name: str,
    world: str,
    preset: str,
    own: Mapping[str, Any],
    suited: Mapping[str, Any] | None = None,
    *,
    model: str = "",
) -> Any:
    """A component with its model's own settings or its world's, then its suite's, then a named preset's, then the caller's own.

    Errors:
        HalfPrecision, for one that trains where models are loaded in float16.
    """
    values = {**_fitted(kind, name, world, model), **(suited or {}), **_preset(preset, kind, name), **own}
    made = registry.build(kind, name, values)
    check_trains(name, made, placement.current().dtype)
    return made


def check_trains(name: str, method: Any, precision: str) -> None:
    """Refuse a method, called `name`, that trains, on a model in half precision."""
    if precision == "float16" and getattr(method, "trains", False):
        raise HalfPrecision(name)


def _fitted(kind: registry.Kind, name: str, world: str, model: str) -> dict[str, Any]:
    """A method's settings in the presets' section of a built-in model (a twin's is its original's); its world's where that has none.

    An attack on a model of a user's own has those of the model's family.
    """
    card = models.cards().get(model)
    if card is None and not world and kind == "attacks" and model:
        return families.usual_settings(name, model)
    if card is not None:
        with suppress(UnknownName):
            return _preset(card.twin_of or card.name, kind, name) or _preset(world, kind, name)
    return _preset(world, kind, name)


def chosen(
    names: Sequence[str], suite: Suite, card: Card, preset: str, own: dict[str, dict[str, Any]], references: int = 0
) -> dict[str, tuple[Attack, Planned]]:
    """Attacks by name, each with its settings and how the suite runs it.

    Arguments:
        card: The model's, whose world's settings hold.
        own: The caller's settings by method; those of the attacks are taken out.
        references: How many a replicate gets, of an attack that takes any; 0 is the suite's number.
    """
    made = {}
    for name in names:
        if name not in registry.names("attacks"):
            raise UnknownName("attack", name, registry.names("attacks"))
        planned = suite.planned(name, card.world)
        if references and "pictures" in registry.find("attacks", name).needs:
            planned = replace(planned, references=references)
        attack = configured("attacks", name, card.world, preset, own.pop(name, {}), planned.settings, model=card.name)
        made[name] = (attack, planned)
    return made


def by_method(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """METHOD.SETTING -> value, as method -> setting -> value."""
    made: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        method, dot, name = key.partition(".")
        if not dot:
            raise BadSetting(f"a setting is METHOD.NAME=VALUE, e.g. memora.rank=8; given {key!r}")
        made.setdefault(method, {})[name] = value
    return made


def told(concept: Concept, card: Card) -> Concept:
    """The concept as a model that is told of some groups only can draw it: nothing is expected of the other groups.

    Nor is anything expected of contexts where the concept names its own detector, which speaks of the concept's group alone.
    """
    if concept.detector:
        concept = replace(concept, context_group="")
    if not card.groups:
        return concept
    if concept.group not in card.groups:
        raise BadInput(
            f"{concept.name} is a concept of the group {concept.group!r}, which {card.name} is never told; "
            f"it is told of {', '.join(card.groups)}: choose a concept of such a group, or another model"
        )
    return concept if concept.context_group in card.groups else replace(concept, context_group="")


def requested(names: str, card: Card) -> Concept:
    """A concept by its name or file as a model is told of it; several with commas between as one."""
    each = [names] if "," not in names or Path(names).is_file() else [name.strip() for name in names.split(",")]
    if not all(each):
        raise BadSetting(f"a comma stands between two concepts; given {names!r}")
    found = []
    for name in each:
        concept = told(concepts.load(name, card.world), card)
        check_judged(name, concept, card.world)
        found.append(concept)
    if len({c.name for c in found}) < len(found) or len({c.target for c in found}) < len(found):
        raise BadSetting(f"concepts that are erased together differ; given {names}")
    return found[0] if len(found) == 1 else joint(found)


def check_judged(name: str, concept: Concept, world: str) -> None:
    """Refuse a concept that is ready for real models, called `name`, where nobody is named who could look for it."""
    if not concept.detector and name in concepts.for_real_models() and name not in concepts.names(world):
        how = f"`vestige list --template {concept.name}.toml --of {name}` writes a copy of it; name a detector there"
        raise BadInput(f"nobody is named who looks for {name}, and the embedded world's judges do not know it: {how}")


def one_prompt(concept: Concept) -> str:
    """What there is to say of a concept whose scores are all of one prompt; "" with several."""
    texts = {prompt.text for prompt in concept.prompts("held-out")}
    if len(texts) > 1:
        return ""
    why = "how much prompts differ is in no interval; give several `held_out`"
    return f"{concept.name} has one held-out prompt, {shortened(min(texts))}, so every score is of that prompt, and {why}"


def looks(concept: Concept) -> dict[str, Any]:
    """A concept's own detectors, pictures and captions, by content; {} where the world's are used."""
    if isinstance(concept, Joint):
        return {part.name: own for part in concept.parts if (own := looks(part))}
    pictures = {"pictures": content(Path(concept.pictures))} if concept.pictures else {}
    kept = {"fidelity": loading.identity(concept.fidelity)} if concept.fidelity else {}
    captions = {"captions": prompts.load(concept.captions).content} if concept.captions else {}
    return {**loading.contents(concept), **pictures, **kept, **captions}


def content(path: Path) -> str:
    """Hash of a file, or of every file under a folder with its name: a changed file is another run."""
    if not path.exists():
        raise BadInput(f"there is nothing at {path}")
    if path.is_dir():
        return files.digest_of((p for p in path.rglob("*") if p.is_file()), path)
    return hashlib.sha256(f" {files.digest(path)}\n".encode()).hexdigest()


def _preset(name: str, kind: str, method: str) -> dict[str, Any]:
    """Settings of a method for a world or a named preset; {} for no name, or where the preset does not name the method."""
    raw = data.shipped_table("presets")
    if name and name not in raw:
        raise UnknownName("preset", name, raw)
    found: dict[str, Any] = raw.get(name, {}).get(kind, {}).get(method, {})
    return found
