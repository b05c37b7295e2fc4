"""One thing done to one model: a concept unlearned, an attack on it, pictures drawn."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vestige.cli import options
from vestige.cli.frame import give, progress, remarked, say, shown
from vestige.cli.machine import machine
from vestige.errors import BadSetting, shortened


def unread(cut: Sequence[str]) -> None:
    """Say which prompts are longer than what the model reads."""
    if cut:
        more = f" and {len(cut) - 1} more" if len(cut) > 1 else ""
        say(f"note: the end of {shortened(cut[0])}{more} is not read: too long for the model's text encoder")


@machine
def unlearn(
    method: Annotated[str, typer.Option(help="Unlearner, see `vestige list`.")],
    model: options.ModelOption = "wardrobe",
    concept: options.ConceptsOption = "sneaker",
    seed: Annotated[int, typer.Option(help="Seed of the run.")] = 0,
    forget: options.ForgetOption = "drawn",
    retain: options.RetainOption = "drawn",
    alternative: options.AlternativeOption = "drawn",
    preset: Annotated[str, typer.Option(help="Named settings.")] = "",
    settings: options.SetOption = None,
    out: Annotated[Path, typer.Option(help="New file of the edit (safetensors).")] = Path("edit.safetensors"),
    as_json: options.JsonOption = False,
) -> None:
    """Make a model forget a concept and save the edit: the difference alone, as large as what the method changes."""
    from vestige import files, models
    from vestige.concepts.joint import Joint
    from vestige.edits import arithmetic
    from vestige.harness import diagnostics
    from vestige.harness.bench import telling
    from vestige.harness.settings import configured, requested
    from vestige.harness.unlearning import check_joint, check_memorises, training_data

    files.ready(out)
    card = models.card(model)
    chosen = requested(concept, card)
    own = options.settings_of(settings, method)
    unlearner = configured("unlearners", method, card.world, preset, own, model=card.name).resolved(chosen)
    check_memorises(method, unlearner, alternative)
    if isinstance(chosen, Joint):
        check_joint(method, unlearner)
        if forget != "drawn":
            raise BadSetting(f"--forget is pictures of one concept; given {chosen.name}: leave it out, and the model draws them")
    loaded = models.load(model)
    with progress() as watch:
        data = training_data(loaded, forget, retain, alternative=alternative)
        with telling(f"{method} on {model}"):
            edit = unlearner(loaded, chosen, seed=seed, data=data, watch=watch)
        edit.save(out)
        found = diagnostics.measured(loaded, chosen, edit, data, seed=seed, watch=watch) if "retain" in unlearner.needs else {}
    unread(loaded.unread(chosen.told()))
    described = {**arithmetic.describe(loaded, edit), "file": str(out), "concept": chosen.name, "model": model, "diagnostics": found}
    moved = f"{described['changed_tensors']} tensors, relative change {described['relative_norm'] or 0:.3f}"
    next_step = shlex.join(["vestige", "audit", "--model", model, "--concept", concept, "--edit", str(out)])
    if not described["relative_norm"] and not edit.hooks:
        say(f"note: {out} changes nothing of {model}; is the anchor the target itself, or a number of steps or a weight 0?")
    measured = "".join(f"{name:<22} {value}\n" for name, value in {**described["notes"], **found}.items())
    give(described, as_json, f"saved {out}: {method} on {model}, {moved}\n{measured}next: {next_step}")


@machine
def attack(
    method: Annotated[str, typer.Option(help="Attack, see `vestige list`.")] = "memora",
    model: options.ModelOption = "wardrobe",
    concept: options.ConceptsOption = "sneaker",
    edit: Annotated[str | None, typer.Option(help="The edit under attack; none attacks the model as it is.")] = None,
    references: Annotated[str, typer.Option(help="shipped, generated, or a folder of pictures.")] = "shipped",
    reference_count: options.CountOption = 0,
    attack_retain: options.AttackRetainOption = "shipped",
    keep_images: options.KeepOption = "all",
    suite: Annotated[str, typer.Option(help="Whose settings, budget and sampler hold; a name, or FILE.toml.")] = "quick",
    seed: Annotated[int, typer.Option(help="Replicate.")] = 0,
    preset: options.PresetOption = "",
    settings: options.SetOption = None,
    out: Annotated[Path, typer.Option(help="Folder for the adapter, pictures and the curve.")] = Path("runs/attack"),
    as_json: options.JsonOption = False,
) -> None:
    """Try to bring a concept back, without controls: the recovery curve, pictures, and the adapter in diffusers' format."""
    arguments = locals()
    from vestige.audit import Request, recover, resolve

    request = options.filled(
        Request,
        arguments,
        attacks=(method,),
        seeds=(seed,),
        settings={f"{method}.{k}": v for k, v in options.settings_of(settings, method).items()},
        control="none",
    )
    planned = resolve(request)
    with progress() as watch:
        result = recover(planned, out, watch=watch)
    unread(result.get("cut", ()))
    lost = {p["budget"]: f"  {p['missing']} missing" for p in result["curve"] if p.get("missing")}
    rows = "\n".join(f"{p['budget']:>6} steps  {shown({**p, 'value': p['score']})}{lost.get(p['budget'], '')}" for p in result["curve"])
    give(result, as_json, f"{rows}\n{_left(result, out)}")


