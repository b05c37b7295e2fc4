"""Many audits side by side: as tables, and as a site that is opened from disk."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vestige.errors import BadSetting

Folders = Annotated[list[Path], typer.Argument(help="Folders of finished audits, of grids, or whose sub-folders hold audits.")]
AgainstOption = Annotated[str, typer.Option(help="Contrast every method with this one; default: all pairs.")]


def compare(
    run: Folders,
    style: Annotated[str, typer.Option("--format", help="markdown, csv, latex, or json.")] = "markdown",
    pool: Annotated[bool, typer.Option("--pool", help="Pool each method's edits, contrast methods in pairs, and rank them.")] = False,
    against: AgainstOption = "",
) -> None:
    """One table of several audits; with --pool, what they say of methods."""
    from vestige.compare import collected, summarised
    from vestige.report import audits, comparisons

    if style not in comparisons.FORMS:
        raise BadSetting(f"--format is {', '.join(comparisons.FORMS)}; given {style!r}")
    if against and not pool:
        raise BadSetting("--against contrasts pooled methods; add --pool")
    found = collected(run)
    if pool:
        pooled = summarised(found, against=against)
        for remark in comparisons.all_said(pooled) if style == "csv" else ():
            sys.stderr.write(f"note: {remark}\n")
        sys.stdout.write(comparisons.written_as(pooled, style).rstrip("\n") + "\n")
        return
    for remark in found.remarks:
        sys.stderr.write(f"note: {remark}\n")
    if style == "json":
        raise BadSetting("--format json is of pooled audits; add --pool, or read each result.json")
    sys.stdout.write(audits.table([one.result for one in found.audits], style) + "\n")  # type: ignore[arg-type]


def board(
    run: Folders,
    out: Annotated[Path, typer.Option(help="Folder of the site; open its index.html.")] = Path("board"),
    against: AgainstOption = "",
) -> None:
    """A site of many audits: leaderboard, frontier, heat map, pages of methods and concepts; opened from disk, nothing is fetched."""
    from vestige.compare import collected, summarised
    from vestige.report import board as site

    found = collected(run)
    pages = site.write_board(summarised(found, against=against), {str(one.folder): one.result for one in found.audits}, out, found.grids)
    sys.stdout.write(f"{pages}\n")
