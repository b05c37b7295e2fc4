"""Options that several commands share, and what is written in them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from vestige.errors import BadSetting

T = TypeVar("T")

ModelOption = Annotated[
    str,
    typer.Option("--model", help="Built-in model, pipeline folder, single file (with --config) or owner/name on the hub; the original."),
]
ConceptOption = Annotated[str, typer.Option("--concept", help="Built-in concept, or your own concept file (FILE.toml).")]
ConceptsOption = Annotated[
    str, typer.Option("--concept", help="Built-in concept, or your own concept file (FILE.toml); several with commas: erased together.")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="METHOD.NAME=VALUE", help="A method's setting; repeatable.")]
PresetOption = Annotated[
    str,
    typer.Option(
        "--preset", help="Named settings: released (MemoRa's public code), or those of a built-in model's unlearners, e.g. wardrobe."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, everything else on stderr.")]
ForgetOption = Annotated[
    str, typer.Option("--forget", help="Pictures of the concept that an unlearner trains on: drawn (by the model itself), or a folder.")
]
RetainOption = Annotated[str, typer.Option("--retain", help="Pictures of what must stay: drawn, or a folder with captions.")]
AlternativeOption = Annotated[
    str,
    typer.Option("--alternative", help="What DiMUM memorises under the concept's prompts: drawn, or a folder, with captions or without."),
]
AttackRetainOption = Annotated[
    str,
    typer.Option("--attack-retain", help="What an attack without the concept's pictures trains on: shipped, or a folder with captions."),
]
CountOption = Annotated[
    int, typer.Option("--reference-count", min=0, max=100_000, help="References a replicate gets; 0: the suite's number.")
]
KeepOption = Annotated[
    str, typer.Option("--keep-images", help="all, or none: scores only. A sensitive concept's are blurred, its originals quarantined.")
]
CacheOption = Annotated[
    Path | None, typer.Option("--cache", help="Folder of runs that audits share; default: $VESTIGE_CACHE or ~/.cache/vestige.")
]
StealOption = Annotated[bool, typer.Option("--steal", help="Take over the lock of a process that is known to be gone.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the resolved spec, planned model calls and expected time.")]


def assigned(pairs: list[str] | None) -> dict[str, str]:
    """Settings by their names, METHOD.NAME -> value."""
    made = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise BadSetting(f"--set takes METHOD.NAME=VALUE, e.g. --set memora.rank=8; given {pair!r}")
        made[key] = value
    return made


def settings_of(pairs: list[str] | None, method: str) -> dict[str, str]:
    """Settings of one method; another method's are an error, never silently dropped."""
    made = {}
    for key, value in assigned(pairs).items():
        prefix, _, name = key.rpartition(".")
        if prefix not in ("", method):
            raise BadSetting(f"--set {key} names {prefix!r}, but the method is {method!r}")
        made[name] = value
    return made


def integers(text: str, what: str) -> tuple[int, ...]:
    """Whole numbers with commas between them."""
    try:
        return tuple(int(v) for v in text.split(",") if v.strip())
    except ValueError:
        raise BadSetting(f"{what} are whole numbers with commas, e.g. 0,1,2; given {text!r}") from None


def numbers(text: str, what: str) -> tuple[float, ...]:
    """Numbers with commas between them."""
    try:
        return tuple(float(v) for v in text.split(",") if v.strip())
    except ValueError:
        raise BadSetting(f"{what} are numbers with commas, e.g. 1e-4,1e-3; given {text!r}") from None


def cache_folder(given: Path | None) -> Path:
    """Where runs that several audits share are kept."""
    if given is not None:
        return given
    home = os.environ.get("VESTIGE_CACHE")
    return Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "vestige"


def filled(kind: type[T], arguments: Mapping[str, Any], **others: Any) -> T:
    """What a command asks for, from its arguments by their names.

    Arguments:
        kind: The dataclass of the request; an argument that is none of its fields says how to work, not what.
        others: Fields whose argument has another name or another form.
    """
    fields = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{**{name: value for name, value in arguments.items() if name in fields}, **others})
