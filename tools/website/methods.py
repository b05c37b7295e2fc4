"""A page for each unlearner and each attack, from its docstrings, fields, presets and suites, and from what has been measured of it."""

from __future__ import annotations

import dataclasses
import re
import sys
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vestige import registry
from website import measured
from website.docstrings import cell, code, escaped, prose, read
from website.measured import of_presets, of_suites

KINDS: tuple[Literal["unlearners", "attacks"], ...] = ("unlearners", "attacks")
USUAL = {"lr": "Learning rate."}  # what needs no word beside the field, said here for those who read the page alone
ACCESS = {
    "prompts": "prompts: it asks the model, and knows nothing of its inside",
    "gradients": "gradients: it sees inside the model and steers how it draws, and changes no weight",
    "weights": "weights: it may change them",
}
NEEDS = {
    "prompts": "the concept's words",
    "target": "pictures of the concept; the model draws them where none are given",
    "retain": "pictures of what must stay; the model draws them where none are given",
}
BRIEFLY = {"prompts": "its words", "target": "pictures of it", "retain": "pictures of the rest"}
ATTACKER_NEEDS = {
    "pictures": "a few pictures of the concept",
    "retain": "pictures of everything but the concept",
    "original": "the public base of the edit",
}


def own_names(kind: Literal["unlearners", "attacks"]) -> list[str]:
    """The methods of this package; others may be installed beside it."""
    return [name for name in registry.names(kind) if (registry.place(kind) / f"{name}.py").exists()]


def page(root: Path, kind: Literal["unlearners", "attacks"], name: str) -> str:
    """The page of one method, Markdown for the folder of its kind."""
    cls = registry.find(kind, name)
    idea, own = read(sys.modules[cls.__module__].__doc__), read(cls.__doc__)
    first = idea.blocks[0][1]
    idea.blocks[0] = ("text", first.partition(": ")[2][:1].upper() + first.partition(": ")[2][1:])
    parts = [
        f"# {escaped(title(kind, name))}",
        prose(idea.blocks[:1]),
        facts(kind, name, cls),
        f"## Idea\n\n{prose(idea.blocks[1:])}" if idea.blocks[1:] else "",
        f"## {'Here, and in the released code' if cls.paper.code else 'How it is done here'}\n\n{prose(own.blocks)}",
        f"## Settings\n\n{settings(cls)}",
        presets(kind, name),
        f"## What it costs\n\n{(measured.costs_of_attack if kind == 'attacks' else measured.costs)(name)}",
        f"## Where it runs\n\n{measured.families(root, name)}",
        f"## Where it stands\n\n{measured.stands(root, name, cls)}",
        source(cls),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def title(kind: Literal["unlearners", "attacks"], name: str) -> str:
    """What a method calls itself: its module's words before the first colon, with the class's name where that is another word."""
    cls = registry.find(kind, name)
    words = (sys.modules[cls.__module__].__doc__ or name).partition(":")[0].strip()
    plain = re.sub(r"\W", "", words).lower()
    return words if plain.startswith(cls.__name__.lower()[:4]) else f"{words} ({cls.__name__})"


def summary(kind: Literal["unlearners", "attacks"], name: str) -> str:
    """What its module says of it in a sentence."""
    return read(sys.modules[registry.find(kind, name).__module__].__doc__).summary.partition(": ")[2]


def facts(kind: Literal["unlearners", "attacks"], name: str, cls: Any) -> str:
    """A table of what a method is and needs."""
    paper = cls.paper
    where = f", [arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})" if paper.arxiv else ""
    released = f"; code released as {code(paper.code)}" if paper.code else ""
    rows = {"name": code(name), "paper": f"{cell(paper.authors)}, *{cell(paper.title)}*, {paper.year}{where}{released}"}
    made = registry.build(kind, name)
    if kind == "attacks":
        rows["access"] = cell(ACCESS[cls.access])
        rows["it is given"] = _those(cls.needs, ATTACKER_NEEDS)
        rows["other ways"] = ", ".join(code(way) for way in made.variants())
        command = f"vestige attack --model wardrobe --edit edit.safetensors --concept sneaker --method {name} --out runs/attack"
    else:
        rows["it trains on"] = _those(cls.needs, NEEDS)
        rows["several at once"] = "yes" if cls.joint else "one concept, or one after another"
        command = f"vestige unlearn --model wardrobe --concept sneaker --method {name} --out {name}.safetensors"
    rows["float16"] = "no, it trains" if made.trains else "yes, it trains nothing"
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items() if value)
    return held("facts", f"| | |\n|---|---|\n{table}") + f"\n\n```console\n{command}\n```"


