"""The library in a few calls: a pipeline in, a pipeline out; audits and sequences as functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vestige import models
from vestige.audit import Request
from vestige.concepts import Concept
from vestige.concepts.loading import named
from vestige.diffusion import Model
from vestige.diffusion.model import Watch, silent
from vestige.diffusion.sampling import Drawing, pictures
from vestige.edits import Edit
from vestige.harness.settings import check_trains, configured, told
from vestige.models import from_pipeline
from vestige.seeds import derive


def unlearn(target: Any, concept: Concept | str, method: str = "uce", *, seed: int = 0, watch: Watch = silent, **settings: Any) -> Any:
    """Make a model forget a concept.

    Arguments:
        target: A diffusers pipeline of Stable Diffusion 1.x's shape, one whose denoiser is told a class and that names its classes
            (a DiTPipeline), or a Model. It stays as it is.
        concept: A Concept, a built-in concept's name, or any words ("Van Gogh").
        method: An unlearner's name, see `vestige list`.
        settings: The method's settings, e.g. `strength=2.0`.
    Returns:
        A pipeline like the given one with the concept unlearned; for a Model, the Edit.
    """
    model, chosen = target if isinstance(target, Model) else from_pipeline(target), named(concept)
    card = models.cards().get(model.name)
    if card is not None:
        chosen = told(chosen, card)
    world = models.world_of(model.name)
    unlearner = configured("unlearners", method, world, "", settings, model=model.name)
    check_trains(method, unlearner, model.precision)
    edit: Edit = unlearner(model, chosen, seed=seed, watch=watch)
    if isinstance(target, Model):
        return edit
    made = edit.to_pipeline(target)
    if hasattr(target, "labels"):
        made.labels = dict(target.labels)  # no component of a DiTPipeline, so lost where it is put together anew
    return made


def run_audit(out: Path | str, *, watch: Watch = silent, cache: Path | str | None = None, jobs: int = 0, **request: Any) -> dict[str, Any]:
    """Audit a model and write the report: `run_audit("runs/sneaker", concept="sneaker", unlearner="esd")`.

    Arguments:
        out: Folder of this audit; the same call resumes it.
        jobs: Processes that share the work, see `vestige.audit.audit`.
        request: Fields of `vestige.audit.Request`: model, concept, unlearner, edit, attacks, suite, seeds, ...; with `original=False`
            the model is an edited one whose original is not at hand.
    Returns:
        The result, as in `out/result.json`.
    """
    from vestige import audit
    from vestige.report import audits

    result = audit.audit(Request(**request), out, cache=cache, jobs=jobs, watch=watch)
    audits.write(Path(out))
    return result


def run_continual(out: Path | str, *, requests: Sequence[str], watch: Watch = silent, **order: Any) -> dict[str, Any]:
    """Forget one concept after another and write the report: `run_continual("runs/ledger", requests=["bag", "dress"], method="uce")`.

    Arguments:
        out: Folder of the ledger; the same call resumes it, a longer list of requests continues it.
        requests: Concepts, in order.
        order: Fields of `vestige.continual.Order`: model, method, mode, suite, seed, memory, attacks, verdict, accept, settings, ...
    Returns:
        The result, as in `out/result.json`.
    """
    from vestige import continual
    from vestige.continual import Order
    from vestige.report import ledgers

    result = continual.continual(Order(requests=tuple(requests), **order), out, watch=watch)
    ledgers.write(Path(out))
    return result


def generate(model: Model, prompts: Sequence[str], *, seed: int = 0, steps: int = 20, guidance: float = 3.0) -> Any:
    """Draw one picture a prompt, (len(prompts), 3, H, W) in [0, 1]."""
    return pictures(
        model, list(prompts), [derive(seed, "generate", i) for i in range(len(prompts))], Drawing(steps=steps, guidance=guidance)
    )
