"""Networks that look at pictures, read from local folders as transformers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vestige.errors import BadInput


def pretrained(kind: str, folder: Path, what: str, *, headless: bool = False) -> Any:
    """A network in float32 that takes no gradients, every weight of it accounted for; safetensors only, and nothing is fetched.

    Arguments:
        kind: Its class of transformers.
        what: How errors call it, e.g. "CLIP".
        headless: The folder may hold weights that the class has no use for, e.g. another task's head.
    Errors:
        BadInput, where it cannot be read, or a weight is missing, of another shape, or left over.
    """
    import transformers
    from safetensors import SafetensorError

    try:
        network, report = getattr(transformers, kind).from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BadInput(f"the {what} in {folder} cannot be read ({error})") from error
    faults = ("missing_keys", *(() if headless else ("unexpected_keys",)), "mismatched_keys")
    if wrong := [f"{key} {sorted(report[key])[:3]}" for key in faults if report[key]]:
        raise BadInput(f"the {what} in {folder} does not load whole: {'; '.join(wrong)}")
    return network.eval().requires_grad_(False)
