"""What an audit will do: a user's request with every name found and every setting resolved, and what it will cost.

Every mistake that a user can make with names and settings is found here, before anything is computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vestige import concepts, judges, models, registry, suites, thrift
from vestige.album import KEEPS, Keep
from vestige.base import Attack
from vestige.concepts import Concept
from vestige.errors import BadInput, BadSetting, UnknownName
from vestige.images import shipped
from vestige.models import Card, sources
from vestige.sampling import Protocol
from vestige.verdict import Lines, calibrated

NUMERICS = "2"  # raised whenever a run of an unchanged spec would give other numbers
NAMED_SOURCES = ("shipped", "generated")  # where references come from, other than a folder
PLASTICITY_REPLICATES = 3
PROXY = {"object": "digit", "style": "halftone"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks of an audit; every default that matters is resolved into the run's spec.

    Arguments:
        model: Built-in model or pipeline folder; the original, unless its card says it is a twin or `original` is False.
        concept: Built-in name or a TOML file.
        unlearner: Method that makes the edit; "none" audits the model as it is.
        edit: A saved edit, or an edited pipeline folder, instead of an unlearner.
        attacks: Subset of the suite's attacks; () takes all.
        seeds: Attack replicates; () takes the suite's number.
        references: The attacker's pictures: "shipped", "generated" (by the original), or a folder.
        reference_count: How many of them a replicate gets; 0 takes the suite's number.
        forget: What an unlearner may train on of the concept: "drawn" (by the model itself), or a folder.
        retain: What it may train on of everything else, likewise.
        attack_retain: What an attack without the concept's pictures trains on: "shipped", or a folder with captions.
        settings: METHOD.SETTING -> value, as on the command line.
        preset: Named preset whose settings hold before `settings`.
        control: "twin", "proxy", or "auto": a twin where there is one. "twin:MODEL" names a model that never drew the concept,
            "proxy:FILE.toml" a concept that the model cannot draw, with pictures of it; "none" is for an attack alone.
        keep_images: "all", or "none": scores only.
        original: False where `model` is the edited one and its original is not at hand: real pictures of the concept, the
            references, then say where its curves would end.
    """

    model: str = "wardrobe"
    concept: str = "sneaker"
    unlearner: str = "none"
    edit: str | None = None
    attacks: tuple[str, ...] = ()
    suite: str = "quick"
    seeds: tuple[int, ...] = ()
    edit_seed: int = 0
    references: str = "shipped"
    reference_count: int = 0
    forget: str = "drawn"
    retain: str = "drawn"
    attack_retain: str = "shipped"
    settings: Mapping[str, Any] = field(default_factory=dict)
    preset: str = ""
    control: str = "auto"
    keep_images: Keep = "all"
    original: bool = True


@dataclass(frozen=True)
class Plan:
    """A request with every name found and every setting resolved; `original` is "" where it is not at hand."""

    request: Request
    concept: Concept
    suite: suites.Suite
    seeds: tuple[int, ...]
    unlearner: Any | None
    attacks: Mapping[str, tuple[Attack, suites.Planned]]
    control: tuple[str, str]  # kind, name
    original: str
    world: str
    lines: Lines

    def spec(self) -> dict[str, Any]:
        """The resolved spec, plain data."""
        source = self.request.references
        chosen = None if self.unlearner is None else {"method": self.request.unlearner, "settings": registry.settings(self.unlearner)}
        kept = self.request.attack_retain
        return {
            "what": "audit",
            "numerics": NUMERICS,
            "model": self.request.model,
            "model_content": models.identity(self.request.model),
            "original": self.original or None,
            "concept": self.concept.as_dict(),
            "unlearner": chosen,
            "edit": None if self.request.edit is None else content(Path(self.request.edit)),
            "edit_seed": self.request.edit_seed,
            "suite": self.suite.version,
            "protocol": asdict(self.suite.protocol),
            "attacks": {n: {"settings": registry.settings(a), "budget": list(p.budget.points)} for n, (a, p) in self.attacks.items()},
            "seeds": list(self.seeds),
            "references": source if source in NAMED_SOURCES else content(Path(source)),
            **({"reference_count": self.request.reference_count} if self.request.reference_count else {}),
            "data": [s if s == "drawn" else content(Path(s)) for s in (self.request.forget, self.request.retain)],
            **({"attack_retain": kept if kept == "shipped" else content(Path(kept))} if _without_target(self.attacks) else {}),
            "control": [self.control[0], _named(self.control, self.world)],
            **({"looks": found} if (found := looks(self.concept)) else {}),
            **({"keep_images": self.request.keep_images} if self.request.keep_images != "all" else {}),
            "lines": asdict(self.lines),
            **models.current().as_dict(),
            **thrift.current().as_dict(),
            "volatile": {"edit": self.request.edit, "references": source},
        }


