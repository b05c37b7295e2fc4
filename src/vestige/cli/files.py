"""Edits and published checkpoints as files: what they are, and other tools' formats."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vestige.cli.frame import give, remarked
from vestige.cli.machine import machine
from vestige.cli.options import JsonOption, ModelOption, numbers
from vestige.errors import BadInput, BadSetting, Incompatible

if TYPE_CHECKING:
    from vestige.diffusion import Model
    from vestige.edits import Edit


@machine
def inspect(
    file: Annotated[Path, typer.Argument(help="A saved edit, or a published checkpoint: a file or a folder.")],
    model: Annotated[str | None, typer.Option(help="The base that it was made from: match every tensor and measure the change.")] = None,
    as_json: JsonOption = False,
) -> None:
    """What a checkpoint is, which method probably made it, and what it changes; a saved edit says what it is itself."""
    from vestige import checkpoints, models

    data, text = checkpoints.described(file, None if model is None else models.load(model))
    give(data, as_json, text)


@machine
def apply(
    adapter: Annotated[
        list[str] | None,
        typer.Option(help="What an attack recovered, recovered.safetensors, or any edit of the edited model; repeatable."),
    ] = None,
    model: ModelOption = "wardrobe",
    edit: Annotated[str | None, typer.Option(help="The edit that was attacked; none: they were made on the model as it is.")] = None,
    weights: Annotated[str, typer.Option(help="One an adapter, in their order, 1,0.5; default: 1 each.")] = "",
    out: Annotated[Path, typer.Option(help="New FILE.safetensors: one edit; any other name: a new folder with the pipeline.")] = Path(
        "applied"
    ),
    as_json: JsonOption = False,
) -> None:
    """Stack recovered adapters on an edit, with weights, and write what they make together: one edit, or a pipeline."""
    from vestige import checkpoints, files, models
    from vestige.checkpoints import exports
    from vestige.edits import Edit, arithmetic

    adapters = adapter or []
    if not adapters:
        raise BadSetting(
            "nothing to apply: give --adapter FILE, such as the recovered.safetensors that `vestige attack` leaves; repeatable"
        )
    amounts = numbers(weights, "weights") or (1.0,) * len(adapters)
    if len(amounts) != len(adapters) or not all(map(math.isfinite, amounts)):
        raise BadSetting(f"weights are finite numbers, one an adapter, of which there are {len(adapters)}; given {weights!r}")
    if missing := [file for file in (*adapters, *([edit] if edit else [])) if not Path(file).exists()]:
        raise BadInput(f"there is nothing at {', '.join(missing)}")
    alone = out.suffix.lower() == ".safetensors"
    files.ready(out) if alone else exports.vacant(out)
    loaded = models.load(model)
    under = Edit(loaded.fingerprint, "none") if edit is None else checkpoints.load(edit, loaded)
    remarked(under.remark(loaded))
    view = loaded if edit is None else loaded.edited(under)
    made = arithmetic.stacked(under, view, [(_made_on(one, view, edit), amount) for one, amount in zip(adapters, amounts, strict=True)])
    found = {"out": str(out), "files": [], **arithmetic.describe(loaded, made)}
    if not found["changed_tensors"] and not made.hooks:
        raise BadInput(
            f"nothing to apply: {', '.join(adapters)} with weights {', '.join(f'{a:g}' for a in amounts)} changes no weight of {model}"
        )
    found["files"] = [str(made.save(out))] if alone else [str(file) for file in exports.export(made, loaded, out, "folder").files]
    stacked = f"{len(adapters)} adapter{'' if len(adapters) == 1 else 's'} on {model if edit is None else edit}"
    stacked += f": {found['changed_tensors']} tensors, relative change {found['relative_norm'] or 0:.3f}"
    what = "one edit" if alone else exports.FORMS["folder"]
    give(found, as_json, f"{stacked}\n{what} in {out}")


def _made_on(adapter: str, view: Model, edit: str | None) -> Edit:
    """An adapter of a view; where it was made on another model, the error says what that has to do with `--edit`."""
    from vestige import checkpoints

    try:
        return checkpoints.load(adapter, view)
    except Incompatible as error:
        how = "if an edit was attacked, name it with --edit" if edit is None else f"here that is with {edit}, as --edit says"
        raise Incompatible(f"{adapter}: {error}; {how}") from error


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
    from vestige import checkpoints, continual, models
    from vestige.checkpoints import exports

    exports.vacant(out)
    loaded, ledger = models.load(model), (file / "ledger.json").exists()
    if steps is not None and not ledger:
        raise BadInput(f"--steps counts a ledger's steps, and {file} is none; give the folder of a `vestige continual`")
    edit = continual.rebuilt(file, steps) if ledger else checkpoints.load(file, loaded)
    remarked(edit.remark(loaded))
    made = exports.export(edit, loaded, out, form, rank=rank, audit=audit)
    lost = "" if made.loss is None else f"rank {made.loss.rank} loses {made.loss.error:.2%} of the change\n"
    give(made.as_dict(), as_json, f"{lost}{exports.FORMS[form]} in {out}")
