"""Where a method stands in the pages of results: which sections' tables have a row of it, and which name it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Section:
    """A heading and what lies under it until the next.

    Arguments:
        page: Where, relative to the root: "docs/results/claims.md".
        title: The heading; `slug` is its anchor, "" for the page's own.
    """

    page: str
    title: str
    slug: str
    text: str


def slug(heading: str) -> str:
    """The anchor of a heading, as code hosts and the site give it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower().replace(" ", "-"))


def sections(root: Path, page: str) -> Iterator[Section]:
    """The sections of a page of Markdown; headings in fenced blocks are none."""
    title, anchor, lines, fenced, met = "", "", list[str](), False, dict[str, int]()
    for line in (root / page).read_text("utf-8").splitlines():
        fenced ^= line.startswith("```")
        head = None if fenced else re.match(r"(#+) (.+)", line)
        if not head:
            lines.append(line)
            continue
        if title:
            yield Section(page, title, anchor, "\n".join(lines))
        title, lines, found = head[2], [], slug(head[2])
        met[found] = met.get(found, -1) + 1
        anchor = "" if len(head[1]) == 1 else f"{found}-{met[found]}" if met[found] else found
    yield Section(page, title, anchor, "\n".join(lines))


def spellings(name: str, cls: str) -> re.Pattern[str]:
    """How pages spell a method: `esd`, ESD, "selective amnesia"; a name that is also a word, only as code or alone in a cell."""
    words = name.replace("_", " ")
    telling = re.search(r"_|\d", name) or not re.fullmatch(r"[A-Z]?[a-z]+", cls)
    bare = [re.escape(cls), rf"(?i:{words})", re.escape(name)] if telling else []
    alone = rf"(?<=\| )(?i:{words}|{re.escape(name)})(?= \||,)"
    return re.compile("|".join([rf"`{name}`", alone, *(rf"\b{way}\b" for way in bare)]))


def met(found: list[Section], name: str, cls: str) -> tuple[list[Section], list[Section]]:
    """The sections that have a row of a method in a table, and the others that name it."""
    pattern, rows, named = spellings(name, cls), list[Section](), list[Section]()
    for section in found:
        first = [re.match(r"\|[^|]*\|(?:[^|]*\|)?", line) for line in section.text.splitlines()]  # a row's name, and what it was tried on
        if any(cells and pattern.search(cells[0]) for cells in first):
            rows.append(section)
        elif pattern.search(section.title) or pattern.search(section.text):
            named.append(section)
    return rows, named
