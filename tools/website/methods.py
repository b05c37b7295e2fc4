"""A page for each unlearner and each attack, from its docstrings, fields, presets and suites, and from what has been measured of it."""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vestige import data, registry
from vestige.harness import cost, suites
from website import standing
from website.docstrings import cell, code, escaped, prose, read

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
        f"## Here, and in the released code\n\n{prose(own.blocks)}" if own.blocks else "",
        f"## Settings\n\n{settings(cls)}",
        presets(kind, name),
        f"## What it costs\n\n{(costs_of_attack if kind == 'attacks' else costs)(name, cls)}",
        f"## Where it runs\n\n{families(root, name)}",
        f"## Where it stands\n\n{stands(root, name, cls)}",
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
    made = _built(kind, name)
    if kind == "attacks":
        rows["access"] = cell(ACCESS[cls.access])
        rows["it is given"] = _those(cls.needs, ATTACKER_NEEDS)
        rows["other ways"] = ", ".join(code(way) for way in made.variants()) if made is not None else ""
        command = f"vestige attack --model wardrobe --edit edit.safetensors --concept sneaker --method {name} --out runs/attack"
    else:
        rows["it trains on"] = _those(cls.needs, NEEDS)
        rows["several at once"] = "yes" if cls.joint else "one concept, or one after another"
        command = f"vestige unlearn --model wardrobe --concept sneaker --method {name} --out edit.safetensors"
    if made is not None:
        rows["float16"] = "no, it trains" if made.trains else "yes, it trains nothing"
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items() if value)
    return held("facts", f"| | |\n|---|---|\n{table}") + f"\n\n```console\n{command}\n```"


def _those(needs: frozenset[str], said: dict[str, str]) -> str:
    return cell("; ".join(said[key] for key in said if key in needs)) or "nothing"


def _built(kind: Literal["unlearners", "attacks"], name: str, values: dict[str, Any] | None = None) -> Any:
    """An instance; None for one that has a setting without a default, as `retrain` has its twin."""
    cls = registry.find(kind, name)
    missing = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    return None if missing else registry.build(kind, name, values or {})


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


@functools.lru_cache
def _tables() -> dict[str, Any]:
    return data.shipped_table("presets")


def of_presets(kind: str, name: str) -> dict[str, dict[str, Any]]:
    """Preset or world -> a method's settings there."""
    return {preset: told[kind][name] for preset, told in _tables().items() if name in told.get(kind, {})}


def presets(kind: Literal["unlearners", "attacks"], name: str) -> str:
    """The table of presets, and of a suite's settings for the embedded world; "" where there is neither."""
    columns = of_presets(kind, name)
    if kind == "attacks":
        for suite in suites.names():
            made = suites.load(suite, "wardrobe")
            planned = made.attacks.get(name) or made.lent.get(name)
            if planned and planned.settings and dict(planned.settings) not in columns.values():
                columns[f"suite {suite}"] = dict(planned.settings)
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


def costs(name: str, cls: Any) -> str:
    """Calls of an unlearner, by its own forecast."""
    drawn = cost.picture(suites.load("quick").protocol)
    ways = {"defaults": dict[str, Any](), **of_presets("unlearners", name)}
    rows = []
    for way, told in ways.items():
        made = _built("unlearners", name, told)
        if made is not None:
            rows.append(f"| {way} | {made.calls(0, 0):,} | {made.calls(drawn, drawn):,} |")
    if not rows:
        return "It asks nothing of the denoiser: its edit is another model."
    if all(row.endswith("| 0 | 0 |") for row in rows):
        return "No call of the denoiser: nothing is drawn, and nothing trained through it."
    said = (
        f"Calls of the denoiser that an edit takes, by its own forecast; one is one picture and one condition, and one that is trained "
        f"through counts three. On the right the model draws every picture itself, at {drawn} calls each as the suite `quick` draws. "
        "What a call takes: [what it costs](../docs/cost.md)."
    )
    return f"{said}\n\n| settings | pictures given | pictures drawn |\n|---|---|---|\n" + "\n".join(rows)


