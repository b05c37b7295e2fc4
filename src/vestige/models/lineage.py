"""Which published family a model belongs to, by its configurations alone: what `data/families.toml` knows such models by."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from vestige import files
from vestige.models import sources
from vestige.models.catalogue import Card

SD2_WIDTH = 1024  # of the text that Stable Diffusion 2.x's denoiser reads; 1.x: 768
TRANSFORMERS = {"SD3Transformer2DModel": "sd3", "Flux2Transformer2DModel": "flux2"}


def lineage(card: Card) -> str:
    """One of "sd1", "sd2", "sdxl", "sd3", "flux", "flux2" and "classes"; "" for a model that ships with the package."""
    if card.hashes or card.world:
        return ""
    if card.family == "classes":
        return "classes"
    folder = card.config or next((part.parent for part in card.parts.values()), None)
    if folder is None:
        return ""
    index = sources.index(folder)
    if card.family == "flow":
        return next((TRANSFORMERS[name] for name in sources.kind(index, "transformer") if name in TRANSFORMERS), "flux")
    if "text_encoder_2" in sources.listed(index):
        return "sdxl"
    second = _said(folder / "scheduler/scheduler_config.json").get("prediction_type") == "v_prediction"
    return "sd2" if second or _said(folder / "unet/config.json").get("cross_attention_dim") == SD2_WIDTH else "sd1"


def _said(file: Path) -> dict[str, Any]:
    """What a configuration says; {} for one that cannot be read, which loading the model will tell."""
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads(file.read_text(files.UTF8))
        if isinstance(found, dict):
            return found
    return {}
