"""What comes before an audit of a model of one's own: whether its judges see the concept, and which protocol fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from vestige.cli import options
from vestige.cli.frame import give, progress, shown
from vestige.cli.machine import machine


@machine
def judges(
    model: options.ModelOption = "wardrobe",
    concept: options.ConceptOption = "sneaker",
    references: Annotated[str, typer.Option(help="Folder of real pictures of it; default: those that the concept file names.")] = "",
    others: Annotated[str, typer.Option(help="Folder of real pictures without it.")] = "",
    count: Annotated[int, typer.Option(min=2, max=100_000, help="Pictures drawn for it, its neighbours and unrelated words, each.")] = 48,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the drawn pictures.")] = 0,
    suite: Annotated[str, typer.Option(help="Whose sampler holds; a name, or FILE.toml.")] = "quick",
    keep_images: options.KeepOption = "all",
    cache: options.CacheOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Show what both judges see in what a model draws and in real pictures, and what an audit would make of them."""
    from vestige.audit import Request, resolve
    from vestige.audit.judges import judges_seen

    request = Request(model=model, concept=concept, suite=suite, attacks=("direct",), control="none", keep_images=keep_images)  # type: ignore[arg-type]
    planned, root = resolve(request), options.cache_folder(cache)
    with progress() as watch:
        found = judges_seen(planned, root, count=count, references=references, others=others, seed=seed, watch=watch)
    give(found, as_json, _table(found))


def _table(found: Mapping[str, Any]) -> str:
    """Rates of both judges, a line a set of pictures; then what follows."""
    rows: list[tuple[str, ...]] = [("pictures", "verification judge", "selection judge", "both agree", "shows what was asked")]
    for row in found["rows"]:
        right = row["right"].get("verification")
        told = (row["verification"], row["selection"], row["agreement"])
        rows.append((f"{row['count']} {row['pictures']}", *map(shown, told), "" if right is None else shown(right)))
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)).rstrip() for row in rows]
    lines += [f"flag      {flag['name']} ({flag['kind']}): {flag['text']}" for flag in found["flags"]]
    lines += [found["sentence"]]
    if found["to_state"]:
        lines += ["for the concept file, as measured here by the verification judge:", *(f"  {x}" for x in found["to_state"].splitlines())]
    return "\n".join([*lines, f"pictures  {found['run']}/strips"])
