"""An audit, and what is made of finished ones: a table, and the page again."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vestige.cli import options
from vestige.cli.forecast import dry_run as foretell
from vestige.cli.frame import give, progress, say, shown, typed
from vestige.cli.machine import machine

if TYPE_CHECKING:
    from vestige.audit import Request

ControlOption = Annotated[
    str,
    typer.Option(
        help="auto, twin, proxy, twin:MODEL (never drew it; several with commas), proxy:FILE.toml (it cannot draw that), distilled:N."
    ),
]
NoOriginalOption = Annotated[
    bool, typer.Option("--no-original", help="--model is the edited model itself, all there is: references stand in for the original.")
]
BanksOption = Annotated[
    str,
    typer.Option(
        help="Ask the concept's banks of prompts (prompts, synonyms, indirect): all, none, or auto: all but a built-in concept's."
    ),
]
BankPicturesOption = Annotated[
    int, typer.Option(min=0, max=1_000_000, help="Rows of a file of prompts that are asked, spread over it; 0: all.")
]
UnshownOption = Annotated[
    int, typer.Option(min=0, help="Pictures a replicate, e.g. 128, to see what comes back that no attack was shown; 0: not asked.")
]
JobsOption = Annotated[
    int, typer.Option(min=0, max=1024, help="Processes that share the work; 0: one a core for long audits of the embedded world, else 1.")
]


@machine
def audit(
    model: options.ModelOption = "wardrobe",
    concept: options.ConceptsOption = "sneaker",
    unlearner: Annotated[str, typer.Option(help="Method that makes the edit; none audits the model as it is.")] = "none",
    edit: Annotated[str | None, typer.Option(help="A saved edit, or an edited pipeline folder, instead of an unlearner.")] = None,
    attack: Annotated[list[str] | None, typer.Option(help="Attack of the suite to run; repeatable; default: all.")] = None,
    suite: Annotated[
        str,
        typer.Option(
            help="smoke (tests), quick (minutes), standard, relearn, adaptive, prompts, compare, all, or FILE.toml, one of your own."
        ),
    ] = "quick",
    seeds: Annotated[str, typer.Option(help="Attack replicates, e.g. 0,1,2; default: the suite's number, or as many as decide.")] = "",
    edit_seed: Annotated[int, typer.Option(help="Seed of the unlearning run.")] = 0,
    references: Annotated[str, typer.Option(help="The attacker's pictures: shipped, generated, or a folder.")] = "shipped",
    reference_count: options.CountOption = 0,
    forget: options.ForgetOption = "drawn",
    retain: options.RetainOption = "drawn",
    alternative: options.AlternativeOption = "drawn",
    attack_retain: options.AttackRetainOption = "shipped",
    control: ControlOption = "auto",
    no_original: NoOriginalOption = False,
    banks: BanksOption = "auto",
    bank_pictures: BankPicturesOption = 0,
    keep_images: options.KeepOption = "all",
    unshown: UnshownOption = 0,
    preset: options.PresetOption = "",
    settings: options.SetOption = None,
    out: Annotated[Path, typer.Option(help="Folder of this audit; the same command resumes it.")] = Path("runs/audit"),
    cache: options.CacheOption = None,
    jobs: JobsOption = 0,
    steal: options.StealOption = False,
    dry_run: options.DryRunOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Unlearn a concept (or take a given edit), attack the result and its controls, and give a verdict with a report."""
    arguments = locals()
    from vestige.audit import Request, resolve
    from vestige.audit.run import processes_for
    from vestige.harness.cost import picture

    request = options.filled(
        Request,
        arguments,
        attacks=tuple(attack or ()),
        seeds=options.integers(seeds, "seeds"),
        settings=options.assigned(settings),
        original=not no_original,
    )
    planned = resolve(request)
    if dry_run:
        most = planned.most.planned_calls() if planned.looks else None
        how = {"picture": picture(planned.suite.protocol), "processes": jobs or processes_for(planned.most)}
        foretell(planned.spec(), planned.planned_calls(), planned.original or model, as_json, planned.remarks(), most, **how)
    else:
        _audit(request, out, as_json, cache=options.cache_folder(cache), jobs=jobs, steal=steal)


def _audit(request: Request, out: Path, as_json: bool, **how: Any) -> None:
    """Run it, write its page, and say what it found."""
    from vestige import audit as auditing
    from vestige.report import audits

    began = time.monotonic()
    with progress() as watch:
        result = auditing.audit(request, out, watch=watch, command=typed(), **how)
        page = audits.write(out)
    say(f"finished in {time.monotonic() - began:.0f} s")
    give(result, as_json, _summary(result, page))


def _summary(result: dict[str, Any], page: Path) -> str:
    verdict = result["verdict"]
    lines = [f"verdict   {verdict['kind']}", f"          {verdict['reason']}"]
    for name, label in (("speedup", "F"), ("savings", "savings"), ("reach", "reach")):
        lines.append(f"{label:<9} {shown(result[name])}")
    lines += [f"looks     {_looks(result['looks'])}"] if result.get("looks") else []
    for bank in result.get("banks") or []:
        lines.append(f"bank      {bank['name']}: {bank['verdict']}, recall {shown(bank['recall'])}")
    lines += [f"power     {result['would_have_found']}"] if result.get("would_have_found") else []
    lines += [f"flag      {f['name']} ({f['kind']}): {f['text']}" for f in verdict["flags"]]
    return "\n".join([*lines, f"report    {page}"])


def _looks(looks: list[dict[str, Any]]) -> str:
    """What an audit saw each time it looked."""
    return ", ".join(f"{look['replicates']} replicates: {look['verdict']}" for look in looks)


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a finished audit or ledger.")],
    out: Annotated[Path | None, typer.Option(help="Where the page goes; default: report.html in the folder.")] = None,
) -> None:
    """Write the page of an audit or a ledger again."""
    from vestige.report import audits, ledgers

    page = ledgers.write(run, out) if ledgers.is_ledger(run) else audits.write(run, out)
    sys.stdout.write(f"{page}\n")
