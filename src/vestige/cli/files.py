"""Edits and published checkpoints as files: what they are, and other tools' formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vestige.cli.frame import give, remarked
from vestige.cli.machine import machine
from vestige.cli.options import JsonOption, ModelOption
from vestige.errors import BadInput


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