def plan(request: Request) -> Plan:
    """Resolve names and settings; every mistake that a user can make is found here, before anything is computed."""
    card = models.card(request.model)
    concept = told(concepts.load(request.concept, card.world or "wardrobe"), card)
    judges.contents(concept)  # a detector that is not there is found now
    suite = suites.load(request.suite, card.world)
    known = {**{name: suite.unlisted(name) for name in registry.names("attacks")}, **suite.attacks}
    if request.reference_count < 0:
        raise BadSetting(f"reference_count is at least 1, or 0 for the suite's number; given {request.reference_count}")
    for name in request.attacks:
        if name not in known:
            raise UnknownName("attack", name, known)
    if request.keep_images not in KEEPS:
        raise BadSetting(f"pictures are kept: {' or '.join(KEEPS)}; given {request.keep_images!r}")
    if request.unlearner != "none" and request.edit is not None:
        raise BadSetting("give an unlearner or an edit, not both")
    own = by_method(request.settings)
    unlearner = None
    if request.unlearner != "none":
        given = own.pop(request.unlearner, {})
        unlearner = configured("unlearners", request.unlearner, card.world, request.preset, given, model=card.name).resolved(concept)
    attacks = {}
    for name in request.attacks or suite.attacks:
        planned = known[name]
        if request.reference_count and "pictures" in registry.find("attacks", name).needs:
            planned = replace(planned, references=request.reference_count)
        given = own.pop(name, {})
        method = configured("attacks", name, card.world, request.preset, given, planned.settings, model=card.name)
        attacks[name] = (method, planned)
    _check_retained(request, attacks)
    if not request.original:
        _check_alone(request, concept, attacks, card.world or "wardrobe")
    if own:
        raise UnknownName("method in a setting", next(iter(own)), [*attacks, *([request.unlearner] if unlearner else [])])
    seeds = request.seeds or tuple(range(suite.replicates))
    if len(set(seeds)) != len(seeds) or any(s < 0 for s in seeds):
        raise BadSetting(f"seeds are different whole numbers from 0 on; given {list(seeds)}")
    original = (card.twin_of or request.model) if request.original else ""
    lines = _lines(suite, card, attacks, len(seeds))
    return Plan(request, concept, suite, seeds, unlearner, attacks, _control(request, concept), original, card.world, lines)


def _without_target(attacks: Mapping[str, tuple[Attack, suites.Planned]]) -> list[Any]:
    """Attacks that train on what was retained."""
    return [attack for attack, _ in attacks.values() if "retain" in attack.needs]


def _check_retained(request: Request, attacks: Mapping[str, tuple[Attack, suites.Planned]]) -> None:
    sources = [attack.data for attack in _without_target(attacks)]
    if request.attack_retain == "shipped" and "folder" in sources:
        raise BadSetting("data=folder needs the folder: --attack-retain DIR, with captions of its pictures in metadata.jsonl")
    if request.attack_retain != "shipped" and not {"retain", "folder"} & set(sources):
        raise BadSetting(
            f"--attack-retain {request.attack_retain} is read by attacks with data=retain or data=folder; none is among {[*attacks]}"
        )


