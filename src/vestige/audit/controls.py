"""The control of an audit: a twin that never drew the concept, or another concept that the model cannot draw."""

from __future__ import annotations

from vestige import concepts, models
from vestige.concepts import Concept
from vestige.data import PROXY
from vestige.errors import BadSetting
from vestige.harness.settings import looks


def control(asked: str, model: str, concept: Concept) -> tuple[str, str]:
    """Kind ("twin", "proxy", "none") and name of the control that was asked for, as `Request.control` says it."""
    kind, _, name = asked.partition(":")
    if kind not in (("twin", "proxy") if name else ("auto", "twin", "proxy", "none")):
        raise BadSetting(f"control is auto, twin, proxy, twin:MODEL or proxy:FILE.toml; given {asked!r}")
    if name:
        return _given(kind, name, model, concept)
    if kind == "none":
        return "none", ""
    twins = models.twins(model, concept.name)
    if twins and asked != "proxy":
        return "twin", twins[0]
    if asked == "twin":
        raise BadSetting(f"no twin of {model} never drew {concept.name}; use --control proxy")
    stands = concept.group in PROXY and concept.name != PROXY[concept.group] and not concept.detector
    if models.world_of(model) and stands:
        return "proxy", PROXY[concept.group]
    raise BadSetting(
        f"{model} has neither a twin that never drew {concept.name} nor a proxy concept; name one with --control twin:MODEL "
        "or --control proxy:FILE.toml, see docs/verdict.md"
    )


def _given(kind: str, name: str, model: str, concept: Concept) -> tuple[str, str]:
    """A control of the user's own."""
    if kind == "twin":
        if models.card(name).name == models.card(model).name:
            raise BadSetting(f"a twin never drew {concept.name}; {name} is the model under audit")
        return kind, name
    proxy = concepts.load(name)
    if proxy.name == concept.name or not proxy.pictures:
        raise BadSetting(f"a proxy is another concept than {concept.name} and its file names a folder of pictures; given {name}")
    return kind, name


def control_content(chosen: tuple[str, str], world: str) -> str:
    """A control in a spec: a built-in one by its name, a user's by what it is."""
    kind, name = chosen
    if kind == "none":
        return name
    if kind == "twin":
        return name if name in models.cards() else repr(sorted(models.identity(name).items()))
    proxy = concepts.load(name, world)
    return name if not proxy.pictures else repr((proxy.as_dict(), looks(proxy)))