def _left(result: Mapping[str, Any], out: Path) -> str:
    """What an attack left behind, for reading."""
    rows = [f"pictures in {out}"]
    if result.get("edit"):
        rows.append(f"the recovered edit: {result['edit']}")
    if result["adapter"]:
        rows.append(f"as an adapter, for pipeline.load_lora_weights: {result['adapter']}")
    for file in result.get("embeddings", ()):
        rows.append(f"as a learned word, for pipeline.load_textual_inversion: {file}")
    return "\n".join(rows)


@machine
def generate(
    prompt: Annotated[list[str] | None, typer.Option(help="Prompt; repeatable.")] = None,
    prompts: Annotated[
        str | None, typer.Option(help="FILE.csv (or FILE.csv:COLUMN), FILE.txt with one a line; or objects, styles.")
    ] = None,
    model: options.ModelOption = "wardrobe",
    edit: Annotated[str | None, typer.Option(help="An edit to apply.")] = None,
    concept: Annotated[
        str | None, typer.Option(help="What a detector looks for in every picture; its file says whether it is sensitive.")
    ] = None,
    sensitive: Annotated[bool, typer.Option("--sensitive", help="Blur the pictures; the originals go to a quarantined folder.")] = False,
    keep_images: options.KeepOption = "all",
    count: Annotated[int, typer.Option(min=0, max=100_000, help="Pictures a prompt; 0: four, or one a row of a file.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the first picture.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = 20,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance.")] = 3.0,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("pictures"),
    as_json: options.JsonOption = False,
) -> None:
    """Draw pictures, and count the concept in them if one is named."""
    from vestige import checkpoints, concepts, files, models
    from vestige.concepts import prompts as sets
    from vestige.concepts.album import Album
    from vestige.diffusion.sampling import Drawing
    from vestige.harness import drawing, settings

    protocol = Drawing(steps=steps, guidance=guidance)
    if bool(prompt) == bool(prompts):
        raise BadSetting("give --prompt (repeatable) or --prompts FILE, one of them")
    files.ready_folder(out)
    card = models.card(model)
    chosen = None if concept is None else settings.told(concepts.load(concept, card.world), card)
    album = Album(sensitive or (chosen is not None and chosen.sensitive), keep_images)  # type: ignore[arg-type]
    remarks: tuple[str, ...] = ()
    if prompts:
        chosen_set = sets.load(prompts)
        asked, remarks = drawing.of_set(chosen_set, count or 1, seed, guidance), chosen_set.remarks
    else:
        asked = drawing.from_prompts([p for p in prompt or () for _ in range(count or 4)], seed, guidance)
    loaded = models.load(model)
    applied = None if edit is None else checkpoints.load(edit, loaded)
    if applied is not None:
        remarked(applied.remark(loaded))
    drawn_by = loaded if applied is None else loaded.edited(applied)
    with progress() as watch:
        made = drawing.draw(drawn_by, asked, album, out, protocol, concept=chosen, world=card.world, watch=watch)
    seen = f"\n{chosen.name}: {made['text']}" if chosen is not None else ""
    unread(made.get("cut", ()))
    told = "".join(f"\nnote: {remark}" for remark in remarks)
    give({**made, **({"remarks": list(remarks)} if remarks else {})}, as_json, f"{len(made['files'])} pictures in {out}{seen}{told}")
