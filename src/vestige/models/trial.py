"""A model tried out when it is loaded: read a prompt, predict, encode and decode, on tensors that have shapes and no numbers.

Parts may load whole and still not work together, or not at all, because of one setting. Without numbers this takes a moment at any
size. What cannot be done so is no proof (not every operation exists without numbers): it is then done once with numbers, and what fails
there would have failed in the middle of a run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from vestige.diffusion import Condition
from vestige.edits.surgery import rebuild
from vestige.errors import BadInput, VestigeError
from vestige.models.modular import Modular

STAGES: dict[str, Callable[[Modular], Any]] = {
    "read a prompt": lambda model: model.condition([""]),
    "predict": lambda model: _predicted(model, model.condition([""])),
    "encode a picture": lambda model: _like_latents(model, model.encode(torch.zeros(1, 3, *model.image_size))),
    "decode": lambda model: model.decode(torch.zeros(1, *model.latent_shape, device=model.device, dtype=model.dtype)),
}


def works(model: Modular) -> None:
    """Refuse a model that cannot be used."""
    _finite(model)
    hollow = _hollow(model)
    with torch.no_grad():
        for what, stage in STAGES.items():
            if not _done(stage, hollow):
                _surely(stage, model, what)


def _finite(model: Modular) -> None:
    for part, module in model.parts.items():
        for name, value in module.state_dict().items():
            if value.is_floating_point() and not value.isfinite().all():
                kind = str(value.dtype).removeprefix("torch.")
                raise BadInput(
                    f"{model.name} holds numbers that are not finite, in {part}.{name} (read as {kind}); fetch its weights again, or "
                    "choose another --dtype if they are finite there"
                )


def _done(stage: Callable[[Modular], Any], hollow: Modular) -> bool:
    try:
        stage(hollow)
    except Exception:  # of the model, or of working without numbers
        return False
    return True


def _surely(stage: Callable[[Modular], Any], model: Modular, what: str) -> None:
    try:
        stage(model)
    except VestigeError:
        raise
    except Exception as error:  # whatever its networks stumble over
        reason = f"{type(error).__name__}: {error}"
        raise BadInput(f"{model.name} cannot {what} ({reason[:200]}); its configurations do not fit its weights or each other") from error


def _predicted(model: Modular, condition: Condition) -> None:
    x = torch.zeros(1, *model.latent_shape, device=model.device, dtype=model.dtype)
    seen = model.denoise(x, model.grid(1)[:1].to(model.device), condition)
    _like_latents(model, seen.value)


def _like_latents(model: Modular, made: torch.Tensor) -> None:
    if tuple(made.shape[1:]) != model.latent_shape:
        raise BadInput(f"{model.name} makes latents of shape {tuple(made.shape[1:])} and takes {model.latent_shape}")


def _hollow(model: Modular) -> Modular:
    """A view whose weights have shapes and no numbers; the model's own stay as they are."""
    parts = {}
    for part, module in model.parts.items():
        view = parts[part] = rebuild(module, {})
        for inner in view.modules():
            for table in (inner._parameters, inner._buffers):
                for name, tensor in table.items():
                    if tensor is not None:
                        table[name] = cast(Any, nn.Parameter(tensor.to("meta"), requires_grad=False) if isinstance(tensor, nn.Parameter)
                                           else tensor.to("meta"))  # fmt: skip
    made = model._view(parts, {})
    made.resting = frozenset()
    return made
