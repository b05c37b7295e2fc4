"""The controls of an audit: models that never drew the concept, found or made, or other concepts that the model cannot draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, cast

from vestige import concepts, models
from vestige.concepts import Concept
from vestige.concepts.joint import Joint, targets
from vestige.data import PROXY
from vestige.errors import BadSetting
from vestige.harness.never import Distillation
from vestige.harness.settings import looks

Kind = Literal["twin", "distilled", "proxy", "none"]
ASKED = "control is auto, twin, proxy, distilled:NUMBER, or one or more of twin:MODEL or of proxy:FILE.toml with commas between"
MOST_DISTILLED = 9


@dataclass(frozen=True)
class Control:
    """What stands for a model that never knew the concept: several of a kind are a sample, one is a guess at it."""

    kind: Kind
    names: tuple[str, ...] = ()

    @property
    def of_the_concept(self) -> bool:
        """Whether never-models stand there that are asked for the concept itself, as the edited model is."""
        return self.kind in ("twin", "distilled")

    @property
    def told(self) -> str:
        """The names in words."""
        *most, last = self.names or ("",)
        return f"{', '.join(most)} and {last}" if most else last

    def content(self, world: str) -> str | list[str]:
        """The names in a spec: a built-in one by its name, a user's by what it is."""
        each = [_content(self.kind, name, world) for name in self.names]
        return each[0] if len(each) == 1 else each


def control(asked: str, model: str, concept: Concept) -> Control:
    """The control that was asked for, as `Request.control` says it."""
    parts = [part.strip() for part in asked.split(",")]
    kinds, names = zip(*((kind, name) for kind, _, name in (part.partition(":") for part in parts)), strict=True)
    kind, named = kinds[0], bool(names[0])
    nameless = not all(names) and (len(parts) > 1 or (":" in asked and kind in ("twin", "proxy")))
    if len(set(kinds)) > 1 or nameless:
        raise _unread(asked, parts)
    if isinstance(concept, Joint):
        return _of_several(asked, kind, names if named else (), model, concept)
    if kind == "distilled" and len(parts) == 1:
        return _distilled(names[0] if ":" in asked else "1", model, concept)
    if kind not in (("twin", "proxy") if named else ("auto", "twin", "proxy", "none")):
        raise _unread(asked, parts)
    if named:
        return _given(cast(Kind, kind), names, model, concept)
    if kind == "none":
        return Control("none")
    twins = _closest(models.twins(model, concept.name))
    if twins and kind != "proxy":
        return Control("twin", twins)
    if kind == "twin":
        raise BadSetting(f"no twin of {model} never drew {concept.name}; use --control proxy")
    stands = concept.group in PROXY and concept.name != PROXY[concept.group] and not concept.detector
    if models.world_of(model) and stands:
        return Control("proxy", (PROXY[concept.group],))
    raise BadSetting(
        f"{model} has neither a twin that never drew {concept.name} nor a proxy concept; name one with --control twin:MODEL or --control "
        "proxy:FILE.toml, or have never-models made of the original with --control distilled:3, see docs/verdict.md"
    )


def _unread(asked: str, parts: Sequence[str]) -> BadSetting:
    """What to say of a control that is none; a built-in model by its name alone is meant for a twin."""
    known = models.cards()
    meant = ",".join(f"twin:{part}" if part in known else part for part in parts)
    return BadSetting(f"{ASKED}; given {asked!r}{f', did you mean {meant!r}?' if meant != ','.join(parts) else ''}")


def _of_several(asked: str, kind: str, names: tuple[str, ...], model: str, concept: Joint) -> Control:
    """The control of concepts that were erased together: twins that drew none of them."""
    if kind == "none" and not names:
        return Control("none")
    if kind == "twin" and names:
        return _given("twin", names, model, concept)
    twins = _closest(_lacking(model, [part.name for part in concept.parts]))
    if kind not in ("auto", "twin") or not twins:
        parts = " and ".join(part.name for part in concept.parts)
        raise BadSetting(f"the control of several concepts is a twin that drew none of them: twin:MODEL; given {asked!r} for {parts}")
    return Control("twin", twins)


def _distilled(number: str, model: str, concept: Concept) -> Control:
    """So many never-models, made of the original."""
    if not (number.isdecimal() and 1 <= int(number) <= MOST_DISTILLED):
        raise BadSetting(f"distilled:NUMBER is that many never-models made of the original, 1 to {MOST_DISTILLED}; given {number!r}")
    if not (concept.neighbours or concept.unrelated):
        raise BadSetting(f"a never-model is taught what must stay, and {concept.name} names neither neighbours nor unrelated concepts")
    if models.card(model).twin_of:
        raise BadSetting(f"a never-model is made of the original under audit; {model} is a twin itself")
    return Control("distilled", tuple(f"distilled {seed}" for seed in range(int(number))))


def _lacking(model: str, names: Sequence[str]) -> list[str]:
    """Twins of a built-in model that drew none of these concepts, the closest first."""
    first, *others = (models.twins(model, name) for name in names)
    return [name for name in first if all(name in each for each in others)]


def _closest(twins: list[str]) -> tuple[str, ...]:
    """Those that miss the fewest concepts: a twin that misses five is another recipe."""
    missed = {name: len(models.card(name).never_drew) for name in twins}
    return tuple(name for name in twins if missed[name] == min(missed.values()))


def _given(kind: Kind, names: tuple[str, ...], model: str, concept: Concept) -> Control:
    """Controls of the user's own."""
    if len(set(names)) < len(names):
        raise BadSetting(f"a control counts once; given {', '.join(names)}")
    for name in names:
        if kind == "twin":
            if models.card(name).name == models.card(model).name:
                raise BadSetting(f"a twin never drew {concept.name}; {name} is the model under audit")
            _check_never_drew(name, model, concept)
            continue
        proxy = concepts.load(name)
        if proxy.name == concept.name or not proxy.pictures:
            own = "; --control proxy takes the built-in one" if name in PROXY.values() else ""
            raise BadSetting(f"a proxy is another concept than {concept.name} and its file names a folder of pictures; given {name}{own}")
    return Control(kind, names)


def _check_never_drew(name: str, model: str, concept: Concept) -> None:
    """Refuse a built-in model as a twin of what it drew, or of another recipe; what a user's own drew, nobody knows."""
    own, audited = models.card(name), models.card(model)
    if not own.world:
        return
    recipe, its = (card.twin_of or card.name for card in (audited if audited.world else own, own))
    words = [part.name if part.detector else part.label for part in targets(concept)]
    drawn = set(concepts.names(own.world)) - set(PROXY.values())
    drew = [word for word in words if word in drawn and word not in own.never_drew]
    if not drew and its == recipe:
        return
    what = f"{name} drew {' and '.join(drew)} ({own.about})" if drew else f"{name} is of the recipe of {its}"
    fits = _lacking(model if audited.world else recipe, words)
    others = f"give {' or '.join(f'twin:{twin}' for twin in fits)}" if fits else "none that ships fits; give a model of your own"
    more = "" if fits or isinstance(concept, Joint) else ", --control proxy or --control distilled:3"
    raise BadSetting(f"{what}; a twin is of the recipe of {recipe} and never drew {' or '.join(words)}: {others}{more}")


def _content(kind: Kind, name: str, world: str) -> str:
    if kind == "distilled":
        return repr((name, asdict(Distillation())))
    if kind == "twin":
        return name if name in models.cards() else repr(sorted(models.identity(name).items()))
    proxy = concepts.load(name, world)
    return name if not proxy.pictures else repr((proxy.as_dict(), looks(proxy)))
