"""The command line. Results go to stdout (one JSON object with --json), everything else to stderr."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from vestige.errors import BadInput, BadSetting, VestigeError
from vestige.machine import machine

app = typer.Typer(
    name="vestige",
    help="Make diffusion models forget, attack that very model, and tell whether the concept is gone, hidden, or slow to come back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

INTERRUPTED = 130  # exit code after Ctrl-C, as shells count
RESUMES = "interrupted; the same command resumes where it stopped"

ModelOption = Annotated[
    str,
    typer.Option("--model", help="Built-in model, pipeline folder, single file (with --config) or owner/name on the hub; the original."),
]
ConceptOption = Annotated[str, typer.Option("--concept", help="Built-in concept, or your own concept file (FILE.toml).")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="METHOD.NAME=VALUE", help="A method's setting; repeatable.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, everything else on stderr.")]
ForgetOption = Annotated[
    str, typer.Option("--forget", help="Pictures of the concept that an unlearner trains on: drawn (by the model itself), or a folder.")
]
RetainOption = Annotated[str, typer.Option("--retain", help="Pictures of what must stay: drawn, or a folder with metadata.jsonl.")]
CountOption = Annotated[int, typer.Option("--reference-count", min=0, help="References a replicate gets; 0: the suite's number.")]
KeepOption = Annotated[
    str, typer.Option("--keep-images", help="all, or none: scores only. A sensitive concept's are blurred, its originals quarantined.")
]
CacheOption = Annotated[
    Path | None, typer.Option("--cache", help="Folder of runs that audits share; default: $VESTIGE_CACHE or ~/.cache/vestige.")
]


def main() -> None:
    """Entry point: errors that a user can mend are one line, an interrupt leaves a run that the same command resumes."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    heard = _interrupts()
    try:
        code, complaint = _answer()
    except Exception:
        if not heard:
            raise
        code, complaint = INTERRUPTED, RESUMES
    if heard and code:  # a library may have dressed the interrupt as an error of its own, as a file that cannot be read
        code, complaint = INTERRUPTED, RESUMES
    if complaint:
        _say(complaint)
    sys.exit(code)


def _interrupts() -> list[int]:
    """The interrupts heard from now on; they still raise KeyboardInterrupt. A parent's wish to ignore them is kept."""
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, hear)
    return heard


def _answer() -> tuple[int, str]:
    """Run the command; its exit code, and the line for somebody who can mend what went wrong."""
    try:
        code = app(standalone_mode=False)  # typer returns the code of an exit, an interrupt's included
        return code if isinstance(code, int) else 0, ""
    except VestigeError as error:
        return 2, f"error: {error}"
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED, RESUMES
    except OSError as error:
        return 2, f"error: {error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    except typer.Exit as stop:
        return stop.exit_code, ""
    except Exception as error:
        show = getattr(error, "show", None)  # click's own usage errors
        if show is None:
            raise
        show()
        return getattr(error, "exit_code", 2), ""


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def _print(data: Any, as_json: bool, text: str) -> None:
    sys.stdout.write((json.dumps(data, indent=None if as_json else 2) if as_json else text) + "\n")


def _settings(pairs: list[str] | None) -> dict[str, str]:
    made = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise BadSetting(f"--set takes METHOD.NAME=VALUE, e.g. --set memora.rank=8; given {pair!r}")
        made[key] = value
    return made


def _own(pairs: list[str] | None, method: str) -> dict[str, str]:
    """Settings of one method; another method's are an error, never silently dropped."""
    made = {}
    for key, value in _settings(pairs).items():
        prefix, _, name = key.rpartition(".")
        if prefix not in ("", method):
            raise BadSetting(f"--set {key} names {prefix!r}, but the method is {method!r}")
        made[name] = value
    return made


def _integers(text: str, what: str) -> tuple[int, ...]:
    try:
        return tuple(int(v) for v in text.split(",") if v.strip())
    except ValueError:
        raise BadSetting(f"{what} are whole numbers with commas, e.g. 0,1,2; given {text!r}") from None


def cache_folder(given: Path | None) -> Path:
    """Where runs that several audits share are kept."""
    if given is not None:
        return given
    home = os.environ.get("VESTIGE_CACHE")
    return Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "vestige"


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A live line on stderr: the stage, its bar, and the time so far."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=False) as progress:
        tasks: dict[str, Any] = {}

        def watch(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                for other in tasks.values():
                    progress.update(other, visible=False)
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done, total=total, visible=True)

        yield watch


