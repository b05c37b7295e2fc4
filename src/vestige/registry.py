"""Find a component by name: the folder's listing first, entry points second.

A component is one file; its stem is its name everywhere (command line, specs, tables), and its class is the one whose name
spells the stem (`esd.ESD`, `gradient_ascent.GradientAscent`). Another package offers a component through an entry point in
the group `vestige.unlearners` or `vestige.attacks`; it is addressed by the entry point's name.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import types
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vestige.errors import BadSetting, UnknownName

Kind = Literal["unlearners", "attacks", "hooks"]
ROOMS = {"hooks": "checkpoints.hooks"}  # where a kind's files lie, if not in a folder of its name; saved edits name the kind
# What others call the same settings, for whoever types one of these.
ELSEWHERE = {"learning_rate": "lr", "batch_size": "batch", "epochs": "steps", "num_steps": "steps", "guidance_scale": "guidance"}


def names(kind: Kind) -> list[str]:
    """Names of every component of a kind, our own first."""
    own = sorted(p.stem for p in place(kind).glob("*.py") if not p.stem.startswith("_"))
    return own + sorted(set(_foreign(kind)) - set(own))


def place(kind: Kind) -> Path:
    """The folder of a kind's files."""
    return Path(__file__).parent.joinpath(*ROOMS.get(kind, kind).split("."))


def find(kind: Kind, name: str) -> type[Any]:
    """The class of a component; close names are suggested for an unknown one."""
    if name.isidentifier() and not name.startswith("_") and (place(kind) / f"{name}.py").exists():
        module = importlib.import_module(f"vestige.{ROOMS.get(kind, kind)}.{name}")
        wanted = name.replace("_", "")
        return next(v for k, v in vars(module).items() if k.lower() == wanted and isinstance(v, type))
    foreign = _foreign(kind)
    if name in foreign:
        loaded: type[Any] = foreign[name].load()
        return loaded
    raise UnknownName(kind[:-1], name, names(kind))


def build(kind: Kind, name: str, settings: Mapping[str, Any] | None = None) -> Any:
    """An instance with settings; values may be text, as from the command line. Unknown settings are errors."""
    made, values = find(kind, name), {key: checked(kind, name, key, value) for key, value in (settings or {}).items()}
    try:
        return made(**values)
    except ValueError as error:
        raise BadSetting(f"{name}: {error}") from error


def checked(kind: Kind, name: str, key: str, value: Any) -> Any:
    """The value of one setting of a component, perhaps given as text, as what it accepts.

    Errors:
        UnknownName where it has no such setting, BadSetting for a value that it does not accept.
    """
    made = find(kind, name)
    fields = [f.name for f in dataclasses.fields(made)]
    if key not in fields:
        raise UnknownName(f"setting of {name}", key, fields, ELSEWHERE.get(key, ""))
    return coerce(value, get_type_hints(made)[key], f"{name}.{key}")


def settings(component: Any) -> dict[str, Any]:
    """The settings of a component as plain data, for specs."""
    return {f.name: _plain(getattr(component, f.name)) for f in dataclasses.fields(component)}


def coerce(value: Any, hint: Any, what: str) -> Any:
    """`value`, perhaps text, as the annotated type; an error names the setting and what it accepts."""
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        for option in options:
            if value == option or str(option) == value:
                return option
    elif origin in (Union, types.UnionType):
        for option in options:
            try:
                return coerce(value, option, what)
            except BadSetting:
                continue
    elif origin is tuple and isinstance(value, str | list | tuple):
        items = [v for v in value.split(",") if v] if isinstance(value, str) else list(value)
        hints = [options[0]] * len(items) if options[-1] is Ellipsis else list(options)
        if len(items) == len(hints):
            return tuple(coerce(v, h, what) for v, h in zip(items, hints, strict=True))
    elif hint is bool:
        table = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
        if isinstance(value, bool) or str(value).lower() in table:
            return value if isinstance(value, bool) else table[str(value).lower()]
    elif hint is type(None):
        if value is None or str(value).lower() == "none":
            return None
    elif hint in (int, float, str):
        try:
            whole = hint is not int or not isinstance(value, float) or value == int(value)
            if not isinstance(value, bool | list | tuple | None) and whole and (hint is str or math.isfinite(float(value))):
                return hint(value)
        except (TypeError, ValueError, OverflowError):
            pass
    shown = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
    raise BadSetting(f"{what} accepts {shown}; given {value!r}")


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


def _foreign(kind: Kind) -> dict[str, metadata.EntryPoint]:
    return {e.name: e for e in metadata.entry_points(group=f"vestige.{kind}")}
