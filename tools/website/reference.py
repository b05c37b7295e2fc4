"""The reference: a page for each room's face and its public names, and one for the commands."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

from website.docstrings import cell, code, escaped, listed, prose, read

# In the order of the house: what a user meets first.
ROOMS = (
    *("vestige", "vestige.concepts", "vestige.edits", "vestige.models", "vestige.diffusion", "vestige.methods", "vestige.metrics"),
    *("vestige.audit", "vestige.continual", "vestige.grid", "vestige.compare", "vestige.verdict", "vestige.checkpoints"),
    *("vestige.runs", "vestige.engine", "vestige.registry", "vestige.errors"),
)


def names(room: str) -> list[str]:
    """The public names of a room: what its face hands on, or what a module without a list of them defines."""
    module = importlib.import_module(room)
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [n for n, v in vars(module).items() if not n.startswith("_") and callable(v) and getattr(v, "__module__", "") == room]


def page(room: str) -> str:
    """The page of a room."""
    module, doc = importlib.import_module(room), read(importlib.import_module(room).__doc__)
    parts = [f"# {room}", prose(doc.blocks), f"```{{py:module}} {room}\n:no-index-entry:\n```"]
    for name in names(room):
        found = getattr(module, name)
        parts.append(f"## {escaped(name)}\n\n{described(room, name, found)}")
    return "\n\n".join(parts) + "\n"


def anchors(room: str) -> dict[str, str]:
    """Public name -> its heading's anchor on the room's page; `card` comes after `Card`, and is another."""
    met, made = dict[str, int](), {}
    for name in names(room):
        slug = name.lower()
        met[slug] = met.get(slug, -1) + 1
        made[name] = f"{slug}-{met[slug]}" if met[slug] else slug
    return made


def home(room: str, found: Any) -> str:
    """The other page on which a name of the package's own face is described in full; "" where that is here."""
    if room != "vestige":
        return ""
    return next((r for r in ROOMS[1:] for n in names(r) if getattr(importlib.import_module(r), n) is found), "")


def described(room: str, name: str, found: Any) -> str:
    """One public name: its signature, and what its docstring says."""
    elsewhere = home(room, found)
    if elsewhere:
        there = anchors(elsewhere)[found.__name__]
        said = f"{escaped(read(found.__doc__).summary)}\n\nIn full: [{elsewhere}.{found.__name__}]({elsewhere}.md#{there})."
        return said if inspect.isclass(found) else directive("function", room, name, signature(found), said)
    if inspect.isclass(found):
        doc = read(found.__doc__ if not _generated(found) else "")
        members = [directive(kind, room, n, sign, text, fence=4) for kind, n, sign, text in _members(found)]
        body = "\n\n".join(part for part in (prose(doc.blocks), listed(doc), *members) if part)
        return directive("exception" if issubclass(found, Exception) else "class", room, name, signature(found), body, fence=5)
    if callable(found):
        doc = read(found.__doc__)
        return directive("function", room, name, signature(found), "\n\n".join(p for p in (prose(doc.blocks), listed(doc)) if p))
    return directive("data", room, name, "", f"A constant: {code(repr(found))}")


def directive(kind: str, room: str, name: str, sign: str, body: str, fence: int = 3) -> str:
    """An object as the site's index and search know it; the module is where it is public, and the source is found from there."""
    ticks, typed = "`" * fence, ""
    if kind == "property":
        sign, typed = "", f":type: {sign}\n" if sign else ""
    return f"{ticks}{{py:{kind}}} {name}{sign}\n:module: {room}\n{typed}\n{body}\n{ticks}"


def _generated(cls: Any) -> bool:
    """Whether a docstring is a dataclass's own, `Name(field: type, ...)`."""
    return (cls.__doc__ or "").startswith(f"{cls.__name__}(")


