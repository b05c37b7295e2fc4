"""The command line. Results go to stdout (one JSON object with --json), everything else to stderr."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from vestige.cli import acts, audits, comparisons, files, frame, grids, lists, preparations, sequences

app = typer.Typer(
    name="vestige",
    help="Make diffusion models forget, attack that very model, and tell whether the concept is gone, hidden, or slow to come back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _told(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        sys.stdout.write(f"vestige {metadata.version('vestige')}\n")
        raise typer.Exit


@app.callback()
def whole(
    version: Annotated[bool, typer.Option("--version", callback=_told, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    """What holds for every command."""


# In the order of the help.
app.command()(audits.audit)
app.command()(preparations.judges)
app.command()(preparations.calibrate)
app.command()(acts.unlearn)
app.command()(acts.attack)
app.command()(sequences.continual)
app.command()(grids.grid)
app.command()(acts.generate)
app.command()(comparisons.compare)
app.command()(comparisons.board)
app.command()(audits.report)
app.command(name="list")(lists.list_)
app.command()(files.inspect)
app.command()(files.apply)
app.command()(files.export)


def main() -> None:
    """Entry point."""
    frame.run(app)