def _check_alone(request: Request, concept: Concept, attacks: Mapping[str, tuple[Attack, suites.Planned]], world: str) -> None:
    """Without an original nothing may ask for it, and real pictures of the concept have to be there."""
    if request.unlearner != "none" or request.edit is not None:
        raise BadSetting("without an original, --model is the edited model itself: leave out --unlearner and --edit, or --no-original")
    if drawn := [name for name, (attack, _) in attacks.items() if "retain" in attack.needs and getattr(attack, "data", "") == "original"]:
        raise BadSetting(f"{drawn[0]} with data=original trains on pictures by the original, which is not at hand; choose another data")
    need = f"give --references FOLDER, or a concept file that names its pictures, with real pictures of {concept.name}"
    if request.references == "generated":
        raise BadSetting(f"generated references are drawn by the original, which is not at hand; {need}")
    if request.references != "shipped" or concept.pictures:
        return
    why = f"without an original, what a detector sees in real pictures says where {concept.name}'s curves would end"
    if concept.detector:
        raise BadSetting(f"{why}; {need}")
    with suppress(BadInput):
        shipped(models.data_folder() / world / "pictures/references", {concept.group: concept.label})
        return
    raise BadSetting(f"{why}, and none ships with the package; {need}")


def _lines(suite: suites.Suite, card: Card, attacks: Mapping[str, tuple[Attack, suites.Planned]], replicates: int) -> Lines:
    """The verdict's lines, above what the attacks find between two twins; an attack with settings of the user's own has no null."""
    lines = Lines(replicates=min(3, max(2, replicates)))
    for name, (attack, planned) in attacks.items():
        null = suites.calibration(card.world, suite.version, name).null
        if not null or planned != suite.attacks[name]:
            continue
        if attack == configured("attacks", name, card.world, "", {}, planned.settings, model=card.name):
            lines = calibrated(lines, null)
    return lines


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
    """A component with its model's own settings or its world's, then its suite's, then a named preset's, then the caller's own."""
    values = {**_fitted(kind, name, world, model), **(suited or {}), **suites.preset(preset, kind, name), **own}
    return registry.build(kind, name, values)


def _fitted(kind: registry.Kind, name: str, world: str, model: str) -> dict[str, Any]:
    """A method's settings in the presets' section of a built-in model (a twin's is its original's); its world's where that has none."""
    card = models.cards().get(model)
    if card is not None:
        with suppress(UnknownName):
            return suites.preset(card.twin_of or card.name, kind, name) or suites.preset(world, kind, name)
    return suites.preset(world, kind, name)