def _members(cls: Any) -> Iterator[tuple[str, str, str, str]]:
    """(kind, name, signature, text) of the public methods and properties that a class defines itself."""
    for name, found in vars(cls).items():
        if name.startswith("_") and name != "__call__":
            continue
        if isinstance(found, property):
            doc = read(found.__doc__)
            back = inspect.signature(found.fget).return_annotation if found.fget else ""
            yield "property", name, _hint(back), prose(doc.blocks)
        elif inspect.isfunction(found) or isinstance(found, classmethod | staticmethod):
            inner = found if inspect.isfunction(found) else found.__func__
            doc = read(inspect.getdoc(getattr(cls, name)) if name != "__call__" else inner.__doc__)
            first = not isinstance(found, staticmethod)
            yield "method", name, signature(inner, drop=first), "\n\n".join(p for p in (prose(doc.blocks), listed(doc)) if p)


def signature(found: Any, *, drop: bool = False) -> str:
    """Parameters as they are written, with types and defaults.

    Arguments:
        drop: Leave the first out, `self` of a method.
    """
    try:
        told = inspect.signature(found)
    except (TypeError, ValueError):
        return "()"
    parameters, made, starred = list(told.parameters.values())[drop:], list[str](), False
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY and not starred:
            made.append("*")
        starred |= p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        sign = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        hint = "" if p.annotation is p.empty else f": {_hint(p.annotation)}"
        gap = " = " if hint else "="
        made.append(f"{sign}{p.name}{hint}" + ("" if p.default is p.empty else f"{gap}{_default(p.default)}"))
    back = "" if inspect.isclass(found) or told.return_annotation is told.empty else f" -> {_hint(told.return_annotation)}"
    return f"({', '.join(made)}){back}"


def _hint(hint: Any) -> str:
    text = hint if isinstance(hint, str) else getattr(hint, "__name__", str(hint))
    return re.sub(r"\b(?:typing|collections\.abc)\.", "", " ".join(text.split()))


def _default(value: Any) -> str:
    """A default that parses as Python; what has no such form is `...`."""
    if inspect.isfunction(value) or inspect.isclass(value):
        return str(value.__name__)
    text = repr(value)
    return text if value is None or (isinstance(value, bool | int | float | str | tuple) and "<" not in text) else "..."


def index() -> str:
    """The table of rooms."""
    rows = []
    for room in ROOMS:
        told = read(importlib.import_module(room).__doc__).summary
        those = ", ".join(f"[{escaped(n)}]({room}.md#{anchor})" for n, anchor in anchors(room).items())
        rows.append(f"| [{room}]({room}.md) | {cell(told)} | {those} |")
    said = (
        "The names that `vestige` itself and its rooms hand on; everything else is inside and may move. "
        "Pictures are (B, 3, H, W) in [0, 1], latents (B, C, h, w); types are torch's and our own."
    )
    pages = "\n".join(ROOMS)
    return f"# In Python\n\n{said}\n\n| | | |\n|---|---|---|\n" + "\n".join(rows) + f"\n\n```{{toctree}}\n:hidden:\n\n{pages}\n```\n"


def commands() -> str:
    """Every command with its arguments and options, as `--help` has them."""
    from typer.main import get_command

    from vestige.cli import app

    parts = ["# On the command line", "What `vestige COMMAND --help` prints. Results go to stdout, everything else to stderr."]
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        doc, rows = read(command.help), []
        for p in command.params:
            if getattr(p, "hidden", False) or p.name == "help":
                continue
            flags = ", ".join(code(o) for o in (*p.opts, *p.secondary_opts)) if p.param_type_name == "option" else code(str(p.name).upper())
            usual = p.default if isinstance(p.default, str | int | float) and not isinstance(p.default, bool) else ""
            told = getattr(p, "help", "") or ""
            rows.append(f"| {flags} | {code(str(usual))} | {cell(told)} |")
        table = "| option | default | |\n|---|---|---|\n" + "\n".join(rows)
        parts.append(f"## vestige {name}\n\n{prose(doc.blocks)}\n\n{table}")
    return "\n\n".join(parts) + "\n"
