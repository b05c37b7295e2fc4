"""Concepts by name or file: built-in ones are data, a user's own is a TOML file of the same fields; `vestige list --template` writes one.

data/concepts/WORLD.toml        what an embedded world knows
data/concepts/ready/NAME.toml   what papers use, for real models
data/concepts/sets/SET.toml     a benchmark's concepts, called SET:NAME
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vestige import files
from vestige.concepts.concept import Concept
from vestige.data import WORLD, folder, shipped_table, toml
from vestige.errors import BadInput, UnknownName

_PLACES = ("detector", "selector", "pictures", "captions", "fidelity")  # fields that may name a file or a folder
_OTHERS = (".yaml", ".yml", ".json", ".txt", ".csv", ".ini", ".cfg", ".md")  # endings of files that no concept is
_FOLDER = "{} is a folder; a concept is a name or a file, NAME.toml"


def names(world: str = "") -> list[str]:
    """Built-in concepts of a world; "" is the embedded one."""
    return list(_table(world))


def load(name_or_file: str, world: str = "") -> Concept:
    """A built-in concept by name, or a user's own from a TOML file."""
    path = Path(name_or_file)
    if path.suffix.lower() == ".toml":
        return _read(path)
    if path.suffix.lower() in _OTHERS or (name_or_file and path.is_file()):
        raise BadInput(f"{path} is no concept file, which is TOML, NAME.toml; `vestige list --template NAME.toml` writes one")
    known = _table(world)
    if name_or_file in known:
        return known[name_or_file]
    found = for_real_models()
    if name_or_file not in found:
        if path.is_dir():
            raise BadInput(_FOLDER.format(path))
        raise UnknownName("concept", name_or_file, [*known, *found])
    file = found[name_or_file]
    return _read(file) if file.stem == name_or_file else _table(f"sets/{file.stem}")[name_or_file.partition(":")[2]]


def for_real_models() -> dict[str, Path]:
    """Concepts for real models by name, each with the file that tells where it is from: single ones, and those of sets, SET:NAME."""
    place = folder() / "concepts"
    single = {file.stem: file for file in sorted((place / "ready").glob("*.toml"))}
    sets = sorted((place / "sets").glob("*.toml"))
    return {**single, **{f"{file.stem}:{name}": file for file in sets for name in shipped_table(f"concepts/sets/{file.stem}")["concepts"]}}


def _table(world: str) -> dict[str, Concept]:
    shipped = shipped_table(f"concepts/{world or WORLD}")
    concepts: dict[str, Concept] = {}
    for kind, shared in shipped["kinds"].items():
        swap = {"{" + kind + "}": "{concept}", "{" + shared["context_group"] + "}": "{context}"}
        for name, own in shipped["concepts"].items():
            if own["kind"] != kind:
                continue
            near = own.get("neighbours", [])
            fields: dict[str, Any] = {"name": name, "group": kind, **own, **shipped.get("common", {})}
            fields |= {"contexts": shared["contexts"], "context_group": shared["context_group"]}
            fields |= {
                "neighbours": near,
                "unrelated": [m for m in shared["members"] if m not in near and m not in (name, own.get("target"))],
            }
            fields |= {bank: [_swapped(t, swap) for t in templates] for bank, templates in shared["templates"].items()}
            concepts[name] = _concept(fields)
    return concepts


def _swapped(template: str, swap: Mapping[str, str]) -> str:
    for old, new in swap.items():
        template = template.replace(old, new)
    return template


def _concept(fields: Mapping[str, Any]) -> Concept:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return Concept(**values)


def _read(path: Path) -> Concept:
    if path.is_dir():
        raise BadInput(_FOLDER.format(path))
    if not path.is_file():
        raise BadInput(f"no concept file at {path}; `vestige list --template {path}` writes one to fill in")
    try:
        data = toml(path.read_text(files.UTF8))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not valid TOML: {error}") from error
    fields = ["prompts" if f.name == "prompt_files" else f.name for f in dataclasses.fields(Concept)]
    for key in data:
        if key not in fields:
            raise UnknownName(f"field in {path.name}", key, fields)
    if "name" not in data:
        raise BadInput(f'{path} has no name; the smallest concept file is: name = "sneaker"')
    lists = {"prompt_files": _lists(data.pop("prompts"), path)} if "prompts" in data else {}
    placed: dict[str, Any] = {key: _placed(key, data[key], path.parent) for key in _PLACES if key in data}
    return _concept({**data, **placed, **lists})


def _lists(told: Any, file: Path) -> tuple[str, ...]:
    """Files of prompts, found from where the concept file lies; one may stand alone."""
    each = [told] if isinstance(told, str) else told
    if not isinstance(each, list) or not all(isinstance(one, str) and one for one in each):
        raise BadInput(f'prompts in {file.name} is a file, "FILE.csv", or a list of them; given {told!r}')
    return tuple(str(file.parent / one) for one in each)


def _placed(key: str, told: Any, beside: Path) -> Any:
    """A folder or file that a concept file names, found from where the file lies; what is none stays as it is."""
    if not isinstance(told, str) or not told:
        return told
    if key in ("pictures", "captions"):
        return str(beside / told)
    kind, _, place = told.partition(":")
    if kind in ("hf", "clip", "inception"):
        return f"{kind}:{beside / place}"
    file, dot, function = told.rpartition(".py:")
    return f"{beside / file}.py:{function}" if dot else told


def named(concept: Concept | str) -> Concept:
    """A concept from its name; words that name no built-in one become an object concept with plain templates."""
    if isinstance(concept, Concept):
        return concept
    try:
        return load(concept)
    except UnknownName:
        return Concept(
            name=concept, templates=("a photo of a {concept}", "{concept}"), held_out=("an image of {concept}",), source="plain words"
        )
