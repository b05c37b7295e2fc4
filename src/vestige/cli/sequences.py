"""One concept after another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vestige.cli import options
from vestige.cli.forecast import dry_run as foretell
from vestige.cli.frame import give, progress, say, typed
from vestige.cli.machine import machine

if TYPE_CHECKING:
    from vestige.continual import Order

ModeOption = Annotated[
    str,
    typer.Option(
        help="sequential; cumulative: every step forgets all requests so far again; independent: each request from the original; "
        "simultaneous: all together from the original."
    ),
]
ProjectOption = Annotated[bool, typer.Option("--project", help="Hold the keys and values of words that must stay, and of requests so far.")]
AcceptOption = Annotated[
    str,
    typer.Option(
        help="Limits within which a step stands, else it is rolled back: recall=0.2,ripple=0.25,erosion=0.1,verdict=long-term, any of them."
    ),
]
VerdictOption = Annotated[
    str, typer.Option(help="Audits that give a verdict on every request so far: none, last (after the last step), or every step.")
]
ControlOption = Annotated[
    str,
    typer.Option(help="Of these audits: auto (twins of all requests so far, else of each), twin:MODEL, proxy:FILE.toml, distilled:N."),
]
ReferencesOption = Annotated[
    str, typer.Option(help="The attacker's pictures: known (named by the request's file, or shipped), generated, or a folder of folders.")
]
FeaturesOption = Annotated[
    str, typer.Option(help="Network of KID and FID: hf:FOLDER, inception:FILE or wardrobe; default: the first request's detector.")
]


@machine
def continual(
    requests: Annotated[
        str, typer.Option(help="Concepts in the order in which they must go, e.g. bag,dress; each a name or a FILE.toml.")
    ] = "",
    model: options.ModelOption = "wardrobe",
    method: Annotated[str, typer.Option(help="Unlearner of every step, see `vestige list`.")] = "uce",
    mode: ModeOption = "sequential",
    pull: Annotated[float, typer.Option(help="Strength of an L2 pull on the trained weights; 0: none.")] = 0.0,
    pull_towards: Annotated[str, typer.Option(help="previous: the model that enters the step, or original.")] = "previous",
    share: Annotated[float, typer.Option(help="Share of the trained weights that may move, those that matter most to the loss.")] = 1.0,
    project: ProjectOption = False,
    damp: Annotated[int, typer.Option(help="Leading directions of every matrix's gradient that are damped (RepSelect's selection).")] = 0,
    suite: Annotated[str, typer.Option(help="Whose sampler and numbers of pictures hold; a name, or FILE.toml.")] = "quick",
    seed: Annotated[int, typer.Option(help="Seed of every unlearning run, and of the memory.")] = 0,
    memory: Annotated[int, typer.Option(max=1_000_000, help="Pictures by the original that the method may rehearse, drawn once.")] = 200,
    retain: Annotated[str, typer.Option(help="What is rehearsed: drawn by the original, or a folder with captions.")] = "drawn",
    related: Annotated[str, typer.Option(help="Pictures of the requests' neighbours, rehearsed too: a folder with captions.")] = "",
    alternative: options.AlternativeOption = "drawn",
    references: ReferencesOption = "known",
    attack_retain: options.AttackRetainOption = "shipped",
    attack: Annotated[list[str] | None, typer.Option(help="Attack to run after every step on every request so far; repeatable.")] = None,
    replicates: Annotated[int, typer.Option(max=1000, help="Replicates of each attack.")] = 1,
    protocol: Annotated[str, typer.Option(help="duge: its published evaluation, with its concepts, prompts, seeds and sampler.")] = "",
    detector: Annotated[str, typer.Option(help="Who looks for a protocol's concepts, e.g. hf:FOLDER.")] = "",
    selector: Annotated[str, typer.Option(help="By whom attacks choose there; another network.")] = "",
    accept: AcceptOption = "",
    verdict: VerdictOption = "none",
    control: ControlOption = "auto",
    withdraw: Annotated[list[str] | None, typer.Option(help="A request of the list that no longer holds; repeatable.")] = None,
    features: FeaturesOption = "",
    keep_images: options.KeepOption = "all",
    preset: options.PresetOption = "",
    settings: options.SetOption = None,
    out: Annotated[Path, typer.Option(help="Folder of the ledger; a longer list of requests continues it.")] = Path("runs/ledger"),
    jobs: Annotated[int, typer.Option(min=1, max=1024, help="Processes that take steps and measure what was taken.")] = 1,
    steal: options.StealOption = False,
    dry_run: options.DryRunOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Forget one concept after another, and measure after every step what returns and what else was lost."""
    arguments = locals()
    from vestige.continual import Order, resolve
    from vestige.continual.guards import Guards
    from vestige.harness.cost import picture

    order = options.filled(
        Order,
        arguments,
        requests=tuple(name.strip() for name in requests.split(",") if name.strip()),
        attacks=tuple(attack or ()),
        withdrawn=tuple(withdraw or ()),
        settings=options.assigned(settings),
        guards=options.filled(Guards, arguments),
    )
    chosen = resolve(order)
    if dry_run:
        spec, remarks = {**chosen.spec(), **chosen.asked()}, chosen.remarks()
        each = picture(chosen.suite.protocol)
        foretell(spec, chosen.planned_calls(), model, as_json, remarks, chosen.most_calls(), picture=each)
    else:
        _continual(order, out, 1 if steal else jobs, steal, as_json)


def _continual(order: Order, out: Path, jobs: int, steal: bool, as_json: bool) -> None:
    """Run it, write its page, and say what it found."""
    from vestige import continual as sequences
    from vestige.continual.tasks import by_processes
    from vestige.report import ledgers

    with progress() as watch:

        def ahead() -> None:
            if jobs > 1:
                by_processes(order, out, out / "runs", jobs, watch)

        result = sequences.continual(order, out, ahead=ahead, steal=steal, watch=watch, command=typed())
        page = ledgers.write(out)
    for name in result["attacks"]:
        for failed in ledgers.left_out(result, name):
            say(f"note: left out after step {failed}")
    for row in result["steps"]:
        if (judged := row.get("accepted")) and not judged["stands"]:
            say(f"note: step {row['step']} {row['request']} was rolled back: {'; '.join(judged['reasons'])}")
    combined = f"as one edit  {result['combined']}\n" if result["combined"] else ""
    give(result, as_json, f"{ledgers.table(result)}\n{combined}report       {page}")
