"""How pages print numbers: rates and factors with their intervals, tables, and files that are there whole or not at all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from vestige import files
from vestige.verdict import Interval
from vestige.verdict.savings import Measures

NOTHING = "-"


def number(value: float | None, digits: int = 2) -> str:
    """A number; a dash where there is none."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def interval(found: Interval, digits: int = 2) -> str:
    """An estimate and, in brackets, the ends of its interval where it has one."""
    ends = f" [{found.low:.{digits}f}, {found.high:.{digits}f}]" if math.isfinite(found.high - found.low) else ""
    return f"{found.value:.{digits}f}{ends}"


def chance(p: float | None) -> str:
    """A p-value; a dash where there is none."""
    return NOTHING if p is None or math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.2g}"


def savings(found: Measures) -> list[str]:
    """F, a lower bound where the never arm hardly rose, and reach."""
    return [("at least " if found.censored else "") + interval(found.speedup), interval(found.reach)]


def line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])


def write(page: Path, text: str) -> None:
    """Write a page."""
    files.make(page.parent)
    files.write(page.parent, page.name, text.encode())
