"""Models loaded: by what the catalogue knows, or out of a diffusers pipeline."""

from __future__ import annotations

from typing import Any, cast

from vestige import data, files
from vestige.diffusion import Model
from vestige.errors import BadInput, Incompatible, VestigeError
from vestige.models import sources
from vestige.models.catalogue import Card, card
from vestige.models.placement import Placement, current


def load(name: str, placement: Placement | None = None) -> Model:
    """A model by what `card` takes, on its device and in its precision; by default as `using` says, else where it is fastest, in single."""
    import torch

    from vestige.models import trial

    placement = placement or current()
    found, dtype = card(name), getattr(torch, placement.dtype)
    _verify(found)
    try:
        made = _of_file(found, dtype) if found.file is not None else _of_parts(found, dtype)
    except (VestigeError, OSError, MemoryError):
        raise
    except Exception as error:  # what a configuration says may be of any type
        raise BadInput(f"{name} cannot be put together ({type(error).__name__}: {error}); a configuration in it is damaged") from error
    if not found.hashes:  # what ships is known to work
        trial.works(made)
    made.placed(placement.resolved, offload=placement.offload, checkpointing=placement.checkpointing, slicing=placement.slicing)
    return cast(Model, made)


def _of_parts(found: Card, dtype: Any) -> Any:
    if found.family == "classes":
        from vestige.models.classes import ClassModel

        return ClassModel.from_folder(found.parts, found.name, dtype)
    if found.family == "flow":
        from vestige.models.flow import FlowModel

        return FlowModel.from_folder(found.parts, found.name, dtype, distilled=found.distilled)
    from vestige.models.latent import LatentModel

    return LatentModel.from_folder(found.parts, found.name, dtype, blank=found.blank)


def _of_file(found: Card, dtype: Any) -> Any:
    if found.file is None or found.config is None or found.family == "classes":
        raise BadInput(f"{found.name}: class-conditional models are read from folders, not from a single file")
    pipe = sources.single(found.file, found.config).to(dtype)
    if found.family == "flow":
        from vestige.models.flow import FlowModel

        return FlowModel.from_pipeline(pipe, found.name)
    from vestige.models.latent import LatentModel

    return LatentModel.from_pipeline(pipe, found.name)


def _verify(found: Card) -> None:
    root = data.folder()
    for file, expected in found.hashes.items():
        path = root / file
        if not path.is_file():
            raise BadInput(f"{found.name} lacks {file}; reinstall vestige")
        if files.digest(path) != expected:
            raise BadInput(f"{path} is not the file that {found.name} was released with; reinstall vestige")


def from_pipeline(pipe: Any) -> Model:
    """The model inside a diffusers pipeline; shares its weights.

    A pipeline without a text encoder is told a class. The classes of one that does not name them (any but a DiTPipeline) have to be
    given to `ClassModel.from_pipeline`.
    """
    from vestige.models.classes import ClassModel
    from vestige.models.flow import FlowModel
    from vestige.models.latent import LatentModel

    if all(getattr(pipe, part, None) is not None for part in ("transformer", "text_encoder")):
        return FlowModel.from_pipeline(pipe)
    if getattr(pipe, "text_encoder", None) is not None or not {"unet", "transformer"} & set(getattr(pipe, "components", ())):
        return LatentModel.from_pipeline(pipe)
    if not getattr(pipe, "labels", None):
        raise Incompatible(
            f"{type(pipe).__name__} has no text encoder and does not name its classes; "
            "name them with model = vestige.models.classes.ClassModel.from_pipeline(pipe, classes=[...]), unlearn from that model, "
            "and put the edit back with edit.to_pipeline(pipe)"
        )
    return ClassModel.from_pipeline(pipe)