AttackRetainOption = Annotated[
    str,
    typer.Option("--attack-retain", help="What an attack without the concept's pictures trains on: shipped, or a folder with captions."),
]


@app.command()
@machine
def audit(
    model: ModelOption = "wardrobe",
    concept: ConceptOption = "sneaker",
    unlearner: Annotated[str, typer.Option(help="Method that makes the edit; none audits the model as it is.")] = "none",
    edit: Annotated[str | None, typer.Option(help="A saved edit, or an edited pipeline folder, instead of an unlearner.")] = None,
    attack: Annotated[list[str] | None, typer.Option(help="Attack of the suite to run; repeatable; default: all.")] = None,
    suite: Annotated[str, typer.Option(help="smoke (tests), quick (minutes), standard, relearn, adaptive or compare.")] = "quick",
    seeds: Annotated[str, typer.Option(help="Attack replicates, e.g. 0,1,2; default: the suite's number.")] = "",
    edit_seed: Annotated[int, typer.Option(help="Seed of the unlearning run.")] = 0,
    references: Annotated[str, typer.Option(help="The attacker's pictures: shipped, generated, or a folder.")] = "shipped",
    reference_count: CountOption = 0,
    forget: ForgetOption = "drawn",
    retain: RetainOption = "drawn",
    attack_retain: AttackRetainOption = "shipped",
    control: Annotated[
        str, typer.Option(help="auto, twin, proxy, twin:MODEL (that never drew it) or proxy:FILE.toml (that the model cannot draw).")
    ] = "auto",
    no_original: Annotated[
        bool, typer.Option("--no-original", help="--model is the edited model itself, all there is: references stand in for the original.")
    ] = False,
    keep_images: KeepOption = "all",
    preset: Annotated[str, typer.Option(help="Named settings, e.g. released.")] = "",
    settings: SetOption = None,
    out: Annotated[Path, typer.Option(help="Folder of this audit; the same command resumes it.")] = Path("runs/audit"),
    cache: CacheOption = None,
    jobs: Annotated[
        int, typer.Option(min=0, help="Processes that share the work; 0: one a core for long audits of the embedded world, else 1.")
    ] = 0,
    steal: Annotated[bool, typer.Option("--steal", help="Take over the lock of a process that is known to be gone.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved spec, planned model calls and expected time.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Unlearn a concept (or take a given edit), attack the result and its controls, and give a verdict with a report."""
    from vestige import plan as planning

    request = planning.Request(
        model=model,
        concept=concept,
        unlearner=unlearner,
        edit=edit,
        attacks=tuple(attack or ()),
        suite=suite,
        seeds=_integers(seeds, "seeds"),
        edit_seed=edit_seed,
        references=references,
        reference_count=reference_count,
        forget=forget,
        retain=retain,
        attack_retain=attack_retain,
        settings=_settings(settings),
        preset=preset,
        control=control,
        keep_images=keep_images,  # type: ignore[arg-type]
        original=not no_original,
    )
    planned = planning.plan(request)
    if dry_run:
        _dry_run(planned.spec(), planning.planned_calls(planned), planned.original or model, as_json)
        return
    from vestige import audit as auditing
    from vestige import report

    began = time.monotonic()
    with _progress() as watch:
        result = auditing.audit(request, out, cache=cache_folder(cache), jobs=jobs, steal=steal, watch=watch, command=_command())
        page = report.write(out)
    _say(f"finished in {time.monotonic() - began:.0f} s")
    _print(result, as_json, _summary(result, page))


def _command() -> str:
    return " ".join(["vestige", *sys.argv[1:]])


def _summary(result: dict[str, Any], page: Path) -> str:
    verdict = result["verdict"]
    lines = [f"verdict   {verdict['kind']}", f"          {verdict['reason']}"]
    for name, label in (("speedup", "F"), ("savings", "savings"), ("reach", "reach")):
        lines.append(f"{label:<9} {_shown(result[name])}")
    lines += [f"flag      {f['name']} ({f['kind']}): {f['text']}" for f in verdict["flags"]]
    return "\n".join([*lines, f"report    {page}"])


def _shown(interval: dict[str, float | None]) -> str:
    value, low, high = (interval[k] for k in ("value", "low", "high"))
    ends = "no interval" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"
    return "undefined" if value is None else f"{value:.2f} {ends}"


def _dry_run(spec: dict[str, Any], calls: dict[str, int], model: str, as_json: bool) -> None:
    seconds = _seconds_per_call(model) * sum(calls.values())
    data = {"spec": spec, "planned_calls": calls, "expected_seconds": round(seconds)}
    text = json.dumps(data["spec"], indent=2)
    parts = ", ".join(f"{k} {v:,}" for k, v in calls.items())
    _print(
        data,
        as_json,
        f"{text}\nplanned denoiser calls: {parts}\nexpected time on this machine, nothing cached: about {max(1, round(seconds / 60))} min",
    )


def _seconds_per_call(name: str) -> float:
    """Time of one denoiser call in a batch of 64, measured here and now."""
    import torch

    from vestige import models

    model = models.load(name)
    condition = model.condition([""]).repeat(64)
    x = torch.zeros(64, *model.latent_shape).to(condition.text)
    t = model.grid(10)[:1].expand(64).to(x.device)
    with torch.no_grad():
        model.denoise(x, t, condition)
        began = time.monotonic()
        for _ in range(3):
            model.denoise(x, t, condition)
    return (time.monotonic() - began) / 3 / 64


@app.command()
@machine
def unlearn(
    method: Annotated[str, typer.Option(help="Unlearner, see `vestige list`.")],
    model: ModelOption = "wardrobe",
    concept: ConceptOption = "sneaker",
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 0,
    forget: ForgetOption = "drawn",
    retain: RetainOption = "drawn",
    preset: Annotated[str, typer.Option(help="Named settings.")] = "",
    settings: SetOption = None,
    out: Annotated[Path, typer.Option(help="Where the edit goes (safetensors).")] = Path("edit.safetensors"),
    as_json: JsonOption = False,
) -> None:
    """Make a model forget a concept and save the edit: the difference alone, a few per cent of the model."""
    from vestige import audit as auditing
    from vestige import concepts, diagnostics, models, plan

    card = models.card(model)
    chosen = plan.told(concepts.load(concept, card.world or "wardrobe"), card)
    unlearner = plan.configured("unlearners", method, card.world, preset, _own(settings, method), model=card.name).resolved(chosen)
    loaded = models.load(model)
    with _progress() as watch:
        data = auditing.training_data(loaded, forget, retain)
        edit = unlearner(loaded, chosen, seed=seed, data=data, watch=watch)
        edit.save(out)
        found = diagnostics.measured(loaded, chosen, edit, data, seed=seed, watch=watch) if "retain" in unlearner.needs else {}
    described = {**auditing.describe(loaded, edit), "file": str(out), "concept": chosen.name, "model": model, "diagnostics": found}
    moved = f"{described['changed_tensors']} tensors, relative change {described['relative_norm'] or 0:.3f}"
    next_step = f"vestige audit --model {model} --concept {concept} --edit {out}"
    measured = "".join(f"{name:<22} {value}\n" for name, value in found.items())
    _print(described, as_json, f"saved {out}: {method} on {model}, {moved}\n{measured}next: {next_step}")


@app.command()
@machine
def attack(
    method: Annotated[str, typer.Option(help="Attack, see `vestige list`.")] = "memora",
    model: ModelOption = "wardrobe",
    concept: ConceptOption = "sneaker",
    edit: Annotated[str | None, typer.Option(help="The edit under attack; none attacks the model as it is.")] = None,
    references: Annotated[str, typer.Option(help="shipped, generated, or a folder of pictures.")] = "shipped",
    reference_count: CountOption = 0,
    attack_retain: AttackRetainOption = "shipped",
    keep_images: KeepOption = "all",
    suite: Annotated[str, typer.Option(help="Whose settings, budget and sampler hold.")] = "quick",
    seed: Annotated[int, typer.Option(help="Replicate.")] = 0,
    preset: Annotated[str, typer.Option(help="Named settings, e.g. released.")] = "",
    settings: SetOption = None,
    out: Annotated[Path, typer.Option(help="Folder for the adapter, pictures and the curve.")] = Path("runs/attack"),
    as_json: JsonOption = False,
) -> None:
    """Try to bring a concept back, without controls: the recovery curve, pictures, and the adapter in diffusers' format."""
    from vestige import audit as auditing
    from vestige import plan as planning

    values = {f"{method}.{k}": v for k, v in _own(settings, method).items()}
    request = planning.Request(
        model=model,
        concept=concept,
        edit=edit,
        attacks=(method,),
        suite=suite,
        seeds=(seed,),
        references=references,
        reference_count=reference_count,
        attack_retain=attack_retain,
        settings=values,
        preset=preset,
        control="none",
        keep_images=keep_images,  # type: ignore[arg-type]
    )
    planned = planning.plan(request)
    with _progress() as watch:
        result = auditing.recover(planned, out, watch=watch)
    lost = {p["budget"]: f"  {p['missing']} missing" for p in result["curve"] if p.get("missing")}
    rows = "\n".join(f"{p['budget']:>6} steps  {_shown({**p, 'value': p['score']})}{lost.get(p['budget'], '')}" for p in result["curve"])
    _print(result, as_json, f"{rows}\npictures and adapter in {out}")


@app.command()
@machine
def continual(
    requests: Annotated[str, typer.Option(help="Concepts in the order in which they must go, e.g. bag,dress; each a name or a FILE.toml.")],
    model: ModelOption = "wardrobe",
    method: Annotated[str, typer.Option(help="Unlearner of every step, see `vestige list`.")] = "uce",
    mode: Annotated[
        str,
        typer.Option(
            help="sequential; cumulative: every step forgets all requests so far again; independent: each request from the original; "
            "simultaneous: all together from the original."
        ),
    ] = "sequential",
    pull: Annotated[float, typer.Option(help="Strength of an L2 pull on the trained weights; 0: none.")] = 0.0,
    pull_towards: Annotated[str, typer.Option(help="previous: the model that enters the step, or original.")] = "previous",
    share: Annotated[float, typer.Option(help="Share of the trained weights that may move, those that matter most to the loss.")] = 1.0,
    project: Annotated[
        bool, typer.Option("--project", help="Hold the keys and values of words that must stay, and of requests so far.")
    ] = False,
    suite: Annotated[str, typer.Option(help="Whose sampler and numbers of pictures hold.")] = "quick",
    seed: Annotated[int, typer.Option(help="Seed of every unlearning run, and of the memory.")] = 0,
    memory: Annotated[int, typer.Option(help="Pictures by the original that the method may rehearse, drawn once.")] = 200,
    attack: Annotated[list[str] | None, typer.Option(help="Attack to run after every step on every request so far; repeatable.")] = None,
    replicates: Annotated[int, typer.Option(help="Replicates of each attack.")] = 1,
    features: Annotated[
        str, typer.Option(help="Network of KID and FID: hf:FOLDER, inception:FILE or wardrobe; default: the first request's detector.")
    ] = "",
    keep_images: KeepOption = "all",
    preset: Annotated[str, typer.Option(help="Named settings, e.g. released.")] = "",
    settings: SetOption = None,
    out: Annotated[Path, typer.Option(help="Folder of the ledger; a longer list of requests continues it.")] = Path("runs/ledger"),
    steal: Annotated[bool, typer.Option("--steal", help="Take over the lock of a process that is known to be gone.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved spec, planned model calls and expected time.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Forget one concept after another, and measure after every step what returns and what else was lost."""
    from vestige import course
    from vestige.guards import Guards

    order = course.Order(
        model=model,
        requests=tuple(name.strip() for name in requests.split(",") if name.strip()),
        method=method,
        mode=mode,  # type: ignore[arg-type]
        suite=suite,
        seed=seed,
        memory=memory,
        attacks=tuple(attack or ()),
        replicates=replicates,
        settings=_settings(settings),
        preset=preset,
        guards=Guards(pull=pull, pull_towards=pull_towards, share=share, project=project),  # type: ignore[arg-type]
        keep_images=keep_images,  # type: ignore[arg-type]
        features=features,
    )
    chosen = course.course(order)
    if dry_run:
        _dry_run({**chosen.spec(), **chosen.asked()}, chosen.planned_calls(), model, as_json)
        return
    from vestige import continual as sequences
    from vestige import report_continual

    with _progress() as watch:
        result = sequences.continual(order, out, steal=steal, watch=watch, command=_command())
        page = report_continual.write(out)
    combined = f"as one edit  {result['combined']}\n" if result["combined"] else ""
    _print(result, as_json, f"{report_continual.table(result)}\n{combined}report       {page}")


@app.command()
@machine
def generate(
    prompt: Annotated[list[str] | None, typer.Option(help="Prompt; repeatable.")] = None,
    prompts: Annotated[str | None, typer.Option(help="A CSV file of prompts, with seeds and guidance; or objects, styles.")] = None,
    model: ModelOption = "wardrobe",
    edit: Annotated[str | None, typer.Option(help="An edit to apply.")] = None,
    concept: Annotated[
        str | None, typer.Option(help="What a detector looks for in every picture; its file says whether it is sensitive.")
    ] = None,
    sensitive: Annotated[bool, typer.Option("--sensitive", help="Blur the pictures; the originals go to a quarantined folder.")] = False,
    keep_images: KeepOption = "all",
    count: Annotated[int, typer.Option(min=0, help="Pictures a prompt; 0: four, or one a row of a file.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the first picture.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = 20,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance.")] = 3.0,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("pictures"),
    as_json: JsonOption = False,
) -> None:
    """Draw pictures, and count the concept in them if one is named."""
    from vestige import concepts, drawing, models, plan
    from vestige import prompts as sets
    from vestige.album import Album
    from vestige.audit import saved_edit
    from vestige.sampling import Protocol

    if bool(prompt) == bool(prompts):
        raise BadSetting("give --prompt (repeatable) or --prompts FILE.csv, one of them")
    card = models.card(model)
    chosen = None if concept is None else plan.told(concepts.load(concept, card.world or "wardrobe"), card)
    album = Album(sensitive or (chosen is not None and chosen.sensitive), keep_images)  # type: ignore[arg-type]
    if prompts:
        asked = drawing.of_set(sets.load(prompts), count or 1, seed, guidance)
    else:
        asked = drawing.plain([p for p in prompt or () for _ in range(count or 4)], seed, guidance)
    loaded = models.load(model)
    drawn_by = loaded if edit is None else loaded.edited(saved_edit(Path(edit), loaded))
    with _progress() as watch:
        made = drawing.draw(drawn_by, asked, album, out, Protocol(steps=steps), concept=chosen, world=card.world, watch=watch)
    seen = f"\n{chosen.name}: {made['text']}" if chosen is not None else ""
    _print(made, as_json, f"{len(made['files'])} pictures in {out}{seen}")


@app.command()
def compare(
    run: Annotated[list[Path], typer.Argument(help="Folders of finished audits.")],
    style: Annotated[str, typer.Option("--format", help="markdown, csv or latex.")] = "markdown",
) -> None:
    """One table of several audits."""
    from vestige import report

    if style not in ("markdown", "csv", "latex"):
        raise BadSetting(f"--format is markdown, csv or latex; given {style!r}")
    sys.stdout.write(report.table([report.read(r) for r in run], style) + "\n")  # type: ignore[arg-type]


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a finished audit or ledger.")], out: Annotated[Path | None, typer.Option()] = None
) -> None:
    """Write the page of an audit or a ledger again."""
    from vestige import report as audits
    from vestige import report_continual as ledgers

    page = ledgers.write(run, out) if ledgers.is_ledger(run) else audits.write(run, out)
    sys.stdout.write(f"{page}\n")


@app.command(name="list")
def list_(
    what: Annotated[str, typer.Argument(help="models, concepts, unlearners, attacks or suites; all without it.")] = "",
    template: Annotated[Path | None, typer.Option(help="Write a concept file to fill in.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Everything that can be named on the command line."""
    from vestige import concepts, models, registry, suites

    if template is not None:
        if template.exists():
            raise BadInput(f"{template} exists; choose another name")
        template.write_text(TEMPLATE, "utf-8")
        _say(f"wrote {template}; then: vestige audit --model MODEL --concept {template}")
        return
    table: dict[str, dict[str, str]] = {
        "models": {c.name: c.about for c in models.cards().values()},
        "concepts": {n: concepts.load(n).kind for n in concepts.names()},
        "unlearners": {n: _first_line("unlearners", n) for n in registry.names("unlearners")},
        "attacks": {n: _first_line("attacks", n) for n in registry.names("attacks")},
        "suites": {n: suites.load(n).version for n in suites.names()},
    }
    if what and what not in table:
        raise BadSetting(f"list takes {', '.join(table)}; given {what!r}")
    chosen = {what: table[what]} if what else table
    text = "\n".join(f"{kind}\n" + "\n".join(f"  {n:<26} {about}" for n, about in rows.items()) for kind, rows in chosen.items())
    _print(chosen, as_json, text)


def _first_line(kind: str, name: str) -> str:
    """A component's module docstring, its first line, read without importing it."""
    import ast

    file = Path(__file__).parent / kind / f"{name}.py"
    if not file.exists():
        return "from another package"
    return (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").splitlines()[0]


@app.command()
@machine
def inspect(
    file: Annotated[Path, typer.Argument(help="A saved edit, or a published checkpoint: a file or a folder.")],
    model: Annotated[str | None, typer.Option(help="The base that it was made from: match every tensor and measure the change.")] = None,
    as_json: JsonOption = False,
) -> None:
    """What a checkpoint is, which method probably made it, and what it changes; a saved edit says what it is itself."""
    from vestige import checkpoints, models

    data, text = checkpoints.described(file, None if model is None else models.load(model))
    _print(data, as_json, text)


@app.command()
@machine
def export(
    file: Annotated[Path, typer.Argument(help="A saved edit, a published checkpoint (a file or a folder), or the folder of a ledger.")],
    form: Annotated[str, typer.Option("--as", help="folder, partial (safetensors), kohya (LoRA) or lora (diffusers, PEFT).")],
    model: ModelOption = "wardrobe",
    rank: Annotated[int, typer.Option(min=0, help="Of a LoRA; 0: the edit's own where it is low-rank, else 8.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Of a ledger: its first steps alone; default: all.")] = None,
    audit: Annotated[Path | None, typer.Option(help="Folder of an audit of this edit: its verdict goes onto the model card.")] = None,
    out: Annotated[Path, typer.Option(help="New folder.")] = Path("export"),
    as_json: JsonOption = False,
) -> None:
    """Write an edit in a format that other tools read, with a model card; of a LoRA, how much of the change it leaves out."""
    from vestige import checkpoints, continual, exports, models

    loaded, ledger = models.load(model), (file / "ledger.json").exists()
    if steps is not None and not ledger:
        raise BadInput(f"--steps counts a ledger's steps, and {file} is none; give the folder of a `vestige continual`")
    edit = continual.rebuilt(file, steps) if ledger else checkpoints.load(file, loaded)
    made = exports.export(edit, loaded, out, form, rank=rank, audit=audit)
    lost = "" if made.loss is None else f"rank {made.loss.rank} loses {made.loss.error:.2%} of the change\n"
    _print(made.as_dict(), as_json, f"{lost}{exports.FORMS[form]} in {out}")


TEMPLATE = """\
# A concept of your own. {concept} stands for the target's words, {context} for one of the contexts.
name = "sneaker"
kind = "object"            # object, style, person or unsafe
target = "sneaker"         # the words that name it in prompts
label = "sneaker"          # what the judge calls it
group = "object"           # the judge's group of labels
anchor = "boot"            # what may appear instead; "" is nothing in particular
neighbours = ["sandal", "boot"]
unrelated = ["top", "dress", "bag"]
contexts = ["photo", "neon", "watercolor"]
context_group = "style"
templates = ["a {context} picture of a {concept}", "a picture of a {concept}"]
held_out = ["the {concept} shown in {context} style", "a {context} image of one {concept}"]
indirect = ["the {context} picture"]         # prompts that do not name it and may show it all the same
sensitive = false          # true: pictures are blurred before they are written, the originals quarantined
# Who looks for it. "" is the judges of the embedded world; for any other model name a detector of your own:
# nudenet, nudenet:bgr, open-nsfw, hf:FOLDER (an image classifier), clip:FOLDER, MODULE:FUNCTION or FILE.py:FUNCTION.
detector = ""
labels = []                # what the detector calls it, any of which counts; none: the label above
threshold = 0.0            # 0: the detector's own
selector = ""              # a second detector, another network, by which attacks choose
selector_labels = []
selector_threshold = 0.0
pictures = ""              # folder of real pictures of it: an attacker's references, or what a proxy is taught
"""