def by_method(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """METHOD.SETTING -> value, as method -> setting -> value."""
    made: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        method, dot, name = key.partition(".")
        if not dot:
            raise BadSetting(f"a setting is METHOD.NAME=VALUE, e.g. memora.rank=8; given {key!r}")
        made.setdefault(method, {})[name] = value
    return made


def _control(request: Request, concept: Concept) -> tuple[str, str]:
    kind, _, name = request.control.partition(":")
    if kind not in (("twin", "proxy") if name else ("auto", "twin", "proxy", "none")):
        raise BadSetting(f"control is auto, twin, proxy, twin:MODEL or proxy:FILE.toml; given {request.control!r}")
    if name:
        return _given(kind, name, request, concept)
    if kind == "none":
        return "none", ""
    twins = models.twins(request.model, concept.name)
    if twins and request.control != "proxy":
        return "twin", twins[0]
    if request.control == "twin":
        raise BadSetting(f"no twin of {request.model} never drew {concept.name}; use --control proxy")
    stands = concept.group in PROXY and concept.name != PROXY[concept.group] and not concept.detector
    if models.world_of(request.model) and stands:
        return "proxy", PROXY[concept.group]
    raise BadSetting(
        f"{request.model} has neither a twin that never drew {concept.name} nor a proxy concept; name one with --control twin:MODEL "
        "or --control proxy:FILE.toml, see docs/verdict.md"
    )


def _given(kind: str, name: str, request: Request, concept: Concept) -> tuple[str, str]:
    """A control of the user's own."""
    if kind == "twin":
        if models.card(name).name == models.card(request.model).name:
            raise BadSetting(f"a twin never drew {concept.name}; {name} is the model under audit")
        return kind, name
    proxy = concepts.load(name)
    if proxy.name == concept.name or not proxy.pictures:
        raise BadSetting(f"a proxy is another concept than {concept.name} and its file names a folder of pictures; given {name}")
    return kind, name


def _named(control: tuple[str, str], world: str) -> str:
    """A control in a spec: a built-in one by its name, a user's by what it is."""
    kind, name = control
    if kind == "none":
        return name
    if kind == "twin":
        return name if name in models.cards() else repr(sorted(models.identity(name).items()))
    proxy = concepts.load(name, world or "wardrobe")
    return name if not proxy.pictures else repr((proxy.as_dict(), looks(proxy)))


def looks(concept: Concept) -> dict[str, Any]:
    """A concept's own detectors and pictures, by content; {} where the world's are used."""
    pictures = {"pictures": content(Path(concept.pictures))} if concept.pictures else {}
    return {**judges.contents(concept), **pictures}


def content(path: Path) -> str:
    """Hash of a file, or of every file under a folder with its name: a changed file is another run."""
    if not path.exists():
        raise BadInput(f"there is nothing at {path}")
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        digest.update(f"{file.relative_to(path) if path.is_dir() else ''} {sources.hashed(file)}\n".encode())
    return digest.hexdigest()


def planned_calls(planned: Plan) -> dict[str, int]:
    """Single denoiser calls (one latent, one condition) that the audit needs if nothing is stored, by part."""
    suite, n, whole = planned.suite, len(planned.seeds), bool(planned.original)
    guided = 2 if suite.protocol.guidance != 1 else 1
    picture = suite.protocol.steps * guided
    calls = {"scoring": 0, "attacks": 0, "utility": (6 if whole else 4) * suite.utility_pictures * picture}
    for name, (attack, plan_) in planned.attacks.items():
        arms = n * 2 * (1 + len(attack.variants())) + int(whole)
        if whole and suite.plasticity and name == "memora":
            arms += 2 * min(n, PLASTICITY_REPLICATES)
        tries = (
            [1 + min(b, getattr(attack, "most", 0)) for b in plan_.budget.points]
            if plan_.references == 0
            else [1] * len(plan_.budget.points)
        )
        calls["scoring"] += arms * sum(tries) * (suite.pictures + suite.select_pictures) * picture
        calls["scoring"] += (n - 1) * suite.pictures * picture if whole else 0
        steps = plan_.budget.last * getattr(attack, "batch", 0) * getattr(attack, "accumulation", 1)
        calls["attacks"] += arms * 3 * steps  # a training step costs about three forward passes
        calls["attacks"] += arms * _drawing(attack, plan_.budget.last)
        calls["attacks"] += n * 2 * getattr(attack, "sampling_steps", 0) * plan_.references * (1 + getattr(attack, "points", 0) // 2) * 2
    if planned.unlearner is not None:
        steps = getattr(planned.unlearner, "steps", 0) * getattr(planned.unlearner, "batch", 0)
        calls["unlearning"] = (
            3 * steps
            + _pictures(planned.unlearner)
            + 2 * getattr(planned.unlearner, "rollouts", 0) * getattr(planned.unlearner, "rollout_steps", 0)
        )
    return calls


def _drawing(attack: Attack, last: int) -> int:
    """Calls of what an attack draws for itself in one arm: the pictures of every try, or those it trains on."""
    own = getattr(attack, "retain_pictures", 0) if getattr(attack, "data", "") == "own" else 0
    return 2 * int(getattr(attack, "sampling_steps", 0)) * (last * int(getattr(attack, "draws", 0)) + own)


def _pictures(unlearner: Any) -> int:
    """Calls of the pictures that an unlearner trains on, if the model draws them all."""
    count = sum(value for name, value in registry.settings(unlearner).items() if name.endswith("_pictures") and isinstance(value, int))
    return 2 * Protocol().steps * int(count)
