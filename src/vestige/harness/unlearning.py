"""Unlearning as a run: the edit of one unlearner, made once for everything that asks for it."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vestige import registry, runs
from vestige.concepts import Concept
from vestige.concepts.album import Album
from vestige.concepts.images import PictureSet, folder
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent, within
from vestige.edits import Edit
from vestige.errors import BadSetting
from vestige.harness import diagnostics
from vestige.harness.bench import NUMERICS, held_in, telling
from vestige.methods import Data, optimiser


def unlearned(
    root: Path,
    model: Model,
    concept: Concept,
    name: str,
    method: Any,
    seed: int,
    *,
    data: Data | None = None,
    watch: Watch = silent,
    wait: float = 3600.0,
) -> runs.Run:
    """The finished run of one unlearner under `root`; its edit lies in `edit.safetensors`.

    Arguments:
        data: What it may train on; None lets the model draw it, kept under `root`.
    """
    method, data = method.resolved(concept), data or Data(cache=Album(concept.sensitive).cache(root))
    spec = {
        "what": "unlearn",
        "numerics": NUMERICS,
        "model": model.fingerprint,
        "concept": concept.as_dict(),
        "method": name,
        "settings": registry.settings(method),
        "seed": seed,
        **_trained_on(data),
        **optimiser.current().as_dict(),
        **(held_in(model.precision) if method.trains else {}),
        "volatile": {"model": model.name},
    }

    def work(run: runs.Run) -> dict[str, Any]:
        began = time.monotonic()
        with telling(f"{name} on {model.name}"):
            edit: Edit = method(model, concept, seed=seed, data=data, watch=within(name, watch))
        edit.save(run.path("edit.safetensors"))
        seconds = time.monotonic() - began
        if "retain" not in method.needs:
            return {"seconds": seconds}
        return {"seconds": seconds, "diagnostics": diagnostics.measured(model, concept, edit, data, seed=seed, watch=watch)}

    return runs.compute(root, spec, "unlearn", work, wait=wait)


def _trained_on(data: Data) -> dict[str, Any]:
    """What the spec of an unlearner's run says of its data."""
    given = {key: None if s is None else s.content for key, s in (("forget", data.target), ("retain", data.retain))}
    more = {key: s.content for key, s in (("related", data.related), ("alternative", data.alternative)) if s is not None}
    captions = [list(row) for s in (data.target, data.retain, data.related, data.alternative) if s is not None for row in s.captions]
    return {
        "data": {**given, **more, "protocol": asdict(data.protocol)},
        **({"captions": captions} if captions else {}),
        **({"labels": told} if (told := [s.told for s in (data.target, data.retain) if s is not None and s.told]) else {}),
        **({"before": data.original.fingerprint} if data.original is not None else {}),
    }


def check_memorises(name: str, method: Any, alternative: str) -> None:
    """Refuse pictures that stand in for the target, where the method, called `name`, memorises none."""
    if alternative != "drawn" and not method.memorises:
        able = ", ".join(n for n in registry.names("unlearners") if registry.find("unlearners", n).memorises)
        raise BadSetting(f"--alternative {alternative} is read by {able}; given {name}")


def check_joint(name: str, method: Any) -> None:
    """Refuse a method, called `name`, that cannot erase several concepts together."""
    if not method.joint or method.apart:
        how = f"{method.apart} does" if method.joint else f"{name} looks for one target's words or teaches one anchor"
        able = ", ".join(one for one in registry.names("unlearners") if registry.find("unlearners", one).joint)
        raise BadSetting(f"{how}, so it cannot erase several together; {able} can, or erase each by itself and merge")


def training_data(model: Model, forget: str, retain: str, cache: Path | None = None, alternative: str = "drawn") -> Data:
    """What an unlearner may train on: each is "drawn", by the model itself, or a folder of pictures."""

    def read(source: str) -> PictureSet | None:
        return None if source == "drawn" else folder(source, model.image_size)

    return Data(read(forget), read(retain), cache=cache, alternative=read(alternative))