def costs_of_attack(name: str, cls: Any) -> str:
    """Calls of one arm of an attack under the suites that run it."""
    rows = []
    for suite in suites.names():
        made = suites.load(suite, "wardrobe")
        planned = made.attacks.get(name) or made.lent.get(name)
        if planned:
            own = _built("attacks", name, dict(planned.settings))
            calls = own.calls(planned.budget.last, planned.references)
            how = "" if name in made.attacks else " (where it is asked for)"
            budget = ", ".join(str(point) for point in planned.budget.points)
            rows.append(f"| {suite}{how} | {budget} | {planned.references or ''} | {calls:,} |")
    said = (
        "Calls of the denoiser that one arm takes on the embedded world, by the attack's own forecast, without drawing what is scored; one "
        "is one picture and one condition, and one that is trained through counts three. An audit runs several arms: "
        "[what it costs](../docs/cost.md)."
    )
    return f"{said}\n\n| suite | budget | references | calls |\n|---|---|---|---|\n" + "\n".join(rows) if rows else "No suite runs it."


@functools.lru_cache
def matrix(root: Path) -> tuple[list[str], dict[str, list[str]], dict[str, str]]:
    """The matrix's families, its rows by method, and its reasons by number."""
    text = (root / "docs/results/matrix.md").read_text("utf-8")
    table = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    reasons = dict(re.findall(r"^(\d+)\. (.+)$", text, re.MULTILINE))
    return table[0][1:], {row[0].strip("`"): row[1:] for row in table[2:]}, reasons


def families(root: Path, name: str) -> str:
    """The method's row of the matrix, on its side, with reasons in words."""
    names, rows, reasons = matrix(root)
    lines = []
    for family, state in zip(names, rows[name], strict=True):
        why = re.fullmatch(r"refuses \((\d+)\)", state)
        lines.append(f"| {family} | {f'refuses: {cell(reasons[why[1]])}' if why else state} |")
    said = "What has run, and on what; nothing has run on real weights of a published model. What the states mean: "
    said += "[the matrix](../docs/results/matrix.md)."
    return f"{said}\n\n| family | |\n|---|---|\n" + "\n".join(lines)


@functools.lru_cache
def results(root: Path) -> list[standing.Section]:
    """Every section of the results, and of what did not work."""
    pages = sorted((root / "docs/results").rglob("*.md"))
    apart = ("matrix.md", "tests.md", "fuzz.md")  # these name every method and measure none
    files = [*(p for p in pages if p.name not in apart), root / "docs/negative.md"]
    return [s for p in files for s in standing.sections(root, p.relative_to(root).as_posix())]


def stands(root: Path, name: str, cls: Any) -> str:
    """Links to what has been measured of it."""
    rows, named = standing.met(results(root), name, cls.__name__)
    made = [f"{head}\n\n{_links(root, found)}" for head, found in (("Rows of it:", rows), ("Named in:", named)) if found]
    return "\n\n".join(made) or "No page of results names it yet: nothing has been measured of it but that it runs."


def _links(root: Path, found: list[standing.Section]) -> str:
    """A line a page, its sections behind it."""
    pages: dict[str, list[standing.Section]] = {}
    for section in found:
        pages.setdefault(section.page, []).append(section)
    lines = []
    for where, those in pages.items():
        parts = ", ".join(f"[{escaped(s.title)}](../{where}#{s.slug})" for s in those if s.slug)
        lines.append(f"- [{escaped(page_title(root, where))}](../{where})" + (f": {parts}" if parts else ""))
    return "\n".join(lines)


@functools.cache
def _heading(file: Path) -> str:
    """The words of a page's first heading."""
    lines = file.read_text("utf-8").splitlines()
    return next(line for line in lines if line.startswith("# "))[2:].replace("`", "")


def page_title(root: Path, where: str) -> str:
    """A page's title; with the file's own name where several pages share one."""
    file = root / where
    heading = _heading(file)
    same = [other for other in file.parent.glob("*.md") if _heading(other) == heading]
    return f"{heading}: {file.stem}" if len(same) > 1 and file.stem != "README" else heading


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
        rows.append(f"| [{escaped(title(kind, name))}]({name}.md) | {code(name)} | {cell(idea[:1].upper() + idea[1:])} | {given} |")
    head = f"| | name | idea | {'access' if kind == 'attacks' else 'trains on'} |\n|---|---|---|---|\n"
    pages = "\n".join(own_names(kind))
    return f"# {kind.capitalize()}\n\n{told[kind]}\n\n{head}" + "\n".join(rows) + f"\n\n```{{toctree}}\n:hidden:\n\n{pages}\n```\n"
