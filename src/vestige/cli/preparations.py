"""What comes before an audit of a model of one's own: whether its judges see the concept, and which protocol fits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from vestige import files
from vestige.cli import options
from vestige.cli.forecast import dry_run as foretell
from vestige.cli.frame import give, progress, shown, typed
from vestige.cli.machine import machine
from vestige.errors import BadSetting

HEAD = "# Written by `{command}`.\n"


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


@machine
def calibrate(
    out: Annotated[Path, typer.Option(help="The suite to write, FILE.toml.")],
    model: options.ModelOption = "wardrobe",
    concept: Annotated[str, typer.Option(help="A development concept, which no audit is of: a name, or FILE.toml.")] = "bag",
    control: Annotated[
        str, typer.Option(help="twin:MODEL that never drew it; several with commas between; auto for built-in ones.")
    ] = "auto",
    suite: Annotated[str, typer.Option(help="Where the rest of the protocol is from; a name, or FILE.toml.")] = "quick",
    attack: Annotated[str, typer.Option(help="Attack with weights and pictures whose rate and budget are chosen.")] = "memora",
    rates: Annotated[str, typer.Option(help="Learning rates to try, with commas; default: 0.3 to 30 times the attack's.")] = "",
    lasts: Annotated[str, typer.Option(help="Last budgets to try, with commas; default: 1, 2 and 4 times the suite's.")] = "",
    seeds: Annotated[str, typer.Option(help="Replicates, at least three; default: the suite's number.")] = "",
    references: Annotated[str, typer.Option(help="The attacker's pictures: shipped, generated, or a folder.")] = "shipped",
    reference_count: options.CountOption = 0,
    settings: options.SetOption = None,
    cache: options.CacheOption = None,
    steal: options.StealOption = False,
    dry_run: options.DryRunOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Find the cheapest rate and budget by which an attack can tell: on controls, the original and positive controls, never on an edit."""
    from vestige.audit import Request, resolve
    from vestige.audit import calibrating as search
    from vestige.harness import suite_files
    from vestige.harness.cost import picture

    asked = {"model": model, "concept": concept, "control": control, "suite": suite, "attacks": (attack,), "references": references}
    chosen = {"reference_count": reference_count, "settings": options.assigned(settings), "seeds": options.integers(seeds, "seeds")}
    planned = resolve(Request(**asked, **chosen))  # type: ignore[arg-type]
    search.check_calibration(planned)
    cells = search.grid_of(planned, options.numbers(rates, "rates"), options.integers(lasts, "lasts"))
    if dry_run:
        spec = {**planned.spec(), "grid": [{"rate": cell.rate, "budget": list(cell.budget)} for cell in cells]}
        remark = "at most, if nothing fits before the last of the grid and nothing is stored: the search stops at the first that fits"
        foretell(
            spec, search.search_calls(planned, cells), model, as_json, [*planned.remarks(), remark], picture=picture(planned.suite.protocol)
        )
        return
    _ready(out)
    with progress() as watch:
        found, made = search.calibrated(planned, options.cache_folder(cache), cells, steal=steal, watch=watch)
    if made is not None:
        files.write(out.parent, out.name, HEAD.format(command=typed()).encode() + suite_files.text_of(made).encode())
    give({**found, "file": str(out) if made is not None else None}, as_json, _search_table(found, out))
    if made is None:
        raise typer.Exit(1)


def _ready(out: Path) -> None:
    """Refuse a place where the suite cannot be written, before the search."""
    if out.suffix != ".toml":
        raise BadSetting(f"a suite is a TOML file; given --out {out}")
    if out.exists():
        raise BadSetting(f"{out} exists; choose another name, for a suite that audits were made under must stay what it is")
    files.make(out.parent)
    files.ready(out)


def _search_table(found: Mapping[str, Any], out: Path) -> str:
    """What was tried, a line a protocol; then what was chosen, or why nothing was."""
    rows: list[tuple[str, ...]] = [
        ("rate", "last budget", "control learns, by selection", "by verification", "F of the original", "what came of it")
    ]
    for row in found["tried"]:
        said = [row[role] for role in ("selection", "verification")]
        learns = ["" if one is None else " ".join(f"{rise:.2f}" for rise in one["learned"][1:] if rise is not None) for one in said]
        most = said[1] and said[1]["original"]
        rows.append((f"{row['rate']:g}", str(row["budget"][-1]), *learns, shown(most) if most else "", row["failed"] or "fits"))
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)).rstrip() for row in rows]
    if found["chosen"]:
        return "\n".join(
            [*lines, f"suite     {out}", f"next: vestige audit --model {found['model']} --suite {out} --concept ANOTHER_CONCEPT"]
        )
    return "\n".join([*lines, f"nothing fits, and no suite is written: {found['out_of_reach']}"])
