"""Docstrings in the house's form, read into parts and written as Markdown.

They are text with `code` in it, not reStructuredText: bars, stars and brackets are mathematics. Paragraphs are parted by empty lines,
indented blocks are formulas, and a few headed lists of names follow: Arguments, Returns, Errors (or Raises).
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field

HEAD = re.compile(r"(Arguments|Returns|Errors|Raises)(?:, ([^:]+))?:$")
ENTRY = re.compile(r"((?:\w+, )*\w+): (.*)")
SPECIAL = re.compile(r"([\\*_<>\[\]|#~&$^{}])")

STRESS = re.compile(r"(?<![\w)*])\\\*(\w(?:[\w ]*\w)?)\\\*(?!\w)")  # *words* that were meant so, once their stars are escaped


@dataclass
class Docstring:
    """What a docstring says.

    Arguments:
        blocks: ("text" or "code", lines as they stand), in order.
        arguments: Name -> meaning, in order; of each parent's too where they are read together.
        returns, errors: Text; "" where nothing is said.
    """

    blocks: list[tuple[str, str]] = field(default_factory=list)
    arguments: dict[str, str] = field(default_factory=dict)
    returns: str = ""
    errors: str = ""

    @property
    def summary(self) -> str:
        """The first paragraph, on one line."""
        return " ".join(self.blocks[0][1].split()) if self.blocks else ""


def read(text: str | None) -> Docstring:
    """A docstring's parts."""
    made, lines = Docstring(), inspect.cleandoc(text or "").splitlines()
    while lines:
        head = HEAD.match(lines[0])
        if head:
            body = _taken(lines, lambda line: not line or line.startswith(" "), skip=1)
            _section(made, head[1], inspect.cleandoc("\n" + "\n".join(body)))
        elif not lines[0].strip():
            lines.pop(0)
        elif lines[0].startswith("    "):
            body = _taken(lines, lambda line: not line or line.startswith("    "))
            made.blocks.append(("code", inspect.cleandoc("\n" + "\n".join(body)).rstrip()))
        else:
            body = _taken(lines, lambda line: bool(line.strip()) and not line.startswith("    ") and not HEAD.match(line))
            made.blocks.append(("text", "\n".join(body)))
    return made


def _taken(lines: list[str], wanted: object, skip: int = 0) -> list[str]:
    """The lines from the front for as long as they are wanted, taken away; the first `skip` are dropped."""
    del lines[:skip]
    end = next((i for i, line in enumerate(lines) if not wanted(line)), len(lines))  # type: ignore[operator]
    body = lines[:end]
    del lines[:end]
    return body


def _section(made: Docstring, head: str, body: str) -> None:
    if head == "Arguments":
        name = ""
        for line in body.splitlines():
            entry = None if line.startswith(" ") else ENTRY.match(line)
            if entry:
                name = entry[1]
                made.arguments[name] = entry[2]
            elif name and line.strip():
                made.arguments[name] += f" {line.strip()}"
        for names in [n for n in made.arguments if ", " in n]:  # "a, b: ..." is said of each
            made.arguments.update(dict.fromkeys(names.split(", "), made.arguments.pop(names)))
    elif head == "Returns":
        made.returns = " ".join(body.split())
    else:
        made.errors = " ".join(body.split())


def escaped(text: str) -> str:
    """Text as Markdown that reads the same: what is special is escaped outside `code`, *stress* stays."""
    parts = re.split(r"(`[^`]+`)", text)
    parts[::2] = [STRESS.sub(r"*\1*", SPECIAL.sub(r"\\\1", part)) for part in parts[::2]]
    made = "".join(parts)
    return re.sub(r"^(\d+)([.)] )|^([-+=] )", lambda m: f"{m[1]}\\{m[2]}" if m[1] else f"\\{m[3]}", made)


def cell(text: str) -> str:
    """Text for a cell of a table, on one line; bars in code too."""
    made = escaped(" ".join(text.split()))
    return re.sub(r"(?<!\\)\|", r"\\|", made)


def code(text: str) -> str:
    """Code within a line, for a cell too."""
    return f"`{text}`".replace("|", r"\|") if text else ""


def prose(blocks: list[tuple[str, str]]) -> str:
    """Paragraphs and formulas as Markdown; a list keeps its lines."""
    made = []
    for kind, text in blocks:
        if kind == "code":
            made.append(f"```text\n{text}\n```")
        elif text.startswith("- "):
            items = re.split(r"^- ", text, flags=re.MULTILINE)[1:]
            made.append("\n".join(f"- {escaped(' '.join(item.split()))}" for item in items))
        else:
            made.append(escaped(" ".join(text.split())))
    return "\n\n".join(made)


def listed(doc: Docstring) -> str:
    """Arguments, what comes back and what is refused, as Markdown."""
    made = []
    if doc.arguments:
        made.append("**Arguments**\n\n" + "\n".join(f"- `{name}`: {escaped(text)}" for name, text in doc.arguments.items()))
    made += [f"**Returns** {escaped(doc.returns)}"] if doc.returns else []
    made += [f"**Errors** {escaped(doc.errors)}"] if doc.errors else []
    return "\n\n".join(made)