def _those(needs: frozenset[str], said: dict[str, str]) -> str:
    return cell("; ".join(said[key] for key in said if key in needs)) or "nothing"


def arguments(cls: Any) -> dict[str, str]:
    """Setting -> meaning, from the docstrings of a class and of what it stands on."""
    found: dict[str, str] = {}
    for part in reversed(cls.__mro__):
        if dataclasses.is_dataclass(part):
            found.update(read(part.__doc__).arguments)
    return {f.name: found.get(f.name) or USUAL[f.name] for f in dataclasses.fields(cls)}


def settings(cls: Any) -> str:
    """The table of settings."""
    said, hints = arguments(cls), get_type_hints(cls)
    if not said:
        return "It has none."
    rows = [
        f"| {code(f.name)} | {' or '.join(code(part) for part in shown(hints[f.name]))} | {code(default(f))} | {cell(said[f.name])} |"
        for f in dataclasses.fields(cls)
    ]
    return held("settings", "| setting | type | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows))


def held(name: str, body: str) -> str:
    """Content that the style sheet knows by a name."""
    return f"````{{container}} {name}\n{body}\n````"


def shown(hint: Any) -> list[str]:
    """What a setting accepts, in parts that "or" joins."""
    if get_origin(hint) is Literal:
        return [value(option) for option in get_args(hint)]
    if get_origin(hint) in (Union, types.UnionType):
        return [part for option in get_args(hint) for part in shown(option)]
    if get_origin(hint) is tuple:
        return [f"several {get_args(hint)[0].__name__}"]
    return ["None"] if hint is type(None) else [hint.__name__]


def default(f: dataclasses.Field[Any]) -> str:
    """A field's default as text; "" where one has to be given."""
    if f.default_factory is not dataclasses.MISSING:
        return value(f.default_factory())
    return "" if f.default is dataclasses.MISSING else value(f.default)


def value(given: Any) -> str:
    """A value as one would write it on the command line's far side: texts in double quotes, small numbers as 1e-05."""
    if isinstance(given, str):
        return f'"{given}"'
    if isinstance(given, tuple | list):
        return ", ".join(value(item) for item in given) or "()"
    return repr(given)


def presets(kind: Literal["unlearners", "attacks"], name: str) -> str:
    """The table of presets, and of a suite's settings for the embedded world; "" where there is neither."""
    columns = of_presets(kind, name)
    if kind == "attacks":
        alike: dict[str, list[str]] = {}
        plans = {suite: dict(planned.settings) for suite, planned, _ in of_suites(name)}
        for suite, told in plans.items():
            if told and told not in columns.values():
                alike.setdefault(repr(told), []).append(suite)
        columns |= {f"suite{'s' * (len(those) > 1)} {', '.join(those)}": plans[those[0]] for those in alike.values()}
    if not columns:
        return ""
    said = list(dict.fromkeys(key for told in columns.values() for key in told))
    rows = [f"| {code(key)} | {' | '.join(code(value(t[key])) if key in t else '' for t in columns.values())} |" for key in said]
    head = f"| setting | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}\n"
    why = (
        "What a built-in model or a suite sets instead of the defaults; an empty cell keeps the default. `wardrobe` and "
        "the like are taken by themselves on the model of that name, others by `--preset`. Those of a suite hold on the embedded world."
    )
    return f"## Presets\n\n{why}\n\n{head}" + "\n".join(rows)


def source(cls: Any) -> str:
    """The class as the index and the search know it, with a link to its source."""
    why = "Its fields are the settings above; the registry finds it by the file's name."
    return f"## In Python\n\n```{{py:class}} {cls.__name__}\n:module: {cls.__module__}\n\n{why}\n```"


def index(kind: Literal["unlearners", "attacks"]) -> str:
    """The table of all methods of a kind."""
    told = {
        "unlearners": "Each turns a model and a concept into an edit. Which one for what: [choosing](../docs/choosing.md).",
        "attacks": "Each turns an edited model, a concept and a budget into candidates, which the audit scores.",
    }
    rows = []
    for name in own_names(kind):
        cls = registry.find(kind, name)
        given = cls.access if kind == "attacks" else ", ".join(said for need, said in BRIEFLY.items() if need in cls.needs)
        idea = summary(kind, name)
        rows.append(f"| [{escaped(title(kind, name))}]({name}.md) {code(name)} | {cell(idea[:1].upper() + idea[1:])} | {given} |")
    head = f"| method | idea | {'access' if kind == 'attacks' else 'trains on'} |\n|---|---|---|\n"
    pages = "\n".join(own_names(kind))
    return f"# {kind.capitalize()}\n\n{told[kind]}\n\n{head}" + "\n".join(rows) + f"\n\n```{{toctree}}\n:hidden:\n\n{pages}\n```\n"
