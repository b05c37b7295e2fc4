"""Parts of a model read whole from their folders, or around the modules of a pipeline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from vestige.edits import precision as held
from vestige.edits.surgery import rebuild
from vestige.errors import BadInput
from vestige.models.configurations import configuration
from vestige.models.sources import misnamed

_POINTER = b"version https://git-lfs.github.com/spec/"


def frozen(module: nn.Module) -> nn.Module:
    """The module around the same storage with parameters of its own, so that switching off their gradients leaves the given one's on.

    A view's factors beside weights of low precision are folded in: outside, weights are all that there is.
    """
    return rebuild(module, {n: held.weight(module, n).detach() for n, _ in module.named_parameters()})


def present(folders: Mapping[str, Path], name: str) -> None:
    """Refuse a model of which a folder is missing, or a file was never fetched."""
    for part, folder in folders.items():
        if not folder.is_dir():
            raise BadInput(f"{name} has no folder {part} at {folder}; give a folder in diffusers' layout")
        for file in sorted(folder.iterdir()):
            if file.is_file() and _is_pointer(file):
                raise BadInput(f"{file} is a Git LFS pointer, not the file that it stands for; fetch that with `git lfs pull`")


def _is_pointer(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(_POINTER)) == _POINTER


def whole(kind: Any, folder: Path, what: str, **precision: torch.dtype) -> nn.Module:
    """A component read from its folder; every weight must be there, and no other.

    Arguments:
        kind: Its class, of diffusers or transformers.
        what: How errors call it, e.g. "unet of wardrobe".
        precision: The dtype, by the name that the class gives it; weights that are there as "fp16" alone are converted.
    """
    configuration(folder, what)
    variants = {"variant": "fp16"} if _halved(folder) else {}
    try:
        made, report = kind.from_pretrained(folder, output_loading_info=True, local_files_only=True, **variants, **precision)
    except Exception as error:  # a damaged configuration ends in whatever the constructors of its network stumble over
        odd = (f"{file.name} is {told}" for file in sorted(folder.glob("*.safetensors")) if (told := misnamed(file)))
        raise BadInput(f"{what} cannot be read from {folder} ({next(odd, f'{type(error).__name__}: {error}')})") from error
    wrong = [f"{key} {sorted(report[key])[:3]}" for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[key]]
    if wrong:
        raise BadInput(f"{what} does not load whole: {'; '.join(wrong)}")
    return cast(nn.Module, made)


def _halved(folder: Path) -> bool:
    """Whether a component's weights are there in half precision alone."""
    files = [p.name for p in folder.glob("*.safetensors")]
    return bool(files) and all(".fp16." in name for name in files)


def class_in(file: Path, key: str) -> str:
    """The class that a configuration names."""
    try:
        found = json.loads(file.read_text("utf-8"))[key]
        named = found[0] if isinstance(found, list) else found
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise BadInput(f"{file} does not say its {key} ({error!r}); give a folder in diffusers' layout") from error
    return str(named)
