"""Where a model's files come from: a folder in diffusers' layout, a single file beside the folder that describes it, or a name on the hub.

Weights of strangers are read from safetensors, or as tensors alone; nothing in them is executed.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vestige import contents, files
from vestige.errors import BadInput

HUB = re.compile(r"(?!\.)[\w.-]+/[\w.-]+(@[\w.-]+)?")  # owner/name, or owner/name@revision
INDEX = "model_index.json"
# What any family may have; of a repository on the hub nothing else is fetched.
_READERS = tuple(f"{kind}{number}" for kind in ("text_encoder", "tokenizer") for number in ("", "_2", "_3"))
COMPONENTS = ("unet", "transformer", "vae", "scheduler", *_READERS)
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".onnx")
_TEXTS = (".json", ".txt", ".model")
_VARIANT = re.compile(r"\.(fp16|bf16|non_ema)[.-]")


def index(folder: Path) -> Mapping[str, Any]:
    """What a pipeline folder says of itself, its `model_index.json`."""
    try:
        found = json.loads((folder / INDEX).read_text(files.UTF8))
    except OSError:
        raise BadInput(f"{folder} is a folder without {INDEX}; give a pipeline saved in diffusers' layout") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{folder / INDEX} cannot be read ({error}); give a pipeline saved in diffusers' layout") from error
    if not isinstance(found, dict):
        raise BadInput(f"{folder / INDEX} cannot be read (it holds no table); give a pipeline saved in diffusers' layout")
    return found


def kind(found: Mapping[str, Any], part: str) -> Sequence[Any]:
    """The library and the class of a component; empty if it has none."""
    told = found.get(part)
    if told is not None and not isinstance(told, list):
        raise BadInput(f"{INDEX} cannot be read (its {part} is {told!r}, no library and class); give a pipeline saved in diffusers' layout")
    return told or ()


def listed(found: Mapping[str, Any]) -> set[str]:
    """The components that a pipeline has."""
    return {part for part, kind in found.items() if isinstance(kind, list) and None not in kind}


@functools.lru_cache
def fetched(name: str) -> Path:
    """The folder of a repository on the hub: from the local cache, or fetched into it unless HF_HUB_OFFLINE forbids.

    Arguments:
        name: owner/name, or owner/name@revision.
    """
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    repository, _, revision = name.partition("@")
    try:
        there = huggingface_hub.list_repo_files(repository, revision=revision or None)
        return Path(huggingface_hub.snapshot_download(repository, revision=revision or None, allow_patterns=wanted(there)))
    except GatedRepoError as error:
        raise BadInput(f"{repository} is gated: accept its licence on the hub, run `hf auth login`, and try again") from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, OSError, HfHubHTTPError, HFValidationError) as error:
        try:
            return Path(huggingface_hub.snapshot_download(repository, revision=revision or None, local_files_only=True))
        except (LocalEntryNotFoundError, OSError, HfHubHTTPError, HFValidationError):
            raise BadInput(
                f"{name} is no built-in model and no folder here, is not in the local hub cache, and cannot be fetched ({error}); "
                "give a folder in diffusers' layout, or allow access to the hub (unset HF_HUB_OFFLINE)"
            ) from error


def wanted(names: Iterable[str]) -> list[str]:
    """Of a repository's files, those that are read: the index, and of each component its texts and its plainest safetensors."""
    found = list(names)
    chosen = [INDEX] if INDEX in found else []
    for part in COMPONENTS:
        mine = [f for f in found if f.startswith(f"{part}/") and f.count("/") == 1]
        weights = [f for f in mine if f.endswith(".safetensors")]
        plain = [f for f in weights if not _VARIANT.search(f)]
        half = [f for f in weights if re.search(r"\.(fp16|bf16)[.-]", f)]
        chosen += [f for f in mine if f.endswith(_TEXTS) and (plain == [] or not _VARIANT.search(f))] + (plain or half)
    return chosen


def misnamed(file: Path) -> str:
    """What a file of weights is, where it is none, or not of the kind that its name says; "" where it may be what it is called."""
    what = contents.kind(file)
    if not what.startswith("a zip archive"):
        return f"{what}, no checkpoint" if what else ""
    return f"{what}, and named .safetensors; call it .ckpt" if file.suffix == ".safetensors" else ""


def single(file: Path, config: Path) -> Any:
    """A diffusers pipeline from one file with all of a model's weights, read by diffusers' own loader, offline.

    Arguments:
        file: Safetensors, or a checkpoint that `torch.load(weights_only=True)` reads.
        config: A pipeline folder of the same architecture; of it, only the configurations and tokenizers are read.
    """
    import diffusers

    name = index(config).get("_class_name")
    kind = getattr(diffusers, str(name), None)
    if kind is None or not hasattr(kind, "from_single_file"):
        raise BadInput(f"{config / INDEX} names the pipeline {name!r}, which diffusers does not read from a single file")
    try:
        pipe = kind.from_single_file(str(file), config=str(config), local_files_only=True)
    except Exception as error:  # whatever its converters stumble over in a file that is not of this architecture
        if what := misnamed(file):
            raise BadInput(f"{file} is {what}") from error
        raise BadInput(f"{file} cannot be read as the {name} that {config} describes ({type(error).__name__}: {error})") from error
    for part, module in pipe.components.items():
        empty = [n for n, p in module.named_parameters() if p.is_meta] if hasattr(module, "named_parameters") else []
        if empty:
            raise BadInput(f"{file} lacks {len(empty)} weights of the {part} that {config} describes, e.g. {empty[0]}")
    return pipe
